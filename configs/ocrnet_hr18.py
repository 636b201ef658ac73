_base_ = ["_base_/hr18.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/ocrnet/ocrnet_hr18_512x1024_40k_cityscapes/"
zoo += "ocrnet_hr18_512x1024_40k_cityscapes_20200601_033320-401c5bdd.pth"
model = dict(
    type="CascadeEncoderDecoder",
    num_stages=2,
    decode_head=[
        dict(
            type="FCNHead",
            channels=270,
            kernel_size=1,
            num_convs=1,
            concat_input=False,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
            **_base_.head,
        ),
        dict(
            type="OCRHead",
            channels=512,
            ocr_channels=256,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            **_base_.head,
        ),
    ],
)
