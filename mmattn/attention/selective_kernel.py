"""Selective kernel convolution: each channel chooses between kernels of several sizes by what the whole image says.

Paper   Li, Wang, Hu, Yang: Selective Kernel Networks, CVPR 2019. https://arxiv.org/abs/1903.06586

    U_m = relu(norm(F_m x))                    split, F_m a 3 x 3 convolution in groups, dilated by m = 1 .. M
    s = mean over (h, w) of sum_m U_m          fuse, eq. 1, 2
    z = relu(norm(W s))                        eq. 3, of width d = max(C / r, L), eq. 4
    a_m = exp(A_m z) / sum_n exp(A_n z)        select, channel by channel, eq. 5
    V = sum_m a_m U_m                          eq. 6

It replaces the 3 x 3 convolution of a block together with its norm and ReLU; so it takes a stride and a dilation, by
which that of every branch is multiplied.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, check_batch, kaiming_start, narrow


@register(
    paper="1903.06586",
    kinds=("channel", "channel"),
    example={"channels": 16, "groups": 4, "min_hidden": 8},
    places=("plugin",),
)
class SelectiveKernel(nn.Module):
    """SK convolution of SKNet. The authors put it in the place of the 3 x 3 of each block.

    Args:
        channels: Channels of the feature map, in and out; a multiple of ``groups``.
        stride: Stride of the convolutions.
        dilation: Dilation of the first branch; branch m has m times as much.
        branches: Number of kernels M.
        groups: Groups of each convolution.
        reduction: Ratio r by which the fused vector is narrower than ``channels``.
        min_hidden: Its least width L.
        fc_bias: Give the last layer before the softmax a bias, which the authors' has not.
        norm: Makes the norms from the number of channels.

    Shape:
        x: (b, c, h, w), returns (b, c, h / stride, w / stride), rounded up. The maps are one (b, c, 1, 1) for each
        branch, together 1.

    Raises:
        ValueError: Channels that ``groups`` does not divide, fewer than two branches, or a reduction below 1; in
            training, one image under a batch norm.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        branches: int = 2,
        groups: int = 32,
        reduction: int = 16,
        min_hidden: int = 32,
        fc_bias: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels: must be a multiple of the {groups} groups")
        if branches < 2:
            raise ValueError(f"branches {branches}: there must be two or more to select from")
        hidden = max(narrow(channels, reduction), min_hidden)
        reaches = [dilation * (m + 1) for m in range(branches)]
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride, padding=r, dilation=r, groups=groups, bias=False),
                norm(channels),
                nn.ReLU(inplace=True),
            )
            for r in reaches
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1, bias=False), norm(hidden), nn.ReLU(inplace=True)
        )
        self.select = nn.Conv2d(hidden, branches * channels, kernel_size=1, bias=fc_bias)
        self.taps = nn.ModuleList(AttentionTap("channel") for _ in range(branches))
        self.init_weights()

    def init_weights(self) -> None:
        """The authors' start: Kaiming kernels, a choice close to even."""
        for branch in self.branches:
            kaiming_start(branch[0], mode="fan_in")
        for conv in (self.fuse[0], self.select):
            nn.init.normal_(conv.weight, std=0.01)
        if self.select.bias is not None:
            nn.init.zeros_(self.select.bias)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.stack([branch(x) for branch in self.branches], dim=1)  # (b, m, c, h', w')
        s = u.sum(dim=1).mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
        check_batch(self, s)
        logits = self.select(self.fuse(s)).unflatten(1, (len(self.branches), -1))  # (b, m, c, 1, 1)
        gates = logits.softmax(dim=1, dtype=u.dtype)  # (b, m, c, 1, 1)
        gates = torch.stack([tap(gates[:, m]) for m, tap in enumerate(self.taps)], dim=1)
        return (gates * u).sum(dim=1)
