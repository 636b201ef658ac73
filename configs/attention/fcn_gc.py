# After the backbone's last stage, under the FCN head of fcn_r50.py: global context.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    neck=dict(
        type="AttentionNeck", in_channels=[256, 512, 1024, 2048], levels=[3], attention=dict(type="GlobalContext")
    ),
    decode_head=dict(type="FCNHead", num_convs=2, concat_input=True),
)
