"""Interaction, aggregation, update: channels mix by likeness, then a few parts talk to each other and tell the image.

Paper   Hou, Ma, Chang, Gu, Shan, Chen: IAUnet: Global Context-Aware Feature Learning for Person Re-Identification,
        TNNLS 2020. https://arxiv.org/abs/2009.01035

Channels (CIAU), the rows of X being every channel of every frame:
    z = x + BN0(W1 softmax(X X^T) X)
Parts (SIAU; STIAU on clips):
    a = sigmoid(BN(Wa z))                                     where each of the K parts is
    p_tk = Wp sum_n a_tkn z_tn,  u = Wp mean of z             one node for each part of each frame, one for the whole
    e_ij = BN(We [|p_i - p_j|, u])                            edges: another part of the frame, or the part elsewhere
    s_i = relu(BN(Ws [p_i, sum_j softmax_j(e)_ij p_j]))
    y_t = z_t + BN0(W2 [mean_k s_tk, u])                      the same for all positions of a frame

    BN0 starts with weight and bias 0. All W are 1 x 1 with bias, so an image is a clip of one frame.

Differs As in the authors' code. The loss on a that needs labels of body parts is left out, and so is a fixed number of
        frames. Biases start at 0. Products, softmaxes and all sums over positions run in float32 under autocast: in
        float16 they overflow.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, check_batch, kaiming_start, wide, without_autocast, zero_start
from mmattn.layers.records import ChannelPairwise


@register(
    paper="2009.01035",
    kinds=("channel_pairwise", "spatial"),
    example={"channels": 16},
    idle=("edge.0.bias", "edge.1.bias"),
    identity=True,
)
class InteractionAggregation(nn.Module):
    """Interaction-aggregation-update (IAU) block, on images and on clips. Starts as the identity. The authors put it
    after the second and the third stage of ResNet-50.

    Args:
        channels: Channels of the feature map, in and out.
        parts: Number of parts K.
        norm: Makes the norms from a number of channels: ``channels``, half of them, ``parts`` and 1.

    Shape:
        x: (b, c, h, w), or (b, c, t, h, w) for t frames; returns the same. The maps are (b, c * t, c * t) and
        (b, parts, t * h, w) in (0, 1), frames one below the other.

    Raises:
        ValueError: No parts, fewer than 2 channels, or training a batch norm on one image.
    """

    def __init__(self, channels: int, *, parts: int = 4, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        if channels < 2 or parts < 1:
            raise ValueError(f"channels={channels}, parts={parts}: at least 2 channels and 1 part")
        hidden = channels // 2
        self.mix = _conv_norm(channels, channels, norm)
        self.part = _conv_norm(channels, parts, norm)
        self.node = nn.Conv2d(channels, hidden, kernel_size=1)
        self.edge = _conv_norm(2 * hidden, 1, norm)
        self.update = _conv_norm(2 * hidden, hidden, norm)
        self.out = _conv_norm(2 * hidden, channels, norm)
        self.tap = AttentionTap("channel_pairwise")
        self.tap_parts = AttentionTap("spatial")
        self.init_weights()

    def init_weights(self) -> None:
        """Kaiming-normal convolutions and the identity start."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_start(module)
        for _, norm in (self.mix, self.out):
            if norm.weight is not None:
                zero_start(norm)

    def forward(self, x: Tensor) -> Tensor:
        clip = x if x.dim() == 5 else x[:, :, None]  # (b, c, t, h, w)
        check_batch(self, clip[..., :1, :1])
        z = clip.flatten(2, 3) + self._mixed(clip)  # (b, c, t * h, w)
        y = z.unflatten(2, clip.shape[2:4]) + self._told(z, clip.shape[2])  # (b, c, t, h, w)
        return y.view_as(x)

    def _mixed(self, clip: Tensor) -> Tensor:
        with without_autocast(clip):
            rows = wide(clip.flatten(3).flatten(1, 2))  # (b, c * t, h * w)
            logits = rows @ rows.mT  # (b, c * t, c * t)
            mixed = logits.softmax(dim=2) @ rows  # (b, c * t, h * w)
        self.tap.offer(lambda: ChannelPairwise(logits, tuple(clip.shape[3:])))
        return self.mix(mixed.to(clip.dtype).view_as(clip).flatten(2, 3))

    def _told(self, z: Tensor, t: int) -> Tensor:
        """What the parts have to say to each frame, (b, c, t, 1, 1)."""
        a = self.tap_parts(self.part(z).sigmoid())  # (b, K, t * h, w)
        with without_autocast(z):
            frames, a = _frames(z, t), _frames(a, t)  # (b, t, c, h * w), (b, t, K, h * w)
            sums = (a @ frames.mT).flatten(1, 2).mT[..., None]  # (b, c, t * K, 1)
            whole = frames.mean(dim=(1, 3))[..., None, None]  # (b, c, 1, 1)
            dtype, parts = self.node.weight.dtype, a.shape[2]
            p = self.node(sums.to(dtype))  # (b, d, t * K, 1)
            u = self.node(whole.to(dtype))  # (b, d, 1, 1)
            gaps = (p - p.mT).abs()  # (b, d, t * K, t * K)
            edges = self.edge(torch.cat([gaps, u.expand_as(gaps)], dim=1))  # (b, 1, t * K, t * K)
            edges = edges.where(_hears(t, parts, edges.device), torch.finfo(edges.dtype).min)
            attn = edges.softmax(dim=3)  # (b, 1, t * K, t * K)
            s = self.update(torch.cat([p, attn @ p], dim=1)).relu()  # (b, d, t * K, 1)
            s = s.unflatten(2, (t, parts)).mean(dim=3)  # (b, d, t, 1)
            y = self.out(torch.cat([s, u.expand_as(s)], dim=1))  # (b, c, t, 1)
        return y[..., None].to(z.dtype)


def _conv_norm(channels: int, width: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, kernel_size=1), norm(width))


def _hears(t: int, parts: int, device: torch.device) -> Tensor:
    """Whether node i hears node j (t * K, t * K): the other parts of its frame, and its own part elsewhere."""
    node = torch.arange(t * parts, device=device)
    frame, part = node // parts, node % parts
    return (frame[:, None] == frame) ^ (part[:, None] == part)


def _frames(x: Tensor, t: int) -> Tensor:
    """(b, c, t * h, w) as (b, t, c, h * w), in float32 or wider."""
    return wide(x.unflatten(2, (t, -1)).flatten(3).permute(0, 2, 1, 3))
