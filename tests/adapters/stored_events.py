"""Events of all kinds, some of which cannot be stored as they are."""

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
from hypothesis import strategies as st

from mediator import DistributedEvent


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass(frozen=True, slots=True, eq=False)
class Typed(DistributedEvent):
    """A class without its own `__eq__`."""

    event_type: ClassVar[str] = "shop.typed"
    text: str = ""
    number: int = 0
    ratio: float = 0.0
    amount: Decimal = Decimal(0)
    at: datetime | None = None
    day: date | None = None
    hour: time | None = None
    span: timedelta = timedelta()
    size: Size = Size.SMALL
    blob: bytes = b""
    uid: UUID | None = None
    key: str | None = None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True, slots=True)
class Loose(DistributedEvent):
    event_type: ClassVar[str] = "shop.loose"
    value: Any = None
    others: dict[str, Any] = field(default_factory=dict)


class Packed(msgspec.Struct, DistributedEvent, rename="camel", omit_defaults=True, eq=False):
    event_type: ClassVar[str] = "shop.packed"
    some_text: str = ""
    some_set: frozenset[int] = frozenset()
    either: int | float | str | None = None


@attrs.frozen(eq=False)
class Account(DistributedEvent):
    event_type: ClassVar[str] = "shop.account"
    name: str
    _secret: str = ""


CLASSES = (Typed, Loose, Packed, Account)

_text = st.text(max_size=20)
_zones = st.sampled_from([UTC, ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), None])
_plain = st.none() | st.booleans() | st.integers() | st.floats() | _text
_odd = st.binary(max_size=5) | st.decimals() | st.dates() | st.uuids() | st.tuples(st.integers(), _text)
_values = st.recursive(
    _plain | _odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=5
)


@st.composite
def _datetimes(draw: st.DrawFn) -> datetime:
    return draw(st.datetimes()).replace(tzinfo=draw(_zones), fold=draw(st.sampled_from([0, 0, 0, 1])))


EVENTS = st.one_of(
    st.builds(
        Typed,
        text=_text,
        number=st.integers() | st.booleans(),
        ratio=st.floats() | st.integers(),
        amount=st.decimals(),
        at=st.none() | _datetimes(),
        day=st.none() | st.dates(),
        hour=st.none() | st.times(),
        span=st.timedeltas(),
        size=st.sampled_from(Size),
        blob=st.binary(max_size=10),
        uid=st.uuids(),
        key=st.none() | st.text(min_size=1, max_size=10),
    ),
    st.builds(Loose, value=_values, others=st.dictionaries(_text, _values, max_size=2)),
    st.builds(Packed, some_text=_text, some_set=st.frozensets(st.integers(), max_size=3), either=_plain),
    st.builds(Account, _text, _text | st.just("")),
)
