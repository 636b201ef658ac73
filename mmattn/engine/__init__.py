"""Configs, weights, training and evaluation: what the tools call."""
