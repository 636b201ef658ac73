"""Dual attention: one branch relates every position to every other, one every channel to every other.

Paper   Fu, Liu, Tian, Li, Bao, Fang, Lu: Dual Attention Network for Scene Segmentation, CVPR 2019.
        https://arxiv.org/abs/1809.02983

Position attention:
    q = Wq x,  k = Wk x,  v = Wv x
    s = softmax over positions i of  q_j . k_i                         eq. 1
    y_j = alpha sum_i s_ji v_i + x_j                                   eq. 2
Channel attention:
    e_ji = x_j . x_i, the products of the channels of x itself
    a = softmax over channels i of  max_i(e_ji) - e_ji                 eq. 3
    y_j = beta sum_i a_ji x_i + x_j                                    eq. 4

Differs Eq. 3 of the paper is softmax(e); the authors' code turns the sign, so that a channel attends to the channels
        least like it, which keeps training from diverging. That is the default here; ``least_similar=False`` is the
        paper. Products and softmax of the channels run in float32 under autocast: in float16 they overflow.
"""

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, Scale, plane, project, tokens, wide, without_autocast
from mmattn.layers.records import ChannelPairwise, Pairwise
from mmattn.ops import attend, gram, product


@register(
    paper="1809.02983",
    kinds=("pairwise",),
    example={"channels": 16},
    idle=("key_project.bias",),
    identity=True,
)
class PositionAttention(nn.Module):
    """Position attention module (PAM). Starts as the identity. The authors put it into the head, beside
    :class:`ChannelAttention`: ``DAHead``.

    Args:
        channels: Channels of the feature map, in and out.
        key_channels: Channels of queries and keys; ``channels // 8`` when None.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).
    """

    def __init__(self, channels: int, *, key_channels: int | None = None) -> None:
        super().__init__()
        key_channels = key_channels or max(1, channels // 8)
        self.key_project = nn.Conv2d(channels, key_channels, kernel_size=1)
        self.query_project = nn.Conv2d(channels, key_channels, kernel_size=1)
        self.value_project = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = Scale(0.0)
        self.tap = AttentionTap("pairwise")

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        q, k, v = map(tokens, project(x, self.query_project, self.key_project, self.value_project))  # (b, n, d or c)
        self.tap.offer(lambda: Pairwise(q[:, None], k[:, None], 1.0, tuple(size), tuple(size)))
        return self.gamma.add(x, plane(attend(q, k, v), size))

    def init_weights(self) -> None:
        """Restore the identity start."""
        nn.init.zeros_(self.gamma.scale)


@register(paper="1809.02983", kinds=("channel_pairwise",), example={"channels": 16}, identity=True)
class ChannelAttention(nn.Module):
    """Channel attention module (CAM). Starts as the identity; gamma is its only parameter. The authors put it into the
    head, beside :class:`PositionAttention`: ``DAHead``.

    Args:
        channels: Channels of the feature map; stated for symmetry, nothing depends on it.
        least_similar: Attend to the least similar channels, as the authors' code does; False is the paper's softmax.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).
    """

    def __init__(self, channels: int, *, least_similar: bool = True) -> None:
        super().__init__()
        self.sign = -1.0 if least_similar else 1.0
        self.gamma = Scale(0.0)
        self.tap = AttentionTap("channel_pairwise")

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            rows = wide(x.flatten(2))  # (b, c, n)
            logits = self.sign * gram(rows)  # (b, c, c)
            self.tap.offer(lambda: ChannelPairwise(logits, tuple(x.shape[2:])))
            one = torch.eye(x.shape[1], dtype=rows.dtype, device=x.device)  # (c, c)
            y = product(self.gamma(logits.softmax(dim=2)) + one, rows)  # (b, c, n), residual and all
        return y.to(x.dtype).view_as(x)

    def init_weights(self) -> None:
        """Restore the identity start."""
        nn.init.zeros_(self.gamma.scale)
