"""What ``pip install .`` would bring, and that the torch-only library asks for nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmattn import __version__, stack

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def package() -> dict:
    """The arguments of ``setup()``."""
    setuptools = pytest.importorskip("setuptools", reason="an environment without setuptools builds no package")
    told: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
        patch.chdir(REPO)
        exec(compile((REPO / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(REPO / "setup.py")})
    return told


def minima(requirements: list[str]) -> dict[str, str]:
    """Name of each required distribution, in lower case, and its lower bound."""
    found = [re.fullmatch(r"([\w.-]+)>=([\d.]+)(,<[\d.]+)?", requirement) for requirement in requirements]
    return {name.lower(): minimum for name, minimum, _ in (match.groups() for match in found)}


def pins(name: str) -> dict[str, str]:
    lines = (REPO / name).read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def number(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def test_plain_install_brings_torch_and_numpy_alone(package: dict) -> None:
    assert set(minima(package["install_requires"])) == {"torch", "numpy"}
    assert package["version"] == __version__
    assert package["python_requires"] == ">=3.11,<3.14"


def test_every_module_is_packaged(package: dict) -> None:
    def folders(pattern: str) -> set[str]:
        return {path.parent.relative_to(REPO).as_posix().replace("/", ".") for path in REPO.glob(pattern)}

    beside = folders("tools/*.py") | folders("configs/**/*.py")
    assert set(package["packages"]) == folders("mmattn/**/*.py") | {f"mmattn.{name}" for name in beside}
    assert package["package_dir"] == {f"mmattn.{name}": name for name in ("tools", "configs")}


def test_extras_ask_for_what_the_check_asks_for(package: dict) -> None:
    checked = {name: minimum for table in stack.MINIMUM.values() for name, minimum in table.items()}
    asked = minima(package["install_requires"] + package["extras_require"]["mmseg"])
    assert {name: minimum for name, minimum in asked.items() if name in checked} == {
        name: checked[name] for name in asked if name in checked
    }
    assert set(stack.MAINTAINED.values()) <= set(asked)


def test_pinned_versions_fit_the_ranges(package: dict) -> None:
    pinned = pins("constraints.txt")
    extras = (requirement for extra in package["extras_require"].values() for requirement in extra)
    for name, minimum in minima([*package["install_requires"], *extras]).items():
        assert number(pinned[name]) >= number(minimum), name
    upstream = pins("constraints-upstream.txt")
    for module, name in stack.UPSTREAM.items():
        assert upstream[name] == stack.MINIMUM[module][name]
    assert pinned["torch"] == "2.13.0"


def test_one_environment_never_gets_both_families() -> None:
    assert not set(pins("constraints.txt")) & set(stack.UPSTREAM.values())
    assert not set(pins("constraints-upstream.txt")) & set(stack.MAINTAINED.values())


def test_attention_loads_torch_alone() -> None:
    code = "import sys, mmattn.attention, mmattn.capture; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert {"mmattn", "torch"} <= loaded
    assert not {name for name in loaded if name.startswith("mm") and name not in ("mmap", "mmattn")}
    assert not loaded & {"cv2", "PIL", "matplotlib", "scipy", "setuptools"}
    assert done.stderr == ""
