"""Several processes: who started them, what they agree on, and that nothing is counted twice."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric

from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.engine import processes
from mmattn.evaluation import metrics
from mmattn.evaluation.metrics import IoUMetric

VARIABLES = {
    "pytorch": {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
    "slurm": {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "a",
        "MASTER_ADDR": "a",
    },
    "mpi": {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
    },
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One without a launcher, put back in the end."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "TORCHELASTIC_", "MASTER_")) or name in VARIABLES["pytorch"]:
            monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_RANK", "0")
    return monkeypatch


# -- who started them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", VARIABLES)
def test_a_process_that_its_launcher_did_not_start(launcher: str, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as missing:
        processes.expect_launcher(launcher)
    start = {"pytorch": "torchrun", "slurm": "srun", "mpi": "mpirun"}[launcher]
    for name in {**VARIABLES[launcher], start: "", f"--launcher {launcher}": ""}:
        assert name in str(missing.value) or (launcher, name) == ("slurm", "MASTER_ADDR")
    for name, value in VARIABLES[launcher].items():
        environment.setenv(name, value)
    processes.expect_launcher(launcher)


def test_torchrun_without_a_word_to_the_tool(environment: pytest.MonkeyPatch) -> None:
    processes.expect_launcher("none")
    environment.setenv("TORCHELASTIC_RUN_ID", "none")
    environment.setenv("WORLD_SIZE", "1")
    processes.expect_launcher("none")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="add --launcher pytorch"):
        processes.expect_launcher("none")


def test_slurm_without_its_own_tools(environment: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES["slurm"].items():
        environment.setenv(name, value)
    environment.delenv("MASTER_ADDR")
    environment.setenv("PATH", "")
    with pytest.raises(UserError, match=r"no scontrol .* set MASTER_ADDR"):
        processes.expect_launcher("slurm")


@pytest.mark.parametrize(
    ("launcher", "name"), [("slurm", "SLURM_LOCALID"), ("mpi", "OMPI_COMM_WORLD_LOCAL_RANK")], ids=["slurm", "mpi"]
)
def test_each_process_takes_the_gpu_of_its_number(launcher: str, name: str, environment: pytest.MonkeyPatch) -> None:
    for key, value in {**VARIABLES[launcher], name: "1"}.items():
        environment.setenv(key, value)
    environment.setattr(torch.cuda, "is_available", lambda: True)
    environment.setattr(torch.cuda, "device_count", lambda: 2)
    processes.expect_launcher(launcher)
    assert os.environ["LOCAL_RANK"] == "1"
    assert not processes.first_of_machine()
    environment.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="more processes than GPUs: start 1 on it"):
        processes.expect_launcher(launcher)


# -- what is scored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_up", [True, False])
@pytest.mark.parametrize(("images", "shares"), [(5, 2), (7, 3), (6, 2), (2, 3)])
def test_each_image_is_scored_once(images: int, shares: int, round_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmengine's sampler begins again from the front to make the shares equal."""
    collected: list = []

    def evaluate(metric: BaseMetric, size: int) -> None:
        assert metric.collect_device == "gpu", "no files"
        assert size == shares
        collected.extend(metric.results)

    monkeypatch.setattr(BaseMetric, "evaluate", evaluate)
    scores = torch.randint(1, 1000, (images, 4, 3), generator=torch.Generator().manual_seed(0))
    for rank in range(shares):
        monkeypatch.setattr(metrics, "get_dist_info", lambda rank=rank: (rank, shares))
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, shares))
        metric = IoUMetric()
        metric.dataset_meta = {"classes": ("a", "b", "c")}
        metric.results = [tuple(scores[i]) for i in DefaultSampler(range(images), False, round_up=round_up)]
        metric.evaluate(images)
    assert len(collected) == shares
    assert torch.stack([torch.stack(areas) for areas in collected]).sum(0).equal(scores.sum(0))


# -- two processes -------------------------------------------------------------------------------------------------

