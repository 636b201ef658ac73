"""Mends to mmseg's backbones."""

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from torch import Tensor, nn


def chain_plugins() -> bool:
    """Feed each plugin of a ResNet block what the one before it gave.

    mmseg's ``Bottleneck.forward_plugin`` gives every plugin the block's own features, so that of two plugins at one
    position only the last one counts. With one plugin nothing changes. May go when mmseg chains them.
    """
    from mmseg.models.backbones.resnet import Bottleneck

    two = SimpleNamespace(first=lambda x: x + 1, second=lambda x: x + 1)
    if Bottleneck.forward_plugin(two, 0, ["first", "second"]) == 2:
        return False

    def forward_plugin(self: Bottleneck, x: Tensor, plugin_names: Sequence[str]) -> Tensor:
        for name in plugin_names:
            x = getattr(self, name)(x)
        return x

    Bottleneck.forward_plugin = forward_plugin
    return True


def return_self_from_train() -> bool:
    """Make ``backbone.eval()(x)`` work as it does for every module of torch.

    The ``train`` of mmseg's backbones returns None, and ``eval`` with it. May go when they return self.
    """
    from mmseg.models import backbones

    for backbone in vars(backbones).values():
        if isinstance(backbone, type) and issubclass(backbone, nn.Module) and "train" in vars(backbone):
            backbone.train = _returning_self(backbone.train)
    return True


def _returning_self(train: Callable[..., object]) -> Callable[..., nn.Module]:
    @functools.wraps(train)
    def train_and_return(self: nn.Module, mode: bool = True) -> nn.Module:
        train(self, mode)
        return self

    return train_and_return
