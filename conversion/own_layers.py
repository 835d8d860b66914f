"""Layers of other packages: the entry points of the group `densecast.layers`.

An entry point has the name of a layer type, as it stands in definitions, and its value is a subclass of
`conversion.Layer`. The installed packages are looked at only when a definition has a type or a field that densecast
does not know; a package is imported only when its type is there.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from conversion.errors import ExtensionError

GROUP = "densecast.layers"


class OwnLayer(NamedTuple):
    """An entry point.

    Attributes:
        caffe_type: Its name: the layer type.
        package: The distribution that it is of, with its version: "mylayers 1.2".
        entry: The entry point itself.
    """

    caffe_type: str
    package: str
    entry: importlib.metadata.EntryPoint

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"package {self.package}: entry point {self.caffe_type!r} of {GROUP}"

    def load(self) -> object:
        """Returns what the entry point names; raises ExtensionError if it cannot be imported."""
        try:
            return self.entry.load()
        except Exception as error:  # another package's code may fail in any way
            raise ExtensionError(
                f"{self.entry.value} cannot be imported: {type(error).__name__}: {error}",
                where=self.where,
                remedy="repair the package, or remove it",
            ) from error


@functools.cache
def own_layers() -> Mapping[str, OwnLayer]:
    """Returns the entry points of all installed packages, by layer type.

    Raises:
        ExtensionError: Two packages have one type.
    """
    found: dict[str, OwnLayer] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
        layer = OwnLayer(entry.name, package, entry)
        other = found.setdefault(entry.name, layer)
        if other.entry.value != entry.value or other.package != package:
            raise ExtensionError(
                f"two packages have the layer type {entry.name!r}: {other.package} and {package}",
                where=f"entry points of {GROUP}",
                why="a definition would have two meanings",
                remedy="remove one of the packages",
            )
    return found


def own_fields(wanted: Iterable[str]) -> dict[str, str]:
    """Returns the layer type of each of these fields that a layer of another package declares (`own_fields`).

    Raises:
        ExtensionError: An entry point cannot be imported, or two types have one field.
    """
    names, owners = set(wanted), dict[str, str]()
    for layer in own_layers().values():
        for name in names & set(getattr(layer.load(), "own_fields", ())):
            if name in owners:
                raise ExtensionError(
                    f"two layer types have the field {name!r}: {owners[name]!r} and {layer.caffe_type!r}",
                    where=layer.where,
                    remedy="remove one of the packages",
                )
            owners[name] = layer.caffe_type
    return owners
