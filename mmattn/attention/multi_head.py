"""Multi-head self-attention on feature maps: every position attends to every other, in several subspaces at once.

Paper   Vaswani, Shazeer, Parmar et al.: Attention Is All You Need, NeurIPS 2017. https://arxiv.org/abs/1706.03762
        Relative positions: Srinivas, Lin, Parmar et al.: Bottleneck Transformers for Visual Recognition (BoTNet),
        CVPR 2021. https://arxiv.org/abs/2101.11605
        Reduced keys: Wang, Xie, Li et al.: Pyramid Vision Transformer (PVT), ICCV 2021.

    q = Wq x,  k = Wk x,  v = Wv x              each head has its own d = c / num_heads channels of them
    a_ij = softmax over j of  q_i . k_j / sqrt(d)                                              section 3.2.1
    y_i = Wo [sum_j a_ij v_j of every head]                                                    section 3.2.2
    sine            x + p for x: half the channels of p code the row, half the column, each as section 3.5:
                    p_2i = sin(u / 10000^(2i / (c / 2))),  p_2i+1 = cos of the same,  u = 0, 1, ...
    relative        q_i . (k_j + r_dy + s_dx) for q_i . k_j,  (dy, dx) from i to j; the heads share r and s
    key_reduction   k and v from LayerNorm(Wr x), Wr with kernel = stride = key_reduction
    residual        x + gamma y(norm(x)),  gamma starts at 0

Differs Offsets beyond ``size`` take the embedding of the farthest in the table: BoTNet knows maps of one size only.
        Reduced keys see a map that does not divide with zeros below and on the right, where PVT drops the rest; a
        reduced key stands at the middle of its cell, or up and left of it.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, Scale
from mmattn.layers.records import Pairwise
from mmattn.ops import attend


@register(
    paper="1706.03762",
    kinds=("pairwise",),
    example={"channels": 16, "num_heads": 4, "key_reduction": 2},
    idle=("k.bias",),
)
class MultiHead(nn.Module):
    """Two-dimensional multi-head self-attention (MHSA). BoTNet puts it into the blocks of the last stage.

    Args:
        channels: Channels of the feature map, in and out; a multiple of ``num_heads``.
        num_heads: Heads.
        position: ``none``, ``sine`` (added to x before the projections) or ``relative`` (learned).
        size: Map (h, w) up to which every relative offset has an embedding of its own.
        key_reduction: Factor by which keys and values are coarser than queries, on each side.
        residual: Norm before and gamma, shortcut after: starts as the identity. Without, y alone is returned.
        norm: Makes the norm of ``residual`` from the number of channels.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). Nothing of the size of all pairs of positions is made.

    Raises:
        ValueError: Channels that do not divide, no such position, or a size or reduction below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        position: Literal["none", "sine", "relative"] = "none",
        size: tuple[int, int] = (64, 64),
        key_reduction: int = 1,
        residual: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"{channels} channels do not divide into {num_heads} heads")
        if position not in ("none", "sine", "relative"):
            raise ValueError(f"no position {position!r}: none, sine or relative")
        if position == "sine" and channels % 4:
            raise ValueError(f"{channels} channels: sine needs a multiple of 4")
        if min(*size, key_reduction) < 1:
            raise ValueError(f"size={size}, key_reduction={key_reduction}: each must be at least 1")
        self.num_heads, self.position, self.key_reduction = num_heads, position, key_reduction
        head_dim = channels // num_heads
        self.scale = head_dim**-0.5
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, kernel_size=1) for _ in range(4))
        if key_reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, kernel_size=key_reduction, stride=key_reduction)
            self.reduce_norm = nn.LayerNorm(channels)
        self.offsets = _Offsets(head_dim, size, key_reduction) if position == "relative" else None
        self.norm = norm(channels) if residual else nn.Identity()
        self.gamma = Scale(0.0) if residual else None
        self.tap = AttentionTap("pairwise")

    def init_weights(self) -> None:
        """Restore the identity start of ``residual``."""
        if self.gamma is not None:
            nn.init.zeros_(self.gamma.scale)

    def forward(self, x: Tensor) -> Tensor:
        y = self._attend(self.norm(x))  # (b, c, h, w)
        return y if self.gamma is None else x + self.gamma(y)

    def _attend(self, x: Tensor) -> Tensor:
        x = x + _sine(x) if self.position == "sine" else x
        cells = self._reduced(x) if self.key_reduction > 1 else x  # (b, c, h', w')
        size, key_size = tuple(x.shape[2:]), tuple(cells.shape[2:])
        q = self._heads(self.q(x))  # (b, heads, n, d)
        k, v = self._heads(self.k(cells)), self._heads(self.v(cells))  # (b, heads, m, d)
        if self.offsets is not None:
            q, k = self.offsets(q, k, size, key_size)  # (b, heads, n, e), (b, heads, m, e)
        self.tap.offer(lambda: Pairwise(q, k, self.scale, size, key_size))
        if q.shape[3] == v.shape[3]:  # torch's fused kernels are quickest, and want one width
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # (b, heads, n, d)
        else:
            y = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), self.scale)  # (b * heads, n, d)
        return self.out(y.mT.reshape(x.shape))

    def _reduced(self, x: Tensor) -> Tensor:
        r = self.key_reduction
        x = self.reduce(F.pad(x, (0, -x.shape[3] % r, 0, -x.shape[2] % r)))  # (b, c, h', w')
        return self.reduce_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _heads(self, x: Tensor) -> Tensor:
        """(b, c, h, w) as (b, heads, h * w, d)."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).mT.contiguous()


class _Offsets(nn.Module):
    """Widens q and k so that their products are those of q and k + r_dy + s_dx, without a bias for all pairs.

    q gets its products with the embeddings of every row and every column of keys; k a 1 at its own row and column.
    """

    def __init__(self, head_dim: int, size: tuple[int, int], step: int) -> None:
        super().__init__()
        self.step = step
        self.rows = nn.Parameter(torch.randn(2 * size[0] - 1, head_dim) * head_dim**-0.5)
        self.columns = nn.Parameter(torch.randn(2 * size[1] - 1, head_dim) * head_dim**-0.5)

    def forward(self, q: Tensor, k: Tensor, size: tuple[int, int], key_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        grid = q.unflatten(2, size)  # (b, heads, h, w, d)
        rows = torch.einsum("bnyxd,yid->bnyxi", grid, self._between(self.rows, size[0], key_size[0]))
        columns = torch.einsum("bnyxd,xjd->bnyxj", grid, self._between(self.columns, size[1], key_size[1]))
        row = torch.eye(key_size[0], dtype=k.dtype, device=k.device).repeat_interleave(key_size[1], dim=0)  # (m, h')
        column = torch.eye(key_size[1], dtype=k.dtype, device=k.device).repeat(key_size[0], 1)  # (m, w')
        ones = torch.cat([row, column], dim=1).expand(*k.shape[:2], -1, -1)  # (b, heads, m, h' + w')
        q, k = torch.cat([grid, rows, columns], dim=4).flatten(2, 3), torch.cat([k, ones], dim=3)
        fill = (0, -q.shape[3] % 8)  # and a multiple of 8
        return F.pad(q, fill), F.pad(k, fill)

    def _between(self, table: Tensor, length: int, key_length: int) -> Tensor:
        """Embeddings (length, key_length, d) of the offsets from each query to each key along one axis."""
        query = torch.arange(length, device=table.device)[:, None]
        key = torch.arange(key_length, device=table.device) * self.step + (self.step - 1) // 2
        reach = len(table) // 2
        return table[(key - query).clamp(-reach, reach) + reach]


def _sine(x: Tensor) -> Tensor:
    """Codes (c, h, w) of the positions of (b, c, h, w)."""
    half, wide = x.shape[1] // 2, torch.promote_types(x.dtype, torch.float32)
    rates = 10000 ** (-torch.arange(0, half, 2, dtype=wide, device=x.device) / half)  # (c / 4,)
    angles = [torch.arange(n, dtype=wide, device=x.device) * rates[:, None] for n in x.shape[2:]]
    rows, columns = (torch.stack([a.sin(), a.cos()], dim=1).flatten(0, 1) for a in angles)  # (c / 2, h), (c / 2, w)
    size = (-1, *x.shape[2:])
    return torch.cat([rows[:, :, None].expand(size), columns[:, None].expand(size)]).to(x.dtype)
