"""Finds `conversion` and `models` beside this package, whatever else on Python's path has these common names.

The folder of a user's script comes first on the path. A plain folder `models` there hides an editable install, and a
module `models.py` hides every install.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path


class HiddenPackageError(ImportError):
    """Another module or package has the name of one of densecast's packages, and comes first."""


def import_own(name: str) -> None:
    """Imports a package of densecast that a plain folder of the same name hides.

    Does nothing where the package is found anyway.

    Args:
        name: `conversion` or `models`.

    Raises:
        HiddenPackageError: A module or a package of somebody else has the name. One process cannot have both.
    """
    own = Path(__file__).parent.parent / name / "__init__.py"
    found = _find(name)
    if not own.is_file() or (found is not None and found.origin == str(own)):  # not a file: imported from an archive
        return
    if found is None or found.origin is None:
        _load(name, own)
    elif not (Path(found.origin).exists() and own.samefile(found.origin)):
        raise HiddenPackageError(
            f"{found.origin} hides densecast's package {name}\n"
            f"  why: it has the same name, and is earlier on Python's path\n"
            f"  what to do: give it another name, or run the script from another folder",
            name=name,
            path=found.origin,
        )


def _find(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module that was put into sys.modules by hand
        return ModuleSpec(name, None, origin=f"the module {sys.modules[name]!r}")


def _load(name: str, own: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, own, submodule_search_locations=[str(own.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{own} cannot be imported", name=name, path=str(own))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
