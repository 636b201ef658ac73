"""Every mechanism in every place that it claims: built by a config, with the norms of the place, and trained."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mmseg.models
import pytest
import tiny
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmattn.attention import entries
from mmattn.catalogue import Entry
from mmattn.cli import UserError
from mmattn.datasets import sample
from mmattn.engine.config import base_file, read
from mmattn.layers import LossTap
from mmattn.registry import DATASETS, MODELS

SYNC = {"type": "SyncBN"}
GROUP = {"type": "GN", "num_groups": 1}
ALL = [(place, entry) for entry in entries() for place in entry.places]
SINGLE = [(place, entry) for place, entry in ALL if len(entry.inputs) == 1]
EVERY = pytest.mark.parametrize(("place", "entry"), [pytest.param(p, e, id=f"{e.name}-{p}") for p, e in SINGLE])
IDENTITY = pytest.mark.parametrize(
    ("place", "entry"), [pytest.param(p, e, id=f"{e.name}-{p}") for p, e in SINGLE if e.identity]
)


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    """The scope of a config that names none; and no list of every parameter that was initialised."""
    if not MMLogger.check_instance_created("places"):
        MMLogger.get_instance("places", log_level="ERROR")
    with DefaultScope.overwrite_default_scope("mmattn"):
        yield


def resnet(depth: int = 18, width: int = 16, norm: dict = SYNC, stages: int = 1, **options: Any) -> dict:
    shallow = {"num_stages": stages, "out_indices": tuple(range(stages))}
    shallow |= {"strides": (1, 2, 2, 2)[:stages], "dilations": (1,) * stages}
    own = {"type": "ResNet", "depth": depth, "base_channels": width, "stem_channels": 8, "norm_cfg": norm}
    return own | shallow | options


def fcn(channels: int, norm: dict = SYNC, **options: Any) -> dict:
    head = {"type": "FCNHead", "num_convs": 1, "concat_input": False, "in_channels": channels, "channels": 8}
    return head | {"in_index": -1, "num_classes": 3, "norm_cfg": norm, "dropout_ratio": 0} | options


def segmentor(backbone: dict, head: dict, **options: Any) -> nn.Module:
    config = ConfigDict(type="EncoderDecoder", backbone=backbone, decode_head=head, **options)
    return MODELS.build(config)


def arguments(entry: Entry) -> dict:
    return {key: value for key, value in entry.example.items() if key != "channels"}


def mechanism(entry: Entry) -> dict:
    return {"type": entry.cls.__name__, **arguments(entry)}


def model_with(place: str, cfg: dict, channels: int, norm: dict = SYNC, **backbone: Any) -> nn.Module:
    """A small segmentor with one kind of mechanism on maps of that many channels."""
    plain, head = resnet(width=channels, norm=norm, **backbone), fcn(channels, norm)
    if place == "plugin":
        position = "after_conv2"
        if cfg["type"] == "SelectiveKernel":
            position, head["in_channels"], plain["depth"] = "conv2", 4 * channels, 50
        return segmentor({**plain, "plugins": [{"cfg": cfg, "position": position}]}, head)
    if place == "wrapper":
        attention = [{"cfg": cfg, "after": "layer1.0"}]
        return segmentor({"type": "AttentionBackbone", "backbone": plain, "attention": attention}, head)
    if place == "neck":
        neck = {"type": "AttentionNeck", "in_channels": [channels], "attention": cfg, "norm_cfg": norm}
        return segmentor(plain, head, neck=neck)
    head |= {"type": "AttentionHead", "channels": channels, "attention": cfg}
    del head["num_convs"]
    return segmentor(plain, head)


def batch(size: int = 2, side: int = 32) -> tuple[Tensor, list[SegDataSample]]:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (size, 1, side, side))
    return torch.randn(size, 3, side, side), [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(value for key, value in losses.items() if "loss" in key)


# -- every mechanism, every place ----------------------------------------------------------------------------------


@EVERY
def test_builds_and_takes_a_training_step(place: str, entry: Entry) -> None:
    model = model_with(place, mechanism(entry), entry.example["channels"])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()), "SyncBN reaches it"
    model.init_weights()
    model = revert_sync_batchnorm(model).train()
    found = [module for module in model.modules() if isinstance(module, entry.cls)]
    assert len(found) == (2 + (entry.places == ("plugin",)) if place == "plugin" else 1)  # blocks of the stage
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = total(model.loss(*batch()))
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    for module in found:
        assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@EVERY
def test_another_norm_reaches_it(place: str, entry: Entry) -> None:
    """One image is enough then, also for mechanisms that normalise after pooling."""
    model = model_with(place, mechanism(entry), entry.example["channels"], norm=GROUP).train()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    assert total(model.loss(*batch(1))).isfinite()


@IDENTITY
def test_starts_as_the_identity(place: str, entry: Entry) -> None:
    model = model_with(place, mechanism(entry), entry.example["channels"])
    model.init_weights()
    found = [module for module in model.modules() if isinstance(module, entry.cls)]
    x = torch.randn(2, entry.example["channels"], 6, 5)
    for module in found:
        torch.testing.assert_close(module.eval()(x), x, rtol=0, atol=0)


def test_own_norm_of_a_mechanism_wins() -> None:
    for place in ("plugin", "wrapper", "neck", "head"):
        model = model_with(place, {"type": "AsymmetricNonLocal", "norm_cfg": GROUP}, 16)
        mechanisms = [module for module in model.modules() if type(module).__name__ == "AsymmetricNonLocal"]
        assert mechanisms
        norms = {type(norm) for module in mechanisms for norm in module.modules() if "Norm" in type(norm).__name__}
        assert norms == {nn.GroupNorm}, place


@pytest.mark.parametrize("place", ["wrapper", "neck", "head"])
def test_what_replaces_a_convolution_stands_in_blocks_alone(place: str) -> None:
    with pytest.raises(UserError, match=r"SelectiveKernel does not stand .*; it stands in a block of a backbone"):
        model_with(place, {"type": "SelectiveKernel"}, 32)


def test_one_image_under_a_batch_norm_is_told_what_to_do() -> None:
    model = revert_sync_batchnorm(model_with("plugin", {"type": "SelectiveKernel", "groups": 4}, 16)).train()
    with pytest.raises(ValueError, match=r"one image .* two or more images per GPU, or with a norm such as GroupNorm"):
        model.loss(*batch(1))


@pytest.fixture(scope="module")
def street() -> list[dict]:
    """Three batches of the built-in sample, which is drawn where training has it."""
    root = sample.ensure(tiny.REPOSITORY / "data" / "sample", progress=False)
    with DefaultScope.overwrite_default_scope("mmattn"):
        cfg = read(base_file("sample")).train_dataloader.dataset
        dataset = DATASETS.build({**cfg, "data_root": str(root)})
        items = [dataset[i] for i in range(6)]
    return [{key: [item[key] for item in items[i : i + 2]] for key in items[0]} for i in (0, 2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "entry"), [pytest.param(p, e, id=f"{e.name}-{p}") for p, e in ALL])
def test_trains_on_the_sample(place: str, entry: Entry, street: list[dict]) -> None:
    """In the last stage of the backbone that the sample is trained with."""
    small = read(base_file("sample")).small_backbones["ResNet"]
    plain = {"type": "ResNet", **small, "norm_cfg": {"type": "BN"}}
    width, cfg, depth = 8 * small["base_channels"], mechanism(entry), 18
    head, extra = fcn(width, {"type": "BN"}, num_classes=19), {}
    if place == "plugin":
        position = "after_conv2"
        if entry.places == ("plugin",):
            position, depth, head["in_channels"] = "conv2", 50, 4 * width
        plugin = {"cfg": cfg, "position": position, "stages": (False, False, False, True)}
        plain |= {"depth": depth, "plugins": [plugin]}
    elif place == "wrapper":
        plain = {"type": "AttentionBackbone", "backbone": plain, "attention": [{"cfg": cfg, "after": "layer4"}]}
    elif place == "neck":
        extra["neck"] = {"type": "AttentionNeck", "levels": [3], "attention": cfg}
        if len(entry.inputs) == 2:
            extra["neck"] = {"type": "GatedNeck", "levels": [1, 2], "attention": {"type": entry.cls.__name__}}
            head |= {"in_channels": width // 4, "in_index": 1}
        extra["neck"]["in_channels"] = [width // 8, width // 4, width // 2, width]
    else:
        head |= {"type": "AttentionHead", "attention": cfg, "channels": entry.example["channels"]}
        del head["num_convs"]
    preprocess = {"type": "SegDataPreProcessor", "size": (256, 256), "seg_pad_val": 255}
    model = segmentor(plain, head, data_preprocessor=ConfigDict(preprocess), **extra)
    model.init_weights()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    for data in street:
        losses = model.train()(**model.data_preprocessor(copy.deepcopy(data), True), mode="loss")
        loss, _ = model.parse_losses(losses)
        assert loss.isfinite()
        wrapper.update_params(loss)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# -- in blocks -----------------------------------------------------------------------------------------------------


class Double(nn.Module):
    """A plugin of someone else, under mmcv's constructor."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.in_channels
        return 2 * x


