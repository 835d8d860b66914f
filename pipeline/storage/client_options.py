"""Storage options in the form that each client library takes: the same keys, endpoint, timeouts and retries for all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypedDict, cast

from pipeline.storage.options import CredentialsError, StorageOptions, StoreKind, in_seconds, is_true, store_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_SECONDS: Mapping[str, float] = {"timeout": 60.0, "connect_timeout": 5.0, "retry_timeout": 30.0}
"""Default durations. Clients wait out an outage of `retry_timeout`; they do not repeat a request that was refused."""

FIRST_WAIT_S, LONGEST_WAIT_S, _WAIT_FACTOR = 0.1, 2.0, 2
"""The waits between attempts in an outage grow from the first to the second."""

_ENDPOINTS = {"aws": "aws_endpoint_url", "google": "google_base_url", "azure": "azure_storage_endpoint"}


class Settings(NamedTuple):
    """The settings for one address, resolved in this process.

    Attributes:
        store: The kind of store.
        options: The options of the store, by name, without durations and `aws_allow_http`.
        seconds: The durations in seconds, by name.
        http: Whether plain HTTP is allowed.
    """

    store: StoreKind
    options: dict[str, str]
    seconds: dict[str, float]
    http: bool


class ObjectStoreArguments(TypedDict):
    """The keyword arguments of `obstore.store.from_url`."""

    config: S3Config  # or the same of Google or Azure: from_url chooses by the address
    client_options: ClientConfig
    retry_config: RetryConfig


def settings(address: str, given: StorageOptions) -> Settings:
    """Returns the settings for an address in an object store.

    Raises:
        CredentialsError: The address is not in an object store, or the environment contradicts the options; also as
            `StorageOptions.resolved`.
    """
    store = store_of(address)
    if store is None:
        raise CredentialsError("is not in an object store", where=address, remedy="write s3://, gs:// or abfs://")
    options = given.resolved(store)
    seconds = {
        name: in_seconds(options.pop(name)) if name in options else default for name, default in _SECONDS.items()
    }
    environment_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    if store == "aws" and environment_endpoint and options.get("aws_endpoint_url") != environment_endpoint:
        # The libraries prefer this variable to the option they receive (obstore 0.12, deltalake 1.6).
        raise CredentialsError(
            "AWS_ENDPOINT_URL_S3 in the environment differs from the endpoint in the options",
            where="storage option aws_endpoint_url",
            remedy="unset AWS_ENDPOINT_URL_S3, or leave the option out",
        )
    allowed = is_true(options.pop("aws_allow_http", "")) or is_true(options.get("azure_storage_use_emulator", ""))
    # An endpoint that begins with http:// allows plain HTTP as well: the user wrote it on purpose.
    http = allowed or options.get(_ENDPOINTS[store], "").lower().startswith("http://")
    return Settings(store, options, seconds, http)


def object_store_arguments(address: str, given: StorageOptions) -> ObjectStoreArguments:
    """Returns the arguments that `obstore.store.from_url` takes besides the address.

    Raises:
        CredentialsError: As `settings`.
    """
    _, options, seconds, http = settings(address, given)
    return {
        "config": cast("S3Config", options),
        "client_options": {
            "allow_http": http,
            "timeout": timedelta(seconds=seconds["timeout"]),
            "connect_timeout": timedelta(seconds=seconds["connect_timeout"]),
        },
        "retry_config": {
            "max_retries": _retries(seconds["retry_timeout"]),
            "retry_timeout": timedelta(seconds=seconds["retry_timeout"]),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_WAIT_S),
                "max_backoff": timedelta(seconds=LONGEST_WAIT_S),
                "base": _WAIT_FACTOR,
            },
        },
    }


def delta_options(address: str, given: StorageOptions) -> dict[str, str] | None:
    """Returns the `storage_options` for deltalake; None where the address is not in an object store.

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
        "backoff_config.init_backoff": f"{FIRST_WAIT_S * 1000:.0f}ms",
        "backoff_config.max_backoff": f"{LONGEST_WAIT_S * 1000:.0f}ms",
        "backoff_config.base": str(_WAIT_FACTOR),
    }


def _retries(seconds: float) -> int:
    """Returns the number of retries: more than fit into `seconds`, so that the time decides; 0 for 0 seconds."""
    return 10_000 if seconds else 0
