"""Object-contextual representations: a pixel attends to a few object regions that a first guess has outlined.

Paper   Yuan, Chen, Wang: Object-Contextual Representations for Semantic Segmentation, ECCV 2020.
        https://arxiv.org/abs/1909.11065

    m = softmax over pixels i of  s p_ki          p: logits of the first guess, region by region
    f_k = sum_i m_ki x_i                          one vector per region, eq. 6
    w_ik = softmax over k of  phi(x_i) . psi(f_k) / sqrt(d)                          eq. 2
    y_i = rho(sum_k w_ik delta(f_k))                                                 eq. 3
    z_i = g([y_i, x_i])                                                              eq. 4

    phi and psi are two layers of 1 x 1 convolution, norm and ReLU; delta, rho and g one.

Differs Convolutions before a norm have no bias: mmseg. The division by sqrt(d) is the authors' code. s is
        ``gather_scale``, the pooling of the queries ``query_scale``: mmseg has one ``scale`` for both and stops with
        an error above 1. Pooled queries are scaled back with aligned corners: the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, plane, tokens
from mmattn.layers.records import Regions
from mmattn.ops import attend, product


@register(
    paper="1909.11065",
    kinds=("regions",),
    example={"channels": 16, "key_channels": 8},
    inputs=(16, 5),
    places=(),
)
class ObjectContext(nn.Module):
    """Spatial gathering and object attention of OCRNet. The authors put it into the head, after a first guess:
    ``OCRHead``.

    Args:
        channels: Channels of the feature map, in and out.
        key_channels: Channels of queries, keys and values; ``channels // 2`` when None.
        gather_scale: Factor on the logits of the first guess before the softmax over pixels.
        query_scale: Factor by which the queries are pooled.
        layer: Makes convolution, norm and activation.

    Shape:
        x: (b, c, h, w), regions: (b, k, h, w) logits of the first guess, returns (b, c, h, w).
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        gather_scale: float = 1.0,
        query_scale: int = 1,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        hidden = key_channels or max(1, channels // 2)
        self.gather_scale, self.query_scale, self.scale = gather_scale, query_scale, hidden**-0.5
        self.key_project = nn.Sequential(layer(channels, hidden), layer(hidden, hidden))
        self.query_project = nn.Sequential(layer(channels, hidden), layer(hidden, hidden))
        self.value_project = layer(channels, hidden)
        self.out_project = layer(hidden, channels)
        self.bottleneck = layer(2 * channels, channels)
        self.tap = AttentionTap("regions")

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        soft = (self.gather_scale * regions.flatten(2)).softmax(dim=2)  # (b, k, n)
        objects = product(soft, tokens(x)).mT[..., None]  # (b, c, k, 1)
        q = self.query_project(x)  # (b, d, h, w)
        if self.query_scale > 1:
            q = F.max_pool2d(q, self.query_scale, ceil_mode=True)  # (b, d, h / s, w / s)
        k = self.key_project(objects)  # (b, d, k, 1)
        v = self.value_project(objects)  # (b, d, k, 1)
        self.tap.offer(lambda: Regions(q, k[..., 0], self.scale, soft.view_as(regions)))
        conv, *rest = self.out_project.children()  # weights sum to 1, so the convolution may act on the regions
        context = plane(attend(tokens(q), tokens(k), tokens(conv(v)), self.scale), q.shape[2:])  # (b, c, h / s, w / s)
        for layer in rest:
            context = layer(context)
        if self.query_scale > 1:
            context = F.interpolate(context, size=x.shape[2:], mode="bilinear", align_corners=True)
        return self.bottleneck(torch.cat([context, x], dim=1))
