"""Typed errors of the pipeline; `conversion.errors.DensecastError` documents their attributes.

These errors stop a run or keep it from starting. A problem with a single image does not: see `pipeline.rejection`.
"""

from conversion.errors import DensecastError, UsageError


class SourceError(DensecastError):
    """Images cannot be listed: a pattern matches nothing, or a manifest is unreadable or contradicts itself."""


class NoImagesError(SourceError):
    """An argument names no image: an empty folder, a pattern that matches nothing, or a manifest without rows."""


class TableError(DensecastError):
    """A directory is not a densecast table, is damaged, or is a table although a new one was requested."""


class JobError(DensecastError):
    """A job description is invalid: an unknown field, a value out of range, fields that contradict each other."""


class SettingError(UsageError, JobError):
    """A setting of a job is unknown, out of range, or contradicts another one."""


class EngineError(DensecastError):
    """An engine cannot load or run a model; an image that it cannot process is rejected instead."""


class WorkerError(JobError):
    """A worker failed with an error that is not densecast's; its text is the message."""


class InterruptedRunError(JobError):
    """A run was interrupted from the keyboard."""
