"""Several processes that train or test together, and show what one would."""

import gc
import os
import shutil
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmattn.cli import UserError

Found = TypeVar("Found")
# what each launcher says to its processes, how it is called, and where it says which of its machine's they are
LAUNCHERS = {
    "pytorch": (
        ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        "torchrun --standalone --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch",
        "LOCAL_RANK",
    ),
    "slurm": (
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST"),
        "srun --ntasks=2 python tools/train.py CONFIG --launcher slurm",
        "SLURM_LOCALID",
    ),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
        "mpirun -n 2 -x MASTER_ADDR=HOST_OF_THE_FIRST python tools/train.py CONFIG --launcher mpi",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
}


def expect_launcher(name: str) -> None:
    """Make sure that a process was started by the launcher that it is told of.

    Args:
        name: ``none``, ``pytorch``, ``slurm`` or ``mpi`` (Open MPI's).

    Raises:
        UserError: It was started in another way, or its machine has fewer GPUs than processes.
    """
    if name == "none":
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError("torchrun started several processes, which would each work alone: add --launcher pytorch")
        return
    variables, example, local = LAUNCHERS[name]
    missing = [variable for variable in variables if variable not in os.environ]
    if missing:
        raise UserError(f"--launcher {name}, but the environment has no {', '.join(missing)}; start with\n  {example}")
    if name == "slurm" and "MASTER_ADDR" not in os.environ and not shutil.which("scontrol"):
        raise UserError("--launcher slurm: there is no scontrol to ask for the first host; set MASTER_ADDR to its name")
    if local in os.environ:
        os.environ["LOCAL_RANK"] = os.environ[local]  # from where mmengine takes the GPU
    number, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if torch.cuda.is_available() and number >= gpus:
        raise UserError(f"this machine has more processes than GPUs: start {gpus} on it")


def first_of_machine() -> bool:
    """Whether this process is the one of its machine to speak and to fetch, before it has met the others."""
    return all(os.environ.get(local, "0") == "0" for *_, local in LAUNCHERS.values())


def part() -> None:
    """Leave the process group, all processes together, once the runner is no longer in use.

    While anything of the group lives, its threads may abort the interpreter that ends (pytorch/pytorch#190489): the
    wrapped model, which hangs in reference cycles, goes first. Without a group there is nothing to do.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


def from_main(find: Callable[[], Found]) -> Found:
    """What the main process finds, in all processes, whose files may be others.

    Raises:
        UserError: In all of them, where ``find`` raises it.
    """
    answer: list[Any] = [None, None]
    if is_main_process():
        try:
            answer[0] = find()
        except UserError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return answer[0]


class TogetherHook(Hook):
    """Averages over all processes what a single one would have: what is logged, and running statistics.

    Batch norms that are not synchronised collect statistics of their own process's images; without this hook each
    process would validate with its own, and the first one's would be saved.
    """

    priority = "HIGHEST"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Average, before anything is logged or saved."""
        if outputs:
            means = torch.stack([torch.as_tensor(value).detach().float().mean() for value in outputs.values()])
            all_reduce(means, "mean")
            outputs.update(zip(outputs, means, strict=True))
        _average(list(chain.from_iterable(map(_own_statistics, runner.model.modules()))))


def _own_statistics(module: nn.Module) -> list[Tensor]:
    alone = isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    return [module.running_mean, module.running_var] if alone and module.training and module.track_running_stats else []


def _average(tensors: list[Tensor]) -> None:
    """In one exchange."""
    if tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        all_reduce(flat, "mean")
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
