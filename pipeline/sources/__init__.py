"""Where images come from: folders, files, patterns and manifests, as references that are cheap to shuffle."""

from pipeline.sources.beam import ListImages as ListImages
from pipeline.sources.globs import match as match
from pipeline.sources.manifest import read_manifest as read_manifest
from pipeline.sources.reference import ImageReference as ImageReference
