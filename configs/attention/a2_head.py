# In a decode head: double attention between its two convolutions. Any mechanism of the catalogue goes there so.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(decode_head=dict(type="AttentionHead", attention=dict(type="DoubleAttention")))
