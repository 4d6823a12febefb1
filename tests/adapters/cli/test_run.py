"""`mediator run`: real processes, ended by real signals."""

import asyncio
import os
import signal
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.nats import NatsEventPublisher, NatsServer, open_connection
from mediator.sqlalchemy import create_schema, open_engine

SAMPLE = "tests.adapters.cli.samples.sample"
STOPPING = "Stopping. Ctrl-C stops at once.\n"
ROOT = Path(__file__).parents[3]


class Run:
    """A running `mediator run`, whose handler waits to be released."""

    def __init__(self, process, database, release):
        self.process = process
        self.database = database
        self.release = release

    async def until(self, text):
        async with asyncio.timeout(20):
            while text not in (line := (await self.process.stdout.readline()).decode()):
                assert line, (await self.process.stderr.read()).decode()

    async def end(self):
        async with asyncio.timeout(20):
            output, errors = await self.process.communicate()
        return self.process.returncode, output.decode(), errors.decode()

    def shipped(self):
        connection = sqlite3.connect(self.database)
        try:
            return [name for (name,) in connection.execute("SELECT name FROM shipped")]
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()


async def command(*arguments, **environment):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mediator.cli", *arguments),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.fixture
async def at_work(tmp_path):
    database, release = tmp_path / "app.db", tmp_path / "release"
    async with open_engine(f"sqlite:///{database}") as engine:
        await create_schema(engine)
    async with NatsServer() as server, open_connection(server.url) as connection:
        event = CloudEvent("1", "sales.order-placed.v1", datetime.now(UTC), b'{"order": "A-1"}')
        assert (await NatsEventPublisher(connection, "sales").publish([event]))[0].error is None
        process = await command(
            *("run", f"{SAMPLE}:create"),
            SAMPLE_DATABASE=f"sqlite:///{database}",
            SAMPLE_NATS=server.url,
            SAMPLE_RELEASE=str(release),
        )
        run = Run(process, database, release)
        await run.until("handling A-1")
        try:
            yield run
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_running_handler_finish_and_commit(at_work, number):
    at_work.process.send_signal(number)
    at_work.release.touch()
    status, output, errors = await at_work.end()

    assert (status, errors) == (0, STOPPING)
    assert "consumer stopped" in output
    assert at_work.shipped() == ["A-1"]


async def test_a_second_interrupt_ends_the_process_at_once_and_commits_nothing(at_work):
    at_work.process.send_signal(signal.SIGTERM)
    assert (await at_work.process.stderr.readline()).decode() == STOPPING
    at_work.process.send_signal(signal.SIGINT)
    status, _, errors = await at_work.end()

    assert status == 130
    assert errors == "Stopped at once.\n"
    assert at_work.shipped() == []


@pytest.mark.thorough("starts and stops processes")
async def test_a_container_without_workers_is_refused():
    status, _, errors = await Run(await command("run", f"{SAMPLE}:idle"), None, None).end()

    assert status == 2
    assert errors == (
        "The container has nothing to run: add a provider of an OutboxRelay, an EventConsumer, a RequestResponder or an "
        "Idempotency to it.\n"
    )


@pytest.mark.thorough("starts and stops processes")
async def test_faults_of_the_container_are_reported_before_anything_starts():
    status, output, errors = await Run(await command("run", f"{SAMPLE}:create_faulty"), None, None).end()

    assert (status, output) == (2, "")
    assert errors.startswith("1 problem in the container:\n  1. container.record_again (SlowRecord):")


@pytest.mark.thorough("starts and stops processes")
async def test_a_database_that_cannot_be_opened_ends_the_command_with_its_error(tmp_path):
    process = await command("run", f"{SAMPLE}:create", SAMPLE_DATABASE=f"sqlite:///{tmp_path}/missing/app.db")
    status, _, errors = await Run(process, None, None).end()

    assert status == 1
    assert "cannot be opened" in errors
    assert "Traceback" not in errors


async def test_without_click_the_command_names_the_extra_to_install(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(name='click')\n")
    process = await command("--help", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    status, _, errors = await Run(process, None, None).end()

    assert status == 2
    assert "pip install 'mediator-uow[cli]'" in errors
