"""Mends that let mmengine do on a CPU what it does on a GPU."""

import functools
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
    """Let ``--launcher pytorch`` train on the CPU, over gloo.

    mmengine sets the CUDA device of each process and hands it to DistributedDataParallel; a torch built for the CPU has
    neither, and its SyncBatchNorm refuses tensors on the CPU. May go when mmengine asks for the device first.
    """
    from mmengine.device import get_device
    from mmengine.dist import utils
    from mmengine.logging import print_log
    from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

    if get_device() != "cpu":
        return False

    def init_dist_pytorch(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
        torch.distributed.init_process_group("gloo", **kwargs)

    build = MMDistributedDataParallel.__init__

    @functools.wraps(build)
    def build_on_cpu(self: MMDistributedDataParallel, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in module.modules()):
            print_log("SyncBatchNorm needs GPUs: on the CPU each process normalises its own batch", "current")
        build(self, revert_sync_batchnorm(module), *args, **{**kwargs, "device_ids": None})

    utils._init_dist_pytorch = init_dist_pytorch
    MMDistributedDataParallel.__init__ = build_on_cpu
    return True
