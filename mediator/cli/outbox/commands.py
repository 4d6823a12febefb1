"""Outbox: the commands that show an outbox and its archive, and refill a broker from the archive."""

import sys
from dataclasses import replace
from typing import Any

import click

from mediator.cli.container import load_container
from mediator.cli.options import COUNT, COUNT_OR_NONE, NAME, PER_SECOND
from mediator.cli.outbox.outgoing import OutboxSelection, as_row, as_table, counted, opened_outboxes, selecting_events
from mediator.cli.outbox.refilling import Resuming, VerifyReport, republish_outbox, verify_outbox
from mediator.cli.rows import as_text, to_json
from mediator.cli.work import JSON, TARGET, YES, CommandError, reporting, run_work
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import OutboxCount, OutboxRecord, Place
from mediator.distributed.throttle import Throttle
from mediator.errors import NotFoundError

RATE = click.option("--rate", type=PER_SECOND, help="Publish at most so many events a second.")
PUBLISHER = click.option("--publisher", type=NAME, help="The provider of the publisher, when an outbox has several.")

_WRONG_CALL = 2


@click.group()
def outbox() -> None:
    """Events that wait to be published, and those that were: list, show, republish, verify."""


@outbox.command("list")
@TARGET
@selecting_events
@click.option("--archived", "place", flag_value="archived", help="Those that were published.")
@click.option("--delayed", "place", flag_value="delayed", help="Those that are not due yet.")
@click.option("--limit", default=100, show_default=True, type=COUNT, help="At most so many.")
@JSON
def list_command(*, target: str, selection: OutboxSelection, place: Place | None, limit: int, machine: bool) -> None:
    """List what waits, or what is archived or delayed, in order. Payloads are not shown."""

    async def work() -> tuple[list[tuple[str, OutboxRecord]], list[OutboxCount]]:
        async with opened_outboxes(load_container(target), selection.outbox) as outboxes:
            which = selection.at(place or "waiting")
            if which.domain is not None:  # the publisher knows the names of the streams
                streams = await outboxes[0].publisher()
                which = selection.at(which.place, streams.contents)
            found = [
                (each.label, record) for each in outboxes for record in await each.contents.find(which, limit=limit)
            ]
            return found[:limit], [await each.contents.count(which) for each in outboxes]

    found, counts = run_work(work)
    rows = [as_row(label, record) for label, record in found]
    if machine:
        click.echo(to_json(rows))
        return
    click.echo(as_table(rows))
    click.echo(counted(len(found), counts), err=True)


@outbox.command()
@TARGET
@click.argument("event_id", metavar="ID", type=NAME)
@click.option("--outbox", "label", type=NAME, help="The provider of the outbox.")
@JSON
def show(*, target: str, event_id: str, label: str | None, machine: bool) -> None:
    """Show one event whole, with its payload, wherever it is."""

    async def work() -> tuple[str, OutboxRecord, CloudEvent]:
        async with opened_outboxes(load_container(target), label) as outboxes:
            for each in outboxes[:-1]:
                try:
                    return each.label, *await each.contents.get(event_id)
                except NotFoundError:
                    continue
            return outboxes[-1].label, *await outboxes[-1].contents.get(event_id)

    row = as_row(*run_work(work))
    click.echo(to_json(row) if machine else as_text(row))


@outbox.command()
@TARGET
@selecting_events
@click.option("--id", "ids", type=NAME, multiple=True, help="This event; may be given several times.")
@click.option("--all", "everything", is_flag=True, help="Everything that is archived.")
@click.option("--after", default=0, type=COUNT_OR_NONE, help="Go on behind this sequence, which a run told.")
@click.option("--dry-run", is_flag=True, help="Only say how many would be published.")
@PUBLISHER
@RATE
@YES
def republish(
    *, target: str, selection: OutboxSelection, ids: tuple[str, ...], everything: bool, **options: Any
) -> None:
    """Publish archived events again under the same ids and subjects, in order per key.

    The stream drops those that it knows, and subscribers drop those that took effect. Status 1 when the broker refused
    events or was away for too long.
    """
    chosen = replace(selection, which=replace(selection.which, ids=ids or None))
    with reporting():
        if chosen.chooses == everything:
            raise CommandError("Say which: options such as --since, --stream and --id, or --all without them.")
        throttle = Throttle(options["rate"])
    resuming = Resuming(options["after"])

    async def work() -> bool:
        fine = True
        async with opened_outboxes(load_container(target), chosen.outbox) as outboxes:
            if options["after"] and len(outboxes) > 1:
                raise CommandError("--after is of one outbox: say --outbox.")
            for each in outboxes:
                fine &= await republish_outbox(
                    each, chosen, resuming, throttle=throttle, **_without(options, "rate", "after")
                )
        return fine

    try:
        fine = run_work(work, stopped="Stopped between two batches, or in one that may be sent again.")
    except SystemExit:
        resuming.tell()
        raise
    sys.exit(0 if fine else 1)


@outbox.command()
@TARGET
@selecting_events
@click.option("--republish", "refills", is_flag=True, help="Publish what is missing again, and read it back.")
@PUBLISHER
@RATE
@YES
@JSON
def verify(*, target: str, selection: OutboxSelection, machine: bool, **options: Any) -> None:
    """Compare the archive with what the streams really hold, by id.

    Status 1 when events are missing and were not refilled. Those that are older than a stream keeps events are counted
    apart.
    """
    with reporting():
        throttle = Throttle(options["rate"])
    report = VerifyReport(machine=machine)

    async def work() -> None:
        async with opened_outboxes(load_container(target), selection.outbox) as outboxes:
            for each in outboxes:
                await verify_outbox(each, selection, report, throttle=throttle, **_without(options, "rate"))

    try:
        run_work(work, stopped="Stopped. What was refilled stays refilled; verify again.")
    except SystemExit as stop:
        if stop.code != _WRONG_CALL:
            report.summarize(finished=False)
        raise
    report.summarize(finished=True)
    sys.exit(1 if report.is_missing else 0)


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
