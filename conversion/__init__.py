"""Caffe in, SavedModel out: reading, casting, evaluating and converting Caffe networks."""

from conversion.casting import cast
from conversion.converting import convert
from conversion.errors import DensecastError
from conversion.evaluation import evaluate
from conversion.geometry import AxisGeometry, ReceptiveField, receptive_field
from conversion.limits import Limits
from conversion.metadata import ModelMetadata, read_metadata
from conversion.module import to_tensorflow
from conversion.network import Network, load_network
from conversion.preprocessing import Preprocessing, read_labels
from conversion.striding import finer, multiply_adds_by_stride
from conversion.surgery import save, transplant

__all__ = [
    "AxisGeometry",
    "DensecastError",
    "Limits",
    "ModelMetadata",
    "Network",
    "Preprocessing",
    "ReceptiveField",
    "cast",
    "convert",
    "evaluate",
    "finer",
    "load_network",
    "multiply_adds_by_stride",
    "read_labels",
    "read_metadata",
    "receptive_field",
    "save",
    "to_tensorflow",
    "transplant",
]
