"""Package: the handlers and companions that are defined in its modules, in an order that imports do not change."""

import importlib
import pkgutil
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mediator.dependency_injector.roles import is_for_use

Fault = tuple[str, str]
"""The name of a module or class, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in packages.

    Attributes:
        classes: Package by package, the modules of one in the order of their names, each as its classes are defined.
        faults: Modules that cannot be imported, packages in which nothing is found, or none at all, exclusions of nothing.
    """

    classes: tuple[type, ...]
    faults: tuple[Fault, ...]


def contents_of(packages: Sequence[str], exclude: Sequence[str]) -> Contents:
    """Import packages with all their modules, and find the handlers and companions that are defined in them.

    Modules called `__main__` are left out: to import one is to run it.

    Args:
        packages: Names of packages and modules.
        exclude: Names of packages and modules, which are not imported, and of classes: `package.module.Class`.
    """
    faults: list[Fault] = [] if packages else [("HandlerScan", 'names no package: `HandlerScan("shop.students")`.')]
    found: dict[type, None] = {}
    exclusion = _Exclusion(exclude)
    for package in packages:
        known = len(faults)
        classes = [cls for module in _modules(package, exclusion, faults) for cls in _defined_in(module, exclusion)]
        found |= dict.fromkeys(classes)
        if not classes and len(faults) == known:
            faults.append((package, "has no handler in it, nor anything else that is found by its class."))
    if not faults:  # what was not imported may be what is excluded
        faults += [(name, "is excluded, and there is no such module or class.") for name in exclusion.unused]
    return Contents(tuple(found), tuple(faults))


class _Exclusion:
    """Names that are left out, with all below them.

    Attributes:
        unused: Those of which nothing was seen.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.unused = list(names)

    def leaves_out(self, name: str) -> bool:
        """Whether a module or class is left out."""
        if not any(_is_below(name, each) for each in self._names):
            return False
        self.unused = [each for each in self.unused if not _is_below(name, each) and not _is_below(each, name)]
        return True


def _is_below(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")


def _modules(name: str, exclusion: _Exclusion, faults: list[Fault]) -> Iterator[ModuleType]:
    """A module and, if it is a package, all below it; what cannot be imported becomes a fault."""
    if exclusion.leaves_out(name):
        return
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # reported with all others; a script that ends itself must not end this
        faults.append((name, _told(error)))
        return
    yield module
    for child in sorted(info.name for info in pkgutil.iter_modules(getattr(module, "__path__", ()))):
        if child != "__main__":
            yield from _modules(f"{name}.{child}", exclusion, faults)


def _told(error: BaseException) -> str:
    """What an import raised, and the place, without which it would be hard to find."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "importlib" not in each.filename]
    inside = [each for each in frames if each.filename != __file__]
    place = f" ({inside[-1].filename}, line {inside[-1].lineno})" if inside else ""
    return f"cannot be imported: {type(error).__name__}: {error}{place}."


def _defined_in(module: ModuleType, exclusion: _Exclusion) -> Iterator[type]:
    for cls in dict.fromkeys(_classes_in(module, module.__name__)):
        if is_for_use(cls) and not exclusion.leaves_out(f"{cls.__module__}.{cls.__qualname__}"):
            yield cls


def _classes_in(holder: Any, module: str, prefix: str = "") -> Iterator[type]:
    """The classes that are defined in a module or in a class of it, and in these."""
    values: list[Any] = list(holder.__dict__.values())
    for value in values:
        if isinstance(value, type) and value.__module__ == module and value.__qualname__.startswith(prefix):
            yield value
            yield from _classes_in(value, module, f"{value.__qualname__}.")
