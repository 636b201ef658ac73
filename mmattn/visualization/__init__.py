"""Attention as pictures.

from mmattn.visualization import draw
draw(model, "street.png", points=[(512, 300)]).savefig("street_attention.png")
"""

from mmattn.visualization.figure import paint
from mmattn.visualization.images import find_images, find_label, read_image, read_label
from mmattn.visualization.look import draw, look
from mmattn.visualization.options import Options
from mmattn.visualization.saliency import saliency
from mmattn.visualization.scene import Query, Scene, spread_points
from mmattn.visualization.views import Bars, Matrix, Overlay, View, views

__all__ = [
    "Bars",
    "Matrix",
    "Options",
    "Overlay",
    "Query",
    "Scene",
    "View",
    "draw",
    "find_images",
    "find_label",
    "look",
    "paint",
    "read_image",
    "read_label",
    "saliency",
    "spread_points",
    "views",
]
