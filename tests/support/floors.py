"""The floors of a package: its modules import only from modules below them.

A room is a package or a single module that has a floor. A module imports from its own room and from rooms on lower
floors.
Imports count wherever they stand: inside functions, under TYPE_CHECKING, and in the stub of a lazy `__init__`.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` counts, and what it finds wrong.

    Attributes:
        packages: Number of packages, the root included.
        modules: Number of modules, each package's `__init__` included.
        imports: Number of pairs (importing module, imported module) inside the root package.
        unplaced: Modules that no room takes in.
        unused: Rooms that take in no module.
        upward: Imports of a higher floor, as "importer -> imported".
        sideways: Imports between two rooms of one floor, as "importer -> imported".
        cycles: Groups of modules that import each other, directly or through others.
    """

    packages: int
    modules: int
    imports: int
    unplaced: tuple[str, ...]
    unused: tuple[str, ...]
    upward: tuple[str, ...]
    sideways: tuple[str, ...]
    cycles: tuple[tuple[str, ...], ...]

    def problems(self) -> list[str]:
        """Returns one line for each thing that is wrong; empty if the floors hold."""
        return [
            *(f"no floor: {module}" for module in self.unplaced),
            *(f"a room without modules: {room}" for room in self.unused),
            *(f"upward: {line}" for line in self.upward),
            *(f"sideways: {line}" for line in self.sideways),
            *("cycle: " + " <-> ".join(cycle) for cycle in self.cycles),
        ]


def check(package_root: Path, floors: Mapping[str, int]) -> Report:
    """Returns what the imports of a package look like against its floors.

    Args:
        package_root: The folder of the top package, such as `.../pipeline`.
        floors: Floor of each room, by its dotted name ("pipeline.table": 4); the longest name that fits a module
            counts. The root's own name ("pipeline") stands for its `__init__` alone.
    """
    graph = import_graph(package_root)
    rooms = {module: _room(module, floors, package_root.name) for module in graph}
    pairs = [
        (importer, imported) for importer in sorted(graph) for imported in sorted(graph[importer]) if imported in graph
    ]
    placed = [(a, b) for a, b in pairs if rooms[a] and rooms[b] and rooms[a] != rooms[b]]
    return Report(
        packages=sum(1 for _ in package_root.rglob("__init__.py")),
        modules=len(graph),
        imports=len(pairs),
        unplaced=tuple(sorted(module for module, room in rooms.items() if not room)),
        unused=tuple(sorted(set(floors) - set(rooms.values()))),
        upward=tuple(f"{a} -> {b}" for a, b in placed if floors[rooms[b]] > floors[rooms[a]]),
        sideways=tuple(f"{a} -> {b}" for a, b in placed if floors[rooms[b]] == floors[rooms[a]]),
        cycles=_cycles(graph),
    )


def import_graph(package_root: Path) -> dict[str, set[str]]:
    """Returns the modules of a package, and for each the modules of the same package that it imports."""
    files = [path for path in sorted(package_root.rglob("*.py*")) if path.suffix in (".py", ".pyi")]
    modules = {_module_name(path, package_root) for path in files}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for path in files:
        importer = _module_name(path, package_root)
        graph[importer].update(set(_imported(path, importer, modules)) - {importer})
    return graph


def _module_name(path: Path, package_root: Path) -> str:
    parts = path.relative_to(package_root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, importer: str, modules: set[str]) -> Iterator[str]:
    """Yields the modules that a file imports; `from a import b` is the module a.b where there is one, else a."""
    package = importer if path.stem == "__init__" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in modules:
                    yield name
                elif base in modules:
                    yield base


def _room(module: str, floors: Mapping[str, int], root: str) -> str:
    """Returns the longest room name that the module lies in; "" if there is none."""
    if module == root:
        return root if root in floors else ""
    rooms = [room for room in floors if room != root and (module == room or module.startswith(f"{room}."))]
    return max(rooms, key=len, default="")


def _cycles(graph: Mapping[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of modules of which each can be reached from each other."""
    reachable = {module: _reachable(module, graph) for module in graph}
    groups = {
        tuple(sorted(other for other in reachable[module] if module in reachable[other]))
        for module in graph
        if module in reachable[module]
    }
    return tuple(sorted(groups))


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(graph.get(module, ()))
    return seen
