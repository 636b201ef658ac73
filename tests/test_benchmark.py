"""The benchmark: pairs agree before they are timed, rows say what was measured, memory is what was allocated."""

import json
import os
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from tiny import call
from torch import nn

from mmattn.engine.benchmark import bars, measure, peers, report
from mmattn.engine.benchmark.pairs import MODULES, DifferentError, Pair, Setting, Side, check, module_pair
from mmattn.engine.benchmark.report import Row

SMALL = Setting(size=(6, 10))


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


ROW = Row("pam", "eval", (64, 128), theirs=0.5, ours=0.4, theirs_mib=800.0, ours_mib=99.0)


def test_a_row_is_judged_by_its_bar():
    assert ROW.ratio == pytest.approx(1.25)
    assert report.missed(ROW) == []
    assert report.missed(replace(ROW, ours=0.41)) == ["time"]
    assert report.missed(replace(ROW, ours_mib=101.0)) == ["memory"]
    assert report.missed(replace(ROW, size=(128, 256), theirs=0.8, ours_mib=251.0)) == ["memory"]
    assert replace(ROW, size=(32, 64)).bar is replace(ROW, dtype="bfloat16").bar is replace(ROW, batch=2).bar is None
    assert "misses the bar in time" in report.table([replace(ROW, ours=0.6)])


def test_bars_belong_to_items():
    assert set(peers.ITEMS) <= {item for item, _, _ in bars.BARS}
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
    monkeypatch.setattr(peers, "_free", lambda device: 0.01)
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
