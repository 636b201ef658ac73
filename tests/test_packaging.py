"""What a wheel holds, and that the tools in it find their configs without a clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from mmattn import __version__, cli
from mmattn.engine import config

REPO = Path(__file__).parents[1]
PARTS = ("mmattn", "tools", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what belongs into it, and of tests and data, which do not."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools 77")
    assert setuptools
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in (*PARTS, "tests"):
        copy = shutil.copytree if (REPO / part).is_dir() else shutil.copy
        copy(REPO / part, source / part)
    (source / "data").mkdir()
    (source / "data" / "made.py").touch()
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip would lay it into a folder of packages."""
    folder = tmp_path_factory.mktemp("site")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m mmattn.tools...`` with the wheel's mmattn and no clone in sight."""
    env = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "120"}
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def files(site: Path) -> set[str]:
    return {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_wheel_holds_package_configs_and_tools_alone(site: Path) -> None:
    inside = {
        path.relative_to(REPO).as_posix()
        for pattern in ("mmattn/**/*.py", "mmattn/**/*.html", "mmattn/**/*.css", "mmattn/**/*.js", "mmattn/py.typed")
        for path in REPO.glob(pattern)
    }
    beside = {
        f"mmattn/{path.relative_to(REPO).as_posix()}"
        for pattern in ("tools/*.py", "configs/**/*.py")
        for path in REPO.glob(pattern)
    }
    assert {"mmattn/configs/_base_/sample.py", "mmattn/tools/train.py"} <= beside
    assert {name for name in files(site) if ".dist-info/" not in name} == inside | beside


def test_description_of_the_package(site: Path) -> None:
    metadata = next(site.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    head, _, text = metadata.partition("\n\n")
    for line in (
        f"Version: {__version__}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11,<3.14",
        "Description-Content-Type: text/markdown",
    ):
        assert line in head.splitlines()
    assert text.startswith("# mmattn\n")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)  # a package index has no files beside the text


def test_installed_tools_find_their_configs_in_any_folder(site: Path, tmp_path: Path) -> None:
    before = files(site)
    done = run(site, tmp_path, "mmattn.tools.train", "ccnet_r50", "--check", "--cfg-options", "data_root=nowhere")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: train_dataloader.dataset.data_root: ")
    assert not list(tmp_path.iterdir())
    assert files(site) == before


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ccnet_r50", "ccnet_r50.py"),
        ("ccnet_r50.py", "ccnet_r50.py"),
        ("configs/ccnet_r50.py", "ccnet_r50.py"),
        ("./configs/attention/senet_r50", "attention/senet_r50.py"),
        ("attention/senet_r50.py", "attention/senet_r50.py"),
    ],
)
def test_names_of_our_configs(name: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.find(name) == REPO / "configs" / found
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).touch()
    assert config.find(name) == Path(name)  # a file of the user's goes first


def test_names_that_are_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", ".", "configs", "configs/nowhere.py", "../nowhere", str(tmp_path / "ccnet_r50.py")):
        assert config.find(name) == Path(name)
    with pytest.raises(cli.UserError, match=r"there is no config file ccnet_r5; did you mean ccnet_r50\?"):
        config.read("ccnet_r5")


def test_installed_tools_say_how_they_are_called(site: Path, tmp_path: Path) -> None:
    shown = run(site, tmp_path, "mmattn.tools.train", "--help").stdout
    assert "  python -m mmattn.tools.train configs/ccnet_r50.py\n" in shown
    assert "python tools/" not in shown


def test_tables_are_written_in_a_clone_alone(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "mmattn.tools.catalogue", "--write")
    assert done.returncode == 2
    assert re.fullmatch(r"error: there is no \S+README.md: --write works in a clone of the repository\n", done.stderr)


def test_commands_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'torchrun --nproc_per_node=2 tools/train.py A; python tools/test.py B; pip install ".[mmseg]"; tools/train.py'
    )
    assert cli.as_typed(text) == text
    (tmp_path / "tools").mkdir()
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cli.py"))
    assert cli.as_typed(text) == (
        "torchrun --nproc_per_node=2 -m mmattn.tools.train A; python -m mmattn.tools.test B; "
        'pip install "mmattn[mmseg]"; tools/train.py'
    )
