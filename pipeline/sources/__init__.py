"""Sources of images: files, manifests, archives and the web, listed as references that are cheap to shuffle."""

from pipeline.sources.globs import match
from pipeline.sources.listing import Listing
from pipeline.sources.locate import list_images, locate
from pipeline.sources.manifest import read_manifest
from pipeline.sources.permissions import Allowed
from pipeline.sources.reader import MAX_IMAGE_BYTES, Reader, streamed
from pipeline.sources.reference import ImageReference, merge
from pipeline.sources.web import Fetched, WebLimits

__all__ = [
    "MAX_IMAGE_BYTES",
    "Allowed",
    "Fetched",
    "ImageReference",
    "Listing",
    "Reader",
    "WebLimits",
    "list_images",
    "locate",
    "match",
    "merge",
    "read_manifest",
    "streamed",
]
