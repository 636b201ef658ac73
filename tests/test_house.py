"""The house stands: imports run downward, and the maths needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    {"cli", "stack", "layers.records", "layers.tap"},
    {"catalogue", "layers", "ops"},
    {"attention", "capture"},
    {"compat"},
    {"registry"},
    {"plugins"},
    {"backbones", "necks", "heads", "segmentors", "datasets", "evaluation"},
    {"engine", "visualization"},
)
TORCH_ONLY = {"catalogue", "layers", "ops", "attention", "capture"}
FILES = sorted((ROOT / "mmattn").rglob("*.py"))


def room(module: str) -> str:
    """The room of ``mmattn.a.b`` among the floors: ``a.b`` where it is listed, else ``a``."""
    parts = module.split(".")[1:]
    listed = set().union(*FLOORS)
    return ".".join(parts[:2]) if ".".join(parts[:2]) in listed else parts[0]


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "mmattn"}
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_downward(path):
    own = module_of(path)
    if own == "mmattn":
        assert not imports(path)
        return
    for name in imports(path):
        if name.startswith("mmattn.") and room(name) != room(own):
            assert floor(name) <= floor(own), f"{own} imports {name}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_maths_knows_torch_alone(path):
    if module_of(path) != "mmattn" and room(module_of(path)).partition(".")[0] in TORCH_ONLY:
        allowed = {"torch", "mmattn", *sys.stdlib_module_names}
        if path.parent.name == "kernels":
            allowed.add("triton")
        assert {name.partition(".")[0] for name in imports(path)} <= allowed


def test_attention_loads_no_framework():
    code = (
        "import sys; from mmattn.attention import CrissCross; import mmattn.capture;"
        "print([m for m in sys.modules if m.split('.')[0] in ('mmengine', 'mmcv', 'mmseg', 'cv2', 'matplotlib')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_one_paper_one_small_file():
    for path in (ROOT / "mmattn/attention").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 200, path.name


def test_readme_tables_are_up_to_date():
    """``python tools/table.py`` writes them."""
    from mmattn.engine.costs import heads_table

    assert heads_table(ROOT / "configs") in (ROOT / "README.md").read_text()
