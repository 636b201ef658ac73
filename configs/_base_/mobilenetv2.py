# MobileNetV2 at output stride 8 under any config's heads: `--base mobilenetv2`.
# Starts from random weights; for those of ImageNet: --cfg-options model.pretrained=FILE
model = dict(
    pretrained=None,
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        widen_factor=1.0,
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type="SyncBN", requires_grad=True),
    ),
)
