"""Point-wise spatial attention: each position predicts, as a mask around itself, what it gathers and what it sends.

Paper   Zhao, Zhang, Liu, Shi, Loy, Lin, Jia: PSANet: Point-wise Spatial Attention Network for Scene Parsing, ECCV 2018.
        https://hszhao.github.io/papers/eccv18_psanet.pdf

    collect      z_i = sum_j a_ij x_j,   a_i: a mask of mh x mw predicted from x_i                 eq. 6
    distribute   z_i = sum_j a_ij x_j,   a_.j: predicted from x_j                                  eq. 7
    a is a softmax over j; where the mask of a position does not reach, its logit is 0             section 3.2
    y = [x, up(relu(W [z_collect, z_distribute]))]

Differs The softmax is in the authors' code, not in the paper. Three corrections to mmseg are to opt into, with
        ``as_authors``: the projection W is not padded by one pixel (mmseg's is, and so shifts the map); a compact
        ``collect`` mask is used as predicted and ``distribute`` transposed (mmseg, with one direction, does it the
        other way round); shrinking rounds up and aligns corners at every size (mmseg rounds down and does not when a
        side is even).

Not to be confused with Polarized self-attention, which is abbreviated PSA as well.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, plane, tokens
from mmattn.layers.records import PointWise as PointWiseRecord
from mmattn.ops import attend, point_wise
from mmattn.ops.resize import resize

Kind = Literal["collect", "distribute", "bi-direction"]


class PointWiseLayers:
    """Layers and forward of PSANet, for a module to inherit: checkpoints have them at the root of the head."""

    def build_point_wise(
        self,
        in_channels: int,
        channels: int,
        mask_size: tuple[int, int],
        psa_type: Kind,
        compact: bool,
        shrink_factor: int,
        normalization_factor: float | None,
        psa_softmax: bool,
        as_authors: bool,
        align_corners: bool,
        layer: Layer,
    ) -> None:
        """Make the layers; the arguments are those of :class:`PointWise`."""
        if psa_type not in ("collect", "distribute", "bi-direction"):
            raise ValueError(f"no psa_type {psa_type!r}: collect, distribute or bi-direction")
        mh, mw = mask_size
        self.psa_type, self.mask_size, self.compact = psa_type, (mh, mw), compact
        self.shrink_factor, self.psa_softmax, self.as_authors = shrink_factor, psa_softmax, as_authors
        self.align_corners = align_corners
        self.normalization_factor = mh * mw if normalization_factor is None else normalization_factor
        both = psa_type == "bi-direction"
        for suffix in ("", "_p") if both else ("",):
            masks = nn.Conv2d(channels, mh * mw, kernel_size=1, bias=False)
            setattr(self, f"reduce{suffix}", layer(in_channels, channels))
            setattr(self, f"attention{suffix}", nn.Sequential(layer(channels, channels), masks))
        self.proj = layer(channels * (1 + both), in_channels, padding=0 if as_authors else 1)
        self.tap = AttentionTap("pairwise")
        self.tap_p = AttentionTap("pairwise")

    def point_wise(self, x: Tensor) -> Tensor:
        """The context of x (b, in_channels, h, w), of the same shape."""
        if self.psa_type == "bi-direction":
            collected = self._aggregate(x, self.reduce, self.attention, "collect", self.tap)
            distributed = self._aggregate(x, self.reduce_p, self.attention_p, "distribute", self.tap_p)
            context = torch.cat([collected, distributed], dim=1)  # (b, 2 c, h / s, w / s)
        else:
            context = self._aggregate(x, self.reduce, self.attention, self.psa_type, self.tap)  # (b, c, h / s, w / s)
        context = self.proj(context)  # (b, in_channels, h / s, w / s), with 2 more rows and columns where padded
        _, aligned = self._shrunk(x)
        return resize(context, x.shape[2:], aligned)

    def _shrunk(self, x: Tensor) -> tuple[tuple[int, int], bool | int]:
        """Size of the shrunk map, and whether resizing to it aligns corners."""
        (h, w), s = x.shape[2:], self.shrink_factor
        if s == 1:
            return (h, w), self.as_authors or self.align_corners
        if torch.compiler.is_exporting() and not self.as_authors:  # without asking, which would tie it to even sizes
            up = ((h % s + s - 1) // s) * ((w % s + s - 1) // s)  # 1 where neither side is a multiple of s, else 0
            return (h // s + up, w // s + up), up
        if self.as_authors or (h % s and w % s):
            return ((h - 1) // s + 1, (w - 1) // s + 1), True
        return (max(1, h // s), max(1, w // s)), False

    def _aggregate(
        self, x: Tensor, reduce: nn.Module, attention: nn.Module, direction: str, tap: AttentionTap
    ) -> Tensor:
        x = reduce(x)  # (b, c, h, w)
        size, aligned = self._shrunk(x)
        if self.shrink_factor != 1:
            x = resize(x, size, aligned)  # (b, c, h / s, w / s)
        hidden, predict = attention[0](x), attention[1]  # (b, c, h / s, w / s), and what makes masks of it
        if self.compact:
            as_predicted = self.as_authors or self.psa_type == "bi-direction"
            at = direction if as_predicted else {"collect": "distribute", "distribute": "collect"}[direction]
            context = self._compact(hidden, predict.weight, x, at)
        else:
            at = direction
            context = point_wise(hidden, predict.weight, x, self.mask_size, at, softmax=self.psa_softmax)
        mask_size = None if self.compact else self.mask_size
        tap.offer(lambda: PointWiseRecord(hidden, _masks(predict.weight.clone(), x), mask_size, at, self.psa_softmax))
        return context / self.normalization_factor

    def _compact(self, hidden: Tensor, weight: Tensor, x: Tensor, at: str) -> Tensor:
        """The context (b, c, h, w) of masks that hold a logit for each position, in order: rows of ``weight``."""
        size = x.shape[2:]
        if len(weight) != size[0] * size[1]:
            mh, mw = self.mask_size
            raise ValueError(f"compact masks are as large as the shrunk map: {mh} x {mw} are not {size[0]} x {size[1]}")
        q, k, v = tokens(hidden), _masks(weight, x), tokens(x)  # (b, n, c) each
        q, k = (q, k) if at == "collect" else (k, q)
        return plane(attend(q, k, v) if self.psa_softmax else q @ (k.mT @ v), size)


def _masks(weight: Tensor, x: Tensor) -> Tensor:
    """What makes masks of features, for each image of x: (b, mh * mw, c)."""
    return weight.flatten(1).expand(x.shape[0], -1, -1)


@register(
    paper="https://hszhao.github.io/papers/eccv18_psanet.pdf",
    kinds=("pairwise", "pairwise"),
    example={"channels": 8, "mask_size": (5, 7), "hidden": 6},
)
class PointWise(PointWiseLayers, nn.Module):
    """Point-wise spatial attention (PSANet). Returns the context, which the authors concatenate with x. The authors put
    it on the last stage: ``PSAHead``.

    Args:
        channels: Channels of the feature map, in and out.
        mask_size: Rows and columns of the predicted masks, for the shrunk map; 2 h - 1 reaches everything.
        hidden: Channels of the attended features; ``channels // 4`` when None.
        psa_type: One direction or both.
        shrink_factor: Factor by which the map is narrowed first.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).

    Raises:
        ValueError: No such psa_type.
    """

    def __init__(
        self,
        channels: int,
        *,
        mask_size: tuple[int, int],
        hidden: int | None = None,
        psa_type: Kind = "bi-direction",
        shrink_factor: int = 2,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        self.build_point_wise(
            channels,
            hidden or max(1, channels // 4),
            mask_size,
            psa_type,
            compact=False,
            shrink_factor=shrink_factor,
            normalization_factor=1.0,
            psa_softmax=True,
            as_authors=True,
            align_corners=True,
            layer=layer,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.point_wise(x)
