"""Backoff: pauses that grow, within bounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator.distributed.backoff import Backoff
from mediator.distributed.inbox import RetrySchedule

seconds = st.floats(0.001, 3600)


@given(seconds, seconds, st.integers(0, 2000), st.integers())
def test_a_pause_doubles_up_to_the_longest_and_jitter_at_most_halves_it(
    first: float, last: float, tries: int, seed: int
):
    longest = min(first * 2.0 ** min(tries, 500), last)
    assert longest / 2 <= Backoff(first, last, random.Random(seed)).at(tries) <= longest


@given(st.integers())
def test_the_same_randomness_gives_the_same_pauses(seed: int):
    one, other = (Backoff(0.5, 60, random.Random(seed)) for _ in range(2))
    assert [one.next() for _ in range(20)] == [other.next() for _ in range(20)]


def test_each_pause_is_the_one_after_one_more_failed_attempt():
    one, other = (Backoff(0.5, 60, random.Random(7)) for _ in range(2))
    assert [one.next() for _ in range(10)] == [other.at(tries) for tries in range(10)]


def test_reset_begins_again_with_the_first_pause():
    backoff = Backoff(1, 1000, random.Random(7))
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1


def test_pauses_of_many_events_are_both_shorter_and_longer_than_the_scheduled_pause():
    rng = random.Random(7)
    pauses = [RetrySchedule((10.0,), (), ends=True).quick_delay(1, rng) for _ in range(200)]
    assert min(pauses) < 8.5
    assert max(pauses) > 11.5


def test_the_longest_wait_of_an_event_is_the_sum_of_its_pauses_lengthened_by_a_fifth():
    for quick, seconds in (((), 0.0), ((1.0,), 1.0), ((1.0, 2.0), 3.0)):
        assert RetrySchedule(quick, (30.0,), ends=True).longest == pytest.approx(1.2 * seconds)