class Increase(Double):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.in_channels
        return x + 1


def plugin(kind: str | type, position: str = "after_conv2", **options: Any) -> dict:
    return {"cfg": {"type": kind, **options}, "position": position}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ResNet", {"depth": 18}),
        ("ResNet", {"depth": 50, "style": "caffe"}),
        ("ResNetV1c", {"depth": 34}),
        ("ResNetV1d", {"depth": 50}),
        ("ResNeXt", {"depth": 50, "groups": 8, "base_width": 4}),
        ("ResNeSt", {"depth": 50, "groups": 2, "base_width": 8}),
        ("ResNet", {"depth": 50, "with_cp": True}),
        ("ResNet", {"depth": 18, "with_cp": True}),
    ],
)
def test_every_backbone_with_plugins_takes_them_everywhere(name: str, options: dict) -> None:
    deep = options["depth"] > 34
    positions = ["after_conv1", "after_conv2"] + ["after_conv3"] * deep
    plugins = [plugin("PositionAttention", position) for position in positions] + [plugin(Double)]
    if deep:
        plugins.append(plugin("SelectiveKernel", "conv2", groups=2))
    plain = {**resnet(width=8, norm={"type": "BN"}, stages=2), **options, "type": name}
    backbone = MODELS.build({**plain, "plugins": plugins})
    maps = backbone(torch.randn(2, 3, 64, 64))
    expected = MODELS.build(plain)
    assert [y.shape for y in maps] == [y.shape for y in expected(torch.randn(2, 3, 64, 64))]
    sum(y.square().mean() for y in maps).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
    own = {key for key in expected.state_dict() if not (deep and (".conv2." in key or ".bn2." in key))}
    assert own <= set(backbone.state_dict())


