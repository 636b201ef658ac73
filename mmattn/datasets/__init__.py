"""Datasets beside those of MMSegmentation, and the label table of Cityscapes."""
