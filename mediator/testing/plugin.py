"""Fixtures for pytest, found through its entry point: `recording_mediator` and `in_memory_database`."""

from collections.abc import Iterator

import pytest

from mediator.testing.database import InMemoryDatabase
from mediator.testing.recording import RecordingMediator


@pytest.fixture
def recording_mediator() -> Iterator[RecordingMediator]:
    """A `RecordingMediator`; the test fails at its end if something that was expected has not been sent."""
    mediator = RecordingMediator()
    yield mediator
    if mediator.unmet:
        pytest.fail(f"expected, and never sent: {', '.join(mediator.unmet)}", pytrace=False)


@pytest.fixture
def in_memory_database() -> InMemoryDatabase:
    """An empty `InMemoryDatabase`."""
    return InMemoryDatabase()
