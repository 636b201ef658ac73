"""DANet: position and channel attention side by side, each with a classifier of its own."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmattn.attention import ChannelAttention, PositionAttention
from mmattn.heads.pixel_losses import PixelLosses
from mmattn.registry import MODELS


@MODELS.register_module()
class DAHead(PixelLosses, BaseDecodeHead):
    """Dual attention network. https://arxiv.org/abs/1809.02983

    Training sums three losses: of both branches together, of position and of channel attention. Prediction uses the
    first.

    Args:
        pam_channels: Channels of queries and keys of the position attention.
        kwargs: Arguments of mmseg's BaseDecodeHead.

    Shape:
        inputs: Feature maps of the backbone, (b, in_channels, h, w) the chosen one; returns three (b, classes, h, w).
    """

    def __init__(self, pam_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pam_channels = pam_channels
        self.pam_in_conv = self._conv(self.in_channels)
        self.pam = PositionAttention(self.channels, key_channels=pam_channels)
        self.pam_out_conv = self._conv(self.channels)
        self.pam_conv_seg = nn.Conv2d(self.channels, self.num_classes, kernel_size=1)
        self.cam_in_conv = self._conv(self.in_channels)
        self.cam = ChannelAttention(self.channels)
        self.cam_out_conv = self._conv(self.channels)
        self.cam_conv_seg = nn.Conv2d(self.channels, self.num_classes, kernel_size=1)

    def _conv(self, in_channels: int) -> ConvModule:
        return ConvModule(
            in_channels,
            self.channels,
            kernel_size=3,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def _classify(self, x: Tensor, classifier: nn.Conv2d) -> Tensor:
        return classifier(x if self.dropout is None else self.dropout(x))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = self._transform_inputs(inputs)  # (b, in_channels, h, w)
        position = self.pam_out_conv(self.pam(self.pam_in_conv(x)))  # (b, channels, h, w)
        position_logits = self._classify(position, self.pam_conv_seg)  # (b, classes, h, w)
        channel = self.cam_out_conv(self.cam(self.cam_in_conv(x)))  # (b, channels, h, w)
        channel_logits = self._classify(channel, self.cam_conv_seg)  # (b, classes, h, w)
        return self.cls_seg(position + channel), position_logits, channel_logits

    def predict(self, inputs: Sequence[Tensor], batch_img_metas: list[dict], test_cfg: dict) -> Tensor:
        """Logits of both branches together, at image size."""
        return self.predict_by_feat(self.forward(inputs)[0], batch_img_metas)

    def loss_by_feat(self, seg_logits: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """The three losses and accuracies, named ``pam_cam.*``, ``pam.*`` and ``cam.*``."""
        losses: dict[str, Tensor] = {}
        for name, logits in zip(("pam_cam", "pam", "cam"), seg_logits, strict=True):
            losses |= add_prefix(super().loss_by_feat(logits, batch_data_samples), name)
        return losses
