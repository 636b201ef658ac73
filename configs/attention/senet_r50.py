# In the blocks of a backbone: squeeze-and-excitation before the sum of every block of ResNet-50, under an FCN head.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type="SqueezeExcite"), position="after_conv3")]),
    decode_head=dict(type="FCNHead", num_convs=2, concat_input=True),
)
