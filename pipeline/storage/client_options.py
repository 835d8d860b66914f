"""How each library is told to open an object store: the same keys, endpoint, patience and retries for all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from pipeline.storage.options import CredentialsError, StorageOptions, StoreKind, in_seconds, is_true, store_of

_SECONDS: Mapping[str, float] = {"timeout": 60.0, "connect_timeout": 5.0, "retry_timeout": 30.0}
"""An outage of `retry_timeout` is waited out; what is answered with a refusal is not asked again."""

_FIRST_WAIT_S, _LONGEST_WAIT_S, _WAIT_FACTOR = 0.1, 2.0, 2
_ENDPOINTS = {"aws": "aws_endpoint_url", "google": "google_base_url", "azure": "azure_storage_endpoint"}


class Settings(NamedTuple):
    """What holds for an address, here and now.

    Attributes:
        store: The kind of store.
        options: Its options, by name; durations and `aws_allow_http` are left out.
        seconds: Durations, by name.
        http: Whether plain HTTP is allowed.
    """

    store: StoreKind
    options: dict[str, str]
    seconds: dict[str, float]
    http: bool


def settings(address: str, given: StorageOptions) -> Settings:
    """Returns what holds for an address in an object store.

    Raises:
        CredentialsError: It is in none, the environment contradicts the options, or as `StorageOptions.resolved`.
    """
    store = store_of(address)
    if store is None:
        raise CredentialsError("is in no object store", where=address, remedy="write s3://, gs:// or abfs://")
    found = given.resolved(store)
    seconds = {n: in_seconds(found.pop(n)) if n in found else default for n, default in _SECONDS.items()}
    theirs = os.environ.get("AWS_ENDPOINT_URL_S3")
    if store == "aws" and theirs and found.get("aws_endpoint_url") != theirs:
        # The libraries take it before anything that they are told (obstore 0.12, deltalake 1.6).
        raise CredentialsError(
            "AWS_ENDPOINT_URL_S3 in the environment is another endpoint than the one that is given",
            where="storage option aws_endpoint_url",
            remedy="unset AWS_ENDPOINT_URL_S3, or leave the option out",
        )
    allowed = is_true(found.pop("aws_allow_http", "")) or is_true(found.get("azure_storage_use_emulator", ""))
    # Plain HTTP is used where an endpoint says http://, too: who writes that means it.
    http = allowed or found.get(_ENDPOINTS[store], "").lower().startswith("http://")
    return Settings(store, found, seconds, http)


def object_store_arguments(address: str, given: StorageOptions) -> dict[str, Any]:
    """Returns what `obstore.store.from_url` takes besides the address.

    Raises:
        CredentialsError: As `settings`.
    """
    _, options, seconds, http = settings(address, given)
    return {
        "config": options,
        "client_options": {
            "allow_http": http,
            "timeout": timedelta(seconds=seconds["timeout"]),
            "connect_timeout": timedelta(seconds=seconds["connect_timeout"]),
        },
        "retry_config": {
            "max_retries": _retries(seconds["retry_timeout"]),
            "retry_timeout": timedelta(seconds=seconds["retry_timeout"]),
            "backoff": {
                "init_backoff": timedelta(seconds=_FIRST_WAIT_S),
                "max_backoff": timedelta(seconds=_LONGEST_WAIT_S),
                "base": _WAIT_FACTOR,
            },
        },
    }


def delta_options(address: str, given: StorageOptions) -> dict[str, str] | None:
    """Returns what deltalake takes as `storage_options`; None where the address is in no object store.

    Raises:
        CredentialsError: As `settings`.
    """
    if store_of(address) is None:
        return None
    _, options, seconds, http = settings(address, given)
    return {
        **options,
        "allow_http": str(http).lower(),
        **{name: f"{value * 1000:.0f}ms" for name, value in seconds.items()},
        "max_retries": str(_retries(seconds["retry_timeout"])),
        "backoff_config.init_backoff": f"{_FIRST_WAIT_S * 1000:.0f}ms",
        "backoff_config.max_backoff": f"{_LONGEST_WAIT_S * 1000:.0f}ms",
        "backoff_config.base": str(_WAIT_FACTOR),
    }


def _retries(seconds: float) -> int:
    """More than fit into the time, which is what decides; none where it is 0."""
    return 10_000 if seconds else 0
