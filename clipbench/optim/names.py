"""Names that a user writes: the object behind "module:Class", and the nearest spelling of an unknown one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class NotImportable(ValueError):
    """A path that names no object."""


class NoSuchModule(NotImportable):
    """There is no module of that name where modules are looked for."""


class NoSuchName(NotImportable):
    """The module is there, and has nothing of that name."""


def import_object(path: str, places: str = "in the current folder or on the import path") -> Any:
    """The object that `path` names, as "module:Name" or with dots alone, "package.module.Name".

    What is wrong with the path itself is a NotImportable, whose text begins with a small letter so that the
    setting can stand before it: NoSuchModule, "there is no module 'my_clp' in the current folder or on the
    import path." (`places` is its end), or NoSuchName, "there is no 'Smoth' in my_clip. Did you mean
    'Smooth'?". What the module raises while it is imported comes through as it is, also a
    ModuleNotFoundError for something that the module needs.
    """
    module_name, separator, name = path.partition(":")
    if not separator:
        module_name, separator, name = path.rpartition(".")
    if not name or not module_name or module_name.startswith("."):
        raise NotImportable(f"'{path}' names no object of a module. Write 'module:Class'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise  # the module is there; what it imports is not
        raise NoSuchModule(f"there is no module '{module_name}' {places}.") from error
    if not hasattr(module, name):
        raise NoSuchName(f"there is no '{name}' in {module_name}.{nearest(name, dir(module))}")
    return getattr(module, name)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """ " Did you mean 'auto'?" or "", for the end of a sentence that refuses `word`.

    `likeness`: how alike, from 0 to 1, a known one must be to be meant.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f" Did you mean '{close[0]}'?" if close else ""
