"""Mends that let mmengine do on a CPU what it does on a GPU."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def mixed_precision_on_cpu() -> bool:
    """Let ``AmpOptimWrapper`` train on the CPU, in bfloat16.

    mmengine asserts a GPU when the wrapper is built, though its autocast and torch's GradScaler serve the CPU too. May
    go when ``AmpOptimWrapper`` builds without a GPU.
    """
    from mmengine.device import get_device
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    if get_device() != "cpu":
        return False
    amp_optimizer_wrapper.is_cuda_available = lambda: True  # read by that assertion alone
    amp_optimizer_wrapper.GradScaler = functools.partial(torch.amp.GradScaler, "cpu")
    return True


def distributed_on_cpu() -> bool:
    """Let all launchers train on the CPU, over gloo.

    mmengine sets the CUDA device of each process and hands it to DistributedDataParallel; a torch built for the CPU has
    neither, and its SyncBatchNorm refuses tensors on the CPU. May go when mmengine asks for the device first.
    """
    from mmengine.device import get_device
    from mmengine.dist import utils
    from mmengine.logging import print_log
    from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

    if get_device() != "cpu":
        return False

    def over_gloo(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def init_on_cpu(backend: str, **kwargs: Any) -> None:
            set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
            try:
                init("gloo", **kwargs)
            finally:
                torch.cuda.set_device = set_device

        return init_on_cpu

    build = MMDistributedDataParallel.__init__

    @functools.wraps(build)
    def build_on_cpu(self: MMDistributedDataParallel, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in module.modules()):
            print_log("SyncBatchNorm needs GPUs: on the CPU each process normalises its own batch", "current")
        build(self, revert_sync_batchnorm(module), *args, **{**kwargs, "device_ids": None})

    for launcher in ("pytorch", "slurm", "mpi"):
        setattr(utils, f"_init_dist_{launcher}", over_gloo(getattr(utils, f"_init_dist_{launcher}")))
    MMDistributedDataParallel.__init__ = build_on_cpu
    return True
