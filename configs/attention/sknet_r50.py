# In the place of a convolution: selective kernels instead of the 3x3 of every block. ResNeXt-50 becomes SKNet-50.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    pretrained="open-mmlab://resnext50_32x4d",
    backbone=dict(
        type="ResNeXt",
        groups=32,
        base_width=4,
        plugins=[dict(cfg=dict(type="SelectiveKernel", groups=32), position="conv2")],
    ),
    decode_head=dict(type="FCNHead", num_convs=2, concat_input=True),
)
