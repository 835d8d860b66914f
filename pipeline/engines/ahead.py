"""Engines that this process opens before the code that uses them is loaded."""

from __future__ import annotations

from concurrent.futures import Future

from pipeline.engines.base import Engine
from pipeline.engines.factory import EngineFactory

_announced: dict[EngineFactory, EngineAhead] = {}


class EngineAhead:
    """An engine that a thread of this process will open, or drop: `take` waits for it from now on.

    Args:
        factory: Makes the engine.
    """

    def __init__(self, factory: EngineFactory) -> None:
        self._factory, self._opened = factory, Future[Engine]()
        _announced[factory] = self

    def open(self) -> None:
        """Opens the engine, unless it was dropped. Its error is raised where it is taken."""
        if not self._opened.set_running_or_notify_cancel():
            return
        try:
            self._opened.set_result(self._factory())
        except BaseException as error:  # noqa: BLE001 - see above
            self._opened.set_exception(error)

    def drop(self) -> None:
        """Forgets the engine; one that was taken stays with its owner."""
        if _announced.get(self._factory) is self:
            del _announced[self._factory]
        self._opened.cancel()

    def result(self) -> Engine:
        """Returns the engine when it is open; raises what its opening raised."""
        return self._opened.result()


def take(factory: EngineFactory) -> Engine:
    """Returns the engine that is opened ahead, once; opens one where none is.

    Raises:
        DensecastError: It cannot be opened, see `EngineFactory`.
    """
    ahead = _announced.pop(factory, None)
    return ahead.result() if ahead is not None else factory()
