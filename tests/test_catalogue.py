"""What the catalogue tells users is true, and what it offers to paste works."""

import re
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

import pytest
import tiny
import torch

from mmattn.attention import entries
from mmattn.engine import guide
from mmattn.engine.config import build_model, load_config

ENTRIES = {entry.name: entry for entry in entries()}
# narrower than what is pasted, so that it takes no time
HEADS = {"model.decode_head.channels": 64, "model.auxiliary_head.channels": 16}
RESNET = HEADS | {
    "model.backbone.base_channels": 16,
    "model.backbone.stem_channels": 16,
    "model.decode_head.in_channels": 512,
    "model.auxiliary_head.in_channels": 256,
}
WIDTHS = [64, 128, 256, 512]
NARROW = {
    "plugin": RESNET,
    "wrapper": HEADS,
    "neck": RESNET | {"model.neck.in_channels": WIDTHS},
    "head": RESNET,
}
GATED = {"model.backbone.base_channels": 16, "model.backbone.stem_channels": 16, "model.neck.0.in_channels": WIDTHS}


def tool(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    """The tool in a process of its own, after some code."""
    path = tiny.REPOSITORY / "tools/catalogue.py"
    run = f"import runpy, sys; sys.argv = {[str(path), *arguments]}; runpy.run_path(sys.argv[0], None, '__main__')"
    return subprocess.run([sys.executable, "-c", f"{code}\n{run}"], capture_output=True, text=True, cwd=tiny.REPOSITORY)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("non_local", 131968, lambda c, n: 4 * n * c * c // 2 + 2 * n * n * c // 2),
        ("channel_attention", 1, lambda c, n: 2 * n * c * c),
        ("global_context", 8753, lambda c, n: 2 * n * c + 2 * c * c // 16),
    ],
)
def test_costs_are_those_of_the_equations(name, parameters, macs):
    assert guide.cost(ENTRIES[name]) == (parameters, macs(256, 64 * 64))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1049, "1.05 k"), (65536, "65.5 k"), (131968, "132 k"), (5.17e9, "5.17 G")],
)
def test_numbers_have_three_digits(number, text):
    assert guide.short(number) == text


def test_the_table_needs_torch_alone_and_lists_everything():
    out = tool(code="import sys; sys.modules.update(dict.fromkeys(('mmengine', 'mmcv', 'mmseg', 'cv2')))")
    assert out.returncode == 0, out.stderr
    assert [line.split()[0] for line in out.stdout.splitlines()[1:]] == [e.cls.__name__ for e in ENTRIES.values()]


def test_a_kind_chooses(capsys):
    tiny.tool("catalogue").main(["--kind", "criss_cross"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["mechanism", "CrissCross"]


def test_a_misspelt_name_gets_the_nearest(monkeypatch, capsys):
    assert tiny.call("catalogue", ["CrisCros"], monkeypatch) == 2
    assert "CrissCross" in capsys.readouterr().err


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES.values()])
def test_a_page_tells_all(entry, capsys):
    tiny.tool("catalogue").main([entry.cls.__name__])
    out = capsys.readouterr().out
    assert entry.summary in out
    assert "Paper" in out
    assert re.search(r"\b(put|puts|fuse)\b", out), "where it usually stands"
    for argument in guide.arguments(entry):
        assert argument.text.endswith("."), argument
        assert f"\n  {argument.name}" in out


FAST = {(entry.name, guide.usual(entry)[0]) for entry in ENTRIES.values()} | {
    ("cbam", place) for place in guide.SNIPPETS
}
PASTED = [
    pytest.param(e, place, id=f"{e.name}-{place}", marks=() if (e.name, place) in FAST else pytest.mark.slow)
    for e in ENTRIES.values()
    for place in guide.snippets(e)
]


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A copy of the repository's configs, to paste into."""
    return Path(shutil.copytree(tiny.REPOSITORY / "configs", tmp_path_factory.mktemp("pasted") / "configs"))


@pytest.mark.parametrize(("entry", "place"), PASTED)
def test_what_is_to_be_pasted_works(entry, place, configs, capsys):
    tiny.tool("catalogue").main([entry.name])
    lines = capsys.readouterr().out.partition(f"\n{guide.WHERE[place]}")[2].splitlines()[1:]
    text = dedent("\n".join(takewhile(lambda line: not line or line.startswith("    "), lines)))
    if place == "python":
        found: dict[str, object] = {}
        exec(text, found)
        assert isinstance(found["attention"], entry.cls)
        assert found["y"].shape == (2, 256, 64, 64)
        return
    file = configs / f"my_{entry.name}.py"
    file.write_text(text)
    model = build_model(load_config(file, NARROW[place] if len(entry.inputs) == 1 else GATED))
    assert any(isinstance(module, entry.cls) for module in model.modules())
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).shape[:2] == (1, 19)


def test_the_page_and_the_readme_are_up_to_date():
    """``python tools/catalogue.py --write`` writes them."""
    assert (tiny.REPOSITORY / "docs/mechanisms.md").read_text() == guide.document(entries())
    assert f"<!-- mechanisms -->\n{guide.readme(entries())}<!-- end -->" in (tiny.REPOSITORY / "README.md").read_text()
