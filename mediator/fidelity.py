"""Fidelity: compares a value that was written with the value that was read again, part by part.

Values are compared by type and by field, because `==` is not enough. By `==`, 1 equals 1.0 and also `True`; 0.0 equals
-0.0; and an instant equals the same instant in another time zone. Two objects without `__eq__` never equal. Two
differences of type are allowed. An `int` may be read as an equal `float`, because type checkers accept an `int` as a
`float`. A value whose class derives from `UUID`, `datetime` or `date` may be read as a plain `UUID`, `datetime` or
`date`, because database drivers and date libraries have such classes. But a `datetime` must not be read as a `date`.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from functools import cached_property
from types import NoneType
from typing import Any, cast
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between a value that was written and the value that was read again.

    Attributes:
        path: The path to the difference from the outermost value: `.lines[0].price`. Keys of mappings are not shown.
        given: A description of the part that was written, without its value.
        read: A description of the part that was read.
        advice: How to avoid the difference; empty when there is no special advice.
    """

    path: str
    given: str
    read: str
    advice: str = ""

    def __str__(self) -> str:
        where = f"`{self.path.removeprefix('.')}`" if self.path else "it"
        advice = f"; {self.advice}" if self.advice else ""
        return f"{where} is {self.given}, and is read again as {self.read}{advice}"

    def within(self, place: str) -> "Change":
        """Return the same change with a prefix before its path."""
        return Change(place + self.path, self.given, self.read, self.advice)


def change_of(given: object, read: object) -> Change | None:
    """Return the first difference between two values; `None` when they are the same. The result shows no values.

    Raises:
        RecursionError: The values are nested too deeply.
    """
    kind = type(given)
    if kind is not type(read) and not _is_accepted(read, given):
        return _differing(given, read)
    return (_comparisons.get(kind) or _comparison(kind))(given, read)


def are_same(one: object, other: object) -> bool:
    """Return whether two values that are equal by `==` also have the same types in all fields that `==` compares."""
    names: list[str] | None = None
    if is_dataclass(one) and not isinstance(one, type):
        names = [each.name for each in fields(one) if each.compare]
    elif (attributes := getattr(one, "__attrs_attrs__", None)) is not None:
        names = [each.name for each in attributes if each.eq]
    pairs = [(one, other)] if names is None else [(getattr(one, name), getattr(other, name)) for name in names]
    return all(change_of(*pair) is None and change_of(*reversed(pair)) is None for pair in pairs)


_Comparison = Callable[[Any, Any], Change | None]

_PLAIN: frozenset[type] = frozenset({str, int, bool, bytes, bytearray, NoneType, date, timedelta, UUID})
"""Types whose values can be compared by `==`, if both values have exactly this type."""
_FOR_SUBCLASSES: frozenset[type] = frozenset({UUID, datetime})
"""An instance of a subclass of one of these types may be read again as an instance of the type itself."""
_MISSING: Any = object()


def _is_accepted(read: object, given: object) -> bool:
    if type(read) is float:
        return type(given) is int and given == read
    if type(read) in _FOR_SUBCLASSES:
        return isinstance(given, type(read))
    return type(read) is date and isinstance(given, date) and not isinstance(given, datetime)


def _differing(given: object, read: object, advice: str = "") -> Change:
    one, other = _article(given), _article(read)
    return Change("", one, other if one != other else f"a different {type(read).__name__}", advice)


def _article(value: object) -> str:
    if value is None or value is _MISSING:
        return "None" if value is None else "nothing"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def _plain(given: Any, read: Any) -> Change | None:
    return None if given == read else _differing(given, read)


def _float(given: float, read: float) -> Change | None:
    if given == read and given:
        return None  # among equal floats only 0.0 and -0.0 differ
    same = given == read and math.copysign(1.0, given) == math.copysign(1.0, read)
    return None if same or (math.isnan(given) and math.isnan(read)) else _differing(given, read)


def _complex(given: complex, read: complex) -> Change | None:
    return _float(given.real, read.real) or _float(given.imag, read.imag)


def _decimal(given: Decimal, read: Decimal) -> Change | None:
    return None if given.as_tuple() == read.as_tuple() else _differing(given, read)


def _clock_time(given: datetime | time, read: datetime | time) -> Change | None:
    """Compare the local times and the UTC offsets of two values.

    Only an offset from UTC can be stored, so a time zone whose offset varies over the year is reported as a change.
    """
    if given.tzinfo is read.tzinfo is UTC and given == read:
        return None
    if given.tzinfo is None:
        same = read.tzinfo is None and given.fold == read.fold
    else:
        if given.tzinfo is not read.tzinfo and not _has_fixed_offset(given.tzinfo):
            advice = (
                "only an offset from UTC is kept: give it as `.astimezone(UTC)`, and the zone in a field of its own"
            )
            kind = _article(given)
            return Change("", f"{kind} in the time zone {given.tzinfo}", f"{kind} without that zone", advice)
        same = given.utcoffset() == read.utcoffset()
    same = same and given.replace(tzinfo=None, fold=0) == read.replace(tzinfo=None, fold=0)
    return None if same else _differing(given, read)


