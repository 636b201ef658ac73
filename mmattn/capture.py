"""Look at the attention of any model while it runs.

    with capture(model) as maps:
        model(x)
    maps[0].record.row(y, x)

Watching changes nothing: the taps (:mod:`mmattn.layers.tap`) hand out what the mechanisms had at hand anyway.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from mmattn.catalogue import entries
from mmattn.layers.records import CrissCross, Record
from mmattn.layers.tap import AttentionTap

SPARE = 1.2  # so many times its own size may be kept alive by a factor


@dataclass(frozen=True)
class Captured:
    """One map that fired.

    Attributes:
        name: Dotted place of the tap in the model.
        mechanism: Class name of the catalogue's mechanism that the tap is in, else of the module that owns the tap.
        kind: One of :data:`mmattn.layers.tap.KINDS`.
        record: The factors, and the maps they stand for on demand.
        step: 0, 1, ... where one tap fires repeatedly within a forward of the model, as in a recurrence.
    """

    name: str
    mechanism: str
    kind: str
    record: Record
    step: int


@contextmanager
def capture(model: nn.Module) -> Iterator[list[Captured]]:
    """Listen to every tap of a model.

    Args:
        model: Any module; without a tap in it the list stays empty.

    Yields:
        What fired so far, in order of firing, over every forward inside the ``with``. It stays valid afterwards, and
        is the only thing that keeps the factors alive.
    """
    maps: list[Captured] = []
    fired: Counter[str] = Counter()

    def note(name: str, mechanism: str, kind: str, record: Record) -> None:
        maps.append(Captured(name, mechanism, kind, _detached(record), fired[name]))
        fired[name] += 1

    with ExitStack() as stack:
        handle = model.register_forward_pre_hook(lambda *_: fired.clear())
        stack.callback(handle.remove)
        for name, module in model.named_modules():
            if isinstance(module, AttentionTap):
                mechanism = type(model.get_submodule(owner(model, name))).__name__
                listener = partial(note, name, mechanism, module.kind)
                module.listeners.append(listener)
                stack.callback(module.listeners.remove, listener)
        yield maps


def owner(model: nn.Module, name: str) -> str:
    """Dotted place of the catalogue's mechanism that a tap is in, else of the module that owns the tap.

    Args:
        model: Any module.
        name: Dotted place of the tap.
    """
    place, known = name.rpartition(".")[0], tuple(entry.cls for entry in entries())
    inside = [".".join(place.split(".")[:depth]) for depth in range(len(place.split(".")), 0, -1)] + [""]
    return next((p for p in inside if isinstance(model.get_submodule(p), known)), place)


def _detached(record: Record) -> Record:
    """The same tensors without what would stay alive with them: autograd graphs, and what they are small parts of."""
    tensors = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(record, **{name: _alone(x.detach()) for name, x in tensors.items() if isinstance(x, Tensor)})


def _alone(x: Tensor) -> Tensor:
    return x.clone() if x.untyped_storage().nbytes() > SPARE * x.nbytes else x


def compose(hops: Sequence[CrissCross], y: int, x: int) -> Tensor:
    """What a position attends to through several hops of criss-cross attention.

    With two hops ``sum over r of A2[(y, x) -> r] A1[r -> .]``, exactly, from the rows of the h + w - 1 positions r
    alone. It is the product of the attentions: projections of the values and residual paths are left out.

    Args:
        hops: The records in order of firing, all of one size.
        y: Row of the query.
        x: Column of the query.

    Returns:
        (b, 1, h, w) weights, summing to 1.

    Raises:
        IndexError: (y, x) is outside the grid.
    """
    plane = hops[-1].row(y, x)
    for hop in reversed(hops[:-1]):
        plane = _carry(plane, hop)
    return plane


def _carry(plane: Tensor, hop: CrissCross) -> Tensor:
    """``sum over r of plane[r] A[r -> .]``, for as many r at once as fit into some 50 MB."""
    h, w = hop.size
    out = torch.zeros_like(plane)
    chunk = max(1, 2**23 // ((h + w) * hop.q.shape[1]))
    for ys, xs in zip(*(at.split(chunk) for at in plane.sum((0, 1)).nonzero(as_tuple=True)), strict=True):
        attn = hop.weights(ys, xs) * plane[:, 0, ys, xs, None]  # (b, r, h + w)
        out[:, 0].transpose(1, 2).index_add_(1, xs, attn[..., :h])
        out[:, 0].index_add_(1, ys, attn[..., h:])
    return out
