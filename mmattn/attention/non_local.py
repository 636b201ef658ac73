"""Non-local block: every position gathers from every other, weighted by how their embeddings match.

Paper   Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018. https://arxiv.org/abs/1711.07971

    y_i = 1 / C(x) sum_j f(x_i, x_j) g(x_j)                             eq. 1
    gaussian            f = exp(x_i . x_j),            C = sum_j f      eq. 2
    embedded gaussian   f = exp(theta_i . phi_j),      C = sum_j f      eq. 3
    dot product         f = theta_i . phi_j,           C = number of j  eq. 4
    concatenation       f = relu(w [theta_i, phi_j]),  C = number of j  eq. 5
    z = W y + x                                                         eq. 6

Differs Defaults are mmcv's: logits of the embedded gaussian are divided by the root of their width, as in the
        authors' code and not in the paper; no max pooling of phi and g unless ``sub_sample``. The concatenation is
        computed as relu(w1 theta_i + w2 phi_j), which is the same function.
"""

from typing import Literal

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, ConvNormAct, Layer, narrow, plane, tokens, zero_start
from mmattn.layers.records import Additive, Pairwise
from mmattn.ops import additive, attend

Mode = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


@register(
    paper="1711.07971",
    kinds=("pairwise",),
    example={"channels": 16},
    idle=("phi.conv.bias",),
    identity=True,
)
class NonLocal(nn.Module):
    """Non-local block on images. Starts as the identity. The authors put five of them into the second and third stage
    of ResNet-50; ``NLHead`` has one.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which theta, phi and g are narrower than ``channels``.
        use_scale: Divide the logits of the embedded gaussian by the root of their width.
        mode: Which f.
        sub_sample: Max-pool phi and g by 2.
        layer: Makes the projections; only the last has a norm.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w).

    Raises:
        ValueError: No such mode, or a reduction below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        use_scale: bool = True,
        mode: Mode = "embedded_gaussian",
        sub_sample: bool = False,
        layer: Layer = ConvNormAct,
    ) -> None:
        super().__init__()
        if mode not in ("embedded_gaussian", "gaussian", "dot_product", "concatenation"):
            raise ValueError(f"no mode {mode!r}: embedded_gaussian, gaussian, dot_product or concatenation")
        hidden = narrow(channels, reduction)
        self.mode = mode
        self.scale = hidden**-0.5 if use_scale and mode == "embedded_gaussian" else 1.0
        self.g = layer(channels, hidden, norm=None, act=None)
        self.theta = self.phi = nn.Identity()
        if mode != "gaussian":
            self.theta = layer(channels, hidden, norm=None, act=None)
            self.phi = layer(channels, hidden, norm=None, act=None)
        if mode == "concatenation":
            self.concat_project = nn.Sequential()
            self.concat_project.add_module("conv", nn.Conv2d(2 * hidden, 1, kernel_size=1, bias=False))
            nn.init.kaiming_normal_(self.concat_project.conv.weight, mode="fan_out", nonlinearity="relu")
        self.conv_out = layer(hidden, channels, act=None)
        self.init_weights()
        if sub_sample:
            pool = nn.MaxPool2d(kernel_size=2)
            self.g = nn.Sequential(self.g, pool)
            self.phi = nn.Sequential(self.phi, pool) if mode != "gaussian" else pool
        self.tap = AttentionTap("pairwise")

    def init_weights(self) -> None:
        """Small random projections and the identity start."""
        for projection in (self.g, self.theta, self.phi):
            for conv in projection.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.normal_(conv.weight, std=0.01)
                    nn.init.zeros_(conv.bias)
        zero_start(list(self.conv_out.children())[-1])

    def forward(self, x: Tensor) -> Tensor:
        g = self.g(x)  # (b, d, h', w')
        theta, phi = self.theta(x), self.phi(x)  # (b, d, h, w), (b, d, h', w')
        size, key_size = tuple(x.shape[2:]), tuple(phi.shape[2:])
        theta, phi, g = tokens(theta), tokens(phi), tokens(g)  # (b, n, d), (b, m, d), (b, m, d)
        if self.mode == "concatenation":
            w1, w2 = self.concat_project.conv.weight.flatten().chunk(2)  # (d,), (d,)
            a, b = theta @ w1, phi @ w2  # (b, n), (b, m)
            y = additive(a, b, g)  # (b, n, d)
            self.tap.offer(lambda: Additive(a, b, size, key_size))
        elif self.mode == "dot_product":
            y = theta @ (phi.mT @ g / phi.shape[1])  # (b, n, d), all pairs never made
            self.tap.offer(
                lambda: Pairwise(theta[:, None], phi[:, None], 1 / phi.shape[1], size, key_size, softmax=False)
            )
        else:
            y = attend(theta, phi, g, self.scale)  # (b, n, d)
            self.tap.offer(lambda: Pairwise(theta[:, None], phi[:, None], self.scale, size, key_size))
        return x + self.conv_out(plane(y, size))
