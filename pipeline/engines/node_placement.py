"""Which nodes of a graph compute elsewhere than on the device that was asked for.

ONNX Runtime places what computes sizes (all that depends on nothing but the outputs of Shape) on the CPU by design: the
operations on a GPU take their sizes from there. Its setting `session.disable_cpu_ep_fallback` refuses those nodes too:
it would not load a graph for images of any size. So the placement is read after loading, and judged here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
"""The setting of a session that lets it tell its placement, from ONNX Runtime 1.24 on."""
_NAMED = 8


class PlacedNode(NamedTuple):
    """A node and the execution provider that ONNX Runtime has assigned it to.

    Attributes:
        provider: The execution provider, as `CPUExecutionProvider`.
        name: The node's name; nodes that ONNX Runtime has made itself have names of its own.
        operation: The operation, as `Conv`.
    """

    provider: str
    name: str
    operation: str


def placement(session: Any) -> list[PlacedNode]:
    """Returns all nodes of a session that was made with the setting `RECORD_PLACEMENT`."""
    return [
        PlacedNode(part.ep_name, node.name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def misplaced(placed: Iterable[PlacedNode], provider: str, sizes: Collection[str]) -> list[PlacedNode]:
    """Returns the nodes that are not on a provider, without those that compute nothing but sizes.

    A Shape itself must be there: elsewhere the whole value would be copied to know its size.

    Args:
        placed: All nodes of a session.
        provider: Where they should be.
        sizes: The names of the nodes that compute sizes, see `InferenceGraph.size_nodes`.
    """
    return [node for node in placed if node.provider != provider and node.name not in sizes]


def in_words(nodes: Iterable[PlacedNode]) -> str:
    """Returns the nodes by operation and name; the first of many.

    >>> in_words([PlacedNode("CPUExecutionProvider", "pool1/MaxPool", "MaxPool")])
    'MaxPool pool1/MaxPool'
    """
    names = [f"{node.operation} {node.name}".strip() for node in nodes]
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])
