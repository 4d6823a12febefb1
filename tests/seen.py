"""Seen: all texts that a log, a terminal or a report may show for an error, including local variables."""

import traceback
from collections.abc import Iterator
from pathlib import Path

from rich.pretty import pretty_repr

TESTS = str(Path(__file__).parent)


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """Return an error with its causes and contexts, including suppressed contexts."""
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
    """Return the texts of an error, its causes and contexts, and the local variables of all functions except tests.

    Each variable is shown as by `traceback`, and as by rich and structlog, which show the contents of collections.
    """
    texts: list[str] = []
    for each in errors_of(error):
        texts += [str(each), repr(each), repr(vars(each)), *traceback.format_exception_only(each)]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not frame.f_code.co_filename.startswith(TESTS):
                for name, value in frame.f_locals.items():
                    texts.append(f"{frame.f_code.co_qualname} {name} = {value!r} {pretty_repr(value, max_depth=5)}")
    return "\n".join(texts)
