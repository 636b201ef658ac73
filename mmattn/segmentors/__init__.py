"""Segmentors: mmseg's own, with the losses of the mechanisms inside."""

from mmattn.segmentors.encoder_decoder import CascadeEncoderDecoder, EncoderDecoder

__all__ = ["CascadeEncoderDecoder", "EncoderDecoder"]
