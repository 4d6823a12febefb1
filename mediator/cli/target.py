"""Target: the container that a command is to work on, named as `module:name`."""

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from dependency_injector import containers

from mediator.cli.errors import CommandError


def load_container(target: str) -> Any:
    """The container that `module:name` names: a container, a container class, or a function that makes one.

    The current directory is put on `sys.path`, so that an application need not be installed.

    Raises:
        CommandError: There is no such thing, or it is none of these. The text is one sentence that says which.
    """
    module_name, separator, name = target.partition(":")
    if not (separator and module_name and name):
        raise CommandError(f"{target!r} is not module:name, such as university.container:create.")
    _check_no_file(module_name, name)
    module = _import(module_name)
    if not hasattr(module, name):
        raise CommandError(f"The module {module_name!r} has no {name!r}.{nearest(name, vars(module))}")
    return _container(target, getattr(module, name))


def _check_no_file(module_name: str, name: str) -> None:
    if module_name.endswith(".py") or "/" in module_name:
        module = ".".join(Path(module_name.removesuffix(".py")).parts).strip("./")
        raise CommandError(f"{module_name!r} is a file; name the module: {module}:{name}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the names that are like `name`, to be appended to a sentence; empty when none is."""
    lowered = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=2)
    return f" Did you mean {' or '.join(lowered[each] for each in found)}?" if found else ""


def _import(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"Importing {name!r}", error) from error
        raise CommandError(f"The module {error.name!r} was not found in {folder} nor on sys.path.") from error
    except Exception as error:  # a user's module may raise anything
        raise _failed(f"Importing {name!r}", error) from error


def _container(target: str, found: Any) -> Any:
    if isinstance(found, containers.Container):
        return found
    if not callable(found) or (inspect.isclass(found) and not issubclass(found, containers.Container)):
        raise _no_container(target, found)
    made = _call(target, found)
    if isinstance(made, containers.Container):
        return made
    if inspect.iscoroutine(made):
        made.close()
        raise CommandError(f"{target!r} is async; a factory of a container is a plain function.")
    raise _no_container(f"{target}()", made)


def _call(target: str, factory: Callable[[], Any]) -> Any:
    try:
        required = [p.name for p in inspect.signature(factory).parameters.values() if _is_required(p)]
    except (TypeError, ValueError):
        required = []
    if required:
        raise CommandError(f"{target!r} needs arguments ({', '.join(required)}); name a factory that needs none.")
    try:
        return factory()
    except Exception as error:  # a user's factory may raise anything
        raise _failed(f"Calling {target!r}", error) from error


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not variadic


def _no_container(target: str, found: Any) -> CommandError:
    kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
    return CommandError(f"{target!r} is {kind}; name a container, a container class or a function that returns one.")


def _failed(what: str, error: Exception) -> CommandError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_file()]  # not those frozen into the interpreter
    text = " ".join(str(error).split())
    return CommandError(f"{what} failed at {own[-1].filename}:{own[-1].lineno}: {type(error).__name__}: {text}")
