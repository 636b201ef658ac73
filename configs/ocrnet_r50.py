_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
# The auxiliary head comes first of two: its coarse prediction makes the regions that the second one attends to.
model = dict(
    type="CascadeEncoderDecoder",
    num_stages=2,
    auxiliary_head=None,
    decode_head=[
        _base_.model.auxiliary_head,
        dict(type="OCRHead", ocr_channels=256, **_base_.model.decode_head),
    ],
)
