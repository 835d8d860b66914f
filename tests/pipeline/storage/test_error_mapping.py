"""What object stores answer, in the words of the libraries that were told: as they were seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.error_mapping import explain
from pipeline.storage.errors import AccessError, MissingFileError, OutageError, StorageError, UnavailableError
from pipeline.storage.options import StorageOptions

_SENT = "Generic S3 error: Error performing {} http://127.0.0.1:7070/images?list-type=2 in 556.481µs - "
_STATUS = "Server returned non-2xx status code: "
_REFUSED = (
    _SENT.format("GET") + _STATUS + "403 Forbidden: <?xml version='1.0'?>\n<Error><Code>SignatureDoesNotMatch</Code>"
    "<Message>The signature does not match.</Message><AWSAccessKeyId>key</AWSAccessKeyId><StringToSign>AWS4-HMAC"
    "</StringToSign><SignatureProvided>93a3e215</SignatureProvided></Error>\n\nDebug source:\nGeneric { 93a3e215 }"
)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (OSError(_REFUSED), UnavailableError, "the credentials are refused: SignatureDoesNotMatch: The signature"),
        (
            OSError(_STATUS + "403 Forbidden: <Code>InvalidAccessKeyId</Code><Message>No such key.</Message>"),
            UnavailableError,
            "the credentials are refused: InvalidAccessKeyId: No such key.",
        ),
        (
            OSError(_STATUS + "400 Bad Request: <Code>ExpiredToken</Code><Message>Expired.</Message>"),
            UnavailableError,
            "the credentials are refused: ExpiredToken",
        ),
        (OSError(_STATUS + "401 Unauthorized: "), UnavailableError, "the credentials are refused"),
        (
            OSError(_STATUS + "403 Forbidden: <Code>AccessDenied</Code><Message>Access Denied.</Message>"),
            AccessError,
            "access is denied: AccessDenied: Access Denied.",
        ),
        (
            OSError("When reading information for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject"),
            AccessError,
            "access is denied",
        ),
        (
            FileNotFoundError(_STATUS + "404 Not Found: <Code>NoSuchBucket</Code><Message>None.</Message>"),
            UnavailableError,
            "there is no such bucket",
        ),
        (FileNotFoundError(_STATUS + "404 Not Found: "), MissingFileError, "there is no such file"),
        (OSError(_STATUS + "404 Not Found: "), MissingFileError, "there is no such file"),
        (
            OSError(_SENT.format("PUT") + "after 9 retries, max_retries: 10000 - HTTP error: error sending request"),
            OutageError,
            "the store does not answer",
        ),
        (OSError(_STATUS + "503 Service Unavailable: "), OutageError, "the store does not answer"),
        (OSError("When getting x: AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 7"), OutageError,
         "the store does not answer"),
        (OSError("HTTP error: builder error\n\nDebug source:\n  source: BadScheme,"), UnavailableError,
         "plain HTTP is not allowed"),
        (OSError("Error performing PUT http://169.254.169.254/latest/api/token in 1ms"), UnavailableError,
         "there are no credentials"),
        (OSError(_STATUS + "412 Precondition Failed: "), StorageError, "replaced meanwhile"),
        (ValueError('Could not parse path: Path "a//b" contained empty path segment'), StorageError, "empty path"),
        (OSError(""), StorageError, "no reason given"),
    ],
)  # fmt: skip
def test_what_an_answer_means(error: Exception, kind: type[StorageError], told: str):
    found = explain(error, "s3://images/a.jpg", "cannot be read", why="so", options=StorageOptions())
    assert type(found) is kind
    assert told in found.what
    assert (found.where, found.why) == ("s3://images/a.jpg", "so")
    assert found.remedy


def test_an_answer_is_told_in_one_line_and_without_signatures():
    text = explain(OSError(_REFUSED), "s3://images", "cannot be listed", options=StorageOptions()).what
    assert "\n" not in text
    assert not any(word in text for word in ("93a3e215", "AWS4", "Debug", "<"))


@given(st.text(), st.text("abcdef0123456789", min_size=8, max_size=20), st.text())
def test_a_secret_is_never_told(before: str, secret: str, after: str):
    options = StorageOptions({"aws_secret_access_key": secret})
    found = explain(OSError(f"{before}{secret}{after}"), "s3://images", "cannot be listed", options=options)
    assert secret not in str(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Generic S3 error: status code\n   \x1b[31m\u21b3\x1b[0m 503 Service Unavailable",
            "does not answer",
        ),
        ("HTTP error: request or response body error", "does not answer"),
        ("Client error with status 408: <Code>RequestTimeout</Code>", "does not answer"),
        (
            "Received redirect without LOCATION",
            "region",
        ),
        ("<Code>AuthorizationHeaderMalformed</Code><Message>wrong region</Message>", "region"),
    ],
)
def test_what_is_of_the_store_and_not_of_one_object(text: str, told: str) -> None:
    found = explain(OSError(text), "s3://b/a.jpg", "cannot be read", options=StorageOptions())
    assert type(found) is (OutageError if "does not answer" in told else UnavailableError)
    assert told in str(found)
