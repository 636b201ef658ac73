"""What of the attention a figure shows, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmattn.capture import Captured
from mmattn.cli import UserError
from mmattn.layers.records import Pairwise


@dataclass(frozen=True)
class Options:
    """Choices for a figure.

    Attributes:
        layer: Only the taps that have this in their dotted place in the model.
        mechanism: Only the maps of this mechanism, by the name of its class.
        head: Only this head where there are several, counted from 0; by default the mean of all.
        saliency: Show the bottom-up saliency of the image as well.
        alpha: Opacity of a map where it is strongest, 0 to 1.
        clip: Percentile of the positive values of a view at which its colours end.
        log: Colours on a logarithmic scale.
    """

    layer: str = ""
    mechanism: str = ""
    head: int | None = None
    saliency: bool = False
    alpha: float = 0.95
    clip: float = 99.5
    log: bool = False

    def choose(self, maps: Sequence[Captured]) -> list[Captured]:
        """Those of the maps that are asked for.

        Raises:
            UserError: There are none; the message names what there is.
        """
        found = [m for m in maps if self.layer in m.name]
        _expect(found, f"no attention at {self.layer}", "there is", (m.name for m in maps))
        named = [m for m in found if m.mechanism.lower() == self.mechanism.lower() or not self.mechanism]
        _expect(named, f"no attention by {self.mechanism}", "there is", (m.mechanism for m in found))
        if self.head is None:
            return named
        heads = [_one_head(m, self.head) for m in named if _heads(m) > self.head >= 0]
        _expect(heads, f"no head {self.head}", "heads are counted from 0:", (f"{_heads(m)} in {m.name}" for m in named))
        return heads


PLAIN = Options()


def _expect(found: Sequence[Captured], missing: str, there_is: str, names: object) -> None:
    if not found:
        raise UserError(f"{missing}; {there_is} {', '.join(dict.fromkeys(names))}")


def _heads(captured: Captured) -> int:
    return captured.record.q.shape[1] if isinstance(captured.record, Pairwise) else 1


def _one_head(captured: Captured, head: int) -> Captured:
    if _heads(captured) == 1:
        return captured
    record, one = captured.record, slice(head, head + 1)
    record = replace(record, q=record.q[:, one], k=record.k[:, one])
    return replace(captured, mechanism=f"{captured.mechanism}, head {head}", record=record)
