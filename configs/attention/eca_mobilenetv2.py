# After modules of any backbone: efficient channel attention after four stages of MobileNetV2, which has no plugins.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    pretrained="mmcls://mobilenet_v2",
    backbone=dict(
        _delete_=True,
        type="AttentionBackbone",
        backbone=dict(
            type="MobileNetV2",
            strides=(1, 2, 2, 1, 1, 1, 1),
            dilations=(1, 1, 1, 2, 2, 4, 4),
            out_indices=(1, 2, 4, 6),
            norm_cfg=dict(type="SyncBN", requires_grad=True),
        ),
        attention=[dict(cfg=dict(type="EfficientChannel"), after=["layer2", "layer3", "layer5", "layer7"])],
    ),
    decode_head=dict(type="FCNHead", num_convs=2, concat_input=True, in_channels=320),
    auxiliary_head=dict(in_channels=96),
)
