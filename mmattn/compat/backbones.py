"""Mends to mmseg's backbones."""

import functools
from collections.abc import Callable

from torch import nn


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
