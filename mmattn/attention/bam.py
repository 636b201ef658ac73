"""Bottleneck attention: what the channels and what the positions say, side by side, make one gate for every number.

Paper   Park, Woo, Lee, Kweon: BAM: Bottleneck Attention Module, BMVC 2018. https://arxiv.org/abs/1807.06514

    y = x + x M(x)                                                                  eq. 1
    M(x) = sigmoid(Mc(x) + Ms(x))                                                   eq. 2
    Mc(x) = norm(W2 relu(norm(W1 mean of x)))           for each channel            eq. 3
    Ms(x) = norm(conv1x1(two dilated 3 x 3(conv1x1(x))))    for each position       eq. 4
            each convolution but the last with norm and ReLU

Differs As in the authors' code and its published weights, Mc and Ms are multiplied, and no norm closes a branch;
        ``combine="add", closing_norm=True`` is the paper. The mean is over the whole map, where the code takes a square
        of the map's height.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, check_batch, narrow


@register(paper="1807.06514", kinds=("spatial",), example={"channels": 16, "reduction": 4})
class BAM(nn.Module):
    """One gate from a channel branch and a spatial branch. The authors put it after a stage, before the next one.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio by which both branches are narrower than ``channels``.
        dilation: Dilation of the 3 x 3 convolutions.
        combine: ``mul`` or ``add`` the branches.
        closing_norm: Whether a norm closes each branch.
        norm: Makes the norms.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w), between x and 2 x. The map is M, (b, c, h, w), in (0, 1).

    Raises:
        ValueError: No such combine, a reduction below 1, or training a batch norm on one image.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        combine: Literal["mul", "add"] = "mul",
        closing_norm: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if combine not in ("mul", "add"):
            raise ValueError(f"no combine {combine!r}: mul or add")
        hidden = narrow(channels, reduction)
        self.channel = nn.Sequential(
            _block(nn.Conv2d(channels, hidden, kernel_size=1), norm),
            nn.Conv2d(hidden, channels, kernel_size=1),
            norm(channels) if closing_norm else nn.Identity(),
        )
        self.spatial = nn.Sequential(
            _block(nn.Conv2d(channels, hidden, kernel_size=1), norm),
            _block(nn.Conv2d(hidden, hidden, kernel_size=3, padding=dilation, dilation=dilation), norm),
            _block(nn.Conv2d(hidden, hidden, kernel_size=3, padding=dilation, dilation=dilation), norm),
            nn.Conv2d(hidden, 1, kernel_size=1),
            norm(1) if closing_norm else nn.Identity(),
        )
        self.combine = combine
        self.tap = AttentionTap("spatial")

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
        check_batch(self, z)
        channel = self.channel(z)  # (b, c, 1, 1)
        spatial = self.spatial(x)  # (b, 1, h, w)
        logits = channel * spatial if self.combine == "mul" else channel + spatial  # (b, c, h, w)
        return x + x * self.tap(logits.sigmoid())


def _block(conv: nn.Conv2d, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv, norm(conv.out_channels), nn.ReLU(inplace=True))
