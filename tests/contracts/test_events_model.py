"""Random programs of commands, relays, consumers, faults and repairs: no event is lost, duplicated or out of order."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from structlog.testing import capture_logs

from tests.contracts.model_events.program import EventsProgram, SqliteProgram

FACTOR = int(os.environ.get("MODEL_FACTOR", "1"))
"""The factor for the number of examples. With a factor above one, each run draws new examples."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.mark.parametrize(
    ("program", "examples", "steps"), [(EventsProgram, 200, 40), (SqliteProgram, 25, 25)], ids=["memory", "sqlite"]
)
@pytest.mark.timeout(600 * FACTOR)  # as much processor time as the dispatch model
def test_every_committed_event_is_stored_and_applied_once_and_in_order_despite_failures(
    program: type[RuleBasedStateMachine], examples: int, steps: int
):
    run_state_machine_as_test(
        program,
        settings=settings(
            max_examples=examples * FACTOR,
            stateful_step_count=steps,
            derandomize=FACTOR == 1,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
