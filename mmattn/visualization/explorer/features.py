"""The feature maps that channel gates let through most."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mmattn.layers.records import Record
from mmattn.layers.tap import AttentionTap
from mmattn.visualization.explorer.codes import Blob, encode

TOP, SIDE = 12, 128  # maps kept of a gate, and their longest side


@dataclass(frozen=True)
class FeatureMap:
    """One channel of what goes into a gate."""

    channel: int
    plane: Tensor

    def pack(self, blob: Blob) -> dict:
        span = float(self.plane.max() - self.plane.min()) or 1.0
        values = blob.put(encode(self.plane.flatten()[:, None], span / 255))
        return {"channel": self.channel, "size": list(self.plane.shape), "values": values}


Features = dict[tuple[str, int], list[FeatureMap]]  # by the tap's place and step


@contextmanager
def featured(model: nn.Module) -> Iterator[Features]:
    """Watch what goes into every channel gate: the input of the module that owns the tap, if it has those channels.

    Args:
        model: Any module.

    Yields:
        The maps of the channels with the largest gates, made smaller; filled while the model runs.
    """
    found: Features = {}
    inputs: dict[str, Tensor] = {}
    steps: defaultdict[str, int] = defaultdict(int)

    def keep(name: str, record: Record) -> None:
        x, gate = inputs.get(name), record.gate()[0].flatten()
        if x is not None and x.dim() == 4 and x.shape[1] == len(gate):
            scale = max(1.0, max(x.shape[2:]) / SIDE)
            size = [max(1, round(side / scale)) for side in x.shape[2:]]
            chosen = gate.argsort(descending=True)[:TOP]
            planes = F.adaptive_avg_pool2d(x[0, chosen].detach().float(), size).cpu()
            found[name, steps[name]] = [FeatureMap(*pair) for pair in zip(chosen.tolist(), planes, strict=True)]
        steps[name] += 1

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, AttentionTap) and module.kind == "channel":
                owner = model.get_submodule(name.rpartition(".")[0])
                stack.callback(owner.register_forward_pre_hook(_keeper(inputs, name)).remove)
                listener = _listener(keep, name)
                module.listeners.append(listener)
                stack.callback(module.listeners.remove, listener)
        yield found


def _keeper(inputs: dict[str, Tensor], name: str):
    def keep(_: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor):
            inputs[name] = args[0]

    return keep


def _listener(keep, name: str):
    return lambda record: keep(name, record)
