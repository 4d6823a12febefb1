"""Headers: the small, immutable mapping of texts that travels with a message context, and what any of its texts may be."""

import re
from collections.abc import Iterator, Mapping

from mediator.errors import ContextError

LONGEST_TEXT = 255
"""Characters of an id, a principal or a tenant."""
LONGEST_VALUE = 1024
"""Characters of a header's value."""
LARGEST_HEADERS = 4096
"""Characters of the names and values of all headers together."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def problem_of(value: object, longest: int = LONGEST_TEXT) -> str:
    """What is wrong with a text for a context; empty when nothing is.

    Only what `str.isprintable` accepts may be in it: neither control characters nor line ends, so that it cannot forge
    log lines, nor broken surrogates, which have no encoding.
    """
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, not a text"
    if len(value) > longest:
        return f"has {len(value):,} characters, more than {longest:,}"
    return "" if value.isprintable() else "has a character that cannot be printed, such as a line end"


def checked(field: str, value: str) -> str:
    """An id, a principal or a tenant.

    Raises:
        ContextError: It is empty, too long, or has a character that cannot be printed.
    """
    if value.__class__ is str and 0 < len(value) <= LONGEST_TEXT and value.isprintable():
        return value
    problem = problem_of(value) or ("" if value else "is empty; leave it out instead")
    if problem:
        raise ContextError(field, problem)
    return value


class Headers(Mapping[str, str]):
    """Texts by name, in whatever case the name is asked for. Its `repr` keeps the values to itself.

    Args:
        values: Names of up to 64 letters, digits, `.`, `_` and `-`; values of up to 1,024 printable characters; 4,096
            characters in all.

    Raises:
        ContextError: It is larger than that, or something in it has a character that may not be there.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, str] = {}
        for name, value in (values or {}).items():
            self._values[_checked_name(name)] = _checked_value(name, value)
        if len(self._values) != len(values or {}):
            raise ContextError("headers", "have two names that differ in case only")
        size = sum(len(name) + len(value) for name, value in self._values.items())
        if size > LARGEST_HEADERS:
            raise ContextError("headers", f"have {size:,} characters in all, more than {LARGEST_HEADERS:,}")

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Headers({', '.join(f'{name}=***' for name in self._values)})"


def _checked_name(name: object) -> str:
    lowered = name.lower() if isinstance(name, str) else ""
    if not _NAME.fullmatch(lowered):
        raise ContextError("headers", "have a name that is not 1 to 64 letters, digits, dots, hyphens and underscores")
    return lowered


def _checked_value(name: str, value: object) -> str:
    problem = problem_of(value, LONGEST_VALUE)
    if problem or not isinstance(value, str):
        raise ContextError(f"headers[{name!r}]", problem)
    return value


NO_HEADERS = Headers()
