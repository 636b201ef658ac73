"""Heads of one form: convolution, attention, convolution, concatenation with the input, classifier."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from mmseg.models.decode_heads import FCNHead
from torch import Tensor, nn

from mmattn.attention import CrissCross, GlobalContext, NonLocal, Polarized
from mmattn.heads.pixel_losses import PixelLosses
from mmattn.plugins import build, conv_layer
from mmattn.registry import MODELS


@MODELS.register_module()
class AttentionHead(PixelLosses, FCNHead):
    """Any mechanism between the two convolutions of an FCN head.

    Args:
        attention: The mechanism: a config such as ``dict(type='GlobalContext', ratio=1 / 4)``, or what makes it from
            the number of channels. By a config it normalises as the head does, unless that names a ``norm_cfg``.
        recurrence: How often it is applied, always with the same weights.
        kwargs: Arguments of mmseg's FCNHead.

    Raises:
        UserError: The mechanism of a config does not stand in a head.

    Shape:
        inputs: Feature maps of the backbone, (b, in_channels, h, w) the chosen one; returns (b, classes, h, w) logits.
    """

    #: Name of the mechanism in checkpoints.
    block: ClassVar[str] = "attention"

    def __init__(self, attention: dict | Callable[[int], nn.Module], recurrence: int = 1, **kwargs: Any) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.recurrence = recurrence
        if isinstance(attention, dict):
            block = build(attention, self.channels, self.norm_cfg, "head")
        else:
            block = attention(self.channels)
        setattr(self, self.block, block)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)  # (b, in_channels, h, w)
        y = self.convs[0](x)  # (b, channels, h, w)
        for _ in range(self.recurrence):
            y = getattr(self, self.block)(y)
        y = self.convs[1](y)
        return self.conv_cat(torch.cat([x, y], dim=1)) if self.concat_input else y


@MODELS.register_module()
class CCHead(AttentionHead):
    """CCNet: criss-cross attention, twice. https://arxiv.org/abs/1811.11721

    Args:
        recurrence: Number of times R.
        kwargs: Arguments of mmseg's FCNHead.
    """

    block = "cca"

    def __init__(self, recurrence: int = 2, **kwargs: Any) -> None:
        super().__init__(CrissCross, recurrence, **kwargs)


@MODELS.register_module()
class GCHead(AttentionHead):
    """GCNet: global context. https://arxiv.org/abs/1904.11492

    Args:
        ratio: Width of the transform as a share of ``channels``.
        pooling_type: ``att`` or ``avg``.
        fusion_types: ``channel_add``, ``channel_mul`` or both.
        kwargs: Arguments of mmseg's FCNHead.
    """

    block = "gc_block"

    def __init__(
        self,
        ratio: float = 1 / 4,
        pooling_type: str = "att",
        fusion_types: Sequence[str] = ("channel_add",),
        **kwargs: Any,
    ) -> None:
        attention = partial(GlobalContext, ratio=ratio, pooling_type=pooling_type, fusion_types=fusion_types)
        super().__init__(attention, **kwargs)


@MODELS.register_module()
class NLHead(AttentionHead):
    """Non-local network. https://arxiv.org/abs/1711.07971

    Args:
        reduction: Ratio by which the embeddings are narrower than ``channels``.
        use_scale: Divide the logits by the root of their width.
        mode: ``embedded_gaussian``, ``gaussian``, ``dot_product`` or ``concatenation``.
        kwargs: Arguments of mmseg's FCNHead.
    """

    block = "nl_block"

    def __init__(
        self, reduction: int = 2, use_scale: bool = True, mode: str = "embedded_gaussian", **kwargs: Any
    ) -> None:
        layer = conv_layer(kwargs.get("norm_cfg"), None, kwargs.get("conv_cfg"))
        attention = partial(NonLocal, reduction=reduction, use_scale=use_scale, mode=mode, layer=layer)
        super().__init__(attention, **kwargs)


@MODELS.register_module()
class PolarizedHead(AttentionHead):
    """Polarized self-attention in an FCN head; the authors publish no head of their own. https://arxiv.org/abs/2107.00782

    Args:
        sequential: Spatial gate after the channel gate, instead of both side by side.
        variant: ``paper`` or ``code``.
        kwargs: Arguments of mmseg's FCNHead.
    """

    block = "polarized"

    def __init__(self, sequential: bool = False, variant: str = "paper", **kwargs: Any) -> None:
        super().__init__(partial(Polarized, sequential=sequential, variant=variant), **kwargs)
