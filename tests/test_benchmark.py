"""The benchmark: pairs agree before they are timed, rows say what was measured, memory is what was allocated."""

import json
import os
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from tiny import call, tool
from torch import nn

from mmattn.attention import entries
from mmattn.cli import UserError
from mmattn.engine.benchmark import (
    bars,
    claims,
    figures,
    gpu,
    measure,
    models,
    parts,
    peers,
    report,
    routes,
    stages,
)
from mmattn.engine.benchmark.pairs import MODULES, DifferentError, Pair, Setting, Side, check, module_pair
from mmattn.engine.benchmark.report import Row

SMALL = Setting(size=(6, 10))
ROW = Row("pam", "eval", (64, 128), theirs=0.5, ours=0.4, theirs_mib=800.0, ours_mib=99.0)


@pytest.mark.parametrize("item", MODULES)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_pairs_agree_and_a_changed_weight_is_refused(item, train):
    pair = module_pair(item, SMALL)
    assert check(pair, train, SMALL) < 1e-2
    with torch.no_grad():
        next(p for p in pair.ours.modules[0].parameters() if p.numel() > 1 or item == "cam").add_(0.1)
    with pytest.raises(DifferentError):
        check(pair, train, SMALL)


def test_wrong_gradients_are_refused():
    """Right results alone are not enough in training."""

    class Detached(nn.Module):
        def forward(self, x):
            return x * x.detach()

    x = torch.randn(3, requires_grad=True)
    pair = Pair(Side(lambda x: x * x), Side(Detached(), [Detached()]), (x,))
    check(pair, False, SMALL)
    with pytest.raises(DifferentError):
        check(pair, True, SMALL)


def test_integers_must_be_equal():
    x = torch.tensor([1, 2, 3])
    check(Pair(Side(lambda x: x), Side(lambda x: x.clone()), (x,)), False, SMALL)
    with pytest.raises(DifferentError, match="1 of 3 values differ"):
        check(Pair(Side(lambda x: x), Side(lambda x: x.clamp(max=2)), (x,)), False, SMALL)


def test_float64_decides_where_theirs_is_the_less_exact():
    x = torch.randn(1000)
    noisy = Side(lambda x: x * 2 + (1e-2 if x.dtype == torch.float32 else 0))
    check(Pair(noisy, Side(lambda x: x * 2), (x,)), False, SMALL)
    with pytest.raises(DifferentError):
        check(Pair(Side(lambda x: x * 2), noisy, (x,)), False, SMALL)


def test_what_differs_is_not_timed(monkeypatch):
    wrong = Pair(Side(lambda x: x), Side(lambda x: x + 1), (torch.ones(2),), ("eval",))
    monkeypatch.setitem(peers.ITEMS, "wrong", lambda setting: wrong)
    (row,) = peers.compare(["wrong"], SMALL)
    assert row.theirs is None
    assert row.ratio is None
    assert "differs" in report.table([row])


def test_mechanisms_and_heads_are_measured_beside_mmsegs_where_it_has_them():
    names = parts.chosen(["CBAM", "BAM", "PositionAttention"], ["configs/anlnet_r50.py"])
    found = list(peers.compare(names, SMALL, sizes=[(12, 20)], repeat=3, memory=False))
    rows = {(row.item, row.mode): row for row in found}
    assert len(rows) == len(found) == 8
    assert rows["CBAM", "eval"].theirs is None
    assert rows["CBAM", "eval"].ours > 0
    assert "two or more images" in rows["BAM", "train"].note
    for item in ("PositionAttention", "anlnet_r50 head"):
        row = rows[item, "train"]
        assert row.ratio > 0
        assert row.difference < 1e-3
        assert row.theirs_iqr >= 0
        assert row.theirs_macs >= 0.8 * row.macs > 0
    assert rows["anlnet_r50 head", "eval"].theirs_macs > rows["anlnet_r50 head", "eval"].macs  # ours pools first


def test_all_is_all():
    names = parts.chosen([], [], everything=True)
    assert {entry.name for entry in entries()} < set(names)
    assert {Path(name).stem for name in names if name.endswith(".py")} == {p.stem for p in Path("configs").glob("*.py")}
    assert parts.chosen(["CBAM"], [], everything=True) == ["CBAM"]


