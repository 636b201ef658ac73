"""PSANet: every position predicts what it collects from the others and what it distributes to them."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from mmattn.attention.point_wise import PointWiseLayers
from mmattn.heads.pixel_losses import PixelLosses
from mmattn.plugins import conv_layer
from mmattn.registry import MODELS


@MODELS.register_module()
class PSAHead(PixelLosses, PointWiseLayers, BaseDecodeHead):
    """Point-wise spatial attention network (PSANet). https://hszhao.github.io/papers/eccv18_psanet.pdf

    For Polarized self-attention, which is abbreviated PSA as well, see ``PolarizedHead``.

    Args:
        mask_size: Rows and columns of the predicted masks, for the shrunk map.
        psa_type: ``collect``, ``distribute`` or ``bi-direction``.
        compact: Predict the h * w weights themselves; mask_size is then the size of the shrunk map.
        shrink_factor: Factor by which the map is narrowed first.
        normalization_factor: Divides the gathered features; rows times columns of the mask when None.
        psa_softmax: Softmax over the sources.
        as_authors: Mend three departures of mmseg from the authors' code, see :mod:`mmattn.attention.point_wise`.
        kwargs: Arguments of mmseg's BaseDecodeHead.

    Shape:
        inputs: Feature maps of the backbone, (b, in_channels, h, w) the chosen one; returns (b, classes, h, w) logits.
    """

    def __init__(
        self,
        mask_size: tuple[int, int],
        psa_type: str = "bi-direction",
        compact: bool = False,
        shrink_factor: int = 2,
        normalization_factor: float | None = 1.0,
        psa_softmax: bool = True,
        as_authors: bool = False,
        **kwargs: Any,
    ) -> None:
        BaseDecodeHead.__init__(self, **kwargs)
        self.build_point_wise(
            self.in_channels,
            self.channels,
            mask_size,
            psa_type,
            compact=compact,
            shrink_factor=shrink_factor,
            normalization_factor=normalization_factor,
            psa_softmax=psa_softmax,
            as_authors=as_authors,
            align_corners=self.align_corners,
            layer=conv_layer(self.norm_cfg, self.act_cfg, self.conv_cfg),
        )
        self.bottleneck = ConvModule(
            self.in_channels * 2,
            self.channels,
            kernel_size=3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)  # (b, in_channels, h, w)
        y = torch.cat([x, self.point_wise(x)], dim=1)  # (b, 2 in_channels, h, w)
        return self.cls_seg(self.bottleneck(y))
