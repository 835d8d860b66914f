"""Typed errors of the pipeline; what each attribute holds is documented at `conversion.errors.DensecastError`.

These stop a run, or keep it from starting. What befalls a single image does not: see `pipeline.rejection`.
"""

from conversion.errors import DensecastError


class SourceError(DensecastError):
    """Images cannot be listed: a pattern that matches nothing, an unreadable or contradictory manifest."""


class TableError(DensecastError):
    """A directory is not a densecast table, is one already where a new one was asked for, or is damaged."""


class JobError(DensecastError):
    """A job description is invalid: an unknown field, a value out of range, fields that contradict each other."""


class EngineError(DensecastError):
    """An engine cannot load a model or run it at all; an image that it cannot take is rejected instead."""


class WorkerError(JobError):
    """A worker failed by an error that is not ours; its text is the message."""


class InterruptedRunError(JobError):
    """A run was interrupted from the keyboard."""
