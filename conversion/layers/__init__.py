"""Caffe's layers: importing the package registers them all."""

from conversion.layers import (
    activation,
    arithmetic,
    convolution,
    deconvolution,
    elementary,
    lookup,
    mvn,
    normalization,
    pooling,
    reduction,
    reshaping,
    shaping,
    spp,
)
from conversion.layers.base import Layer, Step, layer_class, register, registered

__all__ = [
    "Layer",
    "Step",
    "activation",
    "arithmetic",
    "convolution",
    "deconvolution",
    "elementary",
    "layer_class",
    "lookup",
    "mvn",
    "normalization",
    "pooling",
    "reduction",
    "register",
    "registered",
    "reshaping",
    "shaping",
    "spp",
]
