"""Mends to mmseg's residual blocks: plugins in every one of them, and a recomputation that autograd sees."""

import functools
from collections.abc import Sequence
from itertools import chain, count
from types import SimpleNamespace

import torch.utils.checkpoint
from torch import Tensor, nn

from mmattn.catalogue import Entry
from mmattn.cli import UserError


def chain_plugins() -> bool:
    """Feed each plugin of a ResNet block what the one before it gave.

    mmseg's ``Bottleneck.forward_plugin`` gives every plugin the block's own features, so that of two plugins at one
    position only the last one counts. With one plugin nothing changes. May go when mmseg chains them.
    """
    from mmseg.models.backbones.resnet import Bottleneck

    two = SimpleNamespace(first=lambda x: x + 1, second=lambda x: x + 1)
    if Bottleneck.forward_plugin(two, 0, ["first", "second"]) == 2:
        return False
    Bottleneck.forward_plugin = _forward_plugins
    return True


def plug_into_every_block() -> bool:
    """Let every block of ResNet, ResNeXt and ResNeSt take plugins, each as wide as the features at its place.

    mmseg refuses them in the blocks of ResNet-18 and 34, and gives those of ResNeXt and ResNeSt the widths of ResNet.
    Several of one type need no ``postfix``. Mechanisms of the catalogue normalise as the block does unless their config
    names a ``norm_cfg``, and those that replace a convolution stand at the position ``conv2``. May go when mmseg does
    the same.
    """
    from mmseg.models.backbones.resnet import BasicBlock
    from mmseg.models.utils import ResLayer

    make, forward = ResLayer.__init__, BasicBlock.forward

    @functools.wraps(make)
    def make_with_plugins(
        self: nn.Module, *args: object, plugins: Sequence[dict] | None = None, **kwargs: object
    ) -> None:
        make(self, *args, **kwargs)
        for block in self if plugins else ():
            _plug(block, plugins, kwargs.get("norm_cfg"))

    def forward_with_plugins(self: BasicBlock, x: Tensor) -> Tensor:
        if not self.with_plugins:
            return forward(self, x)

        def residual(x: Tensor) -> Tensor:
            y = self.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(self.forward_plugin(y, self.after_conv1_plugin_names)))
            y = self.forward_plugin(y, self.after_conv2_plugin_names)
            return y + (x if self.downsample is None else self.downsample(x))

        recompute = self.with_cp and x.requires_grad
        y = torch.utils.checkpoint.checkpoint(residual, x, use_reentrant=False) if recompute else residual(x)
        return self.relu(y)

    ResLayer.__init__ = make_with_plugins
    BasicBlock.with_plugins = False
    BasicBlock.forward_plugin = _forward_plugins
    BasicBlock.forward = forward_with_plugins
    return True


def recompute_with_gradients() -> bool:
    """Make the backbones' ``with_cp`` record the graph of what it will recompute.

    mmseg leaves it to torch, whose old way runs the forward without gradients: a loss that a mechanism offers inside
    would train nothing. torch warns of each call, and announces that it will refuse. May go when mmseg passes
    ``use_reentrant=False``.
    """
    from mmseg.models import backbones, utils

    graph = SimpleNamespace(checkpoint=functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False))
    for package in (backbones, utils):
        for module in vars(package).values():
            if getattr(module, "cp", None) is torch.utils.checkpoint:
                module.cp = graph
    return True


def _forward_plugins(self: nn.Module, x: Tensor, plugin_names: Sequence[str]) -> Tensor:
    for name in plugin_names:
        x = getattr(self, name)(x)
    return x


def _plug(block: nn.Module, plugins: Sequence[dict], norm_cfg: dict | None) -> None:
    """Build the plugins of one block. They become its children; its forward finds them by name."""
    from mmcv.cnn import build_plugin_layer

    if hasattr(block, "conv3"):
        inner, outer = block.conv3.in_channels, block.conv3.out_channels
        channels = {"after_conv1": inner, "conv2": inner, "after_conv2": inner, "after_conv3": outer}
    else:
        channels = dict.fromkeys(("after_conv1", "after_conv2"), block.conv2.out_channels)
    block.with_plugins = True
    names = {position: [] for position in channels}
    for plugin in plugins:
        cfg, position = dict(plugin["cfg"]), plugin.get("position")
        kind = _find(cfg["type"])
        entry: Entry | None = getattr(kind, "entry", None)
        if kind is not None:  # else mmcv says that there is none
            _check_position(block, kind, entry, position, channels)
        if entry is not None:
            cfg.setdefault("norm_cfg", norm_cfg)
        postfix = cfg.pop("postfix", "")
        if position == "conv2":
            conv = getattr(block.conv2, "conv", block.conv2)  # ResNeSt's is inside its split attention
            cfg.update(stride=conv.stride[0], dilation=conv.dilation[0])
            block.conv2 = build_plugin_layer(cfg, in_channels=channels[position])[1]
            if hasattr(block, block.norm2_name):
                setattr(block, block.norm2_name, nn.Identity())
            continue
        name, layer = build_plugin_layer(cfg, postfix, in_channels=channels[position])
        name = next(free for free in chain([name], (f"{name}_{i}" for i in count(2))) if not hasattr(block, free))
        block.add_module(name, layer)
        names[position].append(name)
    for position, found in names.items():
        setattr(block, f"{position}_plugin_names", found)


def _find(kind: str | type) -> type | None:
    """The class of a plugin, looked up as mmcv does."""
    from mmengine.registry import MODELS

    if not isinstance(kind, str):
        return kind
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _check_position(
    block: nn.Module, kind: type, entry: Entry | None, position: str | None, known: Sequence[str]
) -> None:
    replaces = entry is not None and entry.replaces
    sockets = [key for key in known if (key == "conv2") == replaces]
    if position in sockets:
        return
    if replaces:
        depth = "" if sockets else "a depth of 50 or more and "
        hint = f"it replaces the 3x3 of a bottleneck: take {depth}position='conv2'"
    else:
        reason = "it replaces no convolution: " if position == "conv2" else ""
        hint = f"{reason}take {', '.join(sockets[:-1])} or {sockets[-1]}"
    raise UserError(f"plugins: {kind.__name__} at position {position!r} of a {type(block).__name__}: {hint}")
