"""The losses of mmseg's decode heads, without logits at the size of the image."""

from functools import partial

import torch
from mmengine.dist import all_reduce
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import OHEMPixelSampler
from torch import Tensor, nn

from mmattn.layers import wide
from mmattn.ops.pixel_loss import by_strips, pixel_loss

EPS = torch.finfo(torch.float32).eps  # mmseg's, against division by zero


class PixelLosses:
    """Gives a decode head of mmseg :func:`loss_by_feat`; goes before it among the bases."""

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """mmseg's losses and accuracy."""
        return loss_by_feat(self, seg_logits, batch_data_samples)


def loss_by_feat(head: BaseDecodeHead, logits: Tensor, data_samples: list) -> dict[str, Tensor]:
    """Losses and accuracy of a head, as ``BaseDecodeHead.loss_by_feat`` computes them.

    Softmax cross entropies, with class weights and hard examples, come from :func:`mmattn.ops.pixel_loss`; with any
    other loss or sampler it is mmseg's own function.

    Args:
        head: The head.
        logits: (b, classes, h, w).
        data_samples: mmseg's, with labels.
    """
    terms = list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    if not _covered(head, terms, logits.shape[1]):
        return BaseDecodeHead.loss_by_feat(head, logits, data_samples)
    label = head._stack_batch_gt(data_samples).squeeze(1)  # (b, height, width)
    counted = label != head.ignore_index
    ones = [1.0] * logits.shape[1]
    weights = [ones if term.class_weight is None else [*term.class_weight] for term in terms]
    weights = torch.tensor(weights, dtype=wide(logits[:0]).dtype, device=logits.device)  # (terms, classes)
    sums, correct = pixel_loss(
        logits,
        label,
        weights,
        None if head.sampler is None else _hard(head, terms, logits, label, counted),
        ignore_index=head.ignore_index,
        align_corners=head.align_corners,
    )
    losses: dict[str, Tensor] = {}
    for term, weight, value in zip(terms, weights, sums, strict=True):
        if term.reduction == "mean":
            value = value / (_average(term, weight, label, counted) + EPS)
        losses[term.loss_name] = losses.get(term.loss_name, 0) + term.loss_weight * value
    losses["acc_seg"] = (correct.float() + EPS)[None] * (100 / (int(counted.sum()) + EPS))
    return losses


def _covered(head: BaseDecodeHead, terms: list[nn.Module], classes: int) -> bool:
    return (
        all(type(term) is CrossEntropyLoss and not (term.use_sigmoid or term.use_mask) for term in terms)
        and all(term.reduction in ("mean", "sum") for term in terms)
        and all(term.class_weight is None or len(term.class_weight) == classes for term in terms)
        and (head.sampler is None or type(head.sampler) is OHEMPixelSampler)
        and isinstance(head.ignore_index, int)
    )


def _average(term: CrossEntropyLoss, weight: Tensor, label: Tensor, counted: Tensor) -> Tensor | int:
    """What mmseg divides by: pixels, labelled pixels, or their class weights.

    The latter two are means over all processes, which may see more or fewer: the mean of their losses is then that of
    one process with all images.
    """
    if term.class_weight is None and not term.avg_non_ignore:
        return label.numel()
    weighed = counted if term.class_weight is None else weight[label.where(counted, 0)] * counted
    total = weighed.sum().to(weight.dtype)
    all_reduce(total, "mean")
    return total


def _hard(
    head: BaseDecodeHead, terms: list[CrossEntropyLoss], logits: Tensor, label: Tensor, counted: Tensor
) -> Tensor:
    """Which pixels mmseg's ``OHEMPixelSampler`` keeps, (b, height, width)."""
    sampler, kept = head.sampler, head.sampler.min_kept * len(label)
    say = partial(by_strips, logits=logits, label=label, align_corners=head.align_corners)
    hard = torch.zeros_like(counted)
    if sampler.thresh is None:
        override = {"ignore_index": head.ignore_index, "reduction_override": "none"}
        entropy = say(lambda pixels, target: sum(term(pixels, target, **override) for term in terms))
        order = entropy[counted].sort(descending=True).indices
        hard[counted] = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:kept], True)
        return hard

    def of_label(pixels: Tensor, target: Tensor) -> Tensor:
        return pixels.softmax(1).gather(1, target.where(target != head.ignore_index, 0)[:, None])[:, 0]

    probability = say(of_label)
    valid = probability[counted]
    if len(valid) == 0:
        return hard
    threshold = valid.kthvalue(min(kept + 1, len(valid))).values.clamp(min=sampler.thresh)
    return (probability < threshold) & counted
