"""Capturing: what is seen is right, and watching changes nothing."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmattn.attention import (
    AsymmetricFusion,
    AsymmetricNonLocal,
    ChannelAttention,
    CrissCross,
    GlobalContext,
    NonLocal,
    ObjectContext,
    PointWise,
    Polarized,
    PositionAttention,
)
from mmattn.capture import capture, compose
from mmattn.catalogue import Entry, entries
from mmattn.layers import AttentionTap
from mmattn.layers.records import CrissCross as CrissCrossRecord
from mmattn.layers.records import Gate, Pairwise, Record


class Squeeze(nn.Module):
    """A channel gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.tap = AttentionTap("channel")

    def forward(self, x: Tensor) -> Tensor:
        return x * self.tap(self.conv(x.mean((2, 3), keepdim=True)).sigmoid())


class Dense(nn.Module):
    """Self-attention over positions, run ``times`` times with the same weights."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.qk = nn.Conv2d(4, 4, 1)
        self.tap = AttentionTap("pairwise")
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.step(x)
        return x

    def step(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k = (f.flatten(2).mT[:, None] for f in self.qk(x).chunk(2, dim=1))  # (b, 1, n, 2)
        self.tap.offer(lambda: Pairwise(q, k, 1.0, (h, w), (h, w)))
        attn = (q @ k.mT).softmax(-1)
        return x + (attn[:, 0] @ x.flatten(2).mT).mT.reshape(x.shape)


class Net(nn.Module):
    """Both, in places of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Squeeze())
        self.head = nn.ModuleDict({"attend": Dense(times=2), "classify": nn.Conv2d(4, 5, 1)})

    def forward(self, x: Tensor) -> Tensor:
        return self.head["classify"](self.head["attend"](self.stem(x)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def listeners(model: nn.Module) -> int:
    return sum(len(m.listeners) for m in model.modules() if isinstance(m, AttentionTap))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_names_mechanisms_and_steps(net: Net) -> None:
    with capture(net) as maps:
        net(torch.randn(1, 3, 4, 5))
    assert [(m.name, m.mechanism, m.kind, m.step) for m in maps] == [
        ("stem.1.tap", "Squeeze", "channel", 0),
        ("head.attend.tap", "Dense", "pairwise", 0),
        ("head.attend.tap", "Dense", "pairwise", 1),
    ]


def test_steps_count_within_one_forward(net: Net) -> None:
    with capture(net) as maps:
        net(torch.randn(1, 3, 4, 5))
        net(torch.randn(1, 3, 2, 2))
    assert [m.step for m in maps if m.kind == "pairwise"] == [0, 1, 0, 1]
    assert [m.record.size for m in maps if m.kind == "pairwise"] == [(4, 5), (4, 5), (2, 2), (2, 2)]


def test_the_maps_are_the_models(net: Net) -> None:
    x = torch.randn(2, 3, 4, 5)
    with capture(net) as maps:
        net(x)
    features = net.stem[0](x)
    gate = net.stem[1].conv(features.mean((2, 3), keepdim=True)).sigmoid()
    torch.testing.assert_close(maps[0].record.gate(), gate.detach())
    q, k = (f.flatten(2) for f in net.head["attend"].qk(features * gate).chunk(2, dim=1))
    dense = (q.mT @ k).softmax(-1).detach()  # (b, n, n)
    torch.testing.assert_close(maps[1].record.row(2, 3)[:, 0], dense[:, 2 * 5 + 3].unflatten(-1, (4, 5)))


@pytest.mark.parametrize("training", [True, False])
def test_watching_changes_no_bit(net: Net, training: bool) -> None:
    net.train(training)
    x = torch.randn(2, 3, 6, 5)
    plain = net(x)
    plain.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with capture(net):
        watched = net(x)
    watched.sum().backward()
    assert torch.equal(plain, watched)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, net.parameters(), strict=True))


def test_nothing_is_left_behind(net: Net) -> None:
    keys = list(net.state_dict())
    with capture(net) as maps:
        net(torch.randn(1, 3, 4, 5))
    assert maps
    assert listeners(net) == hooks(net) == 0
    assert list(net.state_dict()) == keys
    seen = len(maps)
    net(torch.randn(1, 3, 4, 5))
    assert len(maps) == seen


def test_nothing_is_left_behind_by_an_exception(net: Net) -> None:
    with pytest.raises(RuntimeError), capture(net):  # noqa: PT012
        assert listeners(net) == 2
        net(torch.randn(1, 7, 4, 5))
    assert listeners(net) == hooks(net) == 0


