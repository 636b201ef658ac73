"""What every mechanism of the catalogue keeps to."""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature

import papers
import pytest
import torch
from torch import Tensor, nn

from mmattn.attention import create, entries
from mmattn.catalogue import Entry
from mmattn.layers import AttentionTap

papers.load()

ENTRIES = [pytest.param(entry, id=entry.name) for entry in entries()]
EVERY = pytest.mark.parametrize("entry", ENTRIES)


def build(entry: Entry, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small instance whose every parameter matters: no gamma and no last layer at zero."""
    torch.manual_seed(0)
    module = entry.cls(**entry.example).to(dtype)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    return module


def inputs_for(entry: Entry, size: tuple[int, int], batch: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, c, *size, dtype=dtype) for c in entry.inputs]


def can(ability: str, entry: Entry) -> AbstractContextManager:
    """What the entry says it cannot do must fail."""
    return pytest.raises(Exception) if ability in entry.cannot else nullcontext()  # noqa: PT011


def widest(inputs: list[Tensor], entry: Entry) -> Tensor:
    return next(x for x in inputs if x.shape[1] == entry.example["channels"])


@EVERY
@pytest.mark.parametrize("size", [(1, 1), (5, 5), (6, 8), (3, 10), (8, 1)])
def test_shape_and_untouched_input(entry, size):
    inputs = inputs_for(entry, size)
    before = [x.clone() for x in inputs]
    out = build(entry).eval()(*inputs)
    assert out.shape == widest(inputs, entry).shape
    assert out.isfinite().all()
    for x, y in zip(inputs, before, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@EVERY
def test_images_are_independent(entry):
    module, inputs = build(entry, torch.float64).eval(), inputs_for(entry, (6, 5), dtype=torch.float64)
    together = module(*inputs)
    for i in range(2):
        torch.testing.assert_close(module(*(x[i : i + 1] for x in inputs))[0], together[i])


@EVERY
def test_channels_last_is_the_same(entry):
    module, inputs = build(entry, torch.float64).eval(), inputs_for(entry, (6, 5), dtype=torch.float64)
    expected = module(*inputs)
    last = module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(*(x.to(memory_format=torch.channels_last) for x in inputs)), expected)


@EVERY
def test_every_parameter_gets_a_gradient(entry):
    module, inputs = build(entry, torch.float64), inputs_for(entry, (6, 5), dtype=torch.float64)
    reached = set()
    for mode in (True, False):  # a batch norm in training hides the bias before it, a dead ReLU in evaluation its input
        module.zero_grad()
        out = module.train(mode)(*inputs)
        (out * torch.randn_like(out)).sum().backward()
        reached |= {name for name, parameter in module.named_parameters() if parameter.grad.abs().max() > 1e-12}
    assert {name for name, _ in module.named_parameters()} - reached == set(entry.idle)


@EVERY
def test_gradcheck(entry):
    module = build(entry, torch.float64).eval()
    inputs = [x.requires_grad_() for x in inputs_for(entry, (3, 4), batch=1, dtype=torch.float64)]
    with can("gradcheck", entry):
        torch.autograd.gradcheck(module, inputs)


@EVERY
def test_watching_changes_nothing_and_sees_each_map(entry):
    module, inputs = build(entry).eval(), inputs_for(entry, (6, 5))
    plain = module(*inputs)
    taps = [tap for tap in module.modules() if isinstance(tap, AttentionTap)]
    seen = []
    for tap in taps:
        tap.listeners.append(seen.append)
    watched = module(*inputs)
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    assert tuple(record.kind for record in seen) == entry.kinds
    for tap in taps:
        tap.listeners.clear()
    module(*inputs)
    assert len(seen) == len(entry.kinds)


@EVERY
def test_a_tap_is_silent_inside_backward(entry):
    module, inputs = build(entry).eval(), [x.requires_grad_() for x in inputs_for(entry, (6, 5))]
    seen = []
    for tap in module.modules():
        if isinstance(tap, AttentionTap):
            tap.listeners.append(seen.append)
    out = torch.utils.checkpoint.checkpoint(module, *inputs, use_reentrant=False)
    out.sum().backward()
    assert len(seen) == len(entry.kinds)


@EVERY
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph(entry, backend):
    module, inputs = build(entry).eval(), inputs_for(entry, (6, 5))
    torch._dynamo.reset()
    with can("compile", entry):
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(*inputs), module(*inputs))


@EVERY
def test_exports_with_dynamic_sizes(entry):
    module, inputs = build(entry).eval(), inputs_for(entry, (9, 10))
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    with can("export", entry):
        program = torch.export.export(module, tuple(inputs), dynamic_shapes=[sizes] * len(inputs))
        other = inputs_for(entry, (12, 8))
        torch.testing.assert_close(program.module()(*other), module(*other))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite(entry, dtype):
    torch.manual_seed(0)
    module = entry.cls(**entry.example).eval()
    inputs = [4 * 2**0.5 * x.relu() for x in inputs_for(entry, (128, 128), batch=1)]  # rms 4
    with torch.autocast("cpu", dtype=dtype):
        assert module(*inputs).isfinite().all()


@EVERY
def test_parameter_count_is_the_published_one(entry):
    for arguments, parameters in papers.COUNTS[entry.cls]:
        for channels, expected in parameters.items():
            module = entry.cls(channels, **arguments)
            assert sum(p.numel() for p in module.parameters()) == expected, f"{arguments}, {channels} channels"


@pytest.mark.parametrize(
    "entry", [e for e in entries() if "reduction" in signature(e.cls).parameters], ids=lambda e: e.name
)
def test_a_reduction_below_one_is_refused(entry):
    with pytest.raises(ValueError, match=r"reduction.*0.* 1"):
        entry.cls(**{**entry.example, "reduction": 0})


@EVERY
def test_catalogue_builds_it_by_name(entry):
    assert isinstance(create(entry.name, **entry.example), entry.cls)
    assert entry in entries(kind=entry.kinds[0])
    assert entry.summary


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match="criss_cross"):
        create("cris_cros", channels=8)


@EVERY
def test_starts_as_the_identity_where_it_says_so(entry):
    torch.manual_seed(0)
    module, inputs = entry.cls(**entry.example), inputs_for(entry, (6, 5))
    x = widest(inputs, entry)
    if not entry.identity:
        assert not torch.allclose(module(*inputs), x, atol=1e-3)
        return
    for mode in (True, False):
        torch.testing.assert_close(module.train(mode)(*inputs), x, rtol=0, atol=0)
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    module.init_weights()  # what a backbone's own initialisation has overwritten comes back
    torch.testing.assert_close(module(*inputs), x, rtol=0, atol=0)


def test_one_recurrence_sees_the_cross_and_two_see_everything():
    module = create("criss_cross", channels=8).double()
    for parameter in module.parameters():
        parameter.data.normal_()
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64, requires_grad=True)
    once = torch.autograd.grad(module(x)[0, :, 2, 3].sum(), x)[0].abs().sum(1)[0] > 0
    cross = torch.zeros(6, 7, dtype=torch.bool)
    cross[2] = cross[:, 3] = True
    assert torch.equal(once, cross)
    twice = torch.autograd.grad(module(module(x))[0, :, 2, 3].sum(), x)[0].abs().sum(1)[0] > 0
    assert twice.all()


def test_channel_products_overflow_in_half_precision_but_not_here():
    """The naive form in float16 gives inf or NaN on features that a network has; ours does not."""
    x = 2 * torch.randn(1, 4, 128, 128).abs()
    half = x.half().flatten(2)
    energy = half @ half.mT
    naive = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
    assert not naive.isfinite().all()
    module = create("channel_attention", channels=4)
    module.gamma.scale.data.fill_(1.0)
    with torch.autocast("cpu", dtype=torch.float16):
        out = module(x)
    torch.testing.assert_close(out, module(x))
    assert module.half()(x.half()).isfinite().all()
