"""Arrow's C++ file systems for object stores, which read Parquet files a few columns at a time.

deltalake and obstore offer file systems for Arrow that call into Python. Arrow's threads still call them while the
interpreter shuts down: between one in six and one in two of the processes that read a table that way aborted.
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

# The first wait takes 50 ms, each further one twice as long. The attempts together outlast `retry_timeout`.
_FIRST_WAIT_S = 0.05
_MOST_ATTEMPTS = 12

_filesystems: dict[tuple[str, str], pafs.FileSystem | None] = {}
_lock = threading.Lock()


def arrow_store(root: str, options: StorageOptions) -> pafs.FileSystem | None:
    """Returns Arrow's file system for a folder in an object store; None where it does not take the credentials.

    Raises:
        CredentialsError: As `client_options.settings`.
    """
    bucket, key = split(root)
    resolved = settings(root, options)
    account = _account(bucket, resolved)
    key_of_settings = (account, repr(resolved))
    with _lock:
        if key_of_settings not in _filesystems:
            create = {"aws": _s3, "google": _google, "azure": _azure}[resolved.store]
            _filesystems[key_of_settings] = create(resolved, account)
        filesystem = _filesystems[key_of_settings]
    name = bucket.partition("://")[2].partition("@")[0]
    return None if filesystem is None else pafs.SubTreeFileSystem(f"{name}/{key}" if key else name, filesystem)


def _s3(resolved: Settings, _: str) -> pafs.FileSystem | None:
    options, seconds = resolved.options, resolved.seconds
    endpoint = urlsplit(options.get("aws_endpoint_url", ""))
    anonymous = is_true(options.get("aws_skip_signature", ""))
    return pafs.S3FileSystem(
        access_key=None if anonymous else options.get("aws_access_key_id"),
        secret_key=None if anonymous else options.get("aws_secret_access_key"),
        session_token=None if anonymous else options.get("aws_session_token"),
        anonymous=anonymous,
        region=options.get("aws_region", "us-east-1"),
        scheme="http" if endpoint.scheme == "http" else "https",
        endpoint_override=endpoint.netloc or None,
        force_virtual_addressing=is_true(options.get("aws_virtual_hosted_style_request", "")),
        connect_timeout=seconds["connect_timeout"],
        request_timeout=seconds["timeout"],
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_attempts(seconds["retry_timeout"])),
    )


def _google(resolved: Settings, _: str) -> pafs.FileSystem | None:
    options = resolved.options
    if "google_service_account" in options or "google_service_account_key" in options:
        return None  # it takes application default credentials only
    endpoint = urlsplit(options.get("google_base_url", ""))
    return pafs.GcsFileSystem(
        anonymous=is_true(options.get("google_skip_signature", "")),
        scheme=endpoint.scheme or "https",
        endpoint_override=endpoint.netloc or None,
        retry_time_limit=timedelta(seconds=max(resolved.seconds["retry_timeout"], 1.0)),
    )


def _azure(resolved: Settings, account: str) -> pafs.FileSystem | None:
    options = resolved.options
    endpoint = urlsplit(options.get("azure_storage_endpoint", ""))
    parts = (("authority", endpoint.netloc), ("scheme", endpoint.scheme))
    location = {f"{service}_storage_{part}": value for service in ("blob", "dfs") for part, value in parts if value}
    names = ("account_key", "sas_token", "client_id", "client_secret", "tenant_id")
    keys = {name: options[f"azure_storage_{name}"] for name in names if f"azure_storage_{name}" in options}
    settings: dict[str, Any] = {**keys, **location}  # the stubs take only literal schemes
    return pafs.AzureFileSystem(account, **settings)


def _account(bucket: str, resolved: Settings) -> str:
    """Returns the account of an address in Azure, from its host or from the options."""
    host = bucket.partition("@")[2]
    return host.partition(".")[0] if host else resolved.options.get("azure_storage_account_name", "")


def _attempts(seconds: float) -> int:
    """Returns how many attempts it takes to wait for `seconds`, up to `_MOST_ATTEMPTS`."""
    attempts, waited = 1, 0.0
    while waited < seconds and attempts < _MOST_ATTEMPTS:
        waited += _FIRST_WAIT_S * 2**attempts
        attempts += 1
    return attempts
