"""Events: `mediator events`, the distributed events of a container as a list, and their frozen samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mediator.cli.reporting import TARGET, reporting
from mediator.cli.target import load_container
from mediator.dependency_injector.event_catalog import EventEntry, read_events
from mediator.errors import FrozenEventsError
from mediator.printable import printable
from mediator.testing.frozen_check import compare_frozen_events
from mediator.testing.frozen_events import freeze_events, frozen_file

_FOLDER = click.Path(path_type=Path, file_okay=False)
_HEADINGS = ("TYPE", "VERSION", "CLASS", "USE", "PARTITION KEY")


def list_events(container: Any) -> str:
    """A table of the events of a container."""
    rows = [_HEADINGS, *(_row(entry) for entry in read_events(container))]
    if len(rows) == 1:
        return "The container has no distributed events."
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _row(entry: EventEntry) -> tuple[str, ...]:
    cls = entry.event_class
    lifted = ", ".join(str(version) for version in sorted(cls.upcasters))
    version = f"{cls.event_version} (reads {lifted})" if lifted else str(cls.event_version)
    uses = [name for name, used in (("published", entry.published), ("handled", entry.handled)) if used]
    path = f"{cls.__module__}.{cls.__qualname__}"
    return cls.event_type, version, path, ", ".join(uses) or "declared", "yes" if entry.keyed else "no"


def freeze(container: Any, folder: Path, *, force: bool) -> Iterator[str]:
    """Freeze what is not frozen yet, and say what was done with each event."""
    written = freeze_events(container, folder, force=force)
    for entry in read_events(container):
        file = frozen_file(folder, entry.wire)
        yield f"{'written' if file in written else 'kept   '}  {file}"


def check(container: Any, folder: Path) -> Iterator[str]:
    """Compare with what is frozen, and say what can be refreshed.

    Raises:
        FrozenEventsError: There are incompatible changes, or events that are not frozen.
    """
    report = compare_frozen_events(container, folder)
    yield from report.notes
    if report.problems:
        raise FrozenEventsError(report.problems)
    yield f"{len(report.checked)} frozen sample{'s' * (len(report.checked) != 1)} can be read."


@click.group()
def events() -> None:
    """List distributed events, freeze samples of them, and compare classes with the samples."""


@events.command("list")
@TARGET
def events_list(target: str) -> None:
    """Show the events of a container: type, version, class, use, and whether they have a partition key."""
    with reporting():
        click.echo(printable(list_events(load_container(target))))


@events.command("freeze")
@TARGET
@click.option(
    "--into", "folder", type=_FOLDER, default="tests/events", show_default=True, help="Folder of the samples."
)
@click.option("--force", is_flag=True, help="Replace samples of the same version, too.")
def events_freeze(target: str, folder: Path, force: bool) -> None:
    """Write a sample of each event of a container that has none yet."""
    with reporting():
        for line in freeze(load_container(target), folder, force=force):
            click.echo(printable(line))


@events.command("check")
@TARGET
@click.option(
    "--against", "folder", type=_FOLDER, default="tests/events", show_default=True, help="Folder of the samples."
)
def events_check(target: str, folder: Path) -> None:
    """Compare the events of a container with their samples; the exit status is 1 when they do not agree."""
    with reporting():
        for line in check(load_container(target), folder):
            click.echo(printable(line))
