"""A mend to mmseg's cross entropy."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def weigh_labelled_pixels_alone() -> bool:
    """Let class weights go together with ignored pixels.

    To average, mmseg looks up the class weight of each pixel: upstream 1.2.2 that of ignored ones too, an index out of
    bounds (open-mmlab/mmsegmentation issue 3734); the maintained 1.4.2 fails when ``avg_non_ignore`` is set. Where
    either works, the numbers stay. May go when both look up the labelled pixels alone.
    """
    from mmseg.models import losses
    from mmseg.models.losses import cross_entropy_loss

    cross_entropy = cross_entropy_loss.cross_entropy
    one_ignored = {"class_weight": torch.ones(2), "ignore_index": 255, "avg_non_ignore": True}
    try:
        cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]]), **one_ignored)
    except IndexError:
        losses.cross_entropy = cross_entropy_loss.cross_entropy = _averaging(cross_entropy)
        return True
    return False


def _averaging(cross_entropy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """mmseg's function, told what to divide by."""

    @functools.wraps(cross_entropy)
    def weighted_cross_entropy(
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        class_weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: float | Tensor | None = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ) -> Tensor:
        if class_weight is not None and avg_factor is None and reduction == "mean":
            avg_factor = class_weight[label[label != ignore_index]].sum()
        return cross_entropy(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)

    return weighted_cross_entropy
