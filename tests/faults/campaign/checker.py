"""The checker: counts lost, doubled, inverted, made-up and stuck events, and wrong answers to senders.

It compares the databases, the streams, and the journals of the senders of commands.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.faults.campaign.troubles import Told
from tests.faults.scenarios import tables
from tests.faults.scenarios.checker import Findings, compare
from tests.faults.scenarios.stream import in_the_stream
from tests.faults.scenarios.tables import Seen

NEVER = " never"
"""The end of the detail of an entry whose command must be rolled back."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The contents of the databases and streams when everything is at rest.

    Attributes:
        entries: The committed events of the ledger, in the order of their commits; an event without a key has an empty one.
        receipts: The commands that were acknowledged.
        ledger_stream: The events in the ledger's stream.
        effects: The events that the keeper handled, in the order of its commits; the detail is the event that each caused.
        keeper_stream: The events in the keeper's stream.
        audits: The events of both applications that the auditor handled.
        stuck: The place and id of each event that still waits.
        told: The outcomes that the senders of commands learned.
    """

    entries: Sequence[Seen] = ()
    receipts: Sequence[str] = ()
    ledger_stream: Sequence[Seen] = ()
    effects: Sequence[Seen] = ()
    keeper_stream: Sequence[Seen] = ()
    audits: Sequence[Seen] = ()
    stuck: Sequence[str] = ()
    told: Sequence[Told] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """The findings, each with its place and id.

    Attributes:
        lost: Events that were committed and are missing elsewhere; acknowledged commands without a row.
        doubled: Events that were stored twice or took effect twice.
        inverted: Events behind a later committed event of the same key.
        ghosts: Rows and events of a command that did not commit or must not have committed.
        stuck: Events that still waited when everything was at rest.
        misinformed: Commands reported as failed whose row exists, or as committed whose row is missing.
        events: The number of events that took effect.
    """

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    inverted: list[str] = field(default_factory=list[str])
    ghosts: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])
    misinformed: list[str] = field(default_factory=list[str])
    events: int = 0

    def add(self, where: str, findings: Findings) -> None:
        """Add the findings of one place."""
        for mine, found in (
            (self.lost, findings.lost),
            (self.doubled, findings.doubled),
            (self.inverted, findings.inverted),
            (self.ghosts, findings.strange),
        ):
            mine.extend(f"{where}: {each}" for each in found)

    def wrong(self) -> dict[str, list[str]]:
        """Return the findings by kind."""
        names = ("lost", "doubled", "inverted", "ghosts", "stuck", "misinformed")
        return {name: getattr(self, name) for name in names}


def count(evidence: Evidence) -> Counts:
    """Compare the committed events with their copies and effects in each place."""
    stuck = {each.rpartition(" ")[2] for each in evidence.stuck}
    counts = Counts(stuck=list(evidence.stuck), events=len({each.id for each in (*evidence.effects, *evidence.audits)}))
    counts.ghosts.extend(f"entries: {each.id}" for each in evidence.entries if each.detail.endswith(NEVER))
    names = {each.detail for each in evidence.entries}
    counts.lost.extend(f"acknowledged: {name}" for name in evidence.receipts if name not in names)
    counts.misinformed.extend(_misinformed(evidence.told, {each.removesuffix(NEVER) for each in names}))
    counts.add("in the ledger's stream", compare(evidence.entries, evidence.ledger_stream, stuck))
    keyed = [each for each in evidence.entries if each.key]
    counts.add("in the keeper's effects", compare(keyed, evidence.effects, stuck))
    caused = [Seen(each.detail, each.key) for each in evidence.effects]
    counts.add("in the keeper's stream", compare(caused, evidence.keeper_stream, stuck))
    without_order = [Seen(each.id, "") for each in (*(e for e in evidence.entries if not e.key), *caused)]
    counts.add("in the auditor's effects", compare(without_order, evidence.audits, stuck))
    return counts


def _misinformed(told: Sequence[Told], names: Container[str]) -> Iterator[str]:
    """Return the senders whose outcome contradicts the database. The outcome `unknown` contradicts nothing."""
    for each in told:
        if each.outcome != "unknown" and (each.outcome == "committed") != (each.name in names):
            yield f"told {each.outcome}: {each.name}"


async def gathered(
    engines: dict[str, AsyncEngine], urls: Sequence[str], ended_badly: Sequence[str], told: Sequence[Told] = ()
) -> Evidence:
    """Read the evidence from databases, streams and journals.

    Args:
        engines: The engines of the databases, by application.
        urls: The URLs of the broker.
        ended_badly: The names of processes that did not stop properly.
        told: The outcomes in the journals of the senders.
    """
    ledger, keeper = engines["ledger"], engines["keeper"]
    stuck = [f"a process that did not end: {name}" for name in ended_badly]
    for name, engine in engines.items():
        stuck += [f"in the outbox of the {name}: {each}" for each in await tables.ids(engine, "mediator_outbox")]
        stuck += [f"parked by the {name}: {each.id}" for each in await tables.parked(engine)]
    return Evidence(
        entries=await tables.in_commit_order(ledger, "entries"),
        receipts=await tables.ids(ledger, "receipts"),
        ledger_stream=await in_the_stream(urls, "events.ledger.>", "events-ledger"),
        effects=await tables.in_commit_order(keeper, "effects"),
        keeper_stream=await in_the_stream(urls, "events.keeper.>", "events-keeper"),
        audits=await tables.in_commit_order(keeper, "audits"),
        stuck=stuck,
        told=told,
    )
