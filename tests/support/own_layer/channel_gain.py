"""A package with a layer of its own: ChannelGain, a factor for each channel with a limit."""

from __future__ import annotations

import dataclasses

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from conversion import ElementwiseLayer, import_tensorflow, own_parameter

# What `protoc` generates from: message GainParameter { optional float limit = 1 [default = 1]; }
_FIELD = descriptor_pb2.FieldDescriptorProto(name="limit", number=1, type=2, label=1, default_value="1")
_FILE = descriptor_pb2.FileDescriptorProto(
    name="channel_gain.proto",
    package="channel_gain",
    syntax="proto2",
    message_type=[descriptor_pb2.DescriptorProto(name="GainParameter", field=[_FIELD])],
)
_MADE = descriptor_pool.DescriptorPool().AddSerializedFile(_FILE.SerializeToString())
GainParameter = message_factory.GetMessageClass(_MADE.message_types_by_name["GainParameter"])


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGain(ElementwiseLayer):
    """x * gain, one learned gain per channel, at most `limit`."""

    limit: float = 1.0

    own_fields = ("gain_param",)

    @classmethod
    def parse(cls, definition):
        """Reads `gain_param`."""
        message = own_parameter(definition, "gain_param", GainParameter())
        layer = cls(definition, getattr(message, "limit"))  # noqa: B009
        if layer.limit <= 0:
            raise layer.invalid(f"limit {layer.limit} is not above 0")
        return layer

    def blob_shapes(self, bottoms):
        """Returns the gains."""
        return [(bottoms[0][1],)]

    def reference(self, bottoms, blobs):
        """Computes the formula."""
        gains = blobs[0].reshape(-1, *[1] * (bottoms[0].ndim - 2))
        return [np.minimum(bottoms[0] * gains, self.limit)]

    def tensorflow(self, bottoms, variables):
        """Computes the formula; rank-4 tensors have their channels last."""
        tf = import_tensorflow()
        return [tf.minimum(bottoms[0] * variables[0], self.limit)]
