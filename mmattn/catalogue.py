"""The one list of mechanisms.

Each file of :mod:`mmattn.attention` enters its classes here; the registry, the tests, the tables and the benchmark read
it. The catalogue imports no mechanism: ``import mmattn.attention`` fills it.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from mmattn.layers.tap import KINDS

Module = TypeVar("Module", bound=nn.Module)
_ENTRIES: dict[str, "Entry"] = {}

#: Where a mechanism can stand: in a backbone block, after any module of a backbone, on levels of a neck, in a head.
PLACES = ("plugin", "wrapper", "neck", "head")
#: What a mechanism may declare that it cannot do.
ABILITIES = ("compile", "export", "gradcheck")


@dataclass(frozen=True)
class Entry:
    """One mechanism of the literature.

    Attributes:
        name: Snake-case name, ``criss_cross`` for ``CrissCross``.
        cls: The module class.
        paper: arXiv number or URL.
        kinds: Kinds of the maps it gives, in the order of its taps.
        example: Constructor arguments of a small instance.
        inputs: Channels of each feature map that ``forward`` takes in that instance.
        idle: Parameters that change nothing, because a softmax takes the same number off all its logits.
        identity: Whether it returns its input until it is trained.
        places: Which of :data:`PLACES` it can stand in.
        cannot: Which of :data:`ABILITIES` it lacks.
    """

    name: str
    cls: type[nn.Module]
    paper: str
    kinds: tuple[str, ...]
    example: Mapping[str, Any]
    inputs: tuple[int, ...]
    idle: tuple[str, ...]
    identity: bool
    places: tuple[str, ...]
    cannot: tuple[str, ...]

    @property
    def replaces(self) -> bool:
        """Whether it stands in the place of a block's 3 x 3 convolution, and nowhere else."""
        return self.places == ("plugin",)

    @property
    def summary(self) -> str:
        """First line of the file's header: what the mechanism does, in plain words."""
        return (inspect.getdoc(inspect.getmodule(self.cls)) or "").partition("\n")[0]


def register(
    *,
    paper: str,
    kinds: tuple[str, ...],
    example: Mapping[str, Any],
    inputs: tuple[int, ...] | None = None,
    idle: tuple[str, ...] = (),
    identity: bool = False,
    places: tuple[str, ...] = PLACES,
    cannot: tuple[str, ...] = (),
) -> Callable[[type[Module]], type[Module]]:
    """Enter a class under its name in snake case.

    Args:
        paper: arXiv number or URL.
        kinds: Kinds of its maps, each one of :data:`mmattn.layers.tap.KINDS`.
        example: Constructor arguments of a small instance; ``channels`` among them.
        inputs: Channels of each input map of that instance; ``(channels,)`` when left out.
        idle: Parameters that change nothing.
        identity: Whether it returns its input until it is trained.
        places: Where it can stand.
        cannot: What it lacks; the contract tests assert that it fails.

    Raises:
        ValueError: The name is taken, or a kind, a place or an ability is unknown.
    """

    def enter(cls: type[Module]) -> type[Module]:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if name in _ENTRIES:
            raise ValueError(f"{name} is in the catalogue already, as {_ENTRIES[name].cls}")
        for given, known in ((kinds, KINDS), (places, PLACES), (cannot, ABILITIES)):
            if unknown := set(given) - set(known):
                raise ValueError(f"{name}: unknown {sorted(unknown)}, there are {known}")
        _ENTRIES[name] = Entry(
            name, cls, paper, kinds, example, inputs or (example["channels"],), idle, identity, places, cannot
        )
        return cls

    return enter


def entries(kind: str | None = None) -> list[Entry]:
    """The catalogue in alphabetical order, or only what gives maps of one kind.

    Raises:
        ValueError: No such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(KINDS)}")
    return [entry for _, entry in sorted(_ENTRIES.items()) if kind is None or kind in entry.kinds]


def create(name: str, **arguments: Any) -> nn.Module:
    """Build a mechanism by its name: ``create("criss_cross", channels=256)``.

    Raises:
        ValueError: No such name; the message has the nearest ones.
    """
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES) or sorted(_ENTRIES)
        raise ValueError(f"no mechanism {name!r}; did you mean {', '.join(near)}?")
    return _ENTRIES[name].cls(**arguments)
