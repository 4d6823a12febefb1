"""Refilling: what the command line tells while archived events are published again, and compared with streams."""

import sys
import uuid
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

import click

from mediator.cli.outbox_rows import as_row
from mediator.cli.outbox_selection import OutboxSelection
from mediator.cli.outgoing import Outgoing
from mediator.cli.rows import to_json
from mediator.cli.work import confirm
from mediator.distributed.pace import Pace
from mediator.distributed.republishing import Republishing
from mediator.distributed.verification import Absent, Verification
from mediator.printable import printable


@dataclass(slots=True)
class Resuming:
    """Where a run that is interrupted can go on.

    Attributes:
        after: The sequence behind which it begins.
        last: The sequence of the last event that was published; 0 before the first.
        label: The outbox that is at hand.
    """

    after: int = 0
    last: int = 0
    label: str = ""

    def tell(self) -> None:
        """Say how to go on."""
        if self.last:
            click.echo(printable(f"Go on with --outbox {self.label} --after {self.last}."), err=True)


async def republish_outbox(  # the options of the command
    outgoing: Outgoing,
    selection: OutboxSelection,
    resuming: Resuming,
    *,
    pace: Pace,
    publisher: str | None,
    dry_run: bool,
    yes: bool,
) -> bool:
    """Publish what is selected of one archive again; whether the broker took everything.

    Raises:
        CommandError: There is no publisher, or several.
        PublisherUnavailableError: The broker was away for too long.
    """
    through = await outgoing.publisher(publisher)
    which = selection.at("archived", through.contents)
    total = (await outgoing.contents.count(which)).events
    text = f"{total} events of {outgoing.label}{f', behind {resuming.after}' * bool(resuming.after)}"
    if dry_run or not total:
        click.echo(printable(f"{text} would be published" if total else f"Nothing to publish in {outgoing.label}."))
        return True
    confirm(f"Publish {text} again?", yes=yes)
    totals: Counter[str] = Counter()
    resuming.label, resuming.last = outgoing.label, resuming.after
    run = Republishing(outgoing.contents, through, pace=pace).run(which, after=resuming.after)
    async with aclosing(run) as batches:
        async for batch in batches:
            resuming.last = batch.last
            counts = {"stored": batch.stored, "known to the broker": batch.duplicates, "gone": batch.gone}
            totals.update({**counts, "refused": len(batch.refused)})
            done = sum(totals.values())
            click.echo(printable(f"[{done}/{max(done, total)}] up to {batch.last}"), err=True)
            for error in batch.refused:
                click.echo(printable(str(error)), err=True)
    shown = ", ".join(f"{count} {name}" for name, count in totals.items() if count)
    click.echo(printable(f"{outgoing.label}: {shown or 'nothing published'}"))
    if totals["known to the broker"]:
        click.echo("Whether the broker holds what it knows: mediator outbox verify.", err=True)
    return not totals["refused"]


@dataclass(slots=True)
class VerifyReport:
    """What was found.

    Attributes:
        machine: Whether it is for programs.
        checked: How many events were compared.
        totals: How many of them were absent, by the name of the outcome.
        rows: The missing ones, for programs.
    """

    machine: bool
    checked: int = 0
    totals: Counter[str] = field(default_factory=Counter[str])
    rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    @property
    def is_missing(self) -> bool:
        """Whether something is missing that was not refilled."""
        return bool(self.totals["missing"] or self.totals["failed"])

    def add(self, outbox: str, absent: Absent) -> None:
        """Tell of one event."""
        self.totals[absent.outcome] += 1
        if absent.outcome in ("expired", "dropped"):
            return
        if self.machine:
            self.rows.append({**as_row(outbox, absent.record), "stream": absent.stream, "outcome": absent.outcome})
            return
        record = absent.record
        line = f"{absent.outcome} {record.id} {record.type} {record.partition_key or ''}".rstrip()
        click.echo(printable(f"{line} (archived as {record.sequence}, {absent.stream})").replace("\n", "\\n"))

    def summarize(self, *, finished: bool) -> None:
        """Tell of the whole."""
        outcomes = {name: self.totals[name] for name in ("missing", "refilled", "failed", "expired", "dropped")}
        if self.machine:
            click.echo(to_json({"finished": finished, "checked": self.checked, **outcomes, "events": self.rows}))
            return
        shown = ", ".join(f"{count} {name}" for name, count in outcomes.items() if count)
        if not finished:
            click.echo(f"Not finished: {self.checked} checked, {shown or 'none missing so far'}")
        else:
            click.echo(
                f"{self.checked} checked, {shown or 'all are there'}" if self.checked else "Nothing is archived."
            )


async def verify_outbox(  # the options of the command
    outgoing: Outgoing,
    selection: OutboxSelection,
    report: VerifyReport,
    *,
    pace: Pace,
    publisher: str | None,
    refills: bool,
    yes: bool,
) -> None:
    """Compare one archive with the streams, and refill them if that is wanted.

    Raises:
        CommandError: There is no publisher, or several, or what it published cannot be read.
        PublisherUnavailableError: The broker was away for too long.
    """
    through = await outgoing.publisher(publisher)
    streams = outgoing.streams(through)
    if refills:
        confirm(f"Publish again what the broker misses of {outgoing.label}?", yes=yes)
    verification = Verification(
        outgoing.contents,
        streams,
        republishing=Republishing(outgoing.contents, through, pace=pace) if refills else None,
        mark=uuid.uuid4().hex,
    )
    before = report.checked
    async with aclosing(verification.run(selection.at("archived", streams))) as found:
        async for absent in found:
            report.checked = before + verification.checked
            report.add(outgoing.label, absent)
    report.checked = before + verification.checked
    sys.stdout.flush()
