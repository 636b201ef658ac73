_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/danet/danet_r50-d8_512x1024_40k_cityscapes/"
zoo += "danet_r50-d8_512x1024_40k_cityscapes_20200605_191324-c0dbfa5f.pth"
model = dict(decode_head=dict(type="DAHead", pam_channels=64))
