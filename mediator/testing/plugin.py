"""The pytest plugin: `recording_mediator`, `in_memory_database`, and readable failures of conformance cases.

Pytest finds it through its entry point.
"""

from collections.abc import Iterator

import pytest

from mediator.testing.memory import InMemoryDatabase
from mediator.testing.recording import RecordingMediator


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Let a failing case of a conformance suite show the values that it compared.

    This hook runs before any `conftest.py`. A `conftest.py` may import the suites, and after that it would be too late.
    """
    pytest.register_assert_rewrite("mediator.testing.conformance")


@pytest.fixture
def recording_mediator() -> Iterator[RecordingMediator]:
    """A `RecordingMediator`. The test fails at its end if an expected message was never sent."""
    mediator = RecordingMediator()
    yield mediator
    if mediator.unmet:
        pytest.fail(f"expected, and never sent: {', '.join(mediator.unmet)}", pytrace=False)


@pytest.fixture
def in_memory_database() -> InMemoryDatabase:
    """An empty `InMemoryDatabase`."""
    return InMemoryDatabase()
