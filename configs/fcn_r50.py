_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/fcn/fcn_r50-d8_512x1024_40k_cityscapes/"
zoo += "fcn_r50-d8_512x1024_40k_cityscapes_20200604_192608-efe53f0d.pth"
# No attention: the floor to compare with.
model = dict(decode_head=dict(type="FCNHead", num_convs=2, concat_input=True))
