"""mmseg's segmentors, with less memory after the logits and with the losses that mechanisms ask for.

A mechanism offers its loss, such as the budget of a hard mask, through a :class:`~mmattn.layers.LossTap`, wherever it
stands. Predictions and all other losses are mmseg's.
"""

from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import segmentors
from mmseg.models.decode_heads import DAHead as MMSegDAHead
from mmseg.models.decode_heads import EncHead
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmattn.heads import DAHead
from mmattn.heads.pixel_losses import loss_by_feat
from mmattn.layers import LossTap
from mmattn.ops import upsample_argmax
from mmattn.registry import MODELS
from mmattn.segmentors.late_logits import LateLogits

STEPS = ("inference", "whole_inference", "encode_decode", "postprocess_result")  # of mmseg's prediction
RESIZING_LAST = {head.predict for head in (BaseDecodeHead, BaseCascadeDecodeHead, DAHead, MMSegDAHead, EncHead)}


class _Lean(nn.Module):
    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """mmseg's losses, and those that mechanisms offer.

        Those of one name are added up under ``loss_<name>``. What is offered without a gradient is logged alone: the
        mean under ``<name>``. mmseg's own heads get their cross entropies from
        :func:`mmattn.heads.pixel_losses.loss_by_feat`, as ours do.
        """
        offered: dict[str, list[Tensor]] = defaultdict(list)

        def note(name: str, value: Tensor) -> None:
            offered[f"loss_{name}" if value.requires_grad else name].append(value)

        with ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, LossTap):
                    module.listeners.append(note)
                    stack.callback(module.listeners.remove, note)
                elif getattr(type(module), "loss_by_feat", None) is BaseDecodeHead.loss_by_feat:
                    _replace(stack, module, "loss_by_feat", partial(loss_by_feat, module))
            losses = super().loss(inputs, data_samples)
        for key, values in offered.items():
            total = torch.stack(values).sum()
            losses[key] = total if total.requires_grad else total / len(values)
        return losses

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list[SegDataSample]:
        """mmseg's predictions.

        Where one resize leads to the image, its logits are made only when ``seg_logits.data`` of a prediction is read:
        they are large, and the classes do not need them.
        """
        head = self.decode_head[-1] if isinstance(self.decode_head, nn.ModuleList) else self.decode_head
        size = _one_size(data_samples) if data_samples and self._is_mmsegs(head) else None
        if size is None:
            return super().predict(inputs, data_samples)
        metas = [sample.metainfo for sample in data_samples]
        with ExitStack() as stack:
            _replace(stack, head, "predict_by_feat", lambda logits, _: logits)
            coarse = self.inference(inputs, metas)  # (b, classes, h, w)
        labels = upsample_argmax(coarse, size, align_corners=self.align_corners)  # (b, height, width)
        for sample, logits, label in zip(data_samples, coarse.split(1), labels.split(1), strict=True):
            late = LateLogits(partial(_upsampled, logits, size, self.align_corners, sample.metainfo))
            sample.set_data({"seg_logits": late, "pred_sem_seg": PixelData(data=_upright(label, sample.metainfo))})
        return data_samples

    def _is_mmsegs(self, head: nn.Module) -> bool:
        """Whether logits are resized in the end, their largest taken, and nothing else done with them."""
        theirs = next(base for base in type(self).__mro__ if base.__module__.startswith("mmseg."))
        return (
            self.test_cfg.get("mode") == "whole"
            and self.out_channels > 1
            and all(getattr(type(self), step) is getattr(theirs, step) for step in STEPS)
            and type(head).predict in RESIZING_LAST
            and type(head).predict_by_feat is BaseDecodeHead.predict_by_feat
        )


@MODELS.register_module()
class EncoderDecoder(_Lean, segmentors.EncoderDecoder):
    """mmseg's EncoderDecoder with the losses of the mechanisms inside. Arguments are mmseg's."""


@MODELS.register_module()
class CascadeEncoderDecoder(_Lean, segmentors.CascadeEncoderDecoder):
    """mmseg's CascadeEncoderDecoder with the losses of the mechanisms inside. Arguments are mmseg's."""


def _replace(stack: ExitStack, module: nn.Module, name: str, method: Any) -> None:
    """Give a module a method of its own, until the stack closes."""
    setattr(module, name, method)
    stack.callback(delattr, module, name)


def _one_size(data_samples: list) -> tuple[int, int] | None:
    """What mmseg resizes logits to, if that is the size of each image once it is upright, else None."""
    first = data_samples[0].metainfo
    padded = "pad_shape" in first and not isinstance(first["img_shape"], torch.Size)
    size = tuple(first["pad_shape" if padded else "img_shape"][:2])
    pixels = torch.empty(1, *size, device="meta")
    upright = [(_upright(pixels, meta).shape[1:], meta["ori_shape"]) for meta in (x.metainfo for x in data_samples)]
    return size if all(tuple(found) == tuple(wanted) for found, wanted in upright) else None


def _upright(pixels: Tensor, meta: dict) -> Tensor:
    """(n, height, width) without the padding and the flip that the pipeline has made."""
    height, width = pixels.shape[1:]
    left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
    pixels = pixels[:, top : height - bottom, left : width - right]
    return pixels.flip({"horizontal": 2, "vertical": 1}[meta["flip_direction"]]) if meta.get("flip") else pixels


def _upsampled(logits: Tensor, size: tuple[int, int], align_corners: bool, meta: dict) -> Tensor:
    pixels = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    return _upright(pixels[0], meta)
