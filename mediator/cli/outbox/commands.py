"""Outbox: the commands that show events of an outbox and its archive, and publish archived events again."""

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

RATE = click.option("--rate", type=PER_SECOND, help="Maximum number of events per second.")
PUBLISHER = click.option("--publisher", type=NAME, help="The provider of the publisher, when an outbox has several.")

_WRONG_CALL = 2


@click.group()
def outbox() -> None:
    """List and show events of an outbox and its archive; republish and verify archived events."""


@outbox.command("list")
@TARGET
@selecting_events
@click.option("--archived", "place", flag_value="archived", help="List published events, not waiting events.")
@click.option("--delayed", "place", flag_value="delayed", help="List delayed events that are not due yet.")
@click.option("--limit", default=100, show_default=True, type=COUNT, help="Maximum number of events.")
@JSON
def list_command(*, target: str, selection: OutboxSelection, place: Place | None, limit: int, machine: bool) -> None:
    """List the events that wait to be published, in order. Payloads are not shown."""

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
    click.echo(to_json(rows) if machine else as_table(rows))
    if not machine:
        click.echo(counted(len(found), counts), err=True)


@outbox.command()
@TARGET
@click.argument("event_id", metavar="ID", type=NAME)
@click.option("--outbox", "label", type=NAME, help="The provider of the outbox.")
@JSON
def show(*, target: str, event_id: str, label: str | None, machine: bool) -> None:
    """Show one event with its payload. The event may wait or be archived."""

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
@click.option("--all", "everything", is_flag=True, help="Publish all archived events.")
@click.option(
    "--after", default=0, type=COUNT_OR_NONE, help="Continue after this sequence, which an interrupted run printed."
)
@click.option("--dry-run", is_flag=True, help="Only show how many events would be published.")
@PUBLISHER
@RATE
@YES
def republish(
    *, target: str, selection: OutboxSelection, ids: tuple[str, ...], everything: bool, **options: Any
) -> None:
    """Publish archived events again, with the same ids and subjects, in order per key.

    The stream drops events that it still recognizes, and subscribers drop events that they have already handled. Exits
    with status 1 when the broker refuses events, or is unavailable for too long.
    """
    chosen = replace(selection, which=replace(selection.which, ids=ids or None))
    with reporting():
        if chosen.chooses == everything:
            raise CommandError("Choose events either by options such as --since, --stream and --id, or by --all.")
        throttle = Throttle(options.pop("rate"))
    resuming = Resuming(options.pop("after"))

    async def work() -> bool:
        fine = True
        async with opened_outboxes(load_container(target), chosen.outbox) as outboxes:
            if resuming.after and len(outboxes) > 1:
                raise CommandError("--after works on a single outbox: choose it with --outbox.")
            for each in outboxes:
                fine &= await republish_outbox(each, chosen, resuming, throttle=throttle, **options)
        return fine

    try:
        fine = run_work(work, stopped="Stopped. If you continue, the last batch may be published again.")
    except SystemExit:
        resuming.tell()
        raise
    sys.exit(0 if fine else 1)


@outbox.command()
@TARGET
@selecting_events
@click.option("--republish", "refills", is_flag=True, help="Publish missing events again, and read them back.")
@PUBLISHER
@RATE
@YES
@JSON
def verify(*, target: str, selection: OutboxSelection, machine: bool, **options: Any) -> None:
    """Compare the ids of archived events with the ids of the events in the streams.

    Exits with status 1 when events are missing and were not published again. An event that is older than the maximum
    age of its stream counts as expired, not as missing.
    """
    with reporting():
        throttle = Throttle(options.pop("rate"))
    report = VerifyReport(machine=machine)

    async def work() -> None:
        async with opened_outboxes(load_container(target), selection.outbox) as outboxes:
            for each in outboxes:
                await verify_outbox(each, selection, report, throttle=throttle, **options)

    try:
        run_work(work, stopped="Stopped. Events that were published again stay in their streams. Verify again.")
    except SystemExit as stop:
        if stop.code != _WRONG_CALL:
            report.summarize(finished=False)
        raise
    report.summarize(finished=True)
    sys.exit(1 if report.is_missing else 0)
