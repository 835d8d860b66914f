"""What object stores answer, as errors of ours: short, with the way out, and without what a request was signed by.

obstore, deltalake and Arrow each pack a server's answer into a text of their own; all of them keep its code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.storage.errors import MissingFileError, StorageError, UnavailableError
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
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|\u21b3")  # of deltalake's texts
_NO_KEYS = ("169.254.169.254", "metadata.google.internal", "InstanceCredentials", "token_endpoint")

_CHECK_KEYS = "check the keys and the endpoint: the options given with --storage-option, or the environment (AWS_...)"


@contextmanager
def object_error(address: str, options: StorageOptions, what: str, why: str = "") -> Iterator[None]:
    """Turns what `obstore` raises about an address into an error of ours, see `explain`.

    Raises:
        MissingFileError: There is no such object.
        UnavailableError: The store itself cannot be used, now or with these credentials.
        StorageError: Another failure.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except StorageError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise explain(error, address, what, why, options=options) from None


def explain(error: BaseException, address: str, what: str, why: str = "", *, options: StorageOptions) -> StorageError:
    """Returns what a library has raised about an address in an object store as an error of ours.

    Args:
        error: What it raised.
        address: What it was about.
        what: What cannot be done.
        why: What that means.
        options: How the store was opened; the error shows none of its secrets.
    """
    text = _DECORATION.sub("", str(error))
    codes = _CODE.search(text)
    code = next(filter(None, codes.groups()), "") if codes else ""
    status = _STATUS.search(text)
    number = int(status[1]) if status else 0
    told = _told(text, code, options)

    def found(kind: type[StorageError], said: str, remedy: str) -> StorageError:
        return kind(f"{what}: {said}", where=address, why=why, remedy=remedy)

    unusable = _unusable(number, code, text, told)
    if unusable is not None:
        return found(UnavailableError, *unusable)
    if isinstance(error, FileNotFoundError) or number == 404:
        return MissingFileError(
            "there is no such file or folder", where=address, why=why, remedy="check the path for a typing error"
        )
    if number == 403 or code in _DENIED:
        return found(StorageError, f"access is denied: {told}", "check what the credentials allow there, and the keys")
    if number == 412:
        return found(StorageError, "it was replaced meanwhile", "run again")
    return found(StorageError, told, "look at the message of the store, then run again")


def _unusable(number: int, code: str, text: str, told: str) -> tuple[str, str] | None:
    """Why no object of the store can be used, now or with these options, and the way out."""
    if code in _NO_BUCKET:
        return "there is no such bucket", "check its name and the endpoint, or make it"
    if any(host in text for host in _NO_KEYS):
        return "there are no credentials here", _CHECK_KEYS
    if code in _REFUSED or number == 401:
        return f"the credentials are refused: {told}", _CHECK_KEYS
    if "BadScheme" in text:
        remedy = "write http:// in aws_endpoint_url, or give aws_allow_http=true, if it is to go unencrypted"
        return "plain HTTP is not allowed", remedy
    if code in _ELSEWHERE or "redirect without LOCATION" in text:
        return f"the bucket is in another region: {told}", "give it as aws_region"
    answered = number >= 500 or number in (408, 429) or code == "RequestTimeout"
    if answered or any(sign in text for sign in (*_UNSENT, *_CUT_OFF)):
        remedy = "check the endpoint and the network, then run again: what was finished is not done twice"
        return f"the store does not answer: {told}", remedy
    return None


def _told(text: str, code: str, options: StorageOptions) -> str:
    """One line: the server's code and message, or the library's first line."""
    message = _MESSAGE.search(text)
    said = next(filter(None, message.groups()), "") if message else ""
    first = text.strip().partition("\n\nDebug source")[0].strip()
    line = " ".join((f"{code}: {said}" if code and said else code or first.partition("<?xml")[0]).split())
    return without_secrets(line, options) or "no reason given"
