"""SIGKILL of a process around its commit: a command repeated with its key takes effect once."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from mediator.sqlalchemy import create_schema, open_engine
from tests.postgres import PostgresServer

pytestmark = pytest.mark.thorough("kills and freezes processes")


async def pay(url: str, *arguments: str) -> tuple[int | None, str]:
    """Send the command in a separate process, and return its exit status and the response."""
    arguments = (sys.executable, "-m", "tests.faults.paying", url, *arguments)
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode, output.decode()


async def payments(url: str) -> int:
    async with open_engine(url) as engine, engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM payments"))).scalar_one())


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/bank.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        async with server.database() as made:
            yield made


@pytest.mark.parametrize(("name", "done"), [("unit_of_work.during_commit", 0), ("unit_of_work.after_commit", 1)])
async def test_a_command_whose_process_was_killed_at_the_commit_takes_effect_once(
    url: str, name: str, done: int
) -> None:
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE payments (amount INTEGER)"))

    assert await pay(url, "a", name) == (-signal.SIGKILL, "")
    assert await payments(url) == done
    assert await pay(url, "a") == (0, "payment 1\n")
    assert await pay(url, "a") == (0, "payment 1\n")
    assert await pay(url, "b") == (0, "payment 2\n")
    assert await payments(url) == 2
