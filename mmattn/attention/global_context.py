"""Global context block: one attention map for all queries gathers one context, which is added to every position.

Paper   Cao, Xu, Lin, Wei, Hu: GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCV Workshops
        2019.
        https://arxiv.org/abs/1904.11492

    a = softmax over positions of Wk x                      one map for the whole image
    context = sum_j a_j x_j
    t(context) = W2 relu(LayerNorm(W1 context))
    z_i = x_i + t(context)                                  eq. 5

    ``channel_mul`` scales by sigmoid(t'(context)) before; ``avg`` takes the mean for the context.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, context_transform, kaiming_start, zero_start
from mmattn.ops import attention_pool


@register(
    paper="1904.11492",
    kinds=("spatial",),
    example={"channels": 16, "ratio": 1 / 4},
    idle=("conv_mask.bias",),
    identity=True,
)
class GlobalContext(nn.Module):
    """Global context (GC) block. Starts as the identity, or as x / 2 with ``channel_mul``. The authors put it at the
    end of each residual block but those of the first stage, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        ratio: Width of the transform as a share of ``channels``.
        pooling_type: ``att`` for attention pooling, ``avg`` for the mean.
        fusion_types: ``channel_add``, ``channel_mul`` or both.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, 1, h, w) and sums to 1; with ``channel_mul`` a second one
        is (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: No such pooling or fusion, or a transform without channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 1 / 16,
        pooling_type: Literal["att", "avg"] = "att",
        fusion_types: Sequence[Literal["channel_add", "channel_mul"]] = ("channel_add",),
    ) -> None:
        super().__init__()
        if pooling_type not in ("att", "avg"):
            raise ValueError(f"no pooling_type {pooling_type!r}: att or avg")
        if not fusion_types or set(fusion_types) - {"channel_add", "channel_mul"}:
            raise ValueError(f"no fusion_types {fusion_types!r}: channel_add, channel_mul or both")
        self.conv_mask = nn.Conv2d(channels, 1, kernel_size=1) if pooling_type == "att" else None
        self.channel_add_conv = context_transform(channels, ratio) if "channel_add" in fusion_types else None
        self.channel_mul_conv = context_transform(channels, ratio) if "channel_mul" in fusion_types else None
        self.tap = AttentionTap("spatial")
        self.tap_mul = AttentionTap("channel")
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming attention and the identity start."""
        if self.conv_mask is not None:
            kaiming_start(self.conv_mask, mode="fan_in")
        for transform in (self.channel_add_conv, self.channel_mul_conv):
            if transform is not None:
                zero_start(transform[-1])

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_mask is None:
            context = x.mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
        else:
            context, attn, x = attention_pool(x, self.conv_mask.weight, self.conv_mask.bias)
            self.tap(attn)
        y = x
        if self.channel_mul_conv is not None:
            y = y * self.tap_mul(self.channel_mul_conv(context).sigmoid())  # (b, c, h, w)
        if self.channel_add_conv is not None:
            y = y + self.channel_add_conv(context)  # (b, c, h, w)
        return y
