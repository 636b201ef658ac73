"""The one named place where a mechanism shows its attention.

A mechanism owns one tap for each map it computes and hands it what is at hand: the gate itself, or a function that
makes a record (:mod:`mmattn.layers.records`) out of the factors. While nobody listens the function is never called,
nothing is kept, and the tap leaves no trace in ``state_dict``, in compiled graphs and in exports.

The contract, for whoever writes a mechanism:

- ``gate = self.tap(gate)`` for a map that multiplies (kinds ``channel`` and ``spatial``);
- ``self.tap.offer(lambda: Pairwise(q, k, ...))`` for a map that need not exist as a tensor. What a lean path folds away
  is unfolded inside the function, so it costs only those who look;
- once per forward (once per recurrence), also when the forward is run again inside backward.

and for whoever listens: append a callable to ``tap.listeners`` and take it away again (:mod:`mmattn.capture` does
both).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmattn.layers.records import Gate, Record

KINDS = ("channel", "spatial", "pairwise", "channel_pairwise", "criss_cross", "regions", "mask")


class AttentionTap(nn.Module):
    """Passes a map on unchanged, and shows it to whoever listens.

    Args:
        kind: One of :data:`KINDS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
        self.kind = kind
        self.listeners: list[Callable[[Record], None]] = []

    def forward(self, gate: Tensor) -> Tensor:
        """Shows a gate (b, c or 1, h or 1, w or 1) and returns it."""
        self.offer(lambda: Gate(self.kind, gate.detach()))
        return gate

    def offer(self, make: Callable[[], Record]) -> None:
        """Shows what ``make`` returns; it is called only while somebody listens."""
        if self.listeners and torch._C._current_graph_task_id() == -1:  # not inside backward
            with torch.no_grad():
                record = make()
            for listener in self.listeners:
                listener(record)

    def extra_repr(self) -> str:
        return self.kind


class LossTap(nn.Module):
    """Where a mechanism shows a loss of its own, such as the budget of a hard mask, once per forward in training.

    The mechanism calls ``self.budget.offer(lambda: loss)``; whoever trains listens, adds the losses to its own and
    logs them; what is offered without a gradient is logged alone. Nothing is kept while nobody listens.

    Args:
        name: Name of the loss, ``budget`` is logged as ``loss_budget``.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.listeners: list[Callable[[str, Tensor], None]] = []

    def offer(self, make: Callable[[], Tensor]) -> None:
        """Shows the loss that ``make`` returns, with its gradient; it is called only while somebody listens."""
        if self.listeners and torch._C._current_graph_task_id() == -1:  # not inside backward
            # a checkpoint around must not count on what the loss saves: it recomputes when nobody listens any more
            with torch.autograd.graph.saved_tensors_hooks(_keep, _keep):
                loss = make()
            for listener in self.listeners:
                listener(self.name, loss)

    def extra_repr(self) -> str:
        return self.name


def _keep(saved: Tensor) -> Tensor:
    return saved
