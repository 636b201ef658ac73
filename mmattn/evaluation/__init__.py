"""Palettes and the metric."""
