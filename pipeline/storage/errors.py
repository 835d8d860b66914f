"""Errors of files, the same for every kind of storage."""

from conversion.errors import DensecastError


class StorageError(DensecastError):
    """A file cannot be read, written or listed; `where` names it."""


class MissingFileError(StorageError):
    """A file does not exist."""


class TooLargeError(StorageError):
    """A file holds more bytes than the caller accepts."""


class NotAFileError(StorageError):
    """A folder, a pipe or a device is where a file is needed."""


class AccessError(StorageError):
    """Access to a file is refused; the error tells nothing about its content."""


class UnavailableError(StorageError):
    """A store cannot be used: it does not answer, the bucket does not exist, or the credentials are refused.

    The error tells nothing about the requested file, so it ends the run and does not reject the image.
    """


class OutageError(UnavailableError):
    """A store does not answer, or its answer was cut off; it may answer later."""


INACCESSIBLE = (UnavailableError, AccessError)
"""The errors that tell nothing about the content of a file: they are never damage."""