@pytest.mark.parametrize("with_cp", [False, True])
def test_plugins_of_a_shallow_block_stand_where_they_say(with_cp: bool) -> None:
    plugins = [plugin(Increase, "after_conv1"), plugin(Double), plugin(Increase), plugin(Double)]
    backbone = MODELS.build({**resnet(width=8, norm={"type": "BN"}), "plugins": plugins, "with_cp": with_cp})
    block = backbone.layer1[1].train()
    twin = copy.deepcopy(block)
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    y = twin.bn1(twin.conv1(x)).relu() + 1
    y = 2 * (2 * twin.bn2(twin.conv2(y)) + 1)
    torch.testing.assert_close(block(x), (x + y).relu())


def test_one_type_more_than_once_in_a_block() -> None:
    backbone = MODELS.build({**resnet(50, 8), "plugins": [plugin("Polarized", "after_conv3")] * 3})
    names = [name for name, _ in backbone.layer1[0].named_children() if "polarized" in name]
    assert names == ["polarized", "polarized_2", "polarized_3"]
    assert backbone.layer1[0].after_conv3_plugin_names == names


def test_a_replaced_convolution_hands_over_stride_and_dilation() -> None:
    plain = resnet(50, 8, stages=3) | {"strides": (1, 2, 1), "dilations": (1, 1, 2), "contract_dilation": True}
    backbone = MODELS.build({**plain, "plugins": [plugin("SelectiveKernel", "conv2", groups=2)]})
    for stage, strides, dilations in (("layer2", (2, 1), (1, 1)), ("layer3", (1, 1), (1, 2))):
        for block, stride, dilation in zip(getattr(backbone, stage), strides, dilations, strict=False):
            for m, branch in enumerate(block.conv2.branches, start=1):
                assert (branch[0].stride, branch[0].dilation) == ((stride,) * 2, (m * dilation,) * 2)
            assert isinstance(block.norm2, nn.Identity)


