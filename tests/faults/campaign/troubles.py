"""Troubles inside of the processes of a campaign, and the journals in which processes record troubles and outcomes."""

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from mediator import current_scope
from mediator.errors import CommitOutcomeUnknownError, CommittedError

Outcome = Literal["committed", "failed", "unknown"]

LOG_FAILED = "failed log lines"
NOT_CLOSED = "scopes not closed"
JUMPED = "jumps of clocks"


@dataclass(frozen=True, slots=True)
class Told:
    """The outcome that the sender of a command learned.

    Attributes:
        name: The name of the command.
        outcome: `committed` when it returned or raised a `CommittedError`, `unknown` when it was cancelled or raised a
            `CommitOutcomeUnknownError`, else `failed`.
    """

    name: str
    outcome: Outcome


class Journal:
    """The records of one process. Each line is completely in the file before the process continues, so SIGKILL loses none.

    Args:
        folder: The folder of the file; empty for no file.
    """

    def __init__(self, folder: str) -> None:
        self._file: int | None = None
        if folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(Path(folder) / f"{os.getpid()}.journal", flags, 0o600)

    def tell(self, name: str, outcome: Outcome) -> None:
        """Record the outcome that the sender of a command learned."""
        self._write({"told": name, "outcome": outcome})

    def happened(self, trouble: str) -> None:
        """Record a trouble."""
        self._write({"trouble": trouble})

    def _write(self, line: Mapping[str, str]) -> None:
        if self._file is not None:
            os.write(self._file, msgspec.json.encode(line) + b"\n")


@dataclass(frozen=True, slots=True)
class Journals:
    """The records of all processes.

    Attributes:
        told: The outcomes that senders learned.
        troubles: The number of troubles of each kind.
    """

    told: list[Told] = field(default_factory=list[Told])
    troubles: Counter[str] = field(default_factory=Counter[str])


def read_journals(folder: Path) -> Journals:
    """Read the journals of all processes. An unfinished line was not reported to a sender, and is skipped."""
    journals = Journals()
    for line in _lines(folder):
        if "told" in line:
            journals.told.append(Told(line["told"], line["outcome"]))
        else:
            journals.troubles[line["trouble"]] += 1
    return journals


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.journal")):
        yield from (msgspec.json.decode(line) for line in file.read_bytes().splitlines(keepends=True) if b"\n" in line)


def outcome_of(error: BaseException | None) -> Outcome:
    """Return the outcome that the error of a dispatch reports about its command."""
    if error is None or _only(error, CommittedError):
        return "committed"
    if not isinstance(error, Exception) or isinstance(error, CommitOutcomeUnknownError):
        return "unknown"
    return "failed"


def _only(error: BaseException, kind: type[BaseException]) -> bool:
    return isinstance(error, kind) or (
        isinstance(error, BaseExceptionGroup) and all(_only(each, kind) for each in error.exceptions)
    )


class FullDisk:
    """A processor of structlog that fails at random, like a sink with a full disk.

    Args:
        journal: Where each failure is written down.
        share: The share of lines that fail.
        rng: Which ones.
    """

    def __init__(self, journal: Journal, share: float, rng: random.Random) -> None:
        self._journal = journal
        self._share = share
        self._rng = rng

    def __call__(self, _logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if self._rng.random() < self._share:
            self._journal.happened(LOG_FAILED)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return line


class Unclosable:
    """A scoped object whose close fails at random, with a callback at the end of its scope that fails at random.

    Args:
        journal: Where each failure is written down.
        share: The share of failing closes and of failing callbacks.
        rng: Which ones.
    """

    def __init__(self, journal: Journal, share: float, rng: random.Random) -> None:
        self._journal = journal
        self._share = share
        self._rng = rng
        current_scope().on_exit(self._leave)

    async def aclose(self) -> None:
        self._fail()

    def _leave(self, _error: BaseException | None) -> None:
        self._fail()

    def _fail(self) -> None:
        if self._rng.random() >= self._share:
            return
        self._journal.happened(NOT_CLOSED)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise self._rng.choice(
            (full, TimeoutError("closing"), RuntimeError("closing"), ExceptionGroup("closing", [full]))
        )