def _has_fixed_offset(zone: tzinfo) -> bool:
    try:
        return zone.utcoffset(None) is not None
    except Exception:  # a time zone class of the application that requires a date
        return False


def _sequence(given: Sequence[Any], read: Sequence[Any]) -> Change | None:
    if len(given) != len(read):
        return _of_other_size(given, read)
    for number, (one, other) in enumerate(zip(given, read, strict=True)):
        if type(one) in _PLAIN and type(one) is type(other) and one == other:
            continue
        if (change := change_of(one, other)) is not None:
            return change.within(f"[{number}]")
    return None


def _set(given: AbstractSet[Any], read: AbstractSet[Any]) -> Change | None:
    if len(given) != len(read):
        return _of_other_size(given, read)
    partners = {each: each for each in read}
    for each in given:
        if (change := _change_of_partner(each, partners)) is not None:
            return change.within("[...]")
    return None


def _mapping(given: Mapping[Any, Any], read: Mapping[Any, Any]) -> Change | None:
    if len(given) != len(read):
        return _of_other_size(given, read)
    partners = {each: each for each in read}
    for key, value in given.items():
        change = _change_of_partner(key, partners) or change_of(value, read[key])
        if change is not None:
            return change.within("[...]")
    return None


def _change_of_partner(given: object, partners: Mapping[Any, Any]) -> Change | None:
    partner = partners.get(given, _MISSING)
    if partner is not _MISSING:
        return change_of(given, partner)
    other = next((each for each in partners if type(each) is not type(given)), given)
    return _differing(given, other)


def _of_other_size(given: Any, read: Any) -> Change:
    return Change("", f"{_article(given)} of {len(given)}", f"one of {len(read)}")


def _member(given: enum.Enum, read: enum.Enum) -> Change | None:
    return None if given is read else _differing(given, read)


def _any(given: Any, read: Any) -> Change | None:
    """Compare objects of an unknown class: by the `__eq__` of the class if there is one, otherwise by attributes."""
    if given is read:
        return None
    equality: object = type(given).__eq__
    if equality is not object.__eq__:
        try:
            return None if bool(given == read) else _differing(given, read)
        except Exception:  # an `__eq__` of the application, such as one that returns an array
            return _differing(given, read)
    return _named(_state(given), _state(read))


def _state(value: object) -> dict[str, Any]:
    """Return the attributes of an object, without cached properties."""
    cls = type(value)
    names: dict[str, None] = dict.fromkeys(getattr(value, "__dict__", {}))
    for base in cls.__mro__:
        slots: object = base.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else cast("Sequence[str]", slots))
    kept = [name for name in names if not isinstance(getattr(cls, name, None), cached_property)]
    return {name: getattr(value, name, _MISSING) for name in kept if name not in ("__dict__", "__weakref__")}


def _named(given: Mapping[str, Any], read: Mapping[str, Any]) -> Change | None:
    for name in {**given, **read}:
        if (change := change_of(given.get(name, _MISSING), read.get(name, _MISSING))) is not None:
            return change.within(f".{name}")
    return None


_comparisons: dict[type, _Comparison] = {
    **{kind: _plain for kind in _PLAIN},  # noqa: C420  (typed)
    complex: _complex,
}
"""The comparison functions chosen so far, by class."""
_BASES: Sequence[tuple[type, _Comparison]] = (
    (enum.Enum, _member),
    (datetime, _clock_time),
    (time, _clock_time),
    (date, _plain),
    (UUID, _plain),
    (tuple, _sequence),
    (list, _sequence),
    (dict, _mapping),
    (set, _set),
    (frozenset, _set),
    (Decimal, _decimal),
    (float, _float),
)


def _comparison(cls: type) -> _Comparison:
    """Choose the comparison function for the values of a class, and keep it for the next value."""
    names = _fields(cls)
    if names is not None:
        found = _by_fields(names)
    else:
        found = next((comparison for base, comparison in _BASES if issubclass(cls, base)), _any)
    _comparisons[cls] = found
    return found


def _fields(cls: Any) -> tuple[str, ...] | None:
    """Return the names of the fields of a class; `None` when the class declares no fields.

    A field is left out if it is neither an argument of `__init__` nor compared by `__eq__`. The value of such a field
    is computed from other fields.
    """
    if hasattr(cls, "__struct_fields__"):
        return tuple(cls.__struct_fields__)
    if hasattr(cls, "__pydantic_fields__") and not is_dataclass(cls):
        return (*cls.__pydantic_fields__, "__pydantic_extra__", "__pydantic_private__")
    if is_dataclass(cls):
        return tuple(each.name for each in fields(cls) if each.init or each.compare)
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(each.name for each in cls.__attrs_attrs__ if each.init or each.eq)
    return None


def _by_fields(names: tuple[str, ...]) -> _Comparison:
    def compare(given: object, read: object) -> Change | None:
        for name in names:
            one, other = getattr(given, name, _MISSING), getattr(read, name, _MISSING)
            if type(one) in _PLAIN and type(one) is type(other) and one == other:
                continue
            if (change := change_of(one, other)) is not None:
                return change.within(f".{name}")
        return None

    return compare
