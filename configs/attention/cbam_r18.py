# In the blocks of a shallow backbone: CBAM in all but the first stage of ResNet-18, whose blocks have two convolutions.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    pretrained="open-mmlab://resnet18_v1c",
    backbone=dict(
        depth=18,
        plugins=[dict(cfg=dict(type="CBAM"), stages=(False, True, True, True), position="after_conv2")],
    ),
    decode_head=dict(type="FCNHead", num_convs=2, concat_input=True, in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
