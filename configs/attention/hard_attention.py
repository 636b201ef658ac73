# A mechanism with a loss of its own: in the head, a binary mask that is to keep half of the positions. EncoderDecoder
# collects `loss_budget` from mechanisms in any place, logs it and trains on it.
_base_ = ["../_base_/r50.py", "../_base_/cityscapes.py", "../_base_/schedule_40k.py", "../_base_/default_runtime.py"]
model = dict(
    decode_head=dict(
        type="AttentionHead",
        attention=dict(type="HardAttention", form="bernoulli", residual=True, rho=0.5, budget=1.0),
    )
)
