"""Several processes that train or test together."""

import gc

import torch.distributed as dist


def part() -> None:
    """Leave the process group, all processes together, once the runner is no longer in use.

    While anything of the group lives, its threads may abort the interpreter that ends (pytorch/pytorch#190489): the
    wrapped model, which hangs in reference cycles, goes first. Without a group there is nothing to do.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
