_base_ = ["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]
# Polarized self-attention, arXiv 2107.00782. The other PSA is psanet_r50.py.
model = dict(decode_head=dict(type="PolarizedHead"))
