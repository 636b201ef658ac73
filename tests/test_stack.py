"""What a user is told when the packages beneath the tools are missing, old, doubled or do not load.

Each case is a folder of made-up installed packages, looked at by a Python that sees nothing else.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
MAINTAINED = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmsegmentation": "1.4.2"}
UPSTREAM = {"mmengine": "0.10.7", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2"}
REST = {
    "torch": "2.13.0+cpu",
    "opencv-python": "5.0.0.93",
    "matplotlib": "3.11.2",
    "pillow": "13.0.0",
    "ftfy": "6.3.1",
    "regex": "2026.11.15",
    "setuptools": "84.2.1",
}
MODULES = {
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "mmcv-lite": "mmcv",
    "onedl-mmsegmentation": "mmseg",
    "mmsegmentation": "mmseg",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "setuptools": "distutils",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path


def install(site: Path, packages: dict[str, str]) -> None:
    for name, number in packages.items():
        info = site / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        module = site / MODULES.get(name, name)
        module.mkdir(exist_ok=True)
        (module / "__init__.py").touch()


def check(site: Path, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    """Run ``check()`` as a tool does, in a Python whose only installed packages are those of the site."""
    code = "from mmattn.cli import run; from mmattn.stack import check; run(check)"
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": f"{REPO}{os.pathsep}{site}", "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(site: Path, path: str = os.defpath) -> str:
    done = check(site, path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, "one line, no traceback"
    return done.stderr


@pytest.mark.parametrize("family", [MAINTAINED, UPSTREAM], ids=["maintained", "upstream"])
def test_a_whole_family_passes(site: Path, family: dict[str, str]) -> None:
    install(site, family | REST)
    done = check(site)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_installed_names_the_extra(site: Path) -> None:
    message = refusal(site)
    for module in ("torch", "mmengine", "mmcv", "mmseg", "cv2"):
        assert f"{module} is missing" in message
    assert 'pip install --upgrade ".[mmseg]"' in message


def test_one_missing_package_of_upstream_asks_for_upstream(site: Path) -> None:
    packages = UPSTREAM | REST
    del packages["mmcv-lite"], packages["ftfy"]
    install(site, packages)
    message = refusal(site)
    assert "mmcv is missing" in message
    assert "ftfy is missing" in message
    assert 'pip install --upgrade "mmcv-lite>=2.1.0" "ftfy>=6"' in message
    assert "onedl" not in message


@pytest.mark.parametrize(
    ("name", "number", "minimum"), [("mmengine", "0.9.1", "0.10.7"), ("torch", "2.5.1+cu121", "2.6")]
)
def test_too_old(site: Path, name: str, number: str, minimum: str) -> None:
    install(site, UPSTREAM | REST | {name: number})
    message = refusal(site)
    assert f"{name} {number} is older than {minimum}" in message
    assert f'pip install --upgrade "{name}>={minimum}"' in message


def test_a_version_is_compared_by_number(site: Path) -> None:
    install(site, UPSTREAM | REST | {"mmengine": "0.10.11"})
    assert check(site).returncode == 0


def test_both_families_name_what_to_remove(site: Path) -> None:
    install(site, MAINTAINED | UPSTREAM | REST)
    message = refusal(site)
    for name in MAINTAINED | UPSTREAM:
        assert name in message.partition("pip uninstall --yes ")[2].partition("&&")[0].split()


def test_a_mixed_family_is_two_families(site: Path) -> None:
    install(site, {"onedl-mmengine": "0.10.12", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2"} | REST)
    assert "both families" in refusal(site)


def test_files_removed_with_the_other_family(site: Path) -> None:
    install(site, MAINTAINED | REST)
    (site / "mmcv/__init__.py").unlink()
    message = refusal(site)
    assert "pip install --force-reinstall --no-deps onedl-mmcv==2.3.6" in message


@pytest.mark.parametrize(
    ("library", "debian"), [("libGL.so.1", "libgl1"), ("libgthread-2.0.so.0", "libglib2.0-0"), ("libodd.so.2", None)]
)
def test_opencv_without_its_system_library(site: Path, library: str, debian: str | None) -> None:
    install(site, MAINTAINED | REST)
    text = f"{library}: cannot open shared object file: No such file or directory"
    (site / "cv2/__init__.py").write_text(f"raise ImportError({text!r})")
    programs = site / "bin"
    programs.mkdir()
    assert "apt-get" not in refusal(site, path=str(programs))

    (programs / "apt-get").touch(mode=0o755)
    message = refusal(site, path=str(programs))
    assert f"OpenCV needs the system library {library}:" in message
    assert "pip install --force-reinstall --no-deps opencv-python-headless" in message
    assert (f"apt-get install {debian}" in message) == (debian is not None)


def test_opencv_that_breaks_otherwise(site: Path) -> None:
    install(site, MAINTAINED | REST)
    (site / "cv2/__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    assert "OpenCV does not load (numpy.core.multiarray failed to import)" in refusal(site)


def test_this_environment_passes() -> None:
    from mmattn.stack import check

    check()
