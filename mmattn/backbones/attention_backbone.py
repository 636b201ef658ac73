"""Mechanisms after modules of any registered backbone, or on its outputs, without a change to its code.

    backbone=dict(type='mmattn.AttentionBackbone',
                  backbone=dict(type='MobileNetV2', out_indices=(1, 2, 4, 6)),
                  attention=[dict(cfg=dict(type='SqueezeExcite'), after=['layer3', 'layer5']),
                             dict(cfg=dict(type='GlobalContext'), after=-1)])

A name puts a mechanism into the trunk: all that follows sees what it gives. A number puts it on that output alone.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, count
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmattn.cli import UserError
from mmattn.plugins import build
from mmattn.registry import MODELS


@MODELS.register_module()
def AttentionBackbone(
    backbone: dict,
    attention: Sequence[dict],
    norm_cfg: dict | None = None,
    pretrained: str | None = None,
) -> nn.Module:
    """A backbone with mechanisms.

    It is the backbone itself, of a class derived from its own: names of parameters, pretrained weights, frozen stages
    and ``norm_eval`` are as without mechanisms. These are its child ``attention``, start after it in their own way, and
    are never frozen with it.

    Args:
        backbone: Config of the backbone.
        attention: For each mechanism ``cfg``, its config, and ``after``, the name of a module, the index of an output
            of the backbone, or a list of such places, each of which gets one of its own.
        norm_cfg: Norm of the mechanisms; as in the backbone when None, BN where that has layer norms.
        pretrained: Weights that the backbone starts from.

    Raises:
        UserError: There is no such module or output, or what it gives is not one map (b, c, h, w); the mechanism does
            not stand there.
    """
    cfg = dict(backbone) if pretrained is None else {**backbone, "pretrained": pretrained}
    kind = MODELS.get(cfg["type"]) if isinstance(cfg["type"], str) else cfg["type"]
    if kind is None:
        return MODELS.build(cfg)  # says which names there are
    net = MODELS.build({**cfg, "type": type(f"Attention{kind.__name__}", (_Attentive, kind), {})})
    norm_cfg = norm_cfg or cfg.get("norm_cfg")
    net.place(attention, None if norm_cfg and norm_cfg["type"] == "LN" else norm_cfg)
    return net


class _Attentive(nn.Module):
    """What the derived class adds to the backbone's own."""

    _on_outputs: Sequence[tuple[int, str]] = ()

    def place(self, attention: Sequence[dict], norm_cfg: dict | None) -> None:
        """Build the mechanisms and put each after its place."""
        wanted = [(place, item["cfg"]) for item in attention for place in _places(item)]
        given, outputs = self._probe({place for place, _ in wanted if isinstance(place, str)})
        self.attention, on_outputs = ModuleDict(), []
        for place, cfg in wanted:
            if isinstance(place, int):
                _check_output(place, outputs)
                name, maps = f"out{place % len(outputs)}", [outputs[place]]
            else:
                name, maps = place.replace(".", "_"), given[place]
            mechanism = build(cfg, _channels(place, maps), norm_cfg, "wrapper")
            name = next(free for free in chain([name], (f"{name}_{i}" for i in count(2))) if free not in self.attention)
            self.attention[name] = mechanism
            if isinstance(place, int):
                on_outputs.append((place, name))
            else:
                self.get_submodule(place).register_forward_hook(partial(_continue_with, mechanism))
        self._on_outputs = tuple(on_outputs)

    def _probe(self, places: set[str]) -> tuple[dict[str, list[Any]], Tensor | Sequence[Tensor]]:
        """What modules give in a forward of one small image that leaves no trace, and what the backbone does."""
        given: dict[str, list[Any]] = defaultdict(list)
        modules, handles = dict(self.named_modules()), []
        for place in places:
            _check_module(self, place, modules)
            handles.append(modules[place].register_forward_hook(partial(_note, given[place])))
        parameter, training = next(self.parameters()), self.training
        depth = next(module.in_channels for module in modules.values() if isinstance(module, nn.Conv2d))
        image = parameter.new_zeros(1, depth, *getattr(self, "img_size", (64, 64)))
        with torch.no_grad():
            outputs = self.eval()(image)
        self.train(training)
        for handle in handles:
            handle.remove()
        return given, outputs

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        outputs = super().forward(x)
        if self._on_outputs:
            outputs = list(outputs)
            for index, name in self._on_outputs:
                outputs[index] = self.attention[name](outputs[index])
        return outputs

    def init_weights(self) -> None:
        """First the backbone's start or its pretrained weights, as without mechanisms, then that of the mechanisms."""
        attention = self._modules.pop("attention")
        super().init_weights()
        self.attention = attention
        attention.init_weights()

    def train(self, mode: bool = True) -> nn.Module:
        """``norm_eval`` and frozen stages are about the pretrained part."""
        super().train(mode)
        if "attention" in self._modules:
            self.attention.train(mode)
        return self


def _places(item: dict) -> Iterator[str | int]:
    if set(item) != {"cfg", "after"}:
        raise UserError(f"attention of AttentionBackbone: expected dict(cfg=..., after=...), got {sorted(item)}")
    after = item["after"]
    yield from (after if isinstance(after, list | tuple) else [after])


def _check_module(backbone: nn.Module, place: str, modules: dict[str, nn.Module]) -> None:
    names = [name for name in modules if name]
    if place not in names:
        near = difflib.get_close_matches(place, names) or [name for name, _ in backbone.named_children()]
        raise UserError(f"attention after={place!r}: the backbone has no such module; it has {', '.join(near)}")
    if isinstance(modules[place], _BatchNorm):
        raise UserError(
            f"attention after={place!r}: MMEngine exchanges batch norms, and what stands after them is lost; name the "
            "module that follows it, or the one that it is in"
        )


def _check_output(place: int, outputs: Tensor | Sequence[Tensor]) -> None:
    if isinstance(outputs, Tensor):
        raise UserError(f"attention after={place}: the backbone gives a single map in evaluation; name a module")
    if not -len(outputs) <= place < len(outputs):
        raise UserError(f"attention after={place}: the backbone has {len(outputs)} outputs, counted from 0")


def _channels(place: str | int, given: Sequence[Any]) -> int:
    """Channels of the one map that a place gave."""
    if len(given) != 1:
        raise UserError(f"attention after={place!r}: that module runs {len(given)} times in a forward, not once")
    if not isinstance(given[0], Tensor) or given[0].ndim != 4:
        what = type(given[0]).__name__ if not isinstance(given[0], Tensor) else f"a tensor of {given[0].ndim} axes"
        raise UserError(
            f"attention after={place!r}: that module gives {what}, not one map (b, c, h, w); name another, or give the "
            "index of one of the backbone's outputs, such as after=0"
        )
    return given[0].shape[1]


def _note(found: list[Any], module: nn.Module, inputs: tuple, output: Any) -> None:
    found.append(output)


def _continue_with(mechanism: nn.Module, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return mechanism(output)
