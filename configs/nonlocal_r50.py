_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
model = dict(decode_head=dict(type="NLHead", reduction=2, use_scale=True, mode="embedded_gaussian"))
