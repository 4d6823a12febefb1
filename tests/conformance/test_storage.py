"""The storages of the library pass the conformance suites: in memory, in SQLite and in PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mediator.testing import InMemoryDatabase
from mediator.testing.conformance import StorageCapability, StorageConformance, StorageUnderTest
from tests.conformance.storages import in_database, in_memory
from tests.postgres import PostgresServer
from tests.unit.virtual_time import cases_in_virtual_time, now


@cases_in_virtual_time
class TestInMemory(StorageConformance):
    capabilities = frozenset({StorageCapability.SEVERAL_WRITERS})

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[StorageUnderTest]:
        async with in_memory(InMemoryDatabase(clock_offset=now)) as storage:
            yield storage


class TestSqlite(StorageConformance):
    capabilities = frozenset({StorageCapability.DURABLE})

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._folders = tmp_path_factory

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[StorageUnderTest]:
        folder: Path = self._folders.mktemp("storage")
        async with in_database(f"sqlite:///{folder}/conformance.db") as storage:
            yield storage


class TestPostgresql(StorageConformance):
    capabilities = frozenset(StorageCapability)

    @pytest.fixture(autouse=True)
    def _on_a_server(self, postgres: PostgresServer) -> None:
        self._server = postgres

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[StorageUnderTest]:
        async with self._server.database() as url, in_database(url) as storage:
            yield storage


def test_each_storage_is_tested_by_every_case_but_those_that_need_what_it_lacks():
    assert TestPostgresql.cases() == StorageConformance.cases()
    left_out = set(StorageConformance.cases()) - set(TestInMemory.cases())
    assert left_out
    assert all("durable" in case or "restart" in case or "opened_again" in case for case in left_out), left_out
