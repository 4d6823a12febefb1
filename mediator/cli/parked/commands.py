"""Parked: the commands that show parked events (dead letters), replay them, and discard them."""

import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import IO, Any

import click
import msgspec

from mediator.blocks import contextmanager
from mediator.cli.container import load_container
from mediator.cli.options import COUNT, NAME, PER_SECOND
from mediator.cli.parked.selection import (
    LabeledParking,
    Selection,
    chosen_parking,
    opened_parkings,
    replaying_parkings,
    selecting_parked,
)
from mediator.cli.rows import as_row, as_table, as_text, next_try, to_json
from mediator.cli.work import JSON, TARGET, YES, CommandError, confirm, reporting, run_work
from mediator.distributed.inbox import ParkedReplay, Replayed
from mediator.distributed.parking import ParkedEvent, ParkReason
from mediator.errors import ParkedEventNotFoundError
from mediator.logger import Logger
from mediator.printable import printable, shown, shown_reason

_LARGEST_FILE = 64 * 1024**2
"""The largest number of bytes read from a file, which may be an endless device. No server accepts a larger message."""

_log: Any = Logger()


@click.group()
def parked() -> None:
    """List, show, edit, replay, discard and export parked events (dead letters).

    Incoming events are parked when they cannot be handled, and outgoing events when the broker refuses them. A consumer
    may try a parked event again later by itself. When this try succeeds, the event is no longer parked.
    """


@parked.command("list")
@TARGET
@selecting_parked
@click.option("--limit", default=100, show_default=True, type=COUNT, help="Maximum number of events.")
@JSON
def list_command(*, target: str, selection: Selection, limit: int, machine: bool) -> None:
    """List parked events, in the order in which they were parked. Payloads are not shown."""

    async def work() -> tuple[list[dict[str, Any]], int]:
        async with opened_parkings(load_container(target)) as parkings:
            chosen = selection.of(parkings)
            rows: list[dict[str, Any]] = []
            for labeled in chosen:
                events = await labeled.parking.find(selection.which, limit=limit - len(rows), bodies=False)
                rows += await _rows(labeled, events)
            return rows, sum([await labeled.parking.count(selection.which) for labeled in chosen])

    rows, total = run_work(work)
    click.echo(to_json(rows) if machine else as_table(rows))
    if not machine:
        click.echo(f"{len(rows)} of {total}" if total != len(rows) else f"{total}", err=True)


async def _rows(labeled: LabeledParking, events: Sequence[ParkedEvent]) -> list[dict[str, Any]]:
    """Return the fields of each event, and when the event is tried next."""
    rows: list[dict[str, Any]] = []
    heads: dict[tuple[str, str, str | int], ParkedEvent | None] = {}
    for event in events:
        key = event.ordering_key
        if event.reason == ParkReason.KEY_PARKED and key not in heads:
            heads[key] = await labeled.parking.head(event)
        rows.append({**as_row(labeled.label, event), "next_try": next_try(event, heads.get(key))})
    return rows


@parked.command()
@TARGET
@click.argument("number", type=COUNT)
@click.option("--parking", type=NAME, help="The provider of the parking, when there are several.")
@JSON
def show(*, target: str, number: int, parking: str | None, machine: bool) -> None:
    """Show one event in full: its headers, its payload, and the error for which the event was parked."""

    async def work() -> tuple[LabeledParking, ParkedEvent]:
        async with opened_parkings(load_container(target)) as parkings:
            labeled = chosen_parking(parkings, parking)
            return labeled, await labeled.parking.get(number)

    labeled, event = run_work(work)
    row = as_row(labeled.label, event, whole=True)
    click.echo(to_json(row) if machine else as_text(row))


@parked.command()
@TARGET
@click.argument("number", type=COUNT)
@click.option("--data", type=click.File("rb"), help="The file with the new body; - is standard input.")
@click.option(
    "--headers", type=click.File("rb"), help="The file with the new headers, a JSON object of strings, in UTF-8."
)
@click.option("--parking", type=NAME, help="The provider of the parking, when there are several.")
@YES
def edit(
    *, target: str, number: int, data: IO[bytes] | None, headers: IO[bytes] | None, parking: str | None, yes: bool
) -> None:
    """Replace the body or the headers of a parked event, so that it can be replayed."""
    with reporting():
        if data is None and headers is None:
            raise CommandError("Nothing to change: give --data, --headers, or both.")
        body, texts = None if data is None else _content(data), None if headers is None else _texts(headers)
    confirm(f"Change the parked event {number}?", yes=yes)

    async def work() -> None:
        async with opened_parkings(load_container(target)) as parkings:
            event = await chosen_parking(parkings, parking).parking.edit(number, data=body, headers=texts)
            _log.warning("parked event edited", number=number, **event.log_fields())

    run_work(work)


