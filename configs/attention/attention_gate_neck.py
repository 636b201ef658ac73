# On the levels of a pyramid: attention gates, by which each level of an FPN is gated by the coarser one.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    backbone=dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)),
    neck=[
        dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4),
        dict(type="GatedNeck", in_channels=[256] * 4, norm_cfg=_base_.norm_cfg, attention=dict(type="AttentionGate")),
    ],
    decode_head=dict(
        type="FPNHead", in_channels=[256] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], channels=128
    ),
    auxiliary_head=None,
)