TOGETHER = """
import os, sys
import torch
from mmengine.dist import get_rank, init_dist
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from types import SimpleNamespace as Runner
import mmattn.registry
from mmattn.cli import UserError
from mmattn.engine import processes
from mmattn.evaluation.metrics import IoUMetric
from mmattn.heads.pixel_losses import loss_by_feat
from mmattn.registry import MODELS

launcher = sys.argv[1]
processes.expect_launcher(launcher)
init_dist(launcher, backend="nccl", timeout=60)
rank = get_rank()
assert torch.distributed.get_world_size() == 2 and torch.distributed.get_backend() == "gloo"

# what the first one finds, and what it complains about
asked = []
assert processes.from_main(lambda: asked.append(rank) or f"found by {rank}") == "found by 0"
assert asked == [0][rank:]
def complain():
    raise UserError(f"complaint of {rank}")
try:
    processes.from_main(complain)
except UserError as error:
    assert str(error) == "complaint of 0"
else:
    raise AssertionError

# what is logged, and running statistics: those of training norms that are not synchronised
model = nn.Sequential(nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.BatchNorm2d(2).eval(), nn.GroupNorm(1, 2))
for norm in model[:3]:
    norm.running_mean.fill_(rank)
    norm.running_var.fill_(1 + 2 * rank)
outputs = {"loss": torch.tensor(1.0 + rank), "acc_seg": torch.tensor([10.0 * rank])}
processes.TogetherHook().after_train_iter(Runner(model=model), 0, outputs=outputs)
assert {key: float(value) for key, value in outputs.items()} == {"loss": 1.5, "acc_seg": 5.0}
assert [norm.running_mean.unique().item() for norm in model[:3]] == [0.5, rank, rank]
assert [norm.running_var.unique().item() for norm in model[:3]] == [2, 1 + 2 * rank, 1 + 2 * rank]
processes.TogetherHook().after_train_iter(Runner(model=nn.Identity()), 0, outputs={})

# the loss of one process with all images, however their labels are shared out
def sample(label):
    return SegDataSample(gt_sem_seg=PixelData(data=label[None]))
draw = torch.Generator().manual_seed(0)
logits = torch.randn(4, 3, 5, 6, generator=draw, dtype=torch.float64)
labels = torch.randint(0, 3, (4, 20, 24), generator=draw)
labels[0] = 255
labels[1, :7] = 255
for options in ({}, {"avg_non_ignore": True}, {"class_weight": [0.2, 1.0, 3.0]}):
    loss = {"type": "CrossEntropyLoss", **options}
    head = {"type": "FCNHead", "in_channels": 4, "channels": 4, "num_convs": 1, "num_classes": 3}
    head = MODELS.build({**head, "align_corners": False, "loss_decode": loss})
    leaf = logits[rank::2].clone().requires_grad_()
    value = loss_by_feat(head, leaf, [sample(label) for label in labels[rank::2]])["loss_ce"]
    mine = torch.zeros_like(logits)
    mine[rank::2] = torch.autograd.grad(value / 2, leaf)[0]  # as DistributedDataParallel averages
    value = value.detach() / 2
    torch.distributed.all_reduce(value)
    torch.distributed.all_reduce(mine)
    leaf = logits.clone().requires_grad_()
    large = nn.functional.interpolate(leaf, size=labels.shape[1:], mode="bilinear")
    pixels = nn.functional.cross_entropy(large, labels, ignore_index=255, reduction="none")
    weight = torch.tensor(options.get("class_weight", [1.0] * 3), dtype=torch.float64)[labels.where(labels < 3, 0)]
    counted = weight * (labels < 3 if options else torch.ones_like(labels))
    whole = (weight * pixels).sum() / counted.sum()
    torch.testing.assert_close(value, whole.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(mine, torch.autograd.grad(whole, leaf)[0], rtol=1e-6, atol=1e-9)

# scores of five images, the first of which is dealt twice
labels = torch.randint(0, 3, (5, 1, 8, 8), generator=draw)
predictions = torch.randint(0, 3, (5, 1, 8, 8), generator=draw)
metric = IoUMetric(iou_metrics=["mIoU"])
metric.dataset_meta = {"classes": ("a", "b", "c")}
for i in ([0, 2, 4], [1, 3, 0])[rank]:
    metric.process({}, [{"pred_sem_seg": {"data": predictions[i]}, "gt_sem_seg": {"data": labels[i]}}])
found = metric.evaluate(5)["mIoU"]
shared = [(((predictions == c) & (labels == c)).sum(), ((predictions == c) | (labels == c)).sum()) for c in range(3)]
assert found == round(float(100 * torch.stack([both.double() / either for both, either in shared]).mean()), 2), found
assert not os.path.exists(".dist_test")
processes.part()
"""


def launched(launcher: str, rank: int, port: int) -> dict[str, str]:
    """What a launcher tells one of two processes."""
    names = {
        "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
        "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    }[launcher]
    told = dict(zip(names, (str(rank), "2", str(rank)), strict=True)) | {"SLURM_NODELIST": "localhost"}
    return told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="over gloo, as on a machine without GPU")
@pytest.mark.parametrize(
    "launcher", ["pytorch", pytest.param("slurm", marks=pytest.mark.slow), pytest.param("mpi", marks=pytest.mark.slow)]
)
def test_two_processes_do_what_one_does(launcher: str, tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(TOGETHER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment.delenv("LOCAL_RANK")
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "script.py", launcher],
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": str(tiny.REPOSITORY), "OMP_NUM_THREADS": "1"}
            | launched(launcher, rank, port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)


def test_the_sample_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first of those that want it at once; the others wait."""
    drawn = []

    def draw(root: Path, progress: bool) -> None:
        drawn.append(root)
        time.sleep(0.2)
        root.mkdir()

    monkeypatch.setattr(sample, "_draw_all", draw)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(sample.ensure, [tmp_path / "sample"] * 3)) == [tmp_path / "sample"] * 3
    assert len(drawn) == 1
