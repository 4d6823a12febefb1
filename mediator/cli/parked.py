"""Parked: the commands that look at events which were set aside, replay them, and discard them."""

import sys
from typing import IO, Any

import click
import msgspec
import structlog

from mediator.cli.errors import CommandError
from mediator.cli.parking import Lot, chosen_lot, opened_lots, replaying_lots
from mediator.cli.reporting import TARGET, reporting
from mediator.cli.rows import as_row, as_table, as_text, to_json
from mediator.cli.selection import Selection, selecting
from mediator.cli.target import load_container
from mediator.cli.work import JSON, YES, confirm, run_work
from mediator.distributed.parking import ParkedEvent
from mediator.distributed.replay import ParkedReplay, Replayed
from mediator.errors import ParkedEventNotFoundError
from mediator.printable import printable


@click.group()
def parked() -> None:
    """Events that were set aside: list, show, edit, replay, discard, export.

    Those that came in and could not be handled, and those that the broker refused.
    """


@parked.command("list")
@TARGET
@selecting
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@JSON
def list_command(*, target: str, selection: Selection, limit: int, machine: bool) -> None:
    """List parked events, in the order in which they were parked. Payloads are not shown."""

    async def work() -> tuple[list[tuple[Lot, ParkedEvent]], int]:
        async with opened_lots(load_container(target)) as lots:
            chosen = selection.of(lots)
            found = [(lot, event) for lot in chosen for event in await lot.parking.find(selection.which, limit=limit)]
            return found[:limit], sum([await lot.parking.count(selection.which) for lot in chosen])

    found, total = run_work(work)
    if machine:
        click.echo(to_json([as_row(lot.label, event) for lot, event in found]))
        return
    click.echo(as_table([as_row(lot.label, event) for lot, event in found]))
    click.echo(f"{len(found)} of {total}" if total != len(found) else f"{total}", err=True)


@parked.command()
@TARGET
@click.argument("number", type=int)
@click.option("--parking", help="The provider of the parking, when there are several.")
@JSON
def show(*, target: str, number: int, parking: str | None, machine: bool) -> None:
    """Show one event whole: headers, payload, and the error that parked it."""

    async def work() -> tuple[Lot, ParkedEvent]:
        async with opened_lots(load_container(target)) as lots:
            lot = chosen_lot(lots, parking)
            return lot, await lot.parking.get(number)

    lot, event = run_work(work)
    row = as_row(lot.label, event, whole=True)
    click.echo(to_json(row) if machine else as_text(row))


@parked.command()
@TARGET
@click.argument("number", type=int)
@click.option("--data", type=click.File("rb"), help="The file with the new body; - is standard input.")
@click.option("--headers", type=click.File("r"), help="The file with the new headers, a JSON object of texts.")
@click.option("--parking", help="The provider of the parking, when there are several.")
@YES
def edit(
    *, target: str, number: int, data: IO[bytes] | None, headers: IO[str] | None, parking: str | None, yes: bool
) -> None:
    """Replace the body or the headers of an event, before it is replayed."""
    with reporting():
        if data is None and headers is None:
            raise CommandError("Nothing to change: give --data, --headers, or both.")
        body, texts = None if data is None else data.read(), None if headers is None else _texts(headers)
    confirm(f"Replace what is parked under {number}?", yes=yes)

    async def work() -> None:
        async with opened_lots(load_container(target)) as lots:
            event = await chosen_lot(lots, parking).parking.edit(number, data=body, headers=texts)
            _log().warning("parked event edited", number=number, **event.log_fields())

    run_work(work)


