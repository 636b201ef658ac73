"""OCRNet: attend to the object regions that the head before has outlined."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from torch import Tensor

from mmattn.attention import ObjectContext
from mmattn.heads.pixel_losses import PixelLosses
from mmattn.plugins import conv_layer
from mmattn.registry import MODELS


@MODELS.register_module()
class OCRHead(PixelLosses, BaseCascadeDecodeHead):
    """Object-contextual representations, the second head of a CascadeEncoderDecoder. https://arxiv.org/abs/1909.11065

    Args:
        ocr_channels: Channels of queries, keys and values.
        scale: Factor on the first head's logits before their softmax over pixels, and factor by which the queries are
            pooled: one number for both, as in mmseg.
        gather_scale: The first of the two alone; ``scale`` when None.
        kwargs: Arguments of mmseg's BaseDecodeHead.

    Shape:
        inputs: Feature maps of the backbone, (b, in_channels, h, w) the chosen one; prev_output: (b, classes, h, w)
        logits of the head before; returns (b, classes, h, w) logits.
    """

    def __init__(self, ocr_channels: int, scale: int = 1, gather_scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ocr_channels, self.scale = ocr_channels, scale
        self.object_context_block = ObjectContext(
            self.channels,
            key_channels=ocr_channels,
            gather_scale=scale if gather_scale is None else gather_scale,
            query_scale=scale,
            layer=conv_layer(self.norm_cfg, self.act_cfg, self.conv_cfg),
        )
        self.bottleneck = ConvModule(
            self.in_channels,
            self.channels,
            kernel_size=3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def forward(self, inputs: Sequence[Tensor], prev_output: Tensor) -> Tensor:
        x = self.bottleneck(self._transform_inputs(inputs))  # (b, channels, h, w)
        return self.cls_seg(self.object_context_block(x, prev_output))
