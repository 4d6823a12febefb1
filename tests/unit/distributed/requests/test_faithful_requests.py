"""Requests, responses and cached queries arrive unchanged, or raise an error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest

from mediator import Query
from mediator.behaviors import MemoryCache
from mediator.behaviors.caching import Cached, CacheKey
from mediator.distributed.requests import encoded_response
from mediator.distributed.requests.port import encoded_request
from mediator.msgspec import MsgspecRequestCodec


@dataclass(frozen=True)
class Base:
    name: str


@dataclass(frozen=True)
class Derived(Base):
    more: int = 0


@attrs.frozen
class Hidden:
    name: str
    _secret: str = ""


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Base, Derived("x", 1), "it is a Derived, and is read again as a Base"),
        (list[Base], [Derived("x")], r"`\[0\]` is a Derived"),
        (Sequence[int], (1, 2), "it is a tuple, and is read again as a list"),
        (Any, {"at": datetime(2026, 1, 1, tzinfo=UTC)}, r"`\[...\]` is a datetime"),
        (Hidden, Hidden("x", "s3cret"), "`_secret` is a str"),
        (float | None, math.nan, "it is a float, and is read again as None"),
        (
            datetime,
            datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")),
            "it is a datetime in the time zone Europe/Berlin",
        ),
    ],
)
def test_a_response_that_would_be_read_as_another_value_is_not_encoded(annotation: Any, value: object, text: str):
    with pytest.raises(ValueError, match=f"would be read as another value: {text}") as caught:
        encoded_response(MsgspecRequestCodec(), value, annotation)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Base, Base("x")),
        (None, None),
        (float, 5),
        (tuple[int, ...], (1, 2)),
        (list[Derived], [Derived("x", 2)]),
        (Any, {"a": [1]}),
    ],
)
def test_a_response_that_survives_the_round_trip_is_encoded(annotation: Any, value: object):
    codec = MsgspecRequestCodec()
    assert encoded_response(codec, value, annotation) == codec.encode(value)


@dataclass(frozen=True)
class Find(Query[str]):
    what: Any
    asked_by: str = field(default="", compare=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (1.0, 1),
        (0.0, -0.0),
        (Decimal("1.0"), Decimal("1.00")),
        ((1, 2), (1, 2.0)),
        (frozenset({1}), frozenset({True})),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        (Base("x"), "x"),
    ],
)
async def test_a_query_that_only_compares_equal_is_not_answered_from_the_cache(one, other):
    cache = MemoryCache()
    await cache.set(CacheKey(Find, Find(one)), Cached("one"), 60)
    assert await cache.get(CacheKey(Find, Find(other))) is None
    assert await cache.get(CacheKey(Find, Find(one))) == Cached("one")


async def test_fields_that_a_query_does_not_compare_do_not_matter_to_the_cache():
    cache = MemoryCache()
    await cache.set(CacheKey(Find, Find(1, "ada")), Cached("one"), 60)
    assert await cache.get(CacheKey(Find, Find(1, "bob"))) == Cached("one")


def test_a_request_that_its_own_class_would_read_differently_is_not_encoded():
    codec = MsgspecRequestCodec()
    with pytest.raises(ValueError, match="`_secret` is a str"):
        encoded_request(codec, Hidden("x", "s3cret"))
    assert encoded_request(codec, Base(7)) == b'{"name":7}'  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (dict[int, str], {2: "b", 10: "a"}),
        (dict[UUID, Decimal], {UUID(int=2): Decimal("1.0"), UUID(int=1): Decimal(2)}),
        (list[dict[date, bytes]], [{date(2020, 1, 2): b"x", date(2020, 1, 1): b""}]),
    ],
)
def test_mappings_with_other_keys_than_strings_are_sent_and_equal_mappings_give_equal_bytes(annotation, value):
    codec = MsgspecRequestCodec()
    data = encoded_response(codec, value, annotation)
    assert codec.decode(data, annotation) == value
    mapping = value[0] if isinstance(value, list) else value
    backwards = dict(reversed(mapping.items()))
    assert codec.encode([backwards] if isinstance(value, list) else backwards) == data
