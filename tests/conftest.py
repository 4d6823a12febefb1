"""Fixtures and hooks of all tests."""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from mediator.nats import NatsServer
from tests.postgres import PostgresServer

HERE = Path(__file__).parent

settings.register_profile("mediator", deadline=None, print_blob=True)
settings.load_profile("mediator")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process for its tests and for the processes that they start."""
    restore_ctrl_c()
    _keep_bytecode(config)


def restore_ctrl_c() -> None:
    """Restore the handler of Ctrl-C. Background processes of a script ignore Ctrl-C and pass that on to child processes."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_bytecode(config: pytest.Config) -> None:
    """Keep bytecode in pytest's cache where PYTHONDONTWRITEBYTECODE forbids it beside the sources.

    Otherwise each process that a test starts compiles what it imports again, which takes 0.7 s of CPU time of 3.4 s.
    """
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test marked `alone` while no other process runs a test. Waiting does not count for its timeout.

    A process that waits to be alone holds the door lock, so that no other process starts a test in the meantime.
    """
    alone = item.get_closest_marker("alone") is not None
    with locked(HERE / "benchmarks", fcntl.LOCK_EX) as door, locked(HERE, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@contextmanager
def locked(folder: Path, how: int) -> Iterator[int]:
    """Hold a lock in a folder that all test processes share, until the end of the block or of this process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The shared PostgreSQL server of this session: never stop it, and use one database per test."""
    server = PostgresServer()
    with ThreadPoolExecutor(1) as aside:  # an asynchronous fixture requests it inside a running event loop
        aside.submit(asyncio.run, server.start()).result()
        yield server
        aside.submit(asyncio.run, server.close()).result()


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty PostgreSQL database for one test."""
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="module")
def shared_server() -> Iterator[NatsServer]:
    """A nats-server for a module: never stop it, and use one prefix per test.

    Every stream reserves disk space; fifty streams would fill the disk of a small machine.
    """
    server = NatsServer(jetstream="max_file_store: 1TB")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server that a test may kill."""
    async with NatsServer() as server:
        yield server