def test_quick_gives_way_to_what_is_asked_for():
    parse_args = tool("benchmark").parse_args
    args = parse_args(["--quick", "--repeat", "5"])
    assert (args.command, args.size, args.mode, args.repeat) == ("peers", [(16, 32)], ["eval"], 5)
    assert parse_args(["--mechanisms", "all"]).mode == []


@pytest.mark.parametrize("item", claims.PAIRS)
def test_both_sides_of_claims_agree(item):
    pair = claims.PAIRS[item](Setting(size=(6, 8)))
    assert check(pair, False, SMALL) < 1e-3


def test_counts_of_papers_hold():
    """Operations and parameters, at the papers' sizes; what is counted needs no time."""
    for paper in claims.PAPERS.values():
        setting, rows = Setting(size=paper.size), []
        for item in paper.items:
            rows.append(Row(item, "eval", paper.size, **peers.counts(item, "eval", setting, ["theirs", "ours"])))
        for claim in paper.claims:
            if claim.field == "macs":
                for side in ("theirs", "ours"):
                    value = claims.measured(claim, rows, side)
                    assert value == pytest.approx(claim.published, rel=0.05), (claim, side)
                    assert claims.holds(claim, value)
        text = claims.table(paper, rows)
        assert ("holds" in text) == any(claim.field in ("macs", "parameters") for claim in paper.claims)


def test_claims_that_fall_short_do_not_hold():
    claim = claims.Claim("mib", 11.0, ("a", "b"))
    rows = [Row("a", "eval", (1, 1), theirs_mib=1000.0, ours_mib=80.0), Row("b", "eval", (1, 1), theirs_mib=100.0)]
    assert claims.holds(claim, claims.measured(claim, rows, "theirs"))
    assert claims.measured(claim, rows, "ours") is None
    assert not claims.holds(claim, 8.0)
    assert claims.holds(claims.Claim("mib", 202.0, ("a",)), 100.0) is None


def test_figures_show_every_number(tmp_path):
    rows = [
        Row(item, mode, size, theirs=2e-3 * scale, ours=1e-3 * scale, ours_mib=scale)
        for item in ("a", "b")
        for mode in ("eval", "train")
        for scale, size in ((1.0, (32, 64)), (4.0, (64, 128)))
    ]
    figure = figures.over_size(rows, "", "ms")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    lines = {line.get_label(): list(line.get_ydata()) for line in panels[0].lines}
    assert lines == {
        f"{who}, {m}": [k, 4 * k] for who, k in (("mmseg", 2.0), ("mmattn", 1.0)) for m in ("eval", "train")
    }
    assert panels[0].get_xscale() == panels[0].get_yscale() == "log"
    assert [path.name for path in figures.draw(rows, tmp_path / "out")] == ["time.svg", "memory.svg"]


def test_miou_is_drawn_over_memory(monkeypatch, tmp_path):
    seeds = [SimpleNamespace(config="a_r50", seed=i, miou=miou) for i, miou in enumerate((50.0, 54.0))]
    monkeypatch.setattr(figures.results, "load_all", lambda folder: seeds)
    (container,) = figures.over_memory([Row("a_r50", "plain", (8, 8), ours_mib=20.0)], tmp_path).axes[0].containers
    assert list(container.lines[0].get_xydata()[0]) == [20.0, 52.0]
    with pytest.raises(UserError, match="results of a_r50; measured here: b_r50"):
        figures.over_memory([Row("b_r50", "plain", (8, 8), ours_mib=20.0)], tmp_path)


def test_a_number_is_told_with_its_spread():
    text = report.table([replace(ROW, ours_iqr=0.012, parameters=5_000_000, macs=2_000_000_000)])
    assert "| 5.00 M | 2.00 G | 500 | 400 (12) |" in text
    assert "mmseg MACs" not in text
    assert measure.Times((1.0, 2.0, 3.0, 4.0, 5.0)).iqr == 2.0


def test_the_machine_is_told():
    found = measure.machine()
    assert found["torch"] == torch.__version__
    assert {"cpu", "cores", "threads", "date"} < set(found)
    assert any(name.endswith("mmcv") or name == "mmcv-lite" for name in found)


def allocate(mib: float):
    return lambda: torch.ones(int(mib * 2**18)).sum()


def test_memory_of_a_process_is_what_it_allocates():
    assert measure.extra_memory(allocate, 200) == pytest.approx(200, rel=0.05)


def die():
    return lambda: os._exit(1)


def test_memory_of_a_process_that_ends_is_none():
    assert measure.extra_memory(die) is None


