"""The PostgreSQL server of the tests: it starts on any machine, and can be stopped, killed and suspended."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.postgres import INSTALL, PostgresError, PostgresServer, _of_the_wheel
from tests.postgres_watcher import clear_up_after_the_dead

pytestmark = pytest.mark.thorough("tests the test server itself")


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as started:
        yield started


async def test_a_commit_survives_every_way_to_end_the_server(server: PostgresServer) -> None:
    await server.execute("CREATE TABLE survivors (way text)")
    for way in ("fast", "immediate"):
        await server.execute(f"INSERT INTO survivors VALUES ('{way}')")
        await server.restart(way)  # type: ignore[arg-type]  # one of the ways
    await server.execute("INSERT INTO survivors VALUES ('killed')")
    await server.kill()
    await server.start()
    assert [row["way"] for row in await server.execute("SELECT way FROM survivors")] == ["fast", "immediate", "killed"]
    assert [row[0] for row in await server.execute("SHOW fsync")] == ["on"]


async def test_a_suspended_server_does_not_answer_until_it_is_resumed(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url())
    server.suspend()
    answer = asyncio.create_task(connection.fetchval("SELECT 1"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.shield(answer)
    server.resume()
    assert await answer == 1
    await connection.close()


async def test_the_binaries_of_the_wheel_are_used_from_a_folder_closed_to_the_user_of_the_server(
    tmp_path: Path,
) -> None:
    installation = _of_the_wheel()[0].parent
    package = tmp_path / "closed" / installation.parent.name
    shutil.copytree(installation, package / installation.name, ignore=shutil.ignore_patterns("include"))
    if (libraries := installation.parent.with_name(f"{installation.parent.name}.libs")).is_dir():
        shutil.copytree(libraries, package.with_name(libraries.name))
    (tmp_path / "closed").chmod(0o700)
    async with PostgresServer(binaries=package / installation.name / "bin") as server:
        assert [row[0] for row in await server.execute("SELECT 1")] == [1]


async def test_databases_of_one_server_are_isolated(postgres: PostgresServer) -> None:
    async with postgres.database() as one, postgres.database() as other:
        for url in (one, other):
            connection = await asyncpg.connect(url)
            await connection.execute("CREATE TABLE mine (number int)")
            await connection.close()


async def test_a_database_is_empty_and_has_no_settings_and_connections_of_the_test_before(
    server: PostgresServer,
) -> None:
    async with server.database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "CREATE TABLE mine (number int); CREATE SCHEMA other; CREATE TABLE other.mine (number int)"
        )
        await connection.execute("CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'")
        await connection.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" SET default_transaction_read_only = on')
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO mine VALUES (1)")
    async with server.database() as again:
        assert again == url
        connections = await server.execute(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{url.rpartition('/')[2]}'")
        assert connections == []
        await server.execute("CREATE TABLE mine (number int)", again.rpartition("/")[2])
        schemas = "SELECT nspname FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'"
        assert [row[0] for row in await server.execute(schemas, again.rpartition("/")[2])] == ["public"]
        assert await server.execute("SELECT 1 FROM pg_proc WHERE proname = 'two'", again.rpartition("/")[2]) == []
    connection.terminate()


OWNER = """
import asyncio, psutil
from tests.postgres import PostgresServer

async def main():
    async with PostgresServer() as server:
        watcher = next(child for child in psutil.Process().children() if child.pid != server.pid)
        print(server.pid, watcher.pid, server._directory, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_a_server_dies_with_its_killed_owner_and_leaves_nothing_behind(frozen: bool) -> None:
    with _killed_owner(frozen=frozen) as (postmaster, watcher, folder):
        psutil.wait_procs([watcher], timeout=30)
        assert not postmaster.is_running()
        assert not folder.exists()


def test_the_next_server_cleans_up_after_a_killed_owner() -> None:
    with _killed_owner(with_watcher=True) as (postmaster, _, folder):
        assert postmaster.is_running()
        assert folder in clear_up_after_the_dead(folder.parent)
        assert not postmaster.is_running()
        assert not folder.exists()


async def test_a_server_with_a_living_owner_is_not_cleaned_up(server: PostgresServer) -> None:
    assert server._directory is not None
    assert server._directory not in clear_up_after_the_dead(server._directory.parent)
    assert [row[0] for row in await server.execute("SELECT 1")] == [1]


@contextmanager
def _killed_owner(*, frozen: bool = False, with_watcher: bool = False) -> Iterator[tuple[Any, Any, Path]]:
    with _temporary_folder_of_its_own() as temporary:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"TMPDIR": temporary},
        )
        assert owner.stdout is not None
        postmaster, watcher, folder = owner.stdout.readline().split()
        processes = psutil.Process(int(postmaster)), psutil.Process(int(watcher))
        if frozen:
            processes[0].suspend()
        if with_watcher:
            processes[1].kill()
        owner.kill()
        owner.communicate()
        assert Path(folder).parent == Path(temporary)
        yield *processes, Path(folder)


@contextmanager
def _temporary_folder_of_its_own() -> Iterator[str]:
    """Use a separate temporary folder that other processes do not clean up and the user of the server can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield folder


async def test_a_server_that_cannot_start_reports_the_reason() -> None:
    with pytest.raises(PostgresError, match="no_such_setting"):
        async with PostgresServer({"no_such_setting": 1}):
            pass


def test_the_advice_for_missing_binaries_names_the_packages() -> None:
    assert "apt-get install postgresql" in INSTALL
    assert "pip install" in INSTALL
