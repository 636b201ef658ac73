_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/ann/ann_r50-d8_512x1024_40k_cityscapes/"
zoo += "ann_r50-d8_512x1024_40k_cityscapes_20200605_095211-049fc292.pth"
model = dict(
    decode_head=dict(
        type="ANLHead",
        in_channels=[1024, 2048],
        in_index=[2, 3],
        project_channels=256,
        query_scales=(1,),
        key_pool_scales=(1, 3, 6, 8),
    )
)
