"""Typed errors of the catalog and of fetching published weights."""

from conversion.errors import DensecastError


class UnknownModelError(DensecastError):
    """The catalog has no model of that name; the message lists its models and the closest name."""


class FetchError(DensecastError):
    """Published weights could not be fetched: no network, a refusing server, a read-only directory, wrong content."""


class DigestError(FetchError):
    """A file of weights has another digest than its publisher states, or than the first download had.

    It was kept as `<file>.rejected`.
    """
