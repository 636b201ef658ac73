# CamVid at half its size, for many models under one small budget: the recipe of camvid_cpu.py on 240 x 180 pixels, all
# training images, 800 iterations. Tested on the sequence that is not trained on; nothing is chosen by a score.
_base_ = ["camvid_cpu.py"]
crop_size = (180, 240)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(240, 180), ratio_range=(0.75, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(240, 180), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(ann_file="splits/train.txt", pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        ann_file="", pipeline=test_pipeline, data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val")
    )
)
test_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=50, end=800, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=800, val_interval=800)
