"""Relation-aware global attention: a position, or a channel, is gated by its relations to all others.

Paper   Zhang, Lan, Zeng, Jin, Chen: Relation-Aware Global Attention for Person Re-identification, CVPR 2020.
        https://arxiv.org/abs/1904.02998

    r_ij = theta(x_i) . phi(x_j)                          eq. 1
    r_i = [r_i1 .. r_iN, r_1i .. r_Ni]
    y_i = [mean of the numbers of g(x_i), psi(r_i)]       eq. 2
    a_i = sigmoid(norm(W2 relu(norm(W1 y_i))))            eq. 3

    theta, phi, g and psi are each 1 x 1 convolution, norm and ReLU. RGA-S: the nodes x_i are the positions, a is a
    spatial gate. RGA-C: they are the channels, each with its values at all positions; a is a channel gate. RGA-SC: C
    after S.

Differs The number of positions is in the shapes of the weights, so that the authors' module takes one size of image
        only. Here x is pooled to ``grid`` first, and the spatial gate is scaled back bilinearly; on maps of that size
        it is the authors' module. The last norm is in their code and not in the paper.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, tokens, without_autocast
from mmattn.layers.records import Pairwise


@register(
    paper="1904.02998",
    kinds=("pairwise", "spatial", "channel"),
    example={"channels": 16, "grid": (4, 3), "cha_ratio": 4, "spa_ratio": 3, "down_ratio": 2},
)
class RelationAware(nn.Module):
    """Relation-aware global attention (RGA). The authors put it after each stage of ResNet-50.

    Args:
        channels: Channels of the feature map, in and out.
        mode: ``spatial`` gate, ``channel`` gate, or ``both`` in this order.
        grid: Positions (h, w) that relations are taken between.
        cha_ratio: Ratio by which embeddings of channels are narrower.
        spa_ratio: Ratio by which embeddings of positions are narrower.
        down_ratio: Ratio by which the last bottleneck is narrower.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The maps are (b, 1, h, w) and (b, c, 1, 1), in (0, 1); those of the
        relations between positions are not normalised.

    Raises:
        ValueError: No such mode, or ratios that leave no channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: Literal["spatial", "channel", "both"] = "both",
        grid: tuple[int, int] = (16, 16),
        cha_ratio: int = 8,
        spa_ratio: int = 8,
        down_ratio: int = 8,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        if mode not in ("spatial", "channel", "both"):
            raise ValueError(f"no mode {mode!r}: spatial, channel or both")
        self.grid, positions = tuple(grid), grid[0] * grid[1]
        hidden, cells = channels // cha_ratio, positions // spa_ratio
        if min(hidden, cells, (1 + hidden) // down_ratio, (1 + cells) // down_ratio) < 1:
            ratios = f"cha_ratio {cha_ratio}, spa_ratio {spa_ratio} and down_ratio {down_ratio}"
            raise ValueError(f"{ratios} leave nothing of {channels} channels or {positions} positions")
        self.spatial = self.channel = None
        if mode != "channel":
            self.spatial = _Relations(channels, hidden, positions, cells, down_ratio, layer)
        if mode != "spatial":
            self.channel = _Relations(positions, cells, channels, hidden, down_ratio, layer)
        self.tap_relations = AttentionTap("pairwise")
        self.tap_spatial = AttentionTap("spatial")
        self.tap_channel = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial is not None:
            logits, theta, phi = self.spatial(F.adaptive_avg_pool2d(x, self.grid))  # (b, 1, *grid), (b, n, d) twice
            self.tap_relations.offer(
                lambda: Pairwise(theta[:, None], phi[:, None], 1.0, self.grid, self.grid, softmax=False)
            )
            gate = F.interpolate(logits.sigmoid().to(x.dtype), size=x.shape[2:], mode="bilinear")  # (b, 1, h, w)
            x = x * self.tap_spatial(gate)
        if self.channel is not None:
            nodes = tokens(F.adaptive_avg_pool2d(x, self.grid))[..., None]  # (b, n, c, 1)
            logits, _, _ = self.channel(nodes)  # (b, 1, c, 1)
            gate = logits.sigmoid().to(x.dtype).flatten(1)[..., None, None]  # (b, c, 1, 1)
            x = x * self.tap_channel(gate)
        return x


class _Relations(nn.Module):
    """A number for each node, from its own features and its relations to all nodes.

    Args:
        features: Features of a node.
        hidden: Width of their embeddings.
        nodes: Number of nodes.
        cells: Width of the embedding of the relations.
        down_ratio: Ratio by which the bottleneck before the number is narrower.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, features, h, w) with h w nodes, returns (b, 1, h, w), and theta and phi, (b, nodes, hidden).
    """

    def __init__(self, features: int, hidden: int, nodes: int, cells: int, down_ratio: int, layer: Layer) -> None:
        super().__init__()
        self.theta = layer(features, hidden)
        self.phi = layer(features, hidden)
        self.g = layer(features, hidden)
        self.psi = layer(2 * nodes, cells)
        narrow = (1 + cells) // down_ratio
        self.weigh = nn.Sequential(layer(1 + cells, narrow), layer(narrow, 1, act=None))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, phi, g = self.theta(x), self.phi(x), self.g(x)  # (b, d, h, w) each
        with without_autocast(x):  # sums of many products outgrow half precision
            wide = next(self.psi.parameters()).dtype
            theta, phi = tokens(theta.to(wide)), tokens(phi.to(wide))  # (b, n, d) each
            relations = theta @ phi.mT  # (b, n, n)
            both = torch.cat([relations.mT, relations], dim=1)  # (b, 2 n, n): r_i. and r_.i at node i
            y = torch.cat([g.mean(dim=1, keepdim=True), self.psi(both.unflatten(2, x.shape[2:]))], dim=1)
            return self.weigh(y), theta, phi
