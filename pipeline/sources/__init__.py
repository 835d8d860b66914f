"""Where images come from: folders, files, patterns and manifests, as references that are cheap to shuffle."""

from pipeline.sources.beam import ListImages
from pipeline.sources.globs import match
from pipeline.sources.manifest import read_manifest
from pipeline.sources.reference import ImageReference

__all__ = ["ImageReference", "ListImages", "match", "read_manifest"]