@pytest.mark.parametrize(
    ("depth", "wrong", "complaint"),
    [
        (50, plugin("SelectiveKernel", "after_conv3"), "SelectiveKernel at position 'after_conv3' .* position='conv2'"),
        (18, plugin("SelectiveKernel", "conv2"), "SelectiveKernel at .* BasicBlock: .* depth of 50 or more"),
        (50, plugin("GlobalContext", "conv2"), "GlobalContext at position 'conv2' of a Bottleneck: it replaces no"),
        (50, plugin(Double, "conv2"), "Double at position 'conv2' of a Bottleneck: it replaces no"),
        (18, plugin("GlobalContext", "after_conv3"), "GlobalContext at .* BasicBlock: .* after_conv1 or after_conv2"),
        (50, plugin("GlobalContext", "conv3"), "GlobalContext at position 'conv3' .* after_conv2 or after_conv3"),
        (50, {"cfg": {"type": "GlobalContext"}}, "GlobalContext at position None"),
    ],
)
def test_a_wrong_position_is_told_what_to_do(depth: int, wrong: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        MODELS.build({**resnet(depth, 16), "plugins": [wrong]})


def test_an_unknown_plugin_is_no_matter_of_its_position() -> None:
    with pytest.raises(KeyError, match="Cannot find None in registry"):
        MODELS.build({**resnet(50, 16), "plugins": [plugin("SelektiveKernel", "conv2")]})


# -- after modules of any backbone ---------------------------------------------------------------------------------

HRNET = {
    "type": "HRNet",
    "norm_cfg": SYNC,
    "extra": {
        f"stage{n}": {
            "num_modules": 1,
            "num_branches": n,
            "block": "BASIC" if n > 1 else "BOTTLENECK",
            "num_blocks": (1,) * n,
            "num_channels": tuple(8 * 2**i for i in range(n)),
        }
        for n in (1, 2, 3, 4)
    },
}
SWIN = {"type": "SwinTransformer", "embed_dims": 8, "depths": (1,) * 4, "num_heads": (1,) * 4, "window_size": 2}
BACKBONES = {
    "MobileNetV2": ({"type": "MobileNetV2", "widen_factor": 0.25, "norm_cfg": SYNC}, ["layer3", "layer7", -1]),
    "HRNet": (HRNET, ["stage4.0.branches.3.0", "stage2.0.branches.0", 0, 3]),
    "Swin": ({**SWIN, "norm_cfg": {"type": "LN"}}, [0, 3]),
    "ResNet": (resnet(width=8, stages=4, norm_eval=True, frozen_stages=1), ["layer1", "layer4", "layer4", "layer2.0"]),
}


def wrapped(backbone: dict, *after: str | int, cfg: dict | None = None, **options: Any) -> nn.Module:
    attention = [{"cfg": cfg or {"type": "AsymmetricNonLocal"}, "after": place} for place in after]
    return MODELS.build({"type": "AttentionBackbone", "backbone": backbone, "attention": attention, **options})


@pytest.mark.parametrize("name", BACKBONES)
def test_wrapper_keeps_the_backbone_as_it_is(name: str, tmp_path: Path) -> None:
    config, after = BACKBONES[name]
    plain = MODELS.build(config)
    plain.init_weights()
    torch.save(plain.state_dict(), tmp_path / "pretrained.pth")
    init = {"type": "Pretrained", "checkpoint": str(tmp_path / "pretrained.pth")}
    model = wrapped({**config, "init_cfg": init}, *after, cfg={"type": "PositionAttention"})
    own = {key for key in model.state_dict() if not key.startswith("attention.")}
    assert own == set(plain.state_dict())
    assert len(model.attention) == len(after)
    model.init_weights()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.state_dict().items())

    x = torch.randn(2, 3, 64, 64)
    for y, expected in zip(model.eval()(x), plain.eval()(x), strict=True):  # the mechanisms start as the identity
        torch.testing.assert_close(y, expected)
    for parameter in model.attention.parameters():
        parameter.data.normal_()
    changed = model(x)
    assert not torch.allclose(changed[-1], expected)
    again = wrapped(config, *after, cfg={"type": "PositionAttention"})
    again.load_state_dict(model.state_dict())
    for twin in (again.eval(), copy.deepcopy(model)):  # as EMA makes it
        for y, expected in zip(twin(x), changed, strict=True):
            torch.testing.assert_close(y, expected)


