"""Numbers that an attacker chose for their equal hashes are refused, at little more cost than other numbers."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import pytest

from mediator import DistributedEvent
from mediator.distributed.events import check_collisions
from mediator.errors import EventNotDecodableError
from mediator.msgspec import MsgspecCodec, MsgspecRequestCodec
from mediator.pydantic import PydanticCodec

MODULUS = 2**61 - 1
COUNT = 20_000


def event_of(annotation: Any) -> type[DistributedEvent]:
    made = make_dataclass("Counted", [("parts", annotation)], bases=(DistributedEvent,))
    made.event_type = "shop.counted"
    return made


def in_mapping(numbers: list[str]) -> bytes:
    return json.dumps({"parts": dict.fromkeys(numbers, 0)}).encode()


def escaped(numbers: list[str]) -> bytes:
    digits = ("".join(f"\\u{ord(char):04x}" for char in number) for number in numbers)
    return ('{"parts": {' + ", ".join(f'"{number}": 0' for number in digits) + "}}").encode()


def in_list(numbers: list[str]) -> bytes:
    return ('{"parts": [' + ", ".join(numbers) + "]}").encode()


def of_texts(numbers: list[str]) -> bytes:
    return json.dumps({"parts": numbers}).encode()


def in_pairs(numbers: list[str]) -> bytes:
    return in_list([f"[1, {number}]" for number in numbers])


def of_ids(numbers: list[str]) -> bytes:
    return of_texts([str(UUID(int=int(number))) for number in numbers])


WRITTEN = [
    (dict[int, int], in_mapping),
    (dict[int, int], escaped),
    (dict[Decimal, int], in_mapping),
    (set[int], in_list),
    (frozenset[int], in_list),
    (set[Decimal], in_list),
    (set[Decimal], of_texts),
    (set[UUID], of_ids),
    (set[tuple[int, int]], in_pairs),
]


@pytest.mark.parametrize("codec", [MsgspecCodec(), PydanticCodec()], ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize(
    ("annotation", "write"), WRITTEN, ids=lambda each: getattr(each, "__name__", None) or str(each)
)
def test_numbers_with_one_hash_are_refused_at_about_the_cost_of_others(
    annotation: Any, write: Callable[[list[str]], bytes], codec: Any
) -> None:
    event_class = event_of(annotation)
    honest = write([str(number * (MODULUS + 2)) for number in range(1, COUNT)])
    chosen = write([str(number * MODULUS) for number in range(1, COUNT)])
    began = time.process_time()
    assert len(codec.decode(honest, event_class).parts) == COUNT - 1
    read = time.process_time()
    with pytest.raises(EventNotDecodableError, match="same hash|ValueError"):
        codec.decode(chosen, event_class)
    assert time.process_time() - read < 3 * (read - began)


def test_colliding_numbers_in_requests_and_plain_data_are_refused_too() -> None:
    numbers = [number * MODULUS for number in range(1, COUNT)]
    with pytest.raises(ValueError, match="same hash"):
        MsgspecRequestCodec().decode(json.dumps(numbers).encode(), set[int])
    with pytest.raises(EventNotDecodableError, match="same hash"):
        MsgspecCodec().convert({"parts": {str(number): 0 for number in numbers}}, event_of(dict[int, int]))


@dataclass(frozen=True)
class Listed(DistributedEvent):
    event_type: ClassVar[str] = "shop.listed"
    parts: list[int]
    names: dict[str, int]


@pytest.mark.parametrize("codec", [MsgspecCodec(), PydanticCodec()], ids=lambda codec: type(codec).__name__)
def test_numbers_that_are_no_keys_of_a_mapping_are_never_refused(codec: Any) -> None:
    numbers = [number * MODULUS for number in range(COUNT)]
    event = Listed(numbers, {str(number): number for number in numbers})
    assert codec.decode(codec.encode(event), Listed) == event


def test_honest_numbers_are_never_refused() -> None:
    chosen = random.Random(1)
    check_collisions([chosen.getrandbits(chosen.randrange(1, 128)) for _ in range(COUNT)])
    check_collisions([str(UUID(int=chosen.getrandbits(128))) for _ in range(COUNT)])
    check_collisions({str(number): [0.5, "1.50", True, None, "x" * 2000] for number in range(-5000, 5000)})
