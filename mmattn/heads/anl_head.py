"""ANN: fuse two levels by asymmetric attention, then attend to a pyramid of the result."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from mmattn.attention import AsymmetricFusion, AsymmetricNonLocal
from mmattn.heads.pixel_losses import PixelLosses
from mmattn.plugins import conv_layer
from mmattn.registry import MODELS


@MODELS.register_module(name=["ANLHead", "ANNHead"])
class ANLHead(PixelLosses, BaseDecodeHead):
    """Asymmetric non-local network; ``ANNHead`` in mmseg. https://arxiv.org/abs/1908.07678

    Args:
        project_channels: Channels of queries, keys and values.
        query_scales: Factors by which queries are pooled.
        key_pool_scales: Cells per side of each pyramid level.
        kwargs: Arguments of mmseg's BaseDecodeHead; ``in_channels`` and ``in_index`` name the low and the high level.

    Shape:
        inputs: Feature maps of the backbone, two of them chosen; returns (b, classes, h, w) logits.
    """

    def __init__(
        self,
        project_channels: int,
        query_scales: Sequence[int] = (1,),
        key_pool_scales: Sequence[int] = (1, 3, 6, 8),
        **kwargs: Any,
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        low_channels, high_channels = self.in_channels
        self.project_channels = project_channels
        options = {
            "key_channels": project_channels,
            "query_scales": query_scales,
            "key_pool_scales": key_pool_scales,
            "layer": conv_layer(self.norm_cfg, self.act_cfg, self.conv_cfg),
        }
        self.fusion = AsymmetricFusion(high_channels, low_channels=low_channels, **options)
        self.bottleneck = ConvModule(
            high_channels,
            self.channels,
            kernel_size=3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
        self.context = AsymmetricNonLocal(self.channels, **options)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        low, high = self._transform_inputs(inputs)  # (b, low, h', w'), (b, high, h, w)
        fused = self.fusion(low, high)  # (b, high, h, w)
        fused = fused if self.dropout is None else self.dropout(fused)
        return self.cls_seg(self.context(self.bottleneck(fused)))