def test_sides_take_turns():
    turns = []
    calls = [lambda name=name: turns.append(name) or sum(range(300_000)) for name in "ab"]
    first, second = measure.alternate(calls, 5)
    assert "".join(name for name, _ in groupby(turns)) == "ab" * (1 + 5)
    assert len(first.samples) == len(second.samples) == 5
    assert first.median == sorted(first.samples)[2]


def test_a_row_is_judged_by_its_bar():
    assert ROW.ratio == pytest.approx(1.25)
    assert report.missed(ROW) == []
    assert report.missed(replace(ROW, ours=0.41)) == ["time"]
    assert report.missed(replace(ROW, ours_mib=101.0)) == ["memory"]
    assert report.missed(replace(ROW, size=(128, 256), theirs=0.8, ours_mib=251.0)) == ["memory"]
    assert replace(ROW, size=(32, 64)).bar is replace(ROW, dtype="bfloat16").bar is replace(ROW, batch=2).bar is None
    assert "misses the bar in time" in report.table([replace(ROW, ours=0.6)])


def test_bars_belong_to_items():
    assert set(peers.ITEMS) <= {item for item, _, _ in [*bars.BARS, *bars.AIMS]}
    assert peers.sizes_of("pam") == [(64, 128), (128, 256)]
    assert peers.sizes_of("gc") == [(64, 128)]


@pytest.mark.parametrize("item", [item for item in peers.ITEMS if item not in MODULES])
def test_stages_agree(item):
    if item == "loading_cache":
        pytest.importorskip("zstandard")
    setting = Setting(size=(16, 24), batch=2)
    pair = peers.ITEMS[item](setting)
    for mode in pair.modes:
        assert check(pair, mode == "train", setting) < 1e-5


def test_what_mmseg_has_no_memory_for_is_measured_alone(monkeypatch):
    monkeypatch.setattr(peers, "free", lambda device: 0.01)
    (row,) = peers.compare(["pam"], SMALL, sizes=[(6, 10)], modes=["eval"], repeat=1, memory=False)
    assert row.theirs is None
    assert row.ours > 0
    assert "not compared" in report.table([row])


def test_the_tool_prints_and_writes_what_it_measured(monkeypatch, capsys, tmp_path):
    out = tmp_path / "found.json"
    arguments = ["peers", "gc", "cam", "--size", "6x8", "--repeat", "2", "--no-memory", "--json", out]
    assert call("benchmark", arguments, monkeypatch) == 0
    printed = capsys.readouterr()
    assert "tools/benchmark.py peers gc cam" in printed.out
    assert printed.out.count("\n| gc |") == 2
    assert "[2/2] cam" in printed.err
    found = json.loads(out.read_text())
    assert found["machine"]["torch"] == torch.__version__
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
    assert len(found["rows"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["peers", "pan"], "there is no item 'pan'"), (["peers", "gc", "--size", "0x3"], "is no size")],
)
def test_wrong_arguments_are_named(arguments, message, monkeypatch, capsys):
    assert call("benchmark", arguments, monkeypatch) == 2
    assert message in capsys.readouterr().err


TINY = """
_base_ = "{base}"
model = dict(
    pretrained=None,
    backbone=dict(type="ResNet", depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type="BN")),
    decode_head=dict(in_channels=64, channels=8, norm_cfg=dict(type="BN")),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=dict(type="BN")),
)
visualizer = dict(vis_backends=[])
"""


@pytest.fixture
def tiny_config(tmp_path):
    path = tmp_path / "ccnet_tiny.py"
    path.write_text(TINY.format(base=stages.CONFIG.as_posix()))
    return path


def test_whole_models_agree_and_a_setting_that_differs_is_refused(tiny_config, monkeypatch):
    setting = Setting(size=(8, 12))
    monkeypatch.setitem(models.VARIANTS, "wrong", ("wrong",))
    monkeypatch.setitem(models._STEPS, "wrong", lambda model: nn.init.zeros_(model.decode_head.conv_seg.weight))
    wanted = ["plain", "folded", "channels_last", "bf16", "wrong"]
    *rows, wrong = models.compare([tiny_config], wanted, setting, repeat=1, memory=False)
    assert [row.mode for row in rows] == wanted[:-1]
    assert all(row.difference < (5e-2 if row.mode == "bf16" else 1e-5) for row in rows)
    assert all("images/s" in row.note for row in rows)
    assert wrong.ratio is None
    assert "not timed" in wrong.note
    with pytest.raises(UserError, match="no setting 'quick'"):
        list(models.compare([tiny_config], ["quick"], setting, repeat=1, memory=False))