@parked.command()
@TARGET
@click.argument("numbers", type=int, nargs=-1)
@selecting
@click.option("--all", "everything", is_flag=True, help="Everything that is parked.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
@click.option("--rate", type=float, help="At most so many events a second.")
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
    """Replay events, those of one key in order, until one of that key fails.

    What came in goes through the handlers again; what was to go out goes back into the outbox. Status 1 when an event
    failed or is blocked by one that did.
    """
    chosen = selection.with_numbers(numbers)
    with reporting():
        chosen.check_not_everything(everything=everything)
    results: list[Replayed] = []

    async def work() -> None:
        async with replaying_lots(load_container(target)) as (lots, consumers):
            for lot in chosen.of(lots):
                total = await lot.parking.count(chosen.which)
                confirm(f"Replay {total} events of {lot.label}?", yes=yes or dry_run or total == 0)
                async for result in ParkedReplay(lot.parking, consumers, rate=rate).run(chosen.which, dry_run=dry_run):
                    results.append(result)
                    click.echo(_line(lot, result, len(results), total, machine=machine))

    try:
        run_work(work)
    finally:
        _summarize(results)
    sys.exit(1 if any(result.outcome in ("failed", "blocked") for result in results) else 0)


@parked.command()
@TARGET
@click.argument("numbers", type=int, nargs=-1)
@selecting
@click.option("--all", "everything", is_flag=True, help="Everything that is parked.")
@click.option("--because", required=True, help="Why; it is logged.")
@click.option("--dry-run", is_flag=True, help="Only say what would be discarded.")
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
    """Remove events for good. What follows under their keys can then be replayed.

    Of several, those that somebody else replays or discards meanwhile are passed over. Status 1 when the only number that
    is given is not there.
    """
    chosen = selection.with_numbers(numbers)
    with reporting():
        chosen.check_not_everything(everything=everything)
        if not because.strip():
            raise CommandError("Say why with --because.")
    alone = len(set(numbers)) == 1

    async def work() -> None:
        async with opened_lots(load_container(target)) as lots:
            for lot in chosen.of(lots):
                if alone:
                    await lot.parking.get(numbers[0])
                total = await lot.parking.count(chosen.which)
                confirm(f"Discard {total} events of {lot.label} for good?", yes=yes or dry_run or total == 0)
                async for event in lot.events(chosen.which):
                    done = "would be discarded" if dry_run else await _discard(lot, event, because, alone=alone)
                    click.echo(printable(f"{event.number} {event.type} {done}"))

    run_work(work)


async def _discard(lot: Lot, event: ParkedEvent, because: str, *, alone: bool) -> str:
    """Discard one event, and say what became of it. One that is gone is an error only when it is asked for alone."""
    try:
        await lot.parking.discard(event.number)
    except ParkedEventNotFoundError:
        if alone:
            raise
        return "is gone: somebody else has replayed or discarded it meanwhile"
    _log().warning("parked event discarded", number=event.number, because=because, **event.log_fields())
    return "discarded"


@parked.command()
@TARGET
@selecting
@click.option("--output", type=click.File("w", "utf-8", lazy=True), default="-", help="A file; standard output.")
def export(*, target: str, selection: Selection, output: IO[str]) -> None:
    """Write events whole, one JSON object a line."""

    async def work() -> int:
        count = 0
        async with opened_lots(load_container(target)) as lots:
            for lot in selection.of(lots):
                async for event in lot.events(selection.which):
                    output.write(to_json(as_row(lot.label, event, whole=True), indent=None) + "\n")
                    count += 1
        return count

    click.echo(f"{run_work(work)} events", err=True)


def _texts(file: IO[str]) -> dict[str, str]:
    try:
        return msgspec.json.decode(file.read(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise CommandError(f"The headers are no JSON object of texts: {error}") from error


def _line(lot: Lot, result: Replayed, done: int, total: int, *, machine: bool) -> str:
    error = None if result.error is None else f"{type(result.error).__name__}: {result.error}"
    if machine:
        return to_json({**as_row(lot.label, result.event), "outcome": result.outcome, "error": error}, indent=None)
    text = f"[{done}/{max(done, total)}] {result.event.number} {result.event.type} {result.outcome}"
    return printable(text if error is None else f"{text}: {error}").replace("\n", "\\n")


def _summarize(results: list[Replayed]) -> None:
    outcomes = [result.outcome for result in results]
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)]
    click.echo(", ".join(counts) or "Nothing to replay.", err=True)


def _log() -> Any:
    return structlog.get_logger("mediator")
