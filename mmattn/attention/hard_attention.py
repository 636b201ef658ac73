"""Hard attention: positions are kept or dropped outright, and the choice is learned through a soft stand-in.

Paper   Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio: Show, Attend and Tell, ICML 2015.
        https://arxiv.org/abs/1502.03044
        Gumbel noise: Jang, Gu, Poole: Categorical Reparameterization with Gumbel-Softmax, ICLR 2017.
        https://arxiv.org/abs/1611.01144; Maddison, Mnih, Teh: The Concrete Distribution, ICLR 2017.
        Masks and budget: Verelst, Tuytelaars: Dynamic Convolutions: Exploiting Spatial Sparsity for Faster Inference,
        CVPR 2020. https://arxiv.org/abs/1912.03203

    l = Wl x,  and g, g1, g2 Gumbel noise in training, 0 in evaluation
    bernoulli   m = 1[l + g1 - g2 > 0],                s = sigmoid((l + g1 - g2) / tau)
    glimpse     m = one-hot of argmax_j (l + g)_j,     s = softmax over positions of (l + g) / tau
    top_k       m = 1 at the max(1, round(rho n)) largest of the n logits,  s = sigmoid(l)
    y = m x,  or x + m x with ``residual``                                  bernoulli and top_k
    y = x + W2 relu(LayerNorm(W1 sum_j m_j x_j))                            glimpse
    budget (mean of m - rho)^2                                              bernoulli

    Forward uses the binary m; backward takes the gradient of s for that of m (straight-through).

Differs No publication has exactly this plugin. Training by the score function (REINFORCE, as in Show, Attend and Tell
        and in Recurrent Models of Visual Attention) is out of scope: it needs the reward of the whole model.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mmattn.catalogue import register
from mmattn.layers import AttentionTap, LossTap, context_transform, wide, zero_start


@register(paper="1611.01144", kinds=("mask",), example={"channels": 16}, cannot=("gradcheck",))
class HardAttention(nn.Module):
    """Hard attention over positions. ``glimpse`` starts as the identity. Where masks are to save work, the literature
    puts one into each residual block.

    Args:
        channels: Channels of the feature map, in and out.
        form: ``bernoulli`` decides on each position by itself, ``top_k`` keeps a fixed share of them, ``glimpse`` looks
            at one and adds what is there to all.
        tau: Temperature of s. It is read in every forward, so a hook may anneal it.
        rho: Share of positions that ``top_k`` keeps and the budget asks for.
        residual: Add x to what is kept, as ``glimpse`` always does.
        ratio: Width of the transform of ``glimpse`` as a share of ``channels``.
        budget: Weight of the budget loss of ``bernoulli``, which is offered in training together with the share that
            is kept; 0 for none.

    Shape:
        x: (b, c, h, w), returns (b, c, h, w). The map is (b, 1, h, w), 0 or 1.

    Raises:
        ValueError: No such form, a tau, rho, ratio or budget out of range, or a budget without ``bernoulli``.
    """

    def __init__(
        self,
        channels: int,
        *,
        form: Literal["bernoulli", "glimpse", "top_k"] = "bernoulli",
        tau: float = 1.0,
        rho: float = 0.5,
        residual: bool = False,
        ratio: float = 1 / 16,
        budget: float = 0.0,
    ) -> None:
        super().__init__()
        if form not in ("bernoulli", "glimpse", "top_k"):
            raise ValueError(f"no form {form!r}: bernoulli, glimpse or top_k")
        if tau <= 0 or not 0 < rho <= 1:
            raise ValueError(f"tau={tau}, rho={rho}: tau must be above 0, rho above 0 and at most 1")
        if budget < 0 or (budget and form != "bernoulli"):
            raise ValueError(f"budget={budget}: at least 0, and only bernoulli has a share to train")
        self.form, self.tau, self.rho, self.residual, self.weight = form, tau, rho, residual, budget
        self.logits = nn.Conv2d(channels, 1, kernel_size=1)
        self.transform = context_transform(channels, ratio) if form == "glimpse" else None
        self.tap = AttentionTap("mask")
        self.budget, self.kept = LossTap("budget"), LossTap("kept")
        self.init_weights()

    def init_weights(self) -> None:
        """The identity start of ``glimpse``."""
        if self.transform is not None:
            zero_start(self.transform[-1])

    def forward(self, x: Tensor) -> Tensor:
        logits = wide(self.logits(x))  # (b, 1, h, w)
        mask = self._mask(logits.flatten(2)).view_as(logits)  # (b, 1, h, w)
        if self.training and self.weight:
            self.budget.offer(lambda: self.weight * (mask.mean() - self.rho) ** 2)
            self.kept.offer(lambda: mask.detach().mean())
        kept = x * self.tap(mask).to(x.dtype)  # (b, c, h, w)
        if self.transform is not None:
            return x + self.transform(kept.sum(dim=(2, 3), keepdim=True))
        return x + kept if self.residual else kept

    def _mask(self, logits: Tensor) -> Tensor:
        """(b, 1, n) logits to a binary mask, which has the gradient of its soft form."""
        if self.form == "top_k":
            count = max(1, round(self.rho * logits.shape[2]))
            hard, soft = _largest(logits, count), logits.sigmoid()
        elif self.form == "glimpse":
            logits = logits + _gumbel(logits) if self.training else logits
            hard, soft = _largest(logits, 1), (logits / self.tau).softmax(dim=2)
        else:
            logits = logits + _gumbel(logits) - _gumbel(logits) if self.training else logits
            hard, soft = logits > 0, (logits / self.tau).sigmoid()
        return hard + (soft - soft.detach())


def _largest(logits: Tensor, count: int) -> Tensor:
    """1 at the ``count`` largest of the last axis, also where several are equal, and 0 elsewhere."""
    return torch.zeros_like(logits).scatter(2, logits.topk(count, dim=2).indices, 1.0)


def _gumbel(like: Tensor) -> Tensor:
    return -torch.empty_like(like).exponential_().log()
