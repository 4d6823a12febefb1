"""Refilling: publishes archived events again, compares archives with streams, and prints the results."""

import sys
import uuid
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

import click

from mediator.cli.outbox.outgoing import OutboxSelection, Outgoing, as_row
from mediator.cli.rows import to_json
from mediator.cli.work import confirm
from mediator.distributed.outbox import Absent, Republishing, Verification
from mediator.distributed.throttle import Throttle
from mediator.printable import printable, shown_reason


@dataclass(slots=True)
class Resuming:
    """The position at which an interrupted run can continue.

    Attributes:
        after: The sequence after which the run starts.
        last: The sequence of the last event that was published. When publishing begins, it is set to `after`.
        label: The label of the outbox whose events are being published.
    """

    after: int = 0
    last: int = 0
    label: str = ""

    def tell(self) -> None:
        """Print the options with which the run can continue."""
        if self.last:
            click.echo(printable(f"Continue with --outbox {self.label} --after {self.last}."), err=True)


async def republish_outbox(  # many parameters: one for each option of the command
    outgoing: Outgoing,
    selection: OutboxSelection,
    resuming: Resuming,
    *,
    throttle: Throttle,
    publisher: str | None,
    dry_run: bool,
    yes: bool,
) -> bool:
    """Publish the selected events of one archive again, and return whether the broker accepted all these events."""
    through = await outgoing.publisher(publisher)
    which = selection.at("archived", through.contents)
    total = (await outgoing.contents.count(which)).events
    text = f"{total} events of {outgoing.label}{f', after {resuming.after}' * bool(resuming.after)}"
    if dry_run or not total:
        click.echo(printable(f"{text} would be published" if total else f"Nothing to publish in {outgoing.label}."))
        return True
    confirm(f"Publish {text} again?", yes=yes)
    totals: Counter[str] = Counter()
    resuming.label, resuming.last = outgoing.label, resuming.after
    run = Republishing(outgoing.contents, through, throttle=throttle).run(which, after=resuming.after)
    async with aclosing(run) as batches:
        async for batch in batches:
            resuming.last = batch.last
            counts = {"stored": batch.stored, "known to the broker": batch.duplicates, "gone": batch.gone}
            totals.update({**counts, "refused": len(batch.refused)})
            done = sum(totals.values())
            click.echo(printable(f"[{done}/{max(done, total)}] up to sequence {batch.last}"), err=True)
            for error in batch.refused:
                click.echo(printable(str(error)), err=True)
    shown = ", ".join(f"{count} {name}" for name, count in totals.items() if count)
    click.echo(printable(f"{outgoing.label}: {shown or 'nothing published'}"))
    if totals["known to the broker"]:
        click.echo("Check with `mediator outbox verify` whether the streams still have the known events.", err=True)
    return not totals["refused"]


@dataclass(slots=True)
class VerifyReport:
    """Counts the compared events, and the absent events by outcome. An absent event is not in its stream.

    Missing, refilled (published again) and failed events are also printed: as text at once, as JSON at the end.
    """

    machine: bool
    checked: int = 0
    totals: Counter[str] = field(default_factory=Counter[str])
    rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    @property
    def is_missing(self) -> bool:
        """Whether an event is missing and was not published again."""
        return bool(self.totals["missing"] or self.totals["failed"])

    def add(self, outbox: str, absent: Absent) -> None:
        """Count an absent event. Print the event, or keep the event for JSON. Expired and dropped events are not shown."""
        self.totals[absent.outcome] += 1
        if absent.outcome in ("expired", "dropped"):
            return
        if self.machine:
            self.rows.append({**as_row(outbox, absent.record), "stream": absent.stream, "outcome": absent.outcome})
            return
        record = absent.record
        line = f"{absent.outcome} {record.id} {record.type} {record.partition_key or ''}".rstrip()
        click.echo(shown_reason(f"{line} (archive sequence {record.sequence}, stream {absent.stream})"))

    def summarize(self, *, finished: bool) -> None:
        """Print the counts, and whether the run has finished. JSON also contains the absent events."""
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


async def verify_outbox(  # many parameters: one for each option of the command
    outgoing: Outgoing,
    selection: OutboxSelection,
    report: VerifyReport,
    *,
    throttle: Throttle,
    publisher: str | None,
    refills: bool,
    yes: bool,
) -> None:
    """Compare one archive with the streams, and publish missing events again when `refills` is set."""
    through = await outgoing.publisher(publisher)
    streams = outgoing.streams(through)
    if refills:
        confirm(f"Publish missing events of {outgoing.label} again?", yes=yes)
    verification = Verification(
        outgoing.contents,
        streams,
        republishing=Republishing(outgoing.contents, through, throttle=throttle) if refills else None,
        mark=uuid.uuid4().hex,
    )
    before = report.checked
    async with aclosing(verification.run(selection.at("archived", streams))) as found:
        async for absent in found:
            report.checked = before + verification.checked
            report.add(outgoing.label, absent)
    report.checked = before + verification.checked
    sys.stdout.flush()
