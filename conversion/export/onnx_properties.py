"""What an ONNX file says about itself in `metadata_props`: texts, and JSON where a value has parts."""

from __future__ import annotations

import json

from conversion.export.metadata import ModelMetadata, VerificationMetadata
from conversion.export.onnx_model import ImageGraph

VERIFICATION = "densecast.verification"


def properties(metadata: ModelMetadata, graph: ImageGraph, kind: str) -> dict[str, str]:
    """Returns the properties of a graph, without its verification.

    Args:
        metadata: The model's.
        graph: The graph.
        kind: "dense" or "classifier".
    """
    preprocessing, network = metadata.preprocessing, graph.network
    axes = "NCHW" if graph.raw_input else "NHWC"
    given: dict[str, object] = {"name": graph.input_name, "layout": axes}
    if graph.raw_input:
        given |= {"dtype": "float32", "channels": preprocessing.channel_order, "preprocessed": True}
    else:
        given |= {"dtype": "uint8", "channels": "rgb", "preprocessed": False}
    outputs = {
        name: {"blob": blob, "dtype": "float32", "layout": axes if len(network.shapes[blob]) == 4 else "caffe"}
        for name, blob in graph.outputs.items()
    }
    result = {
        "name": metadata.name,
        "version": metadata.converter_version,
        "digest": metadata.digest,
        "kind": kind,
        "precision": "float16" if graph.fp16 else "float32",
        "input": json.dumps(given),
        "outputs": json.dumps(outputs),
        "preprocessing": preprocessing.model_dump_json(),
        "labels": json.dumps(metadata.labels),
    }
    if kind == "dense":
        result["geometry"] = metadata.model_dump_json(include={"geometry", "alignment"})
    if metadata.random_weights:
        result["random_weights"] = "true"
    return {f"densecast.{key}": value for key, value in result.items()}


def verified(result: VerificationMetadata) -> dict[str, str]:
    """Returns the property that holds the result of a verification."""
    return {VERIFICATION: result.model_dump_json()}
