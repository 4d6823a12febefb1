"""The pytest plugin: `recording_mediator`, `in_memory_database`, and readable failures of conformance cases.

Pytest loads the plugin through an entry point.
"""

from collections.abc import Iterator

import pytest

from mediator.testing.memory import InMemoryDatabase
from mediator.testing.recording import RecordingMediator


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Make pytest show the compared values when a case of a conformance suite fails.

    This hook must run before the suites are imported. A `conftest.py` may import the suites, so the hook runs before
    every `conftest.py`.
    """
    pytest.register_assert_rewrite("mediator.testing.conformance")


@pytest.fixture
def recording_mediator() -> Iterator[RecordingMediator]:
    """A `RecordingMediator`. The test fails at its end if an expected message was never sent."""
    mediator = RecordingMediator()
    yield mediator
    if mediator.unmet:
        pytest.fail(f"expected but never sent: {', '.join(mediator.unmet)}", pytrace=False)


@pytest.fixture
def in_memory_database() -> InMemoryDatabase:
    """An empty `InMemoryDatabase`."""
    return InMemoryDatabase()
