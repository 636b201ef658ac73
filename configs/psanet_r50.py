_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
zoo = "https://download.openmmlab.com/mmsegmentation/v0.5/psanet/psanet_r50-d8_512x1024_40k_cityscapes/"
zoo += "psanet_r50-d8_512x1024_40k_cityscapes_20200606_103117-99fac37c.pth"
# Point-wise spatial attention, ECCV 2018. The other PSA is polarized_r50.py.
model = dict(
    decode_head=dict(
        type="PSAHead",
        mask_size=(97, 97),
        psa_type="bi-direction",
        compact=False,
        shrink_factor=2,
        normalization_factor=1.0,
        psa_softmax=True,
    )
)
