"""Secret: keeps values out of tracebacks. The tracebacks of structlog and rich show local variables."""

import re
import traceback
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from mediator.blocks import contextmanager

T = TypeVar("T")


class Secret(Generic[T]):
    """Holds a value and does not show it in its `repr`."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> T:
        """Return the value. Call this method only inside `secretly()`, or where no error can be raised."""
        return self._value


@contextmanager
def secretly() -> Generator[None]:
    """When the block raises an error, clear the local variables in the traceback of the error.

    The variables of the function that contains the block are not cleared. That function must keep secrets in a `Secret`,
    or delete them before an error leaves the block.
    """
    try:
        yield
    except BaseException as error:
        forget_variables(error)
        raise


def forget_variables(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of an error, its causes, its contexts and the errors of a group."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            traceback.clear_frames(found.__traceback__)  # skips functions that are still running
            waiting += [found.__cause__, found.__context__]
            waiting += cast("Any", found).exceptions if isinstance(found, BaseExceptionGroup) else ()


def hiding(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that replaces secrets in a foreign text by `***`, including percent-encoded secrets."""
    each = {re.escape(form) for secret in secrets if secret for form in (secret, quote(secret, safe=""))}
    if not each:
        return lambda text: text
    found = re.compile(rf"(?<!\w)(?:{'|'.join(sorted(each, key=len, reverse=True))})(?!\w)")
    return lambda text: found.sub("***", text)