def test_a_copy_of_a_wrapped_backbone_has_mechanisms_of_its_own() -> None:
    model = wrapped(resnet(), "layer1", 0).eval()
    x = torch.randn(2, 3, 32, 32)
    twin, before = copy.deepcopy(model), model(x)[0]
    for parameter in model.attention.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(twin(x)[0], before)
    assert not torch.allclose(model(x)[0], before)


def test_wrapper_applies_by_name_within_and_by_index_on_the_output() -> None:
    config = resnet(width=8, norm={"type": "BN"}, stages=2)
    plain = MODELS.build(config).eval()
    x = torch.randn(1, 3, 32, 32)
    first, second = plain(x)
    for after, seen in (("layer1", 2 * first), (0, first), (-2, first)):
        model = wrapped(config, after, cfg={"type": Double}).eval()
        model.load_state_dict(plain.state_dict())
        torch.testing.assert_close(model(x)[0], 2 * first)
        torch.testing.assert_close(model(x)[1], plain.layer2(seen))
    both = wrapped(config, 1, 1, cfg={"type": Double}).eval()
    both.load_state_dict(plain.state_dict())
    torch.testing.assert_close(both(x)[1], 4 * second)


def test_wrapper_freezes_the_pretrained_part_alone() -> None:
    model = wrapped(resnet(width=8, norm_eval=True, frozen_stages=1), "layer1").train()
    assert not any(parameter.requires_grad for parameter in model.layer1.parameters())
    assert all(parameter.requires_grad for parameter in model.attention.parameters())
    batch_norms = nn.modules.batchnorm._BatchNorm
    assert not any(module.training for module in model.layer1.modules() if isinstance(module, batch_norms))
    assert all(module.training for module in model.attention.modules())
    assert not any(module.training for module in model.eval().modules())


