"""The built-in sample is no toy: neither colour nor a small patch tells the class, and CCNet does far better."""

from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmattn.datasets.sample import ensure

ROOT = Path(__file__).parents[2]
CLASSES, IGNORE = 19, 255
SIDE = 15  # pixels of a patch


@pytest.fixture(scope="module")
def sample() -> Path:
    return ensure(ROOT / "data" / "sample")


@pytest.fixture(scope="module")
def patch_miou(sample: Path) -> float:
    """A patch of 15 x 15 pixels in full, and nothing else."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),  # 13
        *(nn.Conv2d(64, 64, 3, stride=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()),  # 6
        *(nn.Conv2d(64, 128, 3, bias=False), nn.BatchNorm2d(128), nn.ReLU()),  # 4
        *(nn.Conv2d(128, 256, 4, bias=False), nn.BatchNorm2d(256), nn.ReLU(), nn.Flatten()),  # 1
        *(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)),
    )
    return best_miou(net, sample, side=SIDE, steps=2500)


@pytest.fixture(scope="module")
def ccnet_miou(sample: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> float:
    """The median of three trainings as ``make demo`` does them."""
    from mmattn.engine import train

    monkeypatch_module.chdir(sample.parents[1])
    scores = []
    for seed in range(3):
        work = tmp_path_factory.mktemp(f"seed{seed}")
        cfg = train.prepare(
            ROOT / "configs/ccnet_r50.py",
            options=[f"randomness.seed={seed}"],
            base=["sample"],
            work_dir=str(work),
        )
        scores.append(train.train(cfg).metrics["mIoU"] / 100)
    print(f"CCNet: {scores}")
    return median(scores)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.slow
def test_colour_does_not_give_the_class(sample: Path):
    net = nn.Sequential(
        *(nn.Flatten(), nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )
    assert best_miou(net, sample, side=1, steps=6000) <= 0.20


@pytest.mark.slow
def test_a_patch_says_less_than_the_street(patch_miou: float, ccnet_miou: float):
    assert ccnet_miou >= 0.45
    assert patch_miou <= ccnet_miou - 0.10


def best_miou(net: nn.Module, root: Path, *, side: int, steps: int) -> float:
    """Train a classifier of patches to the end of its schedule.

    Batches hold rare classes more often. How much common classes are preferred afterwards is chosen on the validation
    images themselves, in the classifier's favour.
    """
    torch.manual_seed(0)
    images, labels = load(root, "train")
    share = torch.bincount(labels.flatten(), minlength=256)[:CLASSES].double()
    share /= share.sum()
    places = [torch.nonzero(labels.flatten() == c).flatten() for c in range(CLASSES)]
    drawn = share.sqrt() / share.sqrt().sum()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        target = torch.multinomial(drawn, 512, replacement=True)
        where = torch.stack([places[c][torch.randint(len(places[c]), ())] for c in target.tolist()])
        x = patches(images, where, labels.shape, side)
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        loss = nn.functional.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    images, labels = load(root, "val")
    grid = torch.zeros_like(labels, dtype=torch.bool)
    grid[:, 2::4, 2::4] = True
    where = torch.nonzero((grid & (labels != IGNORE)).flatten()).flatten()
    with torch.no_grad():
        logits = torch.cat([net(patches(images, some, labels.shape, side)) for some in where.split(8192)])
    target = labels.flatten()[where]
    scores = [miou((logits + power * drawn.log().float()).argmax(1), target) for power in (-1, -0.5, 0, 0.5, 1)]
    print(f"{side} x {side} pixels: mIoU {max(scores):.3f} {[round(s, 3) for s in scores]}")
    return max(scores)


def load(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h + 14, w + 14) float16, mirrored at their edges, and train ids (n, h, w)."""
    files = sorted((root / "gtFine" / split).glob("*/*_labelTrainIds.png"))
    labels = np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files])
    names = [str(f).replace("gtFine/", "leftImg8bit/").replace("gtFine_labelTrainIds", "leftImg8bit") for f in files]
    edge = SIDE // 2
    padded = [cv2.copyMakeBorder(cv2.imread(n), edge, edge, edge, edge, cv2.BORDER_REFLECT_101) for n in names]
    return torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()


def patches(images: Tensor, where: Tensor, shape: torch.Size, side: int) -> Tensor:
    """The squares (n, 3, side, side) around pixels given by their number in the flattened labels, in -2 to 2."""
    n, rest = where // (shape[1] * shape[2]), where % (shape[1] * shape[2])
    y, x = rest // shape[2], rest % shape[2]
    reach = torch.arange(side) + (SIDE - side) // 2
    rows, columns = (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None, :]
    return images.permute(0, 2, 3, 1)[n[:, None, None], rows, columns].permute(0, 3, 1, 2).float() / 64 - 2


def miou(prediction: Tensor, target: Tensor) -> float:
    table = torch.bincount(target * CLASSES + prediction, minlength=CLASSES**2).view(CLASSES, CLASSES).double()
    hits = table.diag()
    return (hits / (table.sum(0) + table.sum(1) - hits)).mean().item()
