"""mmattn: attention for semantic segmentation, with MMSegmentation's registries and configs."""

__version__ = "0.1.0"