class Seven(nn.Conv2d):
    """A mechanism that leaves its start to its constructor."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, in_channels, kernel_size=1)
        nn.init.constant_(self.weight, 7.0)


class Nine(Seven):
    """One that starts when the model does."""

    def init_weights(self) -> None:
        nn.init.constant_(self.weight, 9.0)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("kind", "start"), [(Seven, 7.0), (Nine, 9.0)])
def test_wrapper_leaves_no_trace_and_starts_each_part_in_its_own_way(kind: type, start: float, name: str) -> None:
    config, after = BACKBONES[name]
    torch.manual_seed(0)
    plain = MODELS.build(config)
    torch.manual_seed(0)
    model = wrapped(config, *after, cfg={"type": kind})
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), f"{key} after the look at one small image"
    assert [module.training for module in model.attention.modules()] == [True] * (1 + len(after))
    assert model.training
    for module in (plain, model):
        torch.manual_seed(0)
        module.init_weights()
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert all((mechanism.weight == start).all() for mechanism in model.attention.values())


def test_wrapper_takes_the_norm_of_the_backbone() -> None:
    def norms(model: nn.Module) -> set[str]:
        return {type(module).__name__ for module in model.attention.modules() if "Norm" in type(module).__name__}

    assert norms(wrapped(resnet(), "layer1")) == {"SyncBatchNorm"}
    assert norms(wrapped(resnet(), "layer1", norm_cfg=GROUP)) == {"GroupNorm"}
    assert norms(wrapped(BACKBONES["Swin"][0], 1)) == {"BatchNorm2d"}


def test_wrapper_starts_from_the_weights_that_the_segmentor_names(tmp_path: Path) -> None:
    plain = MODELS.build(resnet())
    torch.save(plain.state_dict(), tmp_path / "pretrained.pth")
    attention = [{"cfg": {"type": "GlobalContext"}, "after": "layer1"}]
    backbone = ConfigDict(type="AttentionBackbone", backbone=resnet(), attention=attention)
    with pytest.warns(UserWarning, match="pretrained is a deprecated"):
        model = segmentor(backbone, fcn(16), pretrained=str(tmp_path / "pretrained.pth"))
    model.init_weights()
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[f"backbone.{key}"], value)


@pytest.mark.parametrize(
    ("backbone", "after", "complaint"),
    [
        (resnet(), "laier1", "after='laier1': the backbone has no such module; it has layer1"),
        (resnet(), "", "no such module; it has conv1, "),
        (resnet(), 1, "after=1: the backbone has 1 outputs"),
        (resnet(), "bn1", "after='bn1': MMEngine exchanges batch norms"),
        (resnet(), "layer1.0.relu", "after='layer1.0.relu': that module runs 2 times"),
        ({"type": "DDRNet", "channels": 8}, 0, "after=0: the backbone gives a single map in evaluation; name a module"),
        (HRNET, "stage2", "after='stage2': that module gives list, not one map .* after=0"),
        (SWIN, "stages.0", "after='stages.0': that module gives tuple"),
    ],
)
def test_a_wrong_place_is_told_what_to_do(backbone: dict, after: str | int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        wrapped(backbone, after)


def test_a_misspelt_key_of_the_wrapper_is_named() -> None:
    with pytest.raises(UserError, match=r"expected dict\(cfg=..., after=...\), got \['cfg', 'place'\]"):
        MODELS.build({"type": "AttentionBackbone", "backbone": resnet(), "attention": [{"cfg": {}, "place": 1}]})


# -- necks ---------------------------------------------------------------------------------------------------------


def test_neck_gives_each_chosen_level_its_own() -> None:
    neck = MODELS.build(
        {"type": "AttentionNeck", "in_channels": [4, 6, 8], "attention": {"type": Double}, "levels": [0, -1]}
    )
    x = [torch.randn(1, c, 4, 4) for c in (4, 6, 8)]
    for y, factor, level in zip(neck(x), (2, 1, 2), x, strict=True):
        torch.testing.assert_close(y, factor * level)
    assert [module.in_channels for module in neck.attention.values()] == [4, 8]


def test_necks_are_chained_by_a_list() -> None:
    fpn = {"type": "FPN", "in_channels": [8, 16], "out_channels": 8, "num_outs": 2}
    own = [
        {"type": "AttentionNeck", "in_channels": [8, 8], "attention": {"type": Double}, "levels": [i]} for i in (0, 1)
    ]
    model = segmentor(resnet(width=8, stages=2), fcn(8), neck=[fpn, *own]).eval()
    x = torch.randn(1, 3, 32, 32)
    expected = model.neck[0](model.backbone(x))
    for y, level in zip(model.extract_feat(x), expected, strict=True):
        torch.testing.assert_close(y, 2 * level)


PAIRS = [pytest.param(e, id=e.name) for _, e in ALL if len(e.inputs) == 2]


@pytest.mark.parametrize("entry", PAIRS)
def test_neck_of_two_maps_trains_with_the_norm_of_its_config(entry: Entry) -> None:
    neck = {"type": "GatedNeck", "in_channels": [16, 32, 64], "attention": {"type": entry.cls.__name__}}
    neck |= {"refine": {"type": "AttentionRefinement"}, "norm_cfg": SYNC}
    model = segmentor(resnet(stages=3), fcn(16, in_index=0), neck=neck)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model.init_weights()
    model = revert_sync_batchnorm(model).train()
    assert [type(gate).__name__ for gate in model.neck.attention.values()] == [entry.cls.__name__] * 2
    assert len(model.neck.refine) == 2
    total(model.loss(*batch())).backward()
    assert [name for name, parameter in model.neck.named_parameters() if parameter.grad is None] == []


class Sum(nn.Module):
    """Fine plus the mean of what is coarser."""

    def __init__(self, in_channels: int, gate_channels: int) -> None:
        super().__init__()
        self.channels = (in_channels, gate_channels)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        assert self.channels == (x.shape[1], gate.shape[1])
        return x + gate.mean()


def test_gated_neck_goes_from_the_top_down() -> None:
    config = {"type": "GatedNeck", "in_channels": [4, 6, 8], "attention": {"type": Sum}, "refine": {"type": Double}}
    x = [torch.randn(1, c, size, size) for c, size in ((4, 8), (6, 4), (8, 2))]
    fine, middle, coarse = MODELS.build(config)(x)
    torch.testing.assert_close(coarse, 2 * x[2])
    torch.testing.assert_close(middle, 2 * x[1] + coarse.mean())
    torch.testing.assert_close(fine, x[0] + middle.mean())
    one = MODELS.build({**config, "levels": [1], "refine": None})(x)
    for y, expected in zip(one, (x[0], x[1] + x[2].mean(), x[2]), strict=True):
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"type": "GatedNeck", "levels": [1]}, r"levels of GatedNeck: \[1\]; of 2 levels 0 to 0 have a coarser one"),
        ({"type": "GatedNeck", "attention": {"type": "Polarized"}}, "two feature maps, .*; Polarized takes 1"),
        ({"type": "AttentionNeck", "attention": {"type": "AttentionGate"}}, "AttentionGate goes to a GatedNeck"),
        ({"type": "AttentionNeck", "attention": {"type": Double}, "levels": [2]}, r"\[2\] of 2 levels"),
    ],
)
def test_a_wrong_neck_is_told_what_to_do(config: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        MODELS.build({"in_channels": [16, 32], **config})


def test_a_mechanism_of_two_maps_stands_in_a_neck_alone() -> None:
    with pytest.raises(UserError, match="AttentionGate does not stand in a head; it stands in a neck"):
        model_with("head", {"type": "AttentionGate"}, 16)


# -- losses of mechanisms ------------------------------------------------------------------------------------------


class Thrifty(nn.Module):
    """A gate that pays for what it lets through."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(in_channels, 1, 1))
        self.budget, self.share = LossTap("budget"), LossTap("share")

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.logit + x).sigmoid()
        if self.training:
            self.budget.offer(lambda: gate.square().mean())
            self.share.offer(lambda: gate.detach().mean())
        return gate * x


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("place", ["plugin", "wrapper", "neck", "head"])
def test_losses_of_mechanisms_are_trained_on_and_logged(place: str, with_cp: bool) -> None:
    torch.manual_seed(0)
    backbone = {"with_cp": with_cp}
    model = revert_sync_batchnorm(model_with(place, {"type": Thrifty}, 8, **backbone)).train()
    gates = [module for module in model.modules() if isinstance(module, Thrifty)]
    inputs = []
    handles = [gate.register_forward_pre_hook(lambda gate, args: inputs.append((gate, args[0]))) for gate in gates]
    losses = model.loss(*batch())
    for handle in handles:
        handle.remove()
    assert len(inputs) == len(gates) == (2 if place == "plugin" else 1)
    shares = [(gate.logit + x).sigmoid() for gate, x in inputs]
    torch.testing.assert_close(losses["loss_budget"], sum(share.square().mean() for share in shares))
    torch.testing.assert_close(losses["share"], sum(share.mean() for share in shares) / len(shares))
    assert not losses["share"].requires_grad
    assert not any(tap.listeners for tap in model.modules() if isinstance(tap, LossTap))

    loss, logged = model.parse_losses(losses)
    torch.testing.assert_close(loss, losses["decode.loss_ce"] + losses["loss_budget"])
    assert {"decode.loss_ce", "loss_budget", "share", "loss"} <= set(logged)
    gate, x = inputs[-1]  # nothing that pays comes after it
    expected = torch.autograd.grad((gate.logit + x.detach()).sigmoid().square().mean(), gate.logit)
    trained = torch.autograd.grad(losses["loss_budget"], gate.logit)
    torch.testing.assert_close(trained, expected)


