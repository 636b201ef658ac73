"""The mutation tester changes what it should, and tells the noticed from the others."""

import os
import subprocess
import sys

import mutation
import pytest
import tiny

SOURCE = '''
class Gate:
    """A toy."""

    def __init__(self, channels: int, *, reduction: int = 16, mode: Literal["avg", "max"] = "avg") -> None:
        if mode not in ("avg", "max"):
            raise ValueError(f"no mode {mode!r}")
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        attn = (self.scale * (q @ k.mT)).softmax(dim=2)
        gate = self.tap(self.v(x).sigmoid())
        return x + gate * attn.amax(1)
'''


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "gate.py"
    path.write_text(SOURCE)
    return [mutant.change for mutant in mutation.mutants(path)]


@pytest.mark.parametrize(
    "change",
    [
        "Gate.__init__: 16 -> 17",
        "Gate.__init__: mode not in ('avg', 'max') -> mode in ('avg', 'max')",
        "Gate.__init__: raise ValueError(f'no mode {mode!r}') -> pass",
        "Gate.__init__: self.init_weights() -> pass",
        "Gate.forward: (self.q(x), self.k(x)) -> (self.k(x), self.k(x))",
        "Gate.forward: self.scale * (q @ k.mT) -> q @ k.mT",
        "Gate.forward: self.scale * (q @ k.mT) -> self.scale * (q @ k)",
        "Gate.forward: (self.scale * (q @ k.mT)).softmax(dim=2) -> self.scale * (q @ k.mT)",
        "Gate.forward: (self.scale * (q @ k.mT)).softmax(dim=2) -> (self.scale * (q @ k.mT)).softmax(dim=1)",
        "Gate.forward: x + gate * attn.amax(1) -> gate * attn.amax(1)",
        "Gate.forward: gate * attn.amax(1) -> attn.amax(1)",
        "Gate.forward: gate * attn.amax(1) -> gate * attn.amin(1)",
        "Gate.forward: self.tap(self.v(x).sigmoid()) -> self.v(x).sigmoid()",
        "Gate.forward: self.v(x).sigmoid() -> self.v(x).tanh()",
    ],
)
def test_changes(change, changes):
    assert change in changes


def test_messages_types_and_docstrings_stay(changes):
    assert len(changes) == len(set(changes))
    assert not [change for change in changes if "A toy" in change or "Literal" in change]


@pytest.mark.slow
def test_tells_the_noticed_from_the_others():
    code = """
import mutation

path = mutation.ATTENTION / "criss_cross.py"
same = mutation.Mutant(path, 1, "nothing", compile(path.read_text(), str(path), "exec"))
other = next(m for m in mutation.mutants(path) if m.change.endswith("self.gamma(criss_cross(q, k, v)) + x -> x"))
mutation.warm_up()
assert mutation.run([same, other], jobs=2) == [same]
"""
    environment = os.environ | {"PYTHONPATH": f"{tiny.REPOSITORY}:{tiny.REPOSITORY / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny.REPOSITORY, env=environment)
