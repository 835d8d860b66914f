"""The points of a run at which something is made to happen."""

from __future__ import annotations

import functools
import pathlib
import pkgutil
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A moment of a run.

    Attributes:
        target: The function that is called then, as "module:name".
        before: Whether what is made to happen comes before the call, or after it.
        call: Which of the calls that count.
        counts: Whether a call counts, by its arguments.
    """

    target: str
    before: bool = True
    call: int = 1
    counts: Callable[..., bool] = lambda *_, **__: True


def _part(path: pathlib.Path, *_: Any, **__: Any) -> bool:
    return path.name.startswith(".part-")


def _model(path: pathlib.Path, *_: Any, **__: Any) -> bool:
    return path.parent.name == "models" and path.name.endswith(".partial")


def _summary(path: pathlib.Path, *_: Any, **__: Any) -> bool:
    return path.parent.name == "runs" and path.name.endswith(".partial")


_OPEN, _REPLACE = "pathlib:Path.open", "pathlib:Path.replace"
POINTS = {
    "listing": Point("pipeline.sources.globs:_regular", call=10),
    "a probe": Point("pipeline.sources.reader:Reader.probe"),
    "decode": Point("pipeline.images.decoder_process:IsolatedDecoder.call", call=5),
    "infer": Point("tests.support.fakes:FakeEngine.score", call=3),
    "a copy-on-write": Point("pipeline.transforms.rewrite_fn:rewrite", before=False),
    "the writing of a part": Point(_OPEN, call=3, counts=_part),
    "the writing of a model's metadata": Point(_OPEN, counts=_model),
    "the writing of the summary": Point(_OPEN, counts=_summary),
    "before the rename of a part": Point(_REPLACE, call=3, counts=_part),
    "after the rename of a part": Point(_REPLACE, before=False, call=3, counts=_part),
    "before the commit": Point("pipeline.table.commit:_commit_transaction"),
    "after the commit": Point("pipeline.table.commit:_commit_transaction", before=False),
    "before the commit of a restore": Point("deltalake.table:DeltaTable.restore"),
    "after the commit of a restore": Point("deltalake.table:DeltaTable.restore", before=False),
    "before the commit of a compaction": Point("pipeline.maintenance.compact:_commit"),
}


def install(
    point: str | Point, action: Callable[[], None], setattr_: Callable[[Any, str, Any], None] = setattr
) -> None:
    """Makes something happen when a point is reached for the first time.

    A point that is the opening of a file is reached in the middle of writing it: when half of it is on disk.

    Args:
        point: The point, or its name in `POINTS`.
        action: What happens.
        setattr_: Replaces a function; `monkeypatch.setattr` undoes it.
    """
    target, before, call, counts = POINTS[point] if isinstance(point, str) else point
    owner = pkgutil.resolve_name(target.rpartition(".")[0] if "." in target.partition(":")[2] else target.split(":")[0])
    name = target.replace(":", ".").rpartition(".")[2]
    real = getattr(owner, name)
    lock, calls = threading.Lock(), iter(range(1, 1 << 30))

    @functools.wraps(real)
    def wrapped(*args: Any, **options: Any) -> Any:
        with lock:
            due = counts(*args, **options) and next(calls) == call
        if due and target == _OPEN:
            return _HalfWritten(real(*args, **options), action)
        if due and before:
            action()
        result = real(*args, **options)
        if due and not before:
            action()
        return result

    setattr_(owner, name, wrapped)


class _HalfWritten:
    """A file; something happens when the first half of what is written is on disk."""

    def __init__(self, file: Any, action: Callable[[], None]) -> None:
        self._file, self._action = file, action

    def write(self, data: bytes) -> int:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._action()
        self._file.write(data[len(data) // 2 :])
        return len(data)

    def __enter__(self) -> _HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
