"""Imports Beam without what it prints where its BigQuery client is missing, which densecast does not use."""

import logging


def _is_useful(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("apitools not found")


def import_beam() -> None:
    """Imports Beam; its warning about a missing BigQuery client is dropped, and the root logger stays as it is.

    The function `logging.warning`, which Beam calls, would otherwise add a handler to the root logger.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addFilter(_is_useful)
    root.addHandler(handler)
    try:
        import apache_beam  # noqa: F401
    finally:
        root.removeHandler(handler)
        root.removeFilter(_is_useful)
