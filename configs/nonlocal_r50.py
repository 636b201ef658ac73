_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/nonlocal_net/nonlocal_r50-d8_512x1024_40k_cityscapes/"
zoo += "nonlocal_r50-d8_512x1024_40k_cityscapes_20200605_210748-c75e81e3.pth"
model = dict(decode_head=dict(type="NLHead", reduction=2, use_scale=True, mode="embedded_gaussian"))
