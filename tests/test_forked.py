"""A forked process is like one that `python -m` starts."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests import forked
from tests.end_to_end.conftest import eventually

pytestmark = pytest.mark.thorough("imports the whole library in another process")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "output").open("w+b") as file:
        yield file


def written(output: IO[bytes]) -> str:
    return Path(output.name).read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("tests.faults.process", "--help"), 0, "usage: process.py"),
        (("tests.faults.process", "nowhere"), 2, "invalid choice"),
        (("tests.nowhere",), 1, "No module named tests.nowhere"),
        (("mediator.cli", "outbox", "--help"), 0, "republish"),
    ],
)
async def test_a_forked_process_has_the_output_and_the_exit_status_of_its_module(
    output: IO[bytes], arguments: tuple[str, ...], status: int, words: str
) -> None:
    process = await forked.start(*arguments, stdout=output, stderr=output)
    assert await process.wait() == process.returncode == status
    assert words in written(output)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGINT, 1),  # timeit catches the KeyboardInterrupt
    ],
)
async def test_a_forked_process_receives_the_signal_that_it_is_sent(
    output: IO[bytes], number: int, status: int
) -> None:
    statement = "import time; print('waiting', flush=True); time.sleep(60)"
    process = await forked.start("timeit", "-n1", "-r1", statement, stdout=output, stderr=output)
    await eventually(lambda: "waiting" in written(output), "a statement that waits")
    assert process.returncode is None
    process.send_signal(number)
    assert await process.wait() == status
    assert ("KeyboardInterrupt" in written(output)) == (number == signal.SIGINT)


@pytest.mark.parametrize(("options", "status"), [((), 0), (("-W", "error"), 1)])
async def test_a_forked_process_has_the_environment_of_the_moment_and_the_options_of_its_interpreter(
    output: IO[bytes], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], status: int
) -> None:
    monkeypatch.setenv("WARNED", "of something")
    statement = "import os, warnings; warnings.warn(os.environ['WARNED'] + os.environ['ELSE'])"
    process = await forked.start(
        "timeit", "-n1", "-r1", statement, stdout=output, stderr=output, options=options, environment={"ELSE": " else"}
    )
    assert await process.wait() == status
    assert "UserWarning: of something else" in written(output)
