"""The package under test: its files, its modules and its errors."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mediator
from mediator import MediatorError

PACKAGE = Path(mediator.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))


def label(file: Path) -> str:
    """A file as it is shown in test ids: its path inside the package."""
    return file.relative_to(PACKAGE).as_posix()


def modules() -> list[ModuleType]:
    """Every module of the package."""
    names = [info.name for info in pkgutil.walk_packages(mediator.__path__, "mediator.")]
    return [mediator, *(importlib.import_module(name) for name in names if not name.endswith("__main__"))]


def errors() -> list[type[MediatorError]]:
    """Every error class of the package, the bases too, in the order of their names."""
    modules()
    found = {cls for cls in (MediatorError, *_subclasses(MediatorError)) if cls.__module__.split(".")[0] == "mediator"}
    return sorted(found, key=lambda cls: cls.__name__)


def _subclasses(cls: type[MediatorError]) -> Iterator[type[MediatorError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def public_names() -> list[tuple[ModuleType, str]]:
    """What every module lists in its `__all__`."""
    return [(module, name) for module in modules() for name in getattr(module, "__all__", ())]


def needs_docstring(value: object) -> bool:
    """Whether something public is a class or function of ours."""
    ours = getattr(value, "__module__", "").split(".")[0] == "mediator"
    return ours and (inspect.isclass(value) or inspect.isroutine(value))
