# CamVid on an ordinary machine: MobileNetV2 from ImageNet weights, half-size crops, a schedule of 1500 iterations.
# The last 15 % of each training sequence are held out to watch; docs/camvid.md says how their lists are made.
_base_ = ["camvid.py", "mobilenetv2.py"]
crop_size = (240, 320)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(ann_file="splits/fit.txt", pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        ann_file="splits/holdout.txt", data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train")
    ),
)
# rare classes weigh more: one over the square root of their share of the pixels that are trained on
loss = dict(class_weight=[0.88, 0.75, 3.72, 0.64, 1.75, 1.18, 3.40, 3.57, 1.46, 4.96, 7.69])
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="data/mobilenet_v2_imagenet.pth")),
    decode_head=dict(channels=256, loss_decode=loss),
    auxiliary_head=dict(channels=64, loss_decode=loss),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.01),
    # Adam moves the queries and keys of an attention as fast as all else, and their softmax saturates; its gamma starts
    # at 0 and has little time
    paramwise_cfg=dict(
        custom_keys=dict(query_=dict(lr_mult=0.1), key_=dict(lr_mult=0.1), gamma=dict(lr_mult=10.0)),
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=50, end=1500, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1500, val_interval=200)
del loss
