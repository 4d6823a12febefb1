"""Fixtures: the storages of the contract tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str | None]:
    """Return the URL of an empty database, or `None` for storage in memory."""
    if request.param == "memory":
        yield None
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.db"
    else:
        async with request.getfixturevalue("postgres").database() as url:
            yield url
