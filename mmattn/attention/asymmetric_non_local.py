"""Asymmetric non-local: every position attends to 110 pooled cells of a pyramid instead of to every position.

Paper   Zhu, Xu, Bai, Huang, Bai: Asymmetric Non-local Neural Networks for Semantic Segmentation, ICCV 2019.
        https://arxiv.org/abs/1908.07678

    psp(t) = averages of t over 1, 3 x 3, 6 x 6 and 8 x 8 cells, S = 110 in all           section 3.2
    q = Wq high,  k = psp(Wk low),  v = psp(Wv low)
    context = Wo softmax over S of (q . k / sqrt(d)) v                                    eq. 8 and 9
    AFNB: y = W [context, high]          fuses a finer (low) level into a coarser (high) one
    APNB: y = relu(W [context, x])       low = high = x, Wq = Wk

Differs Each projection of keys and queries is followed by norm and ReLU, and logits are divided by the root of their
        width: the authors' code. Convolutions before a norm have no bias, and dropout is the head's: mmseg. Queries
        pooled by a ``query_scale`` above 1 are scaled back with aligned corners: the authors' code (mmseg stops with
        an error).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, plane, tokens, zero_start
from mmattn.layers.records import Pyramid
from mmattn.ops import attend, pyramid


@register(paper="1908.07678", kinds=("pairwise",), example={"channels": 16, "key_channels": 8})
class AsymmetricNonLocal(nn.Module):
    """Asymmetric pyramid non-local block (APNB): one feature map attends to its own pyramid. The authors put it into
    the head, after :class:`AsymmetricFusion`: ``ANLHead``.

    Args:
        channels: Channels of the feature map, in and out.
        key_channels: Channels of queries, keys and values; ``channels // 2`` when None.
        query_scales: Factors by which queries are pooled, one attention for each; their contexts are added.
        key_pool_scales: Cells per side of each pyramid level.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        query_scales: Sequence[int] = (1,),
        key_pool_scales: Sequence[int] = (1, 3, 6, 8),
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        hidden = key_channels or max(1, channels // 2)
        self.stages = nn.ModuleList(
            _Stage(channels, channels, hidden, channels, scale, key_pool_scales, layer, shared=True)
            for scale in query_scales
        )
        self.bottleneck = layer(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return _joined(self.stages, self.bottleneck, x, x)


@register(
    paper="1908.07678",
    kinds=("pairwise",),
    example={"channels": 16, "low_channels": 12, "key_channels": 8},
    inputs=(12, 16),
    places=(),
)
class AsymmetricFusion(nn.Module):
    """Asymmetric fusion non-local block (AFNB): a coarse level attends to the pyramid of a finer one. The authors fuse
    the last two stages with it, in the head: ``ANLHead``.

    Args:
        channels: Channels of ``high``, and of the output.
        low_channels: Channels of ``low``.
        key_channels: Channels of queries, keys and values; ``channels // 2`` when None.
        query_scales: Factors by which queries are pooled, one attention for each; their contexts are added.
        key_pool_scales: Cells per side of each pyramid level.
        layer: Makes convolution, norm and activation.

    Shape:
        low: (b, low_channels, h', w'), high: (b, c, h, w), returns (b, c, h, w).
    """

    def __init__(
        self,
        channels: int,
        *,
        low_channels: int,
        key_channels: int | None = None,
        query_scales: Sequence[int] = (1,),
        key_pool_scales: Sequence[int] = (1, 3, 6, 8),
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        hidden = key_channels or max(1, channels // 2)
        self.stages = nn.ModuleList(
            _Stage(low_channels, channels, hidden, channels, scale, key_pool_scales, layer, shared=False)
            for scale in query_scales
        )
        self.bottleneck = layer(2 * channels, channels, act=None)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return _joined(self.stages, self.bottleneck, low, high)


def _joined(stages: nn.ModuleList, bottleneck: nn.Module, low: Tensor, high: Tensor) -> Tensor:
    """``bottleneck([context, high])``; its half for the context acts on the cells, as all before it is linear."""
    conv, *rest = bottleneck.children()
    if type(conv) is not nn.Conv2d:  # one that does more than its weights say, such as standardise them
        return bottleneck(torch.cat([sum(stage(low, high) for stage in stages), high], dim=1))
    left, right = conv.weight.chunk(2, dim=1)  # (o, c, 1, 1) each
    y = F.conv2d(high, right, conv.bias)  # (b, o, h, w)
    y = sum((stage(low, high, partial(F.conv2d, weight=left)) for stage in stages), y)
    for layer in rest:
        y = layer(y)
    return y


class _Stage(nn.Module):
    """Attention of ``high`` to the pyramid of ``low``, seen through one more projection. Starts as zero."""

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        hidden: int,
        out_channels: int,
        query_scale: int,
        pool_scales: Sequence[int],
        layer: Layer,
        shared: bool,
    ) -> None:
        super().__init__()
        self.query_scale, self.pool_scales = query_scale, tuple(pool_scales)
        self.scale = hidden**-0.5
        self.key_project = layer(low_channels, hidden)
        self.query_project = self.key_project if shared else layer(high_channels, hidden)
        self.value_project = nn.Conv2d(low_channels, hidden, kernel_size=1)
        self.out_project = nn.Conv2d(hidden, out_channels, kernel_size=1)
        self.tap = AttentionTap("pairwise")
        self.init_weights()

    def init_weights(self) -> None:
        """Start as zero."""
        zero_start(self.out_project)

    def forward(self, low: Tensor, high: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``then`` is that projection, (b, c, S, 1) -> (b, o, S, 1), linear; returns (b, o, h, w)."""
        features = self.key_project(low)  # (b, d, h', w')
        once = self.query_project is self.key_project and not self.training  # there batch norms count twice
        q = features if once else self.query_project(high)  # (b, d, h, w)
        if self.query_scale > 1:
            q = F.max_pool2d(q, self.query_scale, ceil_mode=True)  # (b, d, h / s, w / s)
        k = pyramid(features, self.pool_scales).mT  # (b, S, d)
        v = pyramid(low, self.pool_scales)[..., None]  # (b, c, S, 1)
        v = self.out_project(self.value_project(v))  # (b, c, S, 1): means and projections change places
        v = tokens(v if then is None else then(v))  # (b, S, o)
        size, key_size = tuple(q.shape[2:]), tuple(low.shape[2:])
        q = tokens(q)  # (b, n, d)
        self.tap.offer(lambda: Pyramid(q[:, None], k[:, None], self.scale, size, key_size, scales=self.pool_scales))
        context = plane(attend(q, k, v, self.scale), size)  # (b, o, h / s, w / s)
        if self.query_scale > 1:
            context = F.interpolate(context, size=high.shape[2:], mode="bilinear", align_corners=True)
        return context