def test_nothing_is_kept_alive(net: Net) -> None:
    x = torch.randn(1, 3, 4, 5, requires_grad=True)
    with capture(net) as maps:
        out = net(x)
    factor = weakref.ref(maps[1].record.q)
    assert not any(t.requires_grad for m in maps for t in vars(m.record).values() if isinstance(t, Tensor))
    del maps, out
    gc.collect()
    assert factor() is None


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_factors_alone_are_kept(entry: Entry) -> None:
    """Not what they were computed together with, such as values, and nothing of the size of all pairs."""
    torch.manual_seed(0)
    module, (h, w) = entry.cls(**entry.example).eval(), (20, 24)
    inputs = [torch.randn(1, channels, h, w) for channels in entry.inputs]
    with torch.no_grad(), capture(module) as maps:
        module(*inputs)
    tensors = [x for m in maps for x in vars(m.record).values() if isinstance(x, Tensor)]
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    assert sum(kept.values()) <= 1.2 * sum(x.nbytes for x in tensors)
    pairs = 4 * (h * w) ** 2 // 4
    assert max(x.nbytes for x in tensors) < pairs or entry.name == "point_wise"  # predicts a mask for each position


def test_captures_nest(net: Net) -> None:
    with capture(net) as outer:
        with capture(net.head["attend"]) as inner:
            net(torch.randn(1, 3, 4, 5))
        assert listeners(net) == 2
        net(torch.randn(1, 3, 4, 5))
    assert [m.name for m in inner] == ["tap", "tap"]
    assert [m.step for m in inner] == [0, 1]
    assert len(outer) == 6
    assert listeners(net) == hooks(net) == 0


def test_a_tap_itself_can_be_watched() -> None:
    tap = AttentionTap("spatial")
    with capture(tap) as maps:
        tap(torch.ones(1, 1, 2, 2))
    assert (maps[0].name, maps[0].mechanism) == ("", "AttentionTap")


def test_a_part_of_a_mechanism_has_the_mechanisms_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), AsymmetricNonLocal(8, key_channels=4))
    with capture(model) as maps:
        model(torch.randn(1, 3, 5, 6))
    assert (maps[0].name, maps[0].mechanism) == ("1.stages.0.tap", "AsymmetricNonLocal")


def test_a_model_without_attention_gives_nothing() -> None:
    model = nn.Conv2d(3, 4, 1)
    with capture(model) as maps:
        model(torch.randn(1, 3, 4, 5))
    assert maps == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_in_backward_fires_nothing(net: Net, reentrant: bool) -> None:
    x = torch.randn(1, 3, 4, 5, requires_grad=True)
    with capture(net) as maps:
        checkpoint(net, x, use_reentrant=reentrant).sum().backward()
    assert [m.step for m in maps] == [0, 0, 1]


def test_a_shared_module_fires_in_one_place() -> None:
    block = Squeeze()
    model = nn.Sequential(block, block)
    with capture(model) as maps:
        model(torch.randn(1, 4, 2, 2))
    assert [(m.name, m.step) for m in maps] == [("0.tap", 0), ("0.tap", 1)]


def dense(record: Record) -> Tensor:
    """(b, n, n), row by row."""
    h, w = record.size
    return torch.stack([record.row(y, x).mean(1).flatten(1) for y in range(h) for x in range(w)], dim=1)


# that what is shown is what the mechanism uses: its context is computed anew from the rows and the values


def watch(model: nn.Module, *inputs: Tensor) -> tuple[dict[str, Tensor], list[Record], Tensor]:
    """Run a model with random weights: inputs (">name") and outputs ("name") of its parts, its records, its output."""
    torch.manual_seed(0)
    model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    seen: dict[str, Tensor] = {}

    def note(name: str):
        return lambda _, args, out: seen.update({f">{name}": args[0].detach(), name: out.detach()})

    for name, part in model.named_modules():
        if not isinstance(part, AttentionTap):
            part.register_forward_hook(note(name))
    with capture(model) as maps, torch.no_grad():
        out = model(*inputs)
    return seen, [m.record for m in maps], out


def gathered(record: Record, values: Tensor) -> Tensor:
    """The values (b, c, h', w') as the rows weigh them, (b, c, h, w)."""
    return (dense(record) @ values.flatten(2).mT).mT.unflatten(2, record.size)


def image(channels: int = 8) -> Tensor:
    return torch.randn(2, channels, 5, 6, dtype=torch.float64)


@pytest.mark.parametrize("cls", [CrissCross, PositionAttention])
def test_residual_attention_uses_the_rows_it_shows(cls: type[nn.Module]) -> None:
    x, model = image(), cls(8)
    _, (record,), out = watch(model, x)
    value = (model.value_conv if cls is CrissCross else model.value_project)(x).detach()
    torch.testing.assert_close(out, x + model.gamma.scale.detach() * gathered(record, value))


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("sub_sample", [False, True])
def test_non_local_uses_the_rows_it_shows(mode: str, sub_sample: bool) -> None:
    seen, (record,), _ = watch(NonLocal(8, mode=mode, sub_sample=sub_sample), image())
    torch.testing.assert_close(seen[">conv_out"], gathered(record, seen["g"]))


