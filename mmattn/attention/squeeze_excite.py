"""Squeeze-and-excitation: scale each channel by what the whole image says of it.

Paper   Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018. https://arxiv.org/abs/1709.01507

    z = mean of x over (h, w)              squeeze, eq. 2
    s = sigmoid(W2 relu(W1 z))             excite,  eq. 3
    y = s x                                scale,   eq. 4

Differs W1 and W2 have biases, as in the authors' published networks; ``bias=False`` is the form of the paper's ResNet
        ablations.
"""

from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, narrow


@register(paper="1709.01507", kinds=("channel",), example={"channels": 16, "reduction": 4})
class SqueezeExcite(nn.Module):
    """Channel gate of SENet. The authors put it at the end of each residual block, before the sum.

    Args:
        channels: Channels of the feature map, in and out.
        reduction: Ratio r by which the bottleneck is narrower than ``channels``; it keeps one channel at least.
        bias: Whether W1 and W2 have biases.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, c, 1, 1), in (0, 1).

    Raises:
        ValueError: A reduction below 1.
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = True) -> None:
        super().__init__()
        hidden = narrow(channels, reduction)
        self.w1 = nn.Conv2d(channels, hidden, kernel_size=1, bias=bias)
        self.w2 = nn.Conv2d(hidden, channels, kernel_size=1, bias=bias)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
        gate = self.w2(self.w1(z).relu()).sigmoid()  # (b, c, 1, 1)
        return x * self.tap(gate)
