_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
# No attention: the floor to compare with.
model = dict(decode_head=dict(type="FCNHead", num_convs=2, concat_input=True))
