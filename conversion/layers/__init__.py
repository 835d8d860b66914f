"""Caffe's layers: importing the package registers them all."""

from conversion.layers import (
    activation,
    arithmetic,
    convolution,
    crop,
    deconvolution,
    elementary,
    flatten,
    io,
    lookup,
    mvn,
    normalization,
    pooling,
    reduction,
    slice_concat,
    spp,
)
from conversion.layers.base import Layer, Step, layer_class, register, registered

__all__ = [
    "Layer",
    "Step",
    "activation",
    "arithmetic",
    "convolution",
    "crop",
    "deconvolution",
    "elementary",
    "flatten",
    "io",
    "layer_class",
    "lookup",
    "mvn",
    "normalization",
    "pooling",
    "reduction",
    "register",
    "registered",
    "slice_concat",
    "spp",
]
