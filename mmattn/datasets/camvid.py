"""CamVid with 11 classes at 480x360.

Source  Brostow, Fauqueur, Cipolla: Semantic object classes in video, PRL 2009; classes and split as in SegNet
        (Badrinarayanan, Kendall, Cipolla, 2017).
"""

from pathlib import Path
from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset

from mmattn.evaluation.palettes import CAMVID
from mmattn.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """Images in ``img_dir/{train,val,test}``, labels 0 to 10 and 255 in ``ann_dir/{train,val,test}`` as PNG.

    Args:
        img_suffix: ``".jpg"`` or ``".png"``; None takes the one that the folder holds.
        **kwargs: As of mmseg's ``BaseSegDataset``.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": CAMVID.classes,
        "palette": [list(colour) for colour in CAMVID.colours],
    }

    def __init__(self, img_suffix: str | None = None, **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per image; see ``BaseSegDataset``."""
        if self.img_suffix is None:
            png = next(Path(self.data_prefix["img_path"]).glob("*.png"), None)
            self.img_suffix = ".png" if png else ".jpg"
        return super().load_data_list()
