_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/gcnet/gcnet_r50-d8_512x1024_40k_cityscapes/"
zoo += "gcnet_r50-d8_512x1024_40k_cityscapes_20200618_074436-4b0fd17b.pth"
model = dict(decode_head=dict(type="GCHead", ratio=1 / 4, pooling_type="att", fusion_types=("channel_add",)))
