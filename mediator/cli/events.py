"""Events: `mediator events` lists distributed events, writes samples of them, and compares classes with samples."""

from collections.abc import Callable
from pathlib import Path

import click

from mediator.cli.container import load_container
from mediator.cli.rows import aligned
from mediator.cli.work import TARGET, reporting
from mediator.dependency_injector.declared import path_of
from mediator.dependency_injector.event_flows import EventEntry, read_events
from mediator.errors import FrozenEventsError
from mediator.printable import printable
from mediator.testing.frozen import compare_frozen_events, freeze_events, frozen_file

_HEADINGS = ("TYPE", "VERSION", "CLASS", "USE", "PARTITION KEY")


def _row(entry: EventEntry) -> tuple[str, ...]:
    cls = entry.event_class
    older = ", ".join(str(version) for version in sorted(cls.upcasters))
    version = f"{cls.event_version} (reads {older})" if older else str(cls.event_version)
    uses = [name for name, used in (("published", entry.published), ("handled", entry.handled)) if used]
    return cls.event_type, version, path_of(cls), ", ".join(uses) or "declared", "yes" if entry.keyed else "no"


def _folder(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    kind = click.Path(path_type=Path, file_okay=False)
    return click.option(
        name, "folder", type=kind, default="tests/events", show_default=True, help="Folder of the samples."
    )


@click.group()
def events() -> None:
    """List distributed events, write (freeze) samples of them, and compare the classes with the samples."""


@events.command("list")
@TARGET
def events_list(target: str) -> None:
    """Show the events of a container: type, version, class, use, and whether they have a partition key."""
    with reporting():
        rows = [_row(entry) for entry in read_events(load_container(target))]
        for line in aligned([_HEADINGS, *rows]) if rows else ["The container has no distributed events."]:
            click.echo(printable(line))


@events.command("freeze")
@TARGET
@_folder("--into")
@click.option("--force", is_flag=True, help="Also replace existing samples.")
def events_freeze(target: str, folder: Path, force: bool) -> None:
    """Write a sample of each event of a container. Existing samples are kept, unless --force is given."""
    with reporting():
        container = load_container(target)
        written = freeze_events(container, folder, force=force)
        for entry in read_events(container):
            file = frozen_file(folder, entry.wire)
            click.echo(printable(f"{'written' if file in written else 'kept   '}  {file}"))


@events.command("check")
@TARGET
@_folder("--against")
def events_check(target: str, folder: Path) -> None:
    """Compare the events of a container with their samples. Exits with status 1 if a class has changed incompatibly."""
    with reporting():
        report = compare_frozen_events(load_container(target), folder)
        for note in report.notes:
            click.echo(printable(note))
        if report.problems:
            raise FrozenEventsError(report.problems)
        click.echo(f"{len(report.checked)} frozen sample{'s' * (len(report.checked) != 1)} can be read.")