@parked.command()
@TARGET
@click.argument("numbers", type=COUNT, nargs=-1)
@selecting_parked
@click.option("--all", "everything", is_flag=True, help="Replay all parked events.")
@click.option("--dry-run", is_flag=True, help="Only show which events would be replayed.")
@click.option("--rate", type=PER_SECOND, help="Maximum number of events per second.")
@YES
@JSON
def replay(
    *,
    target: str,
    numbers: tuple[int, ...],
    selection: Selection,
    everything: bool,
    dry_run: bool,
    rate: float | None,
    yes: bool,
    machine: bool,
) -> None:
    """Replay events. Events with the same key are replayed in order, until one of them fails.

    Incoming events are handled again. Outgoing events go back into the outbox. Exits with status 1 when an event fails,
    or is blocked by a failed event with the same key.
    """
    with reporting():
        chosen = selection.restricted(numbers, everything=everything)
    outcomes: list[str] = []

    async def work() -> None:
        async with replaying_parkings(load_container(target)) as (parkings, consumers):
            for labeled in chosen.of(parkings):
                total = await labeled.parking.count(chosen.which)
                confirm(f"Replay {total} events of {labeled.label}?", yes=yes or dry_run or total == 0)
                async for result in ParkedReplay(labeled.parking, consumers, rate=rate).run(
                    chosen.which, dry_run=dry_run
                ):
                    outcomes.append(result.outcome)
                    click.echo(_line(labeled, result, len(outcomes), total, machine=machine))

    try:
        run_work(work)
    finally:
        counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)]
        click.echo(", ".join(counts) or "Nothing to replay.", err=True)
    sys.exit(1 if {"failed", "blocked"} & {*outcomes} else 0)


@parked.command()
@TARGET
@click.argument("numbers", type=COUNT, nargs=-1)
@selecting_parked
@click.option("--all", "everything", is_flag=True, help="Discard all parked events.")
@click.option("--because", required=True, help="The reason, which is logged.")
@click.option("--dry-run", is_flag=True, help="Only show which events would be discarded.")
@YES
def discard(
    *,
    target: str,
    numbers: tuple[int, ...],
    selection: Selection,
    everything: bool,
    because: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete parked events. Later events with the same keys can be replayed afterwards.

    An event that somebody else replays or discards while the command runs is skipped. But if only one number is given,
    and no event is parked under this number, the command exits with status 1.
    """
    with reporting():
        chosen = selection.restricted(numbers, everything=everything)
        if not because.strip():
            raise CommandError("Give a reason with --because.")
    alone = len(set(numbers)) == 1

    async def work() -> None:
        async with opened_parkings(load_container(target)) as parkings:
            for labeled in chosen.of(parkings):
                if alone:
                    await labeled.parking.get(numbers[0])
                total = await labeled.parking.count(chosen.which)
                confirm(f"Discard {total} events of {labeled.label} for good?", yes=yes or dry_run or total == 0)
                async for event in labeled.events(chosen.which, bodies=False):
                    done = "would be discarded" if dry_run else await _discard(labeled, event, because, alone=alone)
                    click.echo(printable(f"{event.number} {event.type} {done}"))

    run_work(work)


async def _discard(labeled: LabeledParking, event: ParkedEvent, because: str, *, alone: bool) -> str:
    """Discard one event, and return a text with the result. With `alone`, raise an error when the event is gone."""
    try:
        await labeled.parking.discard(event.number)
    except ParkedEventNotFoundError:
        if alone:
            raise
        return "is gone: somebody else has replayed or discarded it meanwhile"
    _log.warning("parked event discarded", number=event.number, because=because, **event.log_fields())
    return "discarded"


@parked.command()
@TARGET
@selecting_parked
@click.option(
    "--output", type=click.File("w", "utf-8", lazy=True), default="-", help="File to write; by default standard output."
)
def export(*, target: str, selection: Selection, output: IO[str]) -> None:
    """Write events in full, as one JSON object per line."""

    async def work() -> int:
        count = 0
        async with opened_parkings(load_container(target)) as parkings:
            for labeled in selection.of(parkings):
                async for event in labeled.events(selection.which, bodies=True):
                    with _closing_when_full(output):
                        output.write(to_json(as_row(labeled.label, event, whole=True), indent=None) + "\n")
                    count += 1
        with _closing_when_full(output):
            output.flush()
        return count

    click.echo(f"{run_work(work)} events", err=True)


@contextmanager
def _closing_when_full(output: IO[str]) -> Generator[None]:
    """Close a file after a failed write. If click closed the file later, closing would fail and hide the error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        with suppress(OSError):
            output.close()
        raise


def _content(file: IO[bytes]) -> bytes:
    content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise CommandError(
            f"{shown(file.name)} has more than {_LARGEST_FILE:,} bytes; no broker accepts such a message."
        )
    return content


def _texts(file: IO[bytes]) -> dict[str, str]:
    try:
        return msgspec.json.decode(_content(file), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CommandError(f"The headers are not a JSON object of strings: {error}") from error


def _line(labeled: LabeledParking, result: Replayed, done: int, total: int, *, machine: bool) -> str:
    error = None if result.error is None else f"{type(result.error).__name__}: {result.error}"
    if machine:
        return to_json({**as_row(labeled.label, result.event), "outcome": result.outcome, "error": error}, indent=None)
    text = f"[{done}/{max(done, total)}] {result.event.number} {result.event.type} {result.outcome}"
    return shown_reason(text if error is None else f"{text}: {error}")
