"""Arrow's own file systems of object stores, in C++: what Parquet files are read by, few columns at a time.

deltalake's and obstore's would be written in Python, and threads of Arrow still call those while the interpreter shuts
down: of the processes that had read a table so, one in six to one in two ended in an abort.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from pipeline.storage.client_options import Settings, settings
from pipeline.storage.object_store import split
from pipeline.storage.options import StorageOptions, is_true

# The first waits are of 50 ms, each is twice as long as the one before: so an outage of `retry_timeout` is survived.
_FIRST_WAIT_S = 0.05
_MOST_ATTEMPTS = 12

_made: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def arrow_store(root: str, options: StorageOptions) -> Any:
    """Returns Arrow's file system of a folder in an object store; None where it cannot have the given credentials.

    Raises:
        CredentialsError: As `client_options.settings`.
    """
    bucket, key = split(root)
    found = settings(root, options)
    account = _account(bucket, found)
    with _lock:
        known = (account, repr(found))
        if known not in _made:
            _made[known] = {"aws": _s3, "google": _google, "azure": _azure}[found.store](found, account)
        filesystem = _made[known]
    name = bucket.partition("://")[2].partition("@")[0]
    return None if filesystem is None else pafs.SubTreeFileSystem(f"{name}/{key}" if key else name, filesystem)


def _s3(found: Settings, _: str) -> Any:
    endpoint = urlsplit(found.options.get("aws_endpoint_url", ""))
    anonymous = is_true(found.options.get("aws_skip_signature", ""))
    return pafs.S3FileSystem(
        access_key=None if anonymous else found.options.get("aws_access_key_id"),
        secret_key=None if anonymous else found.options.get("aws_secret_access_key"),
        session_token=None if anonymous else found.options.get("aws_session_token"),
        anonymous=anonymous,
        region=found.options.get("aws_region", "us-east-1"),
        scheme="http" if endpoint.scheme == "http" else "https",
        endpoint_override=endpoint.netloc or None,
        force_virtual_addressing=is_true(found.options.get("aws_virtual_hosted_style_request", "")),
        connect_timeout=found.seconds["connect_timeout"],
        request_timeout=found.seconds["timeout"],
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_attempts(found.seconds["retry_timeout"])),
    )


def _google(found: Settings, _: str) -> Any:
    if "google_service_account" in found.options or "google_service_account_key" in found.options:
        return None  # it takes application default credentials only
    endpoint = urlsplit(found.options.get("google_base_url", ""))
    return pafs.GcsFileSystem(
        anonymous=is_true(found.options.get("google_skip_signature", "")),
        scheme="http" if endpoint.scheme == "http" else "https",
        endpoint_override=endpoint.netloc or None,
        retry_time_limit=timedelta(seconds=max(found.seconds["retry_timeout"], 1.0)),
    )


def _azure(found: Settings, account: str) -> Any:
    options = found.options
    endpoint = urlsplit(options.get("azure_storage_endpoint", ""))
    parts = (("authority", endpoint.netloc), ("scheme", endpoint.scheme))
    place: dict[str, Any] = {
        f"{service}_storage_{part}": value for service in ("blob", "dfs") for part, value in parts if value
    }
    names = ("account_key", "sas_token", "client_id", "client_secret", "tenant_id")
    keys: dict[str, Any] = {
        name: options[f"azure_storage_{name}"] for name in names if f"azure_storage_{name}" in options
    }
    return pafs.AzureFileSystem(account, **keys, **place)


def _account(bucket: str, found: Settings) -> str:
    """The account of an address in Azure: in its host, or in the options."""
    host = bucket.partition("@")[2]
    return host.partition(".")[0] if host else found.options.get("azure_storage_account_name", "")


def _attempts(seconds: float) -> int:
    """How many attempts take so many seconds."""
    attempts, waited = 1, 0.0
    while waited < seconds and attempts < _MOST_ATTEMPTS:
        waited += _FIRST_WAIT_S * 2**attempts
        attempts += 1
    return attempts