def test_a_model_that_mmseg_lacks_is_measured_alone():
    path = stages.CONFIG.with_name("polarized_r50.py")
    (row,) = models.compare([path], ["plain"], Setting(size=(4, 4)), repeat=1, memory=False)
    assert row.theirs is None
    assert row.ours > 0
    assert "mmseg has no such model" in row.note


def test_exponents():
    counts = [2048, 8192, 32768]
    assert models.exponent(counts, [1e-6 * n**1.5 for n in counts]) == pytest.approx(1.5)
    assert models.exponent(counts, [3.0 * n for n in counts[:2]] + [None]) == pytest.approx(1.0)
    assert models.exponent(counts, [1.0, None, None]) is None


def test_both_routes_score_the_same_frames(tiny_config, tmp_path, monkeypatch):
    for manager in (MMLogger, MessageHub, DefaultScope):
        monkeypatch.setattr(manager, "_instance_dict", {})
    place = tmp_path / "frames"
    assert routes.lay_out(place, None, (64, 96), 2) == (64, 96)
    torch.save(models.build(tiny_config, "plain", "cpu").state_dict(), tmp_path / "tiny.pth")
    found = []
    for scope, fast in (("mmseg", False), ("mmattn", False), ("mmattn", True)):
        for manager in (MMLogger, MessageHub, DefaultScope):
            manager._instance_dict.clear()
        found.append(routes.run(str(tiny_config), str(tmp_path / "tiny.pth"), str(place), (64, 96), scope, fast))
    assert found[0]["mIoU"] == found[1]["mIoU"]
    for outcome in found:
        assert all(outcome[stage] > 0 for stage in routes.STAGES)
        assert sum(outcome[stage] for stage in routes.STAGES) == pytest.approx(outcome["total"])


def test_frames_of_a_folder_are_taken_in_turn(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    routes.lay_out(first, None, (32, 64), 2)
    with pytest.raises(UserError, match="leftImg8bit"):
        routes.lay_out(tmp_path / "none", tmp_path / "nowhere", (32, 64), 2)
    assert routes.lay_out(again, first, (1, 1), 5) == (32, 64)
    for kind in ("leftImg8bit", "gtFine"):
        files = sorted((again / kind).rglob("*.png"))
        assert len(files) == 5
        assert files[0].read_bytes() == files[2].read_bytes() != files[1].read_bytes()


def test_the_gpu_script_runs_within_its_budget(tiny_config, monkeypatch):
    monkeypatch.setattr(gpu, "DANET", tiny_config)
    names = [name for name, _ in gpu.jobs("cpu", 16)]
    assert gpu.measure("cpu", -1.0, print, 16) == ([], names)
    half = Setting(size=(6, 8), dtype=torch.bfloat16)
    rows = [gpu.module("gc", "eval", half), gpu.module("cam", "train", half), gpu.classes_and_counts(half)]
    rows += [gpu.danet("eval", half), gpu.danet("train", replace(half, batch=2))]
    for row in rows:
        assert set(row.ms) == {"mmseg", "torch"}
        assert all(ms > 0 for ms in row.ms.values())
    text = gpu.table(rows, ["the rest"])
    assert text.count("\n| ") == len(rows)
    assert "the time was up: the rest" in text


def test_what_fails_on_the_gpu_does_not_stop_the_rest(monkeypatch):
    def fail():
        raise DifferentError("result 0 is off")

    row = gpu.Found("pam", "eval", (64, 128), "bfloat16", 1, {"mmseg": 0.5, "torch": 0.25, "triton": 0.2}, {})
    monkeypatch.setattr(gpu, "jobs", lambda device, scale: [("bad", fail), ("good", lambda: row)])
    (bad, good), dropped = gpu.measure("cpu", 60.0, print)
    assert dropped == []
    assert bad.note == "not measured: DifferentError: result 0 is off"
    assert good.aim.ms == 0.18
    assert "| 2.50x |" in gpu.table([good], [])


def test_aims_are_measured():
    names = {name for name, _ in gpu.jobs("cpu")}
    for item, mode, size in bars.AIMS:
        known = (item, f"{item} {mode}", f"{item} {mode} {size[0]}x{size[1]} bfloat16")
        assert any(name in names for name in known)
