r"""The spelling of addresses in the table: valid Unicode, one spelling for each file and each member of a container.

A name on a disk is bytes, and a table holds Unicode. A byte that is not UTF-8 is `\udcff` in Python, and is spelled as
the six characters of that escape. Where a name itself has these six characters, the backslashes before them are
doubled. A file whose name looks like a member of a container, `x.tar#a.jpg`, or like a frame of a file, `x.gif#1`, gets
a backslash before that `#`. Every other address is spelled as it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.sources.file_types import container_kind, is_web, may_have_frames
from pipeline.storage.address import scheme_of

_HALF = re.compile("[\ud800-\udfff]")
_RAW = re.compile("(?<!\\\\)(\\\\*+)(ud[89a-f][0-9a-f]{2}|[\ud800-\udfff])")
_SPELLED = re.compile(r"(?<!\\)(\\++)(ud[89a-f][0-9a-f]{2})")
_MARK = re.compile(r"(?<!\\)(\\*+)#")


class Address(NamedTuple):
    """An address of the table, taken apart.

    Attributes:
        file: The spelling of the file; of a member, that of its container.
        member: The spelling of the member's name; empty where the address is that of a file.
    """

    file: str
    member: str = ""


def spell(name: str) -> str:
    r"""Returns a name as valid Unicode; no other name has the same spelling.

    >>> spell("caf\udce9.jpg"), spell(r"caf\udce9.jpg"), spell("café.jpg")
    ('caf\\udce9.jpg', 'caf\\\\udce9.jpg', 'café.jpg')
    """
    if "\\ud" not in name and (name.isascii() or not _HALF.search(name)):
        return name
    return _RAW.sub(lambda found: found[1] * 2 + (found[2] if len(found[2]) > 1 else f"\\u{ord(found[2]):04x}"), name)


def unspell(spelling: str) -> str:
    r"""Returns the name that `spell` gives a spelling.

    >>> unspell(r"caf\udce9.jpg") == "caf\udce9.jpg"
    True
    """
    return _SPELLED.sub(_unspelled, spelling)


def _unspelled(found: re.Match[str]) -> str:
    half = len(found[1]) // 2
    return "\\" * half + (chr(int(found[2][1:], 16)) if len(found[1]) % 2 else found[2])


def spell_file(path: str) -> str:
    r"""Returns the spelling of a file's address, which is never that of a member of a container.

    >>> spell_file("/photos/x.tar#a.jpg"), spell_file("/photos/x#a.jpg")
    ('/photos/x.tar\\#a.jpg', '/photos/x#a.jpg')
    """
    spelling = spell(path)
    if "#" not in spelling or is_web(spelling):  # the web has no containers
        return spelling
    return _MARK.sub(lambda found: found[1] * 2 + "\\#" if _is_mark(found) else found[0], spelling)


def unspell_file(spelling: str) -> str:
    """Returns the path of a file from its spelling."""
    if "#" in spelling and not is_web(spelling):
        spelling = _MARK.sub(lambda found: found[1][1::2] + "#" if _is_mark(found) else found[0], spelling)
    return unspell(spelling)


def split(address: str) -> Address:
    r"""Returns the parts of an address of the table.

    >>> split("/x.tar#cats/1.jpg"), split(r"/x.tar\#a.zip#b.jpg"), split(r"/x.tar\#a.jpg").member
    (Address(file='/x.tar', member='cats/1.jpg'), Address(file='/x.tar\\#a.zip', member='b.jpg'), '')
    """
    if "#" in address and not is_web(address):
        for found in _MARK.finditer(address):
            if not found[1] and _is_mark(found):
                return Address(address[: found.start()], address[found.end() :])
    return Address(address)


def _is_mark(found: re.Match[str]) -> bool:
    """Returns whether what follows is a member of a container, or the number of a frame."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    is_frame = after.isascii() and after.isdecimal() and may_have_frames(before)
    return is_frame or container_kind(before) is not None


def relative_to(root: str, location: str) -> str:
    """Returns the path of a file below a folder, relative to it; the whole location where it is not below it.

    Args:
        root: The folder, in the form of `reference.resolve`; empty for none.
        location: The file, in the same form.

    >>> relative_to("/photos", "/photos/a/1.jpg"), relative_to("/photos", "/other/1.jpg"), relative_to("/", "/a")
    ('a/1.jpg', '/other/1.jpg', 'a')
    """
    folder = root.rstrip("/") + "/"
    path = location.removeprefix(folder) if root else location
    # A key of an object store may begin with a slash, or hold `://`: it would look like a location itself.
    return location if is_location(path) else path


def below(root: str, path: str) -> str:
    """Returns the location of a file from its path, which is relative to a folder or a location itself.

    >>> below("/photos", "a/1.jpg"), below("/photos", "/other/1.jpg")
    ('/photos/a/1.jpg', '/other/1.jpg')
    """
    return path if is_location(path) or not root else f"{root.rstrip('/')}/{path}"


def is_location(path: str) -> bool:
    """Returns whether a path says on its own where a file is: it is absolute, or `scheme://`."""
    return path.startswith("/") or not path or scheme_of(path) is not None
