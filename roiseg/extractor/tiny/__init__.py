"""The embedded extractor: a tiny person detector, its pre-training and its export to ONNX."""

from roiseg.extractor.tiny.export import export_onnx
from roiseg.extractor.tiny.network import IMAGE_SIZE, STRIDE, TinyPersonNet
from roiseg.extractor.tiny.pretrain import Pretraining, decode_rows, pretrain
from roiseg.extractor.tiny.targets import Pictures

__all__ = [
    "IMAGE_SIZE",
    "STRIDE",
    "Pictures",
    "Pretraining",
    "TinyPersonNet",
    "decode_rows",
    "export_onnx",
    "pretrain",
]
