"""One set of options for object stores, for everything that opens them: sources, parts, the Delta log and the lease.

Where an option is not given, each process takes it from its environment (`AWS_ACCESS_KEY_ID`, ...), and otherwise uses
the permissions of the machine or pod it runs on. Options have deltalake's names and travel as an argument, also to
workers. A value `env:NAME` is looked up where it is used, so that the secret stays in the environment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from conversion import nearest
from pipeline.errors import JobError
from pipeline.storage.address import scheme_of
from pipeline.units import parse_duration

StoreKind = Literal["aws", "google", "azure"]

_STORES: dict[str, StoreKind] = {
    **dict.fromkeys(("s3", "s3a"), "aws"),
    "gs": "google",
    **dict.fromkeys(("az", "adl", "azure", "abfs", "abfss"), "azure"),
}
_REFERENCE = "env:"
_HIDDEN = "***"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Option(NamedTuple):
    """The definition of an option.

    Attributes:
        store: The kind of store it applies to; None for all; `web` for images behind HTTP.
        variables: The environment variables that hold its value; the first one that is set counts.
        secret: Whether its value is hidden wherever options are shown.
    """

    store: StoreKind | Literal["web"] | None
    variables: tuple[str, ...] = ()
    secret: bool = False


OPTIONS: dict[str, Option] = {
    "aws_access_key_id": Option("aws", ("AWS_ACCESS_KEY_ID",)),
    "aws_secret_access_key": Option("aws", ("AWS_SECRET_ACCESS_KEY",), secret=True),
    "aws_session_token": Option("aws", ("AWS_SESSION_TOKEN",), secret=True),
    "aws_region": Option("aws", ("AWS_REGION", "AWS_DEFAULT_REGION")),
    "aws_endpoint_url": Option("aws", ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
    "aws_allow_http": Option("aws", ("AWS_ALLOW_HTTP",)),
    "aws_virtual_hosted_style_request": Option("aws", ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST",)),
    "aws_skip_signature": Option("aws", ("AWS_SKIP_SIGNATURE",)),
    "google_service_account": Option("google", ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH")),
    "google_service_account_key": Option("google", ("GOOGLE_SERVICE_ACCOUNT_KEY",), secret=True),
    "google_application_credentials": Option("google", ("GOOGLE_APPLICATION_CREDENTIALS",)),
    "google_base_url": Option("google", ("GOOGLE_BASE_URL",)),
    "google_skip_signature": Option("google", ("GOOGLE_SKIP_SIGNATURE",)),
    "azure_storage_account_name": Option("azure", ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")),
    "azure_storage_account_key": Option(
        "azure", ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY"), secret=True
    ),
    "azure_storage_sas_token": Option("azure", ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"), secret=True),
    "azure_storage_client_id": Option("azure", ("AZURE_STORAGE_CLIENT_ID", "AZURE_CLIENT_ID")),
    "azure_storage_client_secret": Option("azure", ("AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET"), secret=True),
    "azure_storage_tenant_id": Option("azure", ("AZURE_STORAGE_TENANT_ID", "AZURE_TENANT_ID")),
    "azure_storage_endpoint": Option("azure", ("AZURE_STORAGE_ENDPOINT",)),
    "azure_storage_use_emulator": Option("azure", ("AZURE_STORAGE_USE_EMULATOR",)),
    "timeout": Option(None, ("DENSECAST_STORAGE_TIMEOUT",)),
    "connect_timeout": Option(None, ("DENSECAST_STORAGE_CONNECT_TIMEOUT",)),
    "retry_timeout": Option(None, ("DENSECAST_STORAGE_RETRY_TIMEOUT",)),
    "user_agent": Option("web", ("DENSECAST_USER_AGENT",)),
}
"""All options, by name."""

# Keys that belong together: one from the options does not fit another from the environment.
_KEYS = {
    "aws": ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    "azure": (
        *("azure_storage_account_key", "azure_storage_sas_token"),
        *("azure_storage_client_id", "azure_storage_client_secret", "azure_storage_tenant_id"),
    ),
    "google": ("google_service_account", "google_service_account_key", "google_application_credentials"),
}
_FLAGS = {name for name in OPTIONS if name.endswith(("_http", "_request", "_signature", "_emulator"))}
_DURATIONS = {name for name in OPTIONS if name.endswith("timeout")}


class CredentialsError(JobError):
    """An option of the object stores is unknown, malformed, or names an environment variable that is not set."""


def store_of(address: str) -> StoreKind | None:
    """Returns the kind of object store that an address is in; None where it is not in an object store.

    >>> store_of("s3://bucket/a.jpg"), store_of("abfss://c@account.dfs.core.windows.net/a"), store_of("photos/")
    ('aws', 'azure', None)
    """
    return _STORES.get(scheme_of(address) or "")


@dataclass(frozen=True)
class StorageOptions:
    """Options for object stores. The `repr` hides secrets.

    Attributes:
        given: The values, by name of the option; a value may be `env:NAME`.

    Raises:
        CredentialsError: An option does not exist, or a value is malformed.
    """

    given: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            _check(name, value)

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(name, value)}" for name, value in sorted(self.given.items()))
        return f"StorageOptions({', '.join(shown)})"

    def __bool__(self) -> bool:
        return bool(self.given)

    def over(self, others: StorageOptions) -> StorageOptions:
        """Returns these options, completed by those of `others` that are not given here."""
        return StorageOptions({**others.given, **self.given})

    def check_travels(self, runner: str) -> None:
        """Checks that a pipeline does not send a secret to other machines.

        Args:
            runner: The name of the runner, for the message.

        Raises:
            CredentialsError: A secret is given by its value instead of as `env:NAME`.
        """
        literal = [name for name, value in self.given.items() if OPTIONS[name].secret and not _is_reference(value)]
        if literal:
            raise CredentialsError(
                f"{', '.join(sorted(literal))} would be sent with the pipeline to {runner}",
                why="runners store pipelines and show them; secrets belong in the environment of each worker",
                remedy=f"set it there and give {literal[0]}=env:{OPTIONS[literal[0]].variables[0]}, or leave it out:"
                " workers then use their environment, or the role they run as",
            )

    def user_agent(self) -> str:
        """Returns the name that web servers are told, `densecast` by default.

        Raises:
            CredentialsError: The variable that the option names is not set, or the value cannot stand in a header.
        """
        [variable] = OPTIONS["user_agent"].variables
        value = self.given.get("user_agent") or os.environ.get(variable) or "densecast"
        found = _looked_up("user_agent", value)
        _check("user_agent", found)
        return found

    def resolved(self, store: StoreKind) -> dict[str, str]:
        """Returns the options of a store, completed from the environment of this process.

        Raises:
            CredentialsError: A variable that an option names is not set, or only some of the keys that belong together
                are given and the environment sets another.
        """
        values: dict[str, str] = {}
        keys = _KEYS[store]
        own_keys = any(name in self.given for name in keys)
        for name, option in OPTIONS.items():
            if option.store not in (None, store):
                continue
            if name in self.given:
                values[name] = _looked_up(name, self.given[name])
                continue
            variable = next((variable for variable in option.variables if os.environ.get(variable)), None)
            if variable is None:
                continue
            if own_keys and name in keys:
                raise CredentialsError(
                    f"{variable} is set in the environment, but other keys are given as options",
                    where=f"storage option {name}",
                    why="keys from the environment and from the options would be mixed",
                    remedy=f"unset {variable}, or give {name} as an option too",
                )
            values[name] = os.environ[variable]
            _check(name, values[name], variable)
        return values


_default = StorageOptions()


def default_options() -> StorageOptions:
    """Returns the options that apply where none are given: empty ones, so that the environment decides.

    `pipeline.credentials.use`, which is deprecated, replaces them.
    """
    return _default


def set_default_options(options: StorageOptions) -> None:
    """Sets the result of `default_options`; only for `pipeline.credentials.use`."""
    global _default
    _default = options


def storage_options(given: StorageOptions | Mapping[str, str] | None) -> StorageOptions:
    """Returns the options for an argument of a public function: a mapping, `StorageOptions`, or None for the default.

    Raises:
        CredentialsError: An option does not exist, or a value is malformed.
    """
    if given is None:
        return default_options()
    return given if isinstance(given, StorageOptions) else StorageOptions(given)


def parse_options(pairs: Iterable[str]) -> StorageOptions:
    """Returns the options in a list of `NAME=VALUE` texts.

    Raises:
        CredentialsError: A text is not a `NAME=VALUE` pair, an option does not exist, or a value is malformed.

    >>> parse_options(["aws_region=eu-west-1", "aws_secret_access_key=tell-nobody"])
    StorageOptions(aws_region=eu-west-1, aws_secret_access_key=***)
    """
    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            # The message does not show the text, because it may be a secret.
            raise CredentialsError("a storage option is not NAME=VALUE", remedy="write aws_region=eu-west-1")
        given[name.strip()] = value
    return StorageOptions(given)


def is_true(value: str) -> bool:
    """Returns whether the value of a flag means true."""
    return value.strip().lower() in _TRUE


def in_seconds(value: str) -> float:
    """Returns a duration in seconds.

    Raises:
        CredentialsError: `value` is not a duration.

    >>> in_seconds("500ms"), in_seconds("2m"), in_seconds("30")
    (0.5, 120.0, 30.0)
    """
    try:
        return parse_duration(value)
    except JobError as error:
        raise CredentialsError(error.what, remedy=error.remedy) from error


def without_secrets(text: str, options: StorageOptions) -> str:
    """Returns `text` with every secret of the options and of the environment replaced by `***`."""
    for name, option in OPTIONS.items():
        if not option.secret:
            continue
        given = options.given.get(name, "")
        variables = (given.removeprefix(_REFERENCE),) if _is_reference(given) else option.variables
        for value in (given, *(os.environ.get(variable, "") for variable in variables)):
            if value and not _is_reference(value):
                text = text.replace(value, _HIDDEN)
    return text


def _check(name: str, value: str, variable: str = "") -> None:
    where = variable or f"storage option {name}"
    if name not in OPTIONS:
        close = nearest(name, OPTIONS)
        raise CredentialsError(
            f"there is no storage option {name!r}",
            remedy=f"{f'did you mean {close[0]}? ' if close else ''}the options are {', '.join(OPTIONS)}",
        )
    if not isinstance(value, str) or not value.removeprefix(_REFERENCE):
        raise CredentialsError(
            "has no value", where=where, why="a value is text", remedy="give a value, or leave the option out"
        )
    if _is_reference(value):
        return
    if name == "user_agent" and not (value.isascii() and value.isprintable() and value == value.strip()):
        raise CredentialsError(
            f"is {value!r}", where=where, remedy="write ASCII letters, digits and marks, in one line"
        )
    if name in _FLAGS and value.strip().lower() not in _TRUE + _FALSE:
        raise CredentialsError(f"is {value!r}", where=where, remedy="write true or false")
    if name in _DURATIONS:
        try:
            parse_duration(value)
        except JobError as error:
            raise CredentialsError(f"is {value!r}", where=where, remedy=error.remedy) from error


def _is_reference(value: str) -> bool:
    return value.startswith(_REFERENCE)


def _looked_up(name: str, value: str) -> str:
    if not _is_reference(value):
        return value
    variable = value.removeprefix(_REFERENCE)
    content = os.environ.get(variable, "")
    if not content:
        raise CredentialsError(
            f"the environment variable {variable} is not set on {socket.gethostname()}",
            where=f"storage option {name}",
            remedy=f"set it in the environment of every process that opens the storage, or leave {name} out",
        )
    _check(name, content, variable)
    return content


def _shown(name: str, value: str) -> str:
    return _HIDDEN if OPTIONS[name].secret and not _is_reference(value) else value
