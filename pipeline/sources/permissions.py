"""What a list may name that was itself fetched: files below its own root, its own host, and public addresses.

What the command line and lists on this machine name is the user's word, and is read. A list in an object store may be
written by somebody else: it must not make densecast read this machine's files, other stores with the user's keys, or
servers of the network that it runs in.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.errors import JobError, SourceError
from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import is_web
from pipeline.sources.reference import resolve
from pipeline.sources.web_address import is_host
from pipeline.storage.address import is_remote, scheme_of

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_AZURE_METADATA = ipaddress.ip_address("168.63.129.16")  # Azure's machines answer there; it lies in a public range
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Allowed:
    """What fetched lists may name besides their own root and public addresses.

    Attributes:
        hosts: Hosts, each as `HOST` or `HOST:PORT`; redirects may lead there too.
        roots: Folders and `scheme://` roots.

    Raises:
        JobError: A host or a root is malformed.
    """

    hosts: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not is_host(host):
                raise JobError(f"allow-host is {host!r}", remedy="write HOST or HOST:PORT, without https:// and path")
        for root in self.roots:
            if is_web(root):
                raise JobError(f"allow-root is {root!r}", remedy="write allow-host for a server")
        # Made absolute here, where the user's current folder is known: workers run in other folders.
        object.__setattr__(self, "roots", tuple(resolve(root) for root in self.roots))

    def local_path(self, text: str, listed_by: str) -> str:
        """Returns the path that a fetched list names on this machine; it is not looked up if it is not allowed.

        Args:
            text: The path as it is written.
            listed_by: The list's root, see `root_of`.

        Raises:
            Rejected: ADDRESS_NOT_ALLOWED.
        """
        path = ""
        if any(not is_remote(root) for root in self.roots) and not text.startswith("~"):
            with suppress(SourceError):
                path = resolve(text)
        self.check(path or "/", listed_by)
        return path

    def check(self, address: str, listed_by: str) -> None:
        """Checks that a fetched list may name an address. On the web it may: there the connection is checked.

        Args:
            address: The address, as `resolve` returns it.
            listed_by: The list's root, see `root_of`.

        Raises:
            Rejected: ADDRESS_NOT_ALLOWED.
        """
        if is_web(address) or any(_is_below(address, root) for root in (listed_by, *self.roots)):
            return
        where = "an address outside its own root" if is_remote(address) else "a file of this machine"
        raise Rejected(Reason.ADDRESS_NOT_ALLOWED, f"a list in {listed_by} names {where}; allow it with allow-root")


def root_of(manifest: str) -> str:
    """Returns the root of a fetched list: `scheme://` and what follows up to the first slash; empty for a local one.

    >>> root_of("s3://bucket/lists/today.csv"), root_of("/lists/today.csv")
    ('s3://bucket', '')
    """
    if not is_remote(manifest):
        return ""
    scheme, _, rest = manifest.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def is_local_name(address: str) -> bool:
    """Returns whether an address names a file of this machine, however a list's folder completes it.

    >>> [is_local_name(text) for text in ("/etc/passwd", "~/a.jpg", "FILE:///a.jpg", "a.jpg", "s3://b/a.jpg")]
    [True, True, True, False, False]
    """
    return address.startswith(("/", "~")) or scheme_of(address) == "file"


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the public internet.

    Loopback, private, link-local, shared, multicast and reserved ones are not, and not those of metadata services. Of
    an IPv6 address that stands for an IPv4 address, that one counts.

    >>> [is_public(text) for text in ("93.184.215.14", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0")]
    [True, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(
        one.is_global and not one.is_multicast and not one.is_reserved and one != _AZURE_METADATA
        for one in _meanings(ip)
    )


def _meanings(ip: _Address) -> Sequence[_Address]:
    """Returns the IPv4 addresses that an IPv6 address stands for; the address itself where it stands for none."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip in _NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    return [one for one in embedded if one is not None] or [ip]


def _is_below(address: str, root: str) -> bool:
    if is_remote(address) != is_remote(root):
        return False
    if not is_remote(address):
        # Links count by where they lead.
        address, root = os.path.realpath(address), os.path.realpath(root)
    elif ".." in address.split("/"):
        # Some file systems follow `..`; it leads out of a folder, but not out of the root of a scheme.
        return root_of(root) == root and root_of(address).lower() == root.lower()
    scheme, mark, rest = address.partition("://")
    address = f"{scheme.lower()}{mark}{rest}" if mark else address
    scheme, mark, rest = root.partition("://")
    root = f"{scheme.lower()}{mark}{rest}" if mark else root
    return address == root or address.startswith(root.rstrip("/") + "/")
