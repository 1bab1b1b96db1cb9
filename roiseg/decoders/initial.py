"""Initial weights that published heads start from."""

from __future__ import annotations

from torch import nn

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def msra_init(layer: Layer) -> None:
    """Normal weights for ReLU, variance 2 / outputs (He et al., 2015), zero biases."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    _zero_bias(layer)


def xavier_init(layer: Layer) -> None:
    """Uniform weights, variance 1 / inputs (after Glorot & Bengio, 2010), zero biases."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    _zero_bias(layer)


def predictor_init(layer: Layer) -> None:
    """Normal weights of deviation 0.001, zero biases: the logits start out near 0."""
    nn.init.normal_(layer.weight, std=0.001)
    _zero_bias(layer)


def _zero_bias(layer: Layer) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
