# The built-in sample: drawn street scenes of 256x512 in the layout of Cityscapes, and a schedule that two CPU cores
# finish in about six minutes. Laid over any config of this folder when there is no data.
dataset_type = "CityscapesDataset"
data_root = "data/sample/"
crop_size = (256, 256)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

max_iters = 1600
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1.5e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
    # Adam takes as large a step for the small gradients of queries and keys as for all others: their softmax would
    # saturate. Gamma starts at 0 and has little time to open the branch.
    paramwise_cfg=dict(
        custom_keys={name: dict(lr_mult=0.1) for name in ("query_", "key_", "theta", "phi")}
        | {"gamma": dict(lr_mult=10.0)}
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=40, by_epoch=False),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=40, end=max_iters, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# What takes the place of a large backbone; the heads keep their width and are fitted to its channels.
small_backbones = dict(
    ResNet=dict(depth=18, base_channels=32, stem_channels=32, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    ResNeXt=dict(base_channels=32, stem_channels=32, base_width=2, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    HRNet=dict(
        extra=dict(
            stage1=dict(num_blocks=(1,)),
            stage2=dict(num_blocks=(1, 1)),
            stage3=dict(num_modules=1, num_blocks=(1, 1, 1)),
            stage4=dict(num_modules=1, num_blocks=(1, 1, 1, 1)),
        )
    ),
)
# Rare classes weigh more: one over the square root of their share of the pixels.
class_weight = [
    0.43, 1.07, 0.64, 1.39, 2.05, 0.83, 1.68, 1.26, 0.54, 1.59,
    0.69, 1.18, 0.84, 0.92, 0.72, 0.72, 0.77, 0.83, 0.85,
]  # fmt: skip
