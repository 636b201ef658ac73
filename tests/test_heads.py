"""Heads and plugins at the door: names, scopes, starts."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS

import mmattn.heads
from mmattn.attention import entries
from mmattn.registry import MODELS

HEAD = {"in_channels": 8, "channels": 8, "num_classes": 3}


@pytest.fixture
def scope(request):
    """A default scope for one test."""
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


@pytest.mark.parametrize("scope", ["mmattn"], indirect=True)
def test_ours_win_under_our_scope(scope):
    assert isinstance(MMSEG_MODELS.build({"type": "mmattn.GCHead", **HEAD}), mmattn.heads.GCHead)
    assert isinstance(MODELS.build({"type": "GCHead", **HEAD}), mmattn.heads.GCHead)
    assert not isinstance(MODELS.build({"type": "mmseg.GCHead", **HEAD}), mmattn.heads.GCHead)
    assert type(MODELS.build({"type": "FCNHead", **HEAD})).__module__.startswith("mmseg.")


@pytest.mark.parametrize("scope", ["mmseg"], indirect=True)
def test_mmseg_wins_under_its_scope_and_ours_are_reached_by_prefix(scope):
    assert not isinstance(MMSEG_MODELS.build({"type": "GCHead", **HEAD}), mmattn.heads.GCHead)
    assert isinstance(MMSEG_MODELS.build({"type": "mmattn.GCHead", **HEAD}), mmattn.heads.GCHead)


def test_ann_head_is_another_name():
    assert MODELS.get("ANNHead") is MODELS.get("ANLHead") is mmattn.heads.ANLHead


def test_attention_head_takes_any_mechanism_by_one_line():
    head = MODELS.build({"type": "AttentionHead", "attention": {"type": "Polarized"}, **HEAD}).eval()
    assert head([torch.randn(1, 8, 5, 6)]).shape == (1, 3, 5, 6)


def resnet(plugins: list[dict]) -> torch.nn.Module:
    return MODELS.build(
        {
            "type": "ResNet",
            "depth": 50,
            "base_channels": 4,
            "stem_channels": 4,
            "num_stages": 1,
            "strides": (1,),
            "dilations": (1,),
            "out_indices": (0,),
            "plugins": plugins,
        }
    )


@pytest.mark.parametrize("scope", ["mmattn"], indirect=True)
@pytest.mark.parametrize(
    "entry", [e for e in entries() if "plugin" in e.places and "head" in e.places], ids=lambda e: e.name
)
def test_every_single_input_mechanism_is_a_plugin(scope, entry):
    arguments = {key: value for key, value in entry.example.items() if key != "channels"}
    plugin = {"cfg": {"type": entry.cls.__name__, **arguments}, "stages": (True,), "position": "after_conv3"}
    backbone = resnet([plugin])
    backbone.eval()
    assert backbone(torch.randn(1, 3, 32, 32))[0].shape == (1, 16, 8, 8)
    block = getattr(backbone.layer1[0], entry.name)
    assert {k: v.shape for k, v in block.state_dict().items()} == {
        k: v.shape for k, v in entry.cls(16, **arguments).state_dict().items()
    }


@pytest.mark.parametrize("scope", ["mmattn"], indirect=True)
def test_two_plugins_at_one_position_both_count(scope):
    plugins = [
        {"cfg": {"type": "Polarized", "postfix": f"_{i}"}, "stages": (True,), "position": "after_conv3"} for i in (1, 2)
    ]
    backbone = resnet(plugins)
    backbone.eval()
    for norm in (block.norm3 for block in backbone.layer1):
        norm.weight.data.fill_(1.0)  # zero at the start: the block would hide its plugins
    x = torch.randn(1, 3, 32, 32)
    before = backbone(x)[0]
    for name, parameter in backbone.named_parameters():
        if "polarized_1" in name:
            parameter.data.normal_()
    assert not torch.allclose(backbone(x)[0], before)
