"""Typed errors of the catalog and of fetching published weights."""

from conversion.errors import DensecastError


class UnknownModelError(DensecastError):
    """The catalog has no model of that name; the message lists those it has and the closest one."""


class FetchError(DensecastError):
    """Published weights could not be had: no network, a refusing server, a read-only directory, not weights at all."""


class DigestError(FetchError):
    """A file of weights has another SHA-1 than its publisher states; it was kept aside as `<file>.rejected`."""
