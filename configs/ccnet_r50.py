_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/ccnet/ccnet_r50-d8_512x1024_40k_cityscapes/"
zoo += "ccnet_r50-d8_512x1024_40k_cityscapes_20200616_142517-4123f401.pth"
model = dict(decode_head=dict(type="CCHead", recurrence=2))
