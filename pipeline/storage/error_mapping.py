"""Turns the errors of object stores into `StorageError`s: short, with a remedy, and without any secret.

obstore, deltalake and Arrow each wrap a server's answer in their own text; all of them keep the error code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.storage.errors import AccessError, MissingFileError, OutageError, StorageError, UnavailableError
from pipeline.storage.options import StorageOptions, without_secrets

_CODE = re.compile(r"<Code>([\w.]+)</Code>|\bAWS Error ([A-Z_]+)\b|\"(?:reason|code)\": ?\"(\w+)\"")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\": ?\"(.*?)\"", re.DOTALL)
_STATUS = re.compile(r"(?:status code:?\s*|HTTP status )(\d{3})\b ?([A-Z][\w ]*\w)?")

_REFUSED = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("InvalidSecurity", "AuthFailure", "NotSignedUp", "AuthenticationFailed", "InvalidAuthenticationInfo"),
    *("authError", "UNAUTHENTICATED", "INVALID_ACCESS_KEY_ID", "INVALID_SIGNATURE", "EXPIRED_TOKEN"),
    *("RequestTimeTooSkewed", "SIGNATURE_DOES_NOT_MATCH", "NoAuthenticationInformation"),
}
_DENIED = {"AccessDenied", "ACCESS_DENIED", "AuthorizationFailure", "AuthorizationPermissionMismatch", "forbidden"}
_NO_BUCKET = {"NoSuchBucket", "NO_SUCH_BUCKET", "ContainerNotFound"}
_UNSENT = ("error sending request", "operation timed out", "connection closed", "NETWORK_CONNECTION", "curlCode")
_CUT_OFF = ("request or response body error", "error decoding response body")
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|\u21b3")  # in deltalake's messages
_NO_KEYS = ("169.254.169.254", "metadata.google.internal", "InstanceCredentials", "token_endpoint")

_CHECK_KEYS = "check the keys and the endpoint: the options given with --storage-option, or the environment (AWS_...)"


@contextmanager
def object_error(address: str, options: StorageOptions, what: str, why: str = "") -> Iterator[None]:
    """Turns an error that `obstore` raises about an address into a `StorageError`, see `explain`.

    Raises:
        MissingFileError: The object does not exist.
        UnavailableError: The store cannot be used with these credentials; OutageError: it does not answer now.
        StorageError: Any other failure.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except StorageError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise explain(error, address, what, why, options=options) from None


def explain(error: BaseException, address: str, what: str, why: str = "", *, options: StorageOptions) -> StorageError:
    """Returns the `StorageError` for an error that a library raised about an address in an object store.

    Args:
        error: The library's error.
        address: The address that the error is about.
        what: The operation that failed, as in `cannot be read`.
        why: The consequence of the failure.
        options: The options the store was opened with; the message does not contain their secrets.
    """
    text = _DECORATION.sub("", str(error))
    codes = _CODE.search(text)
    code = next(filter(None, codes.groups()), "") if codes else ""
    status = _STATUS.search(text)
    number = int(status[1]) if status else 0
    reported = _summary(text, code, options)

    def storage_error(kind: type[StorageError], reason: str, remedy: str) -> StorageError:
        return kind(f"{what}: {reason}", where=address, why=why, remedy=remedy)

    unusable = _unusable(number, code, text, reported)
    if unusable is not None:
        return storage_error(UnavailableError, *unusable)
    answered = number >= 500 or number in (408, 429) or code == "RequestTimeout"
    if answered or any(sign in text for sign in (*_UNSENT, *_CUT_OFF)):
        remedy = "check the endpoint and the network, then run again: finished work is not repeated"
        return storage_error(OutageError, f"the store does not answer: {reported}", remedy)
    if isinstance(error, FileNotFoundError) or number == 404:
        return MissingFileError(
            "there is no such file or folder", where=address, why=why, remedy="check the path for a typing error"
        )
    if number == 403 or code in _DENIED:
        remedy = "check the keys, and what they allow at this address"
        return storage_error(AccessError, f"access is denied: {reported}", remedy)
    if number == 412:
        return storage_error(StorageError, "the object was replaced meanwhile", "run again")
    return storage_error(StorageError, reported, "look at the message of the store, then run again")


def _unusable(number: int, code: str, text: str, reported: str) -> tuple[str, str] | None:
    """Returns why the whole store cannot be used, and the remedy; None in an outage, and for an error of one object."""
    if code in _NO_BUCKET:
        return "there is no such bucket", "check its name and the endpoint, or create it"
    if any(host in text for host in _NO_KEYS):
        return "there are no credentials here", _CHECK_KEYS
    if code in _REFUSED or number == 401:
        return f"the credentials are refused: {reported}", _CHECK_KEYS
    if "BadScheme" in text:
        remedy = "to send data unencrypted, write http:// in aws_endpoint_url or give aws_allow_http=true"
        return "plain HTTP is not allowed", remedy
    if code in _ELSEWHERE or "redirect without LOCATION" in text:
        return f"the bucket is in another region: {reported}", "give its region as aws_region"
    return None


def _summary(text: str, code: str, options: StorageOptions) -> str:
    """Returns one line: the server's code and message, or the first line of the library's text."""
    message = _MESSAGE.search(text)
    server_message = next(filter(None, message.groups()), "") if message else ""
    first = text.strip().partition("\n\nDebug source")[0].strip()
    line = " ".join(
        (f"{code}: {server_message}" if code and server_message else code or first.partition("<?xml")[0]).split()
    )
    return without_secrets(line, options) or "no reason given"
