"""Logits at the size of the image, for who asks for them."""

from collections.abc import Callable
from typing import Any

from mmengine.structures import PixelData
from torch import Tensor


class LateLogits(PixelData):
    """mmseg's ``seg_logits`` of a prediction, made when ``data`` is first read.

    Args:
        make: Makes the logits, (classes, height, width).
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "_make", make)

    def __getattr__(self, name: str) -> Any:
        if name != "data":
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        self.data = self._make()
        return self.data

    def new(self, **changes: Any) -> PixelData:
        """A copy, of logits that are made now; so are those of ``to``, ``cpu`` and ``numpy``."""
        return PixelData(data=self.data).new(**changes)

    def to_dict(self) -> dict[str, Any]:
        """As of PixelData; ``["data"]`` makes the logits."""
        return _LateDict(self)


class _LateDict(dict):
    def __init__(self, logits: LateLogits) -> None:
        super().__init__(logits.all_items())
        self.logits = logits

    def __missing__(self, key: str) -> Tensor:
        if key != "data":
            raise KeyError(key)
        return self.logits.data
