"""The plugin of pytest, found through its entry point: `recording_mediator`, `in_memory_database`, readable conformance."""

from collections.abc import Iterator

import pytest

from mediator.testing.database import InMemoryDatabase
from mediator.testing.recording import RecordingMediator


def pytest_configure() -> None:
    """Let a failing case of a conformance suite show the values that it compared."""
    pytest.register_assert_rewrite("mediator.testing.conformance")


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