@pytest.mark.parametrize("cls", [AsymmetricNonLocal, AsymmetricFusion])
def test_asymmetric_non_local_uses_the_rows_it_shows(cls: type[nn.Module]) -> None:
    if cls is AsymmetricFusion:
        low = torch.randn(2, 6, 11, 9, dtype=torch.float64)  # of another size than the queries
        high, model = image(), cls(8, low_channels=6)
        _, (record,), out = watch(model, low, high)
    else:
        low = high = image()
        model = cls(8)
        _, (record,), out = watch(model, low)
    with torch.no_grad():
        stage = model.stages[0]
        context = stage.out_project(gathered(record, stage.value_project(low)))
        torch.testing.assert_close(out, model.bottleneck(torch.cat([context, high], dim=1)))


def test_object_context_uses_the_regions_it_shows() -> None:
    x = image()
    model = ObjectContext(8, key_channels=4)
    seen, (record,), out = watch(model, x, image(3))
    objects = torch.einsum("bryx,bcyx->bcr", record.regions(), x)
    torch.testing.assert_close(seen[">value_project"][..., 0], objects)
    context = torch.einsum("bryx,bcr->bcyx", record.weights(), seen["value_project"][..., 0])
    with torch.no_grad():
        torch.testing.assert_close(out, model.bottleneck(torch.cat([model.out_project(context), x], dim=1)))


@pytest.mark.parametrize("mask_size", [(9, 11), (3, 4), (12, 15)])
def test_point_wise_uses_the_rows_it_shows(mask_size: tuple[int, int]) -> None:
    seen, records, _ = watch(PointWise(8, mask_size=mask_size, hidden=4, shrink_factor=1), image())
    assert [record.direction for record in records] == ["collect", "distribute"]
    both = [gathered(record, seen[name]) for record, name in zip(records, ["reduce", "reduce_p"], strict=True)]
    torch.testing.assert_close(seen[">proj"], torch.cat(both, dim=1))


def test_channel_attention_uses_the_channels_it_shows() -> None:
    x, model = image() / 5, ChannelAttention(8)
    _, (record,), out = watch(model, x)
    context = torch.einsum("bij,bjyx->biyx", record.channels(), x)
    torch.testing.assert_close(out, x + model.gamma.scale.detach() * context)


def test_gates_are_those_that_multiply() -> None:
    x = image()
    _, (channel, spatial), out = watch(Polarized(8, sequential=True), x)
    torch.testing.assert_close(out, x * channel.gate() * spatial.gate())
    seen, (pooled,), _ = watch(GlobalContext(8, ratio=0.5), x)
    torch.testing.assert_close(seen[">channel_add_conv"], (x * pooled.gate()).sum((2, 3), keepdim=True))


# hops of criss-cross attention


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 5), (1, 6), (6, 1), (1, 1), (5, 4)])
def test_composed_hops_are_the_product_of_the_dense_maps(size: tuple[int, int], hops: int) -> None:
    torch.manual_seed(0)
    factors = torch.randn(hops, 2, 2, 3, *size, dtype=torch.float64)
    records = [CrissCrossRecord(q, k) for q, k in factors]
    product = dense(records[-1])
    for record in reversed(records[:-1]):
        product = product @ dense(record)
    for i, (y, x) in enumerate(itertools.product(*map(range, size))):
        composed = compose(records, y, x)
        torch.testing.assert_close(composed.flatten(1), product[:, i])
        torch.testing.assert_close(composed.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_composing_in_chunks_changes_nothing() -> None:
    """Wide factors are taken in several bites."""
    q, k = torch.randn(2, 1, 3000, 30, 40) / 55
    record = CrissCrossRecord(q, k)
    expected = (dense(record)[:, 7 * 40 + 11] @ dense(record)[0]).view(1, 1, 30, 40)
    torch.testing.assert_close(compose([record, record], 7, 11), expected)


def test_two_hops_reach_everything() -> None:
    record = CrissCrossRecord(torch.randn(1, 2, 4, 5), torch.randn(1, 2, 4, 5))
    assert (record.row(1, 2) > 0).sum() == 4 + 5 - 1
    assert (compose([record, record], 1, 2) > 0).all()


def test_gates_keep_their_kind() -> None:
    model = Squeeze()
    with capture(model) as maps:
        model(torch.randn(1, 4, 2, 2))
    assert isinstance(maps[0].record, Gate)
    assert maps[0].kind == maps[0].record.kind == "channel"
