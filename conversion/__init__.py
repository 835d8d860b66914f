"""Caffe in, SavedModel out: reading, casting, evaluating and converting Caffe networks."""

from conversion.casting import cast
from conversion.converting import convert
from conversion.errors import DensecastError
from conversion.evaluation import evaluate
from conversion.geometry import AxisGeometry, ReceptiveField, receptive_field
from conversion.metadata import ModelMetadata, read_metadata
from conversion.module import to_tensorflow
from conversion.network import Network, load_network
from conversion.preprocessing import Preprocessing, read_labels
from conversion.surgery import save

__all__ = [
    "AxisGeometry",
    "DensecastError",
    "ModelMetadata",
    "Network",
    "Preprocessing",
    "ReceptiveField",
    "cast",
    "convert",
    "evaluate",
    "load_network",
    "read_labels",
    "read_metadata",
    "receptive_field",
    "save",
    "to_tensorflow",
]
