"""`open_store`: chooses the store for an address."""

from __future__ import annotations

from pipeline.quiet_beam import import_beam
from pipeline.storage.address import check_encoding, is_remote
from pipeline.storage.local import LocalStore
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.options import StorageOptions, default_options, store_of
from pipeline.storage.store import Store


def open_store(address: str, options: StorageOptions | None = None) -> Store:
    """Returns the store that an address is in; does not connect to it.

    Args:
        address: A local path, `file://`, or another `scheme://`.
        options: The options of object stores; None for `default_options`.

    Raises:
        UnavailableError: The address is local, and this process does not read file names as UTF-8.
    """
    if not is_remote(address):
        check_encoding()
        return LocalStore()
    if store_of(address) is not None:
        return ObjectStore(default_options() if options is None else options)
    import_beam()
    from pipeline.storage.beam import BeamStore  # takes seconds to import

    return BeamStore()
