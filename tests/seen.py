"""Seen: all that a log, a terminal or a report may show of an error, also with the values of local variables."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from rich.pretty import pretty_repr

TESTS = str(Path(__file__).parent)


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """An error with all that it comes from, also what it hides."""
    waiting: list[BaseException | None] = [error]
    known: list[BaseException] = []
    while waiting:
        found = waiting.pop()
        if found is not None and not any(found is each for each in known):
            known.append(found)
            waiting += [found.__cause__, found.__context__]
            waiting += found.exceptions if isinstance(found, BaseExceptionGroup) else ()
    return iter(known)


def seen(error: BaseException) -> str:
    """The texts of an error and of all that it comes from, and the local variables of all functions but the tests' own.

    Each variable as `traceback` shows it, and as rich and structlog do, which look into collections and dataclasses.
    """
    texts: list[str] = []
    for each in errors_of(error):
        texts += [str(each), repr(each), repr(vars(each)), *traceback.format_exception_only(each)]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not frame.f_code.co_filename.startswith(TESTS):
                for name, value in frame.f_locals.items():
                    texts.append(f"{frame.f_code.co_qualname} {name} = {value!r} {pretty_repr(value, max_depth=5)}")
    return "\n".join(texts)
