"""roiseg: instance masks from a frozen ONNX detector, by a small decoder trained on its features."""

__version__ = "0.1.0"
