"""Caffe's layers: importing the package registers them all."""

from conversion.layers import activation, arithmetic, convolution, normalization, pooling, shaping
from conversion.layers.base import Array, Layer, Shape, Step, layer_class, register, registered

__all__ = [
    "Array",
    "Layer",
    "Shape",
    "Step",
    "activation",
    "arithmetic",
    "convolution",
    "layer_class",
    "normalization",
    "pooling",
    "register",
    "registered",
    "shaping",
]
