"""What the documentation shows works: each block of Python runs, and each command, file and option is there."""

import os
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmseg
import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS as THEIRS
from PIL import Image
from torch import Tensor, nn

from mmattn.engine.config import build_model, load_config

REPO = Path(__file__).parents[1]
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/*.md"), REPO / "data/README.md"])
MECHANISMS = REPO / "docs/mechanisms.md"  # tests/test_catalogue.py builds what it shows
TEN_LINES = re.compile(r"<!-- ten lines -->.*?<!-- end -->", re.DOTALL)  # tests/slow/test_export.py runs them
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAYS = re.compile(r"^\s*print\(.*\)  # .*(\([\d, ]+\))", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


def snippets() -> list:
    found = []
    for page in PAGES:
        if page == MECHANISMS:
            continue
        blocks = BLOCK.findall(TEN_LINES.sub("", page.read_text()))
        codes = [code for language, code in blocks if language == "python"]
        found += [pytest.param(code, id=f"{name(page)}-{i}") for i, code in enumerate(codes)]
    return found


def commands() -> list:
    """Every line of a block, and every piece of code in a text, that calls one of the tools."""
    found = set()
    for page in PAGES:
        text = re.sub(r"\s*\\\n\s*", " ", page.read_text())
        lines = [line for language, block in BLOCK.findall(text) if not language for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
        found |= {(name(page), line.strip()) for line in lines if re.search(r"tools/\w+\.\w+|mmattn\.tools\.", line)}
    return [pytest.param(line, id=f"{page}: {line}") for page, line in sorted(found)]


class Pyramid(nn.Module):
    """What ``timm.create_model(..., features_only=True)`` returns, as far as the page goes: maps of growing stride."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 8, 8, 16, 32, 64]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        self.feature_info = SimpleNamespace(channels=lambda: sizes[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := stage(x) for stage in self.stages]


def create_model(architecture: str, *, features_only: bool, pretrained: bool) -> nn.Module:
    assert features_only
    assert not pretrained
    return Pyramid()


def run_config(code: str) -> None:
    """A config beside mmseg's own, built and trained for a step by mmseg's registry, under mmseg's scope."""
    zoo = Path(mmseg.__file__).parent / ".mim" / "configs"
    shutil.copytree(zoo / "_base_", "configs/_base_")
    shutil.copytree(zoo / "ccnet", "configs/ccnet")
    Path("configs/ccnet/mine.py").write_text(code)
    cfg = Config.fromfile("configs/ccnet/mine.py")
    assert cfg.default_scope == "mmseg"
    small = {"channels": 16, "norm_cfg": {"type": "BN"}}
    cfg.merge_from_dict({"model": {"pretrained": None, "decode_head": small, "auxiliary_head": small}})
    cfg.model.backbone.norm_cfg = {"type": "BN"}
    init_default_scope("mmseg")
    model = THEIRS.build(cfg.model)
    assert type(model.decode_head).__module__.startswith("mmattn.")
    assert any(type(module).__name__.startswith("SqueezeExcite") for module in model.backbone.modules())
    model(torch.rand(1, 3, 64, 64))[0].mean().backward()
    assert all(value.grad is not None for value in model.decode_head.cca.parameters())


@pytest.mark.parametrize("code", snippets())
def test_python_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if find_spec("timm") is None:
        stand_in = ModuleType("timm")
        stand_in.create_model = create_model
        monkeypatch.setitem(sys.modules, "timm", stand_in)
    if "_base_" in code:
        run_config(code)
        return
    given: dict = {"Path": Path}
    if re.search(r"\bmodel,", code):  # a trained one, and a picture
        (tmp_path / "base").mkdir()
        given["model"] = build_model(load_config("ccnet_r50", base=tiny.bases(tmp_path / "base")))
        pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save("street.png")
    exec(compile(code, "snippet", "exec"), given)
    said = [tuple(eval(shape)) for shape in SAYS.findall(code)]
    printed = re.findall(r"torch\.Size\((\[[\d, ]+\])\)", capsys.readouterr().out)
    assert said == [tuple(eval(shape)) for shape in printed]


@pytest.mark.parametrize("line", commands())
def test_commands_name_what_is_there(line: str) -> None:
    line = re.sub(r"\s{2,}.*|\s#.*", "", line)  # what stands beside it
    tools = re.findall(r"tools[/.](\w+)", line)
    tool = next(path for suffix in (".py", ".sh") if (path := REPO / "tools" / f"{tools[-1]}{suffix}").is_file())
    source = tool.read_text() + (REPO / "mmattn/cli.py").read_text() + (REPO / "tools/train.py").read_text()
    after = line[line.rindex(tools[-1]) :]
    for option in re.findall(r"(?<!\S)--[a-z][a-z_-]+", after):
        assert f'"{option}"' in source, option
    for config in re.findall(r"configs/[\w/]+\.py", line):
        assert (REPO / config).is_file() or "my_" in config, config
    shlex.split(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_targets_are_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert os.path.exists(page.parent / link), link
    targets = set(re.findall(r"^(\w+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make (\w+)", BLOCK.sub(r"\2", text), re.MULTILINE):
        assert target in targets, target
