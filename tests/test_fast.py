"""The fast setting predicts what the plain one does."""

import json
from pathlib import Path

import pytest
import torch
from mmcv.cnn import ConvModule
from tiny import bases, call, cityscapes
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmattn.capture import capture
from mmattn.engine import fast
from mmattn.engine.benchmark.pairs import distance, fill, flat
from mmattn.engine.config import build_model, load_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/*.py")) + sorted(ROOT.glob("configs/attention/*.py"))
# their norms follow no convolution
UNFOLDED = {"attention_gate_neck": 3, "cbam_r18": 6, "fcn_cbam": 1}
GENTLE = 0.02  # of the largest logit: bfloat16 has 8 bits


def tiny_model(path: Path, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(load_config(path, base=bases(folder, path.stem)))
    fill(model)
    return model


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_folding_changes_nothing(path, tmp_path):
    model = tiny_model(path, tmp_path).double()
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        before, count = list(flat(model(x))), len(norms(model))
        folded = fast.fold_batch_norms(model)
        after = list(flat(model(x)))
        for a, b in zip(after, before, strict=True):
            assert distance(a, b) < 1e-10
        for a, b in zip(flat(model.float()(x.float())), before, strict=True):
            assert distance(a, b) < 1e-4
    assert count - folded == len(norms(model)) == UNFOLDED.get(path.stem, 0)


class Apart(nn.Module):
    """A norm that does not follow the convolution beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.bn(x))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return super().forward(x / 2)


def shared() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3))


def shared_elsewhere() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(3)), nn.ReLU(), nn.Sequential(conv))


def hooked() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    conv.register_forward_hook(lambda layer, inputs, out: out + 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "model",
    [
        Apart(),
        nn.Sequential(Standardised(3, 3, 1), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        ConvModule(3, 3, 1, norm_cfg={"type": "BN"}, order=("norm", "conv", "act")),
        ConvModule(3, 3, 1, norm_cfg={"type": "BN"}, order=("conv", "act", "norm")),
        shared(),
        shared_elsewhere(),
        hooked(),
    ],
    ids=[
        "apart",
        "standardised",
        "act_between",
        "group_norm",
        "batch_statistics",
        "norm_first",
        "act_first",
        "shared",
        "shared_elsewhere",
        "hooked",
    ],
)
def test_what_is_no_plain_pair_stays(model):
    fill(model)
    model.eval()
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        before = model(x)
        assert fast.fold_batch_norms(model) == 0
        assert torch.equal(model(x), before)


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def bfloat16(request, monkeypatch):
    monkeypatch.setattr(fast, "bfloat16_pays", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("name", ["ccnet_r50", "danet_r50", "psanet_r50", "ocrnet_hr18", "anlnet_r50"])
def test_classes_change_only_where_two_are_as_likely(name, tmp_path, bfloat16):
    model = tiny_model(ROOT / f"configs/{name}.py", tmp_path)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        plain = model(x, mode="predict")
        done = fast.quicken(model)
        quick = model(x, mode="predict")
    assert ("bfloat16" in done) == bfloat16
    for a, b in zip(plain, quick, strict=True):
        first, second = a.seg_logits.data.topk(2, dim=0).values
        close = (first - second) < (GENTLE if bfloat16 else 1e-4) * a.seg_logits.data.abs().max()
        changed = a.pred_sem_seg.data[0] != b.pred_sem_seg.data[0]
        assert not (changed & ~close).any()
        assert changed.float().mean() < 0.1
        assert b.seg_logits.data.dtype == torch.float32


def test_attention_is_captured_as_before(tmp_path, bfloat16):
    model = tiny_model(ROOT / "configs/ccnet_r50.py", tmp_path)
    x = torch.randn(1, 3, 64, 96)
    rows = []
    for quicken in (False, True):
        if quicken:
            fast.quicken(model)
        with torch.no_grad(), capture(model) as maps:
            model(x, mode="predict")
        rows.append(torch.stack([maps[i].record.row(3, 5) for i in range(2)]).float())
    assert rows[1].sum(dim=(-2, -1)) == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(*rows, rtol=0.1 if bfloat16 else 1e-3, atol=5e-3 if bfloat16 else 1e-5)


def test_the_tool_says_what_it_did(tmp_path, monkeypatch, bfloat16):
    monkeypatch.chdir(tmp_path)
    cityscapes(Path("data/cityscapes"), train=0)
    path = ROOT / "configs/ccnet_r50.py"
    torch.save(tiny_model(path, tmp_path).state_dict(), "tiny.pth")
    scores = {}
    for flags in ([], ["--fast"]):
        arguments = [path, "tiny.pth", "--base", *bases(tmp_path), "--work-dir", f"out{len(flags)}", *flags]
        assert call("test", arguments, monkeypatch) == 0
        (file,) = Path(f"out{len(flags)}").glob("*/metrics.json")
        found = json.loads(file.read_text())
        done = found["inference"].get("fast", [])
        assert ("bfloat16" in done) == (bool(flags) and bfloat16)
        assert ("channels_last" in done) == bool(flags)
        scores[bool(flags)] = found["scores"]
    assert scores[True] == pytest.approx(scores[False], abs=2.0 if bfloat16 else 0.02)


def test_a_cpu_is_asked_by_measuring(monkeypatch):
    for ratio, pays in ((0.5, True), (1.5, False)):
        monkeypatch.setattr(fast, "_convolution", {torch.float32: 1.0, torch.bfloat16: ratio}.get)
        assert fast.bfloat16_pays(torch.device("cpu")) == pays
    assert not fast.bfloat16_pays(torch.device("meta"))