@pytest.mark.parametrize("place", ["plugin", "wrapper", "neck", "head"])
def test_budget_of_a_hard_mask(place: str) -> None:
    """It falls, and with it the share of positions that are kept comes to what was asked for."""
    torch.manual_seed(0)
    cfg = {"type": "HardAttention", "rho": 0.2, "residual": True, "budget": 1.0}
    model = revert_sync_batchnorm(model_with(place, cfg, 8)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    budgets = []
    for _ in range(25):
        losses = model.loss(*batch())
        budget = losses["loss_budget"]
        assert 0 < losses["kept"] <= 1
        optimizer.zero_grad()
        budget.backward()
        optimizer.step()
        budgets.append(budget.item())
    assert sum(budgets[-5:]) < 0.2 * sum(budgets[:5])


@pytest.mark.parametrize("depth", [18, 50])
def test_checkpointing_changes_no_gradient(depth: int) -> None:
    gradients, runs = [], []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = {**resnet(depth, 8, with_cp=with_cp), "plugins": [plugin(Thrifty)]}
        model = revert_sync_batchnorm(segmentor(backbone, fcn(8 if depth == 18 else 32))).train()
        taken: list[Any] = []
        for block in model.backbone.layer1:
            block.thrifty.register_forward_pre_hook(partial(_note, taken))
        losses = model.loss(*batch())
        assert len(taken) == len(model.backbone.layer1)
        total(losses).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        runs.append(len(taken))
    assert runs == [len(model.backbone.layer1), 2 * len(model.backbone.layer1)]
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def _note(taken: list[Any], *args: Any) -> None:
    taken.append(args)


@pytest.mark.parametrize("kind", ["EncoderDecoder", "CascadeEncoderDecoder"])
def test_without_such_losses_the_segmentor_is_that_of_mmseg(kind: str) -> None:
    config: dict[str, Any] = {"type": kind, "backbone": resnet(norm={"type": "BN"}), "decode_head": fcn(16)}
    config["auxiliary_head"] = fcn(16)
    if kind.startswith("Cascade"):
        config |= {"num_stages": 2, "decode_head": [fcn(16), {**fcn(16), "type": "OCRHead", "ocr_channels": 4}]}
        del config["decode_head"][1]["num_convs"], config["decode_head"][1]["concat_input"]
    ours, theirs = MODELS.build(ConfigDict(config)), MODELS.build(ConfigDict({**config, "type": f"mmseg.{kind}"}))
    assert isinstance(ours, getattr(mmseg.models, kind))
    assert type(ours).__module__.startswith("mmattn.")
    assert type(theirs).__module__.startswith("mmseg.")
    theirs.load_state_dict(ours.state_dict())
    losses, expected = (revert_sync_batchnorm(model).train().loss(*batch()) for model in (ours, theirs))
    assert list(losses) == list(expected)
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=0)
