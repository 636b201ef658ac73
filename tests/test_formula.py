"""Each mechanism against its paper's equations, written as slow loops in float64, with random weights."""

import papers
import pytest
import torch

from mmattn.attention import entries

papers.load()

CASES = [
    pytest.param(cls, *case, id="-".join([cls.__name__, *(f"{k}={v}" for k, v in case[0].items() if k != "channels")]))
    for cls, cases in papers.FORMULAS.items()
    for case in cases
]


def test_every_entry_has_a_formula():
    assert {entry.cls for entry in entries()} == set(papers.FORMULAS)


@pytest.mark.parametrize(("cls", "arguments", "shapes", "equations"), CASES)
def test_equals_its_equations(cls, arguments, shapes, equations):
    torch.manual_seed(0)
    module = cls(**arguments).double().eval()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.data.normal_(std=0.5)
        if name.endswith("running_var"):
            buffer.data.normal_(std=0.5).abs_().add_(0.3)
    inputs = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    with torch.no_grad():
        actual = module(*inputs)
        expected = torch.stack([equations(module, *images) for images in zip(*inputs, strict=True)])
    assert not any(x.shape == expected.shape and torch.allclose(x, expected, atol=1e-3) for x in inputs)  # it acts
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
