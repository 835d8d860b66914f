"""What can be wrong with a file, wherever it is."""

from conversion.errors import DensecastError


class StorageError(DensecastError):
    """A file cannot be read, written or listed; `where` names it."""


class MissingFileError(StorageError):
    """There is no file at a path."""


class TooLargeError(StorageError):
    """A file holds more bytes than the caller is willing to read."""


class NotAFileError(StorageError):
    """A folder, a pipe or a device is where a file is needed."""


class UnavailableError(StorageError):
    """A store cannot be used at all: it does not answer, has no such bucket, or refuses the credentials.

    It says nothing of the file that was asked for, so no image is rejected for it: the run ends instead.
    """
