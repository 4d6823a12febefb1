"""ConformanceSuite: the promises of one port as test cases, which run against any adapter that pytest is given.

A suite is a class with one method per promise. An adapter's test module subclasses it, says how the adapter is opened and
what it is capable of; pytest collects the subclass. A case that needs a capability which the adapter does not declare is no
case of that subclass: it is neither run nor skipped, and `cases()` tells what is left.
"""

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, TypeVar

_Case = TypeVar("_Case", bound=Callable[..., Any])


class ConformanceSuite:
    """What all suites have in common.

    Attributes:
        capabilities: What the adapter can do beyond what each must. The subclass of an adapter declares it, be it empty;
            without it all cases run.
    """

    capabilities: ClassVar[frozenset[Enum]]

    def __init_subclass__(cls) -> None:
        """Take out the cases that need more than the adapter declares."""
        super().__init_subclass__()
        if not hasattr(cls, "capabilities"):
            return
        for name, case in inspect.getmembers(cls, inspect.isfunction):
            if not _needs(case) <= cls.capabilities:
                setattr(cls, name, None)

    @classmethod
    def cases(cls) -> tuple[str, ...]:
        """The names of the cases that run against the adapter, sorted."""
        return tuple(name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test_"))


def needs(*capabilities: Enum) -> Callable[[_Case], _Case]:
    """Mark a case that only adapters with these capabilities must pass."""

    def mark(case: _Case) -> _Case:
        setattr(case, _MARK, frozenset(capabilities))
        return case

    return mark


_MARK = "__conformance_needs__"


def _needs(case: Callable[..., Any]) -> frozenset[Enum]:
    return getattr(case, _MARK, frozenset())
