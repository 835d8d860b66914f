"""Takes a large file to a machine without network in pieces: `split FILE FOLDER`, and there `join FOLDER`.

It needs Python alone. `FOLDER` has a list of the pieces with their digests, and of the file's; `join` refuses what does
not agree, and says which pieces are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

LIST = "pieces.json"
_MIB = 1 << 20


class PiecesError(Exception):
    """The pieces do not make the file."""


def split(file: Path, folder: Path, size: int = 50 * _MIB) -> list[Path]:
    """Writes the pieces of a file, of `size` bytes at most, and their list; returns the pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, pieces, digests = hashlib.sha256(), [], []
    with file.open("rb") as stream:
        while content := stream.read(size):
            piece = folder / f"{file.name}.{len(pieces):03}"
            piece.write_bytes(content)
            whole.update(content)
            pieces.append(piece)
            digests.append({"name": piece.name, "sha256": hashlib.sha256(content).hexdigest()})
    listed = {"name": file.name, "sha256": whole.hexdigest(), "pieces": digests}
    (folder / LIST).write_text(json.dumps(listed, indent=1))
    return pieces


def join(folder: Path) -> Path:
    """Returns the file, put together beside its pieces.

    Raises:
        PiecesError: A piece is missing or damaged; the message names each.
    """
    listed = json.loads((folder / LIST).read_text())
    wrong = [piece["name"] for piece in listed["pieces"] if not _agrees(folder / piece["name"], piece["sha256"])]
    if wrong:
        raise PiecesError(f"missing or damaged, bring them again: {', '.join(wrong)}")
    file, whole = folder / listed["name"], hashlib.sha256()
    with file.open("wb") as stream:
        for piece in listed["pieces"]:
            content = (folder / piece["name"]).read_bytes()
            whole.update(content)
            stream.write(content)
    if whole.hexdigest() != listed["sha256"]:
        file.unlink()
        raise PiecesError(f"{file.name} has another digest than the list says: {LIST} is of another file")
    return file


def _agrees(piece: Path, digest: str) -> bool:
    return piece.is_file() and hashlib.sha256(piece.read_bytes()).hexdigest() == digest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split")
    splitting.add_argument("file", type=Path)
    splitting.add_argument("folder", type=Path)
    splitting.add_argument("--size", type=int, default=50, help="MiB of a piece at most")
    commands.add_parser("join").add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        done = (
            split(chosen.file, chosen.folder, chosen.size * _MIB)
            if chosen.command == "split"
            else [join(chosen.folder)]
        )
    except PiecesError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for path in done:
        print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
