"""A decoder in the style of Segment Anything: prompts and the image read each other, tokens become masks."""

from roiseg.decoders.sam.decoder import SamDecoder

__all__ = ["SamDecoder"]
