"""Progress: what the user sees while the university runs."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Two bars on a terminal; plain lines, one for each fifth of the way, elsewhere."""

    def __init__(self, console: Console, commands: int) -> None:
        self._console = console
        self._commands = commands
        self._bars = Bars(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._sent = self._bars.add_task("commands", total=commands)
        self._effects = self._bars.add_task("effects in advising", total=None)
        self._fifths = -1

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def sent(self, count: int) -> None:
        self._bars.update(self._sent, completed=count)
        if not self._console.is_terminal and count * 5 // self._commands > self._fifths:
            self._fifths = count * 5 // self._commands
            self._console.print(f"commands {count}/{self._commands}")

    def effects(self, count: int, expected: int) -> None:
        self._bars.update(self._effects, completed=count, total=max(count, expected))

    def note(self, text: str) -> None:
        self._console.print(text)
