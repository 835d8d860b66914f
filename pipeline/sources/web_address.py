"""Addresses on the web: the name that an image has in the table, which reveals no secret, and hosts."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote, urlsplit

from pipeline.sources.file_types import is_web

_DIGEST_LENGTH = 16  # hex digits, 64 bits: a million names of a host meet with a probability of 3e-8
_DIGEST = re.compile(rf"sha256-[0-9a-f]{{{_DIGEST_LENGTH}}}")

_AZURE = "sig|sv|ss|srt|sp|st|se|spr|sip|si|sr|sdd|ses|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sduoid|skdutid"
# What a signed address has besides the address that it permits to read: the parameter that holds the signature, another
# that shows which store made it, and all that belong to it. S3, Google's and Azure's stores, CloudFront.
_SIGNED: tuple[tuple[str, frozenset[str], re.Pattern[str]], ...] = (
    ("x-amz-signature", frozenset(), re.compile("x-amz-.*")),
    ("x-goog-signature", frozenset(), re.compile("x-goog-.*")),
    ("sig", frozenset({"sv"}), re.compile(_AZURE)),
    (
        "signature",
        frozenset({"awsaccesskeyid", "googleaccessid", "key-pair-id"}),
        re.compile("awsaccesskeyid|googleaccessid|key-pair-id|signature|expires|policy|x-amz-security-token"),
    ),
)
_SECRET = re.compile(
    r"(?:.*[-_.])?(?:sig|sign|signature|key|apikey|appkey|accesskey|keyid|accesskeyid|token|accesstoken|authtoken|jwt"
    r"|bearer|auth|authkey|authorization|credential|credentials|password|passwd|pwd|pass|secret|clientsecret|code"
    r"|session|sessionid|sid|policy|ticket|hmac)|.*(?:token|secret|password|signature|apikey)"
)


def public(address: str) -> str:
    """Returns an address without its secrets: the image's name in the table, in messages and in logs.

    The rule, which is stable because images are known by these names:

    - `user:password@` is left out.
    - Of an address that a store signed, the signature and all that belongs to it is left out. So an image keeps its
      name when it is signed again.
    - The value of any other parameter whose name is that of a secret (`token`, `key`, `sig`, ...) becomes the first 16
      digits of its SHA-256. So two images that differ only there keep different names.

    All else stays as it is written. The rule changes nothing in an address that it made, or that is not on the web.

    >>> public("https://me:pw@host/a.jpg?w=9&X-Amz-Signature=12ab&X-Amz-Expires=60"), public("s3://bucket/a?key=1")
    ('https://host/a.jpg?w=9', 's3://bucket/a?key=1')
    >>> public("https://host/get?key=7#top")
    'https://host/get?key=sha256-7902699be42c8a8e#top'
    """
    if not is_web(address):
        return address
    scheme, _, rest = address.partition("://")
    authority, path = _split(rest, "/?#")
    path, fragment = _split(path, "#")
    path, query = _split(path, "?")
    return f"{scheme}://{authority.rpartition('@')[2]}{path}{_without_secrets(query)}{_without_secrets(fragment)}"


def host_of(address: str) -> str:
    """Returns the host and port that an address on the web leads to, in lower case, without `user:password@`.

    Returns a text that no host has where the address is malformed.

    >>> host_of("HTTPS://me@Host/a.jpg"), host_of("http://[::1]:80/")
    ('host:443', '[::1]:80')
    """
    try:
        parts = urlsplit(address)
        name, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return ""
    name = name.rstrip(".")
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def is_host(text: str) -> bool:
    """Returns whether a text is `HOST` or `HOST:PORT`, as `--allow-host` takes it.

    >>> is_host("images.corp:8080"), is_host("[::1]"), is_host("https://images.corp/a")
    (True, True, False)
    """
    try:
        parts = urlsplit(f"//{text}")
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and parts.netloc == text and "@" not in text


def is_among(host: str, allowed: tuple[str, ...]) -> bool:
    """Returns whether a host of `host_of` is one of those that are allowed, each as `HOST` or `HOST:PORT`.

    >>> is_among("images.corp:80", ("Images.corp",)), is_among("images.corp:80", ("images.corp:8080",))
    (True, False)
    """
    names = {text.lower().rstrip(".") for text in allowed}
    return host in names or host.rpartition(":")[0] in names


def _split(text: str, ends: str) -> tuple[str, str]:
    """Returns what stands before the first of some characters, and the rest, which begins with it."""
    at = min((place for end in ends if (place := text.find(end)) >= 0), default=len(text))
    return text[:at], text[at:]


def _without_secrets(parameters: str) -> str:
    """Returns a query or a fragment, with its `?` or `#`, without secrets; empty where nothing else is in it."""
    if "=" not in parameters:
        return parameters
    mark, pairs = parameters[0], re.split("([&;])", parameters[1:])
    fields = [pairs[index : index + 2] for index in range(0, len(pairs), 2)]
    names = {_name(field[0]) for field in fields}
    signed = [belongs for signature, proof, belongs in _SIGNED if signature in names and (not proof or proof & names)]
    kept = [field for field in fields if not any(belongs.fullmatch(_name(field[0])) for belongs in signed)]
    text = "".join(_hidden(field[0]) + "".join(field[1:]) for field in kept)
    # The separator of a field that was the last one goes with it.
    return mark + (text.rstrip("&;") if len(kept) < len(fields) else text) if kept else ""


def _name(field: str) -> str:
    return unquote(field.partition("=")[0]).strip().lower()


def _hidden(field: str) -> str:
    name, equals, value = field.partition("=")
    if not value or not _SECRET.fullmatch(_name(field)) or _DIGEST.fullmatch(value):
        return field
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}{equals}sha256-{digest[:_DIGEST_LENGTH]}"
