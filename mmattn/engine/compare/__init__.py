"""Models trained and tested under one budget: what ``tools/compare.py`` does."""
