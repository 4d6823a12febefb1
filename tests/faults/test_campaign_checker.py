"""The checker of the campaign finds what is wrong, exactly that, and nothing where nothing is."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.campaign.checker import Counts, Evidence, count, gathered
from tests.faults.campaign.schedule import kinds_of, lasting, planned
from tests.faults.campaign.site import TABLES
from tests.faults.campaign.verdict import Verdict
from tests.faults.scenarios import tables
from tests.faults.scenarios.tables import Seen

ENTRIES = [Seen(f"e{number}", f"key-{number % 3}", detail=f"writer/{number}") for number in range(12)]
NOTES = [Seen(f"n{number}", "", detail=f"writer/{number}") for number in range(4)]
EFFECTS = [Seen(each.id, each.key, detail=f"caused-by-{each.id}") for each in ENTRIES]
CAUSED = [Seen(each.detail, each.key) for each in EFFECTS]
HEALTHY = Evidence(
    entries=[*ENTRIES, *NOTES],
    receipts=["writer/3", "writer/0"],
    ledger_stream=[*NOTES, *ENTRIES],
    effects=EFFECTS,
    keeper_stream=CAUSED,
    audits=[*reversed(CAUSED), *NOTES],
)


def found(evidence: Evidence) -> dict[str, list[str]]:
    return {name: wrong for name, wrong in count(evidence).wrong().items() if wrong}


def test_nothing_is_wrong_with_a_healthy_run():
    assert found(HEALTHY) == {}
    assert count(HEALTHY).events == len(ENTRIES) + len(NOTES) + len(CAUSED)


def test_an_event_that_is_missing_from_the_stream_is_lost_there():
    evidence = replace(HEALTHY, ledger_stream=[each for each in HEALTHY.ledger_stream if each.id != "e5"])
    assert found(evidence) == {"lost": ["in the ledger's stream: e5"]}


def test_an_event_without_effect_is_lost_there():
    evidence = replace(HEALTHY, audits=[each for each in HEALTHY.audits if each.id != "n1"])
    assert found(evidence) == {"lost": ["in the auditor's effects: n1"]}


def test_an_event_that_a_consumer_raised_and_that_is_not_in_its_stream_is_lost():
    assert found(replace(HEALTHY, keeper_stream=CAUSED[:-1])) == {"lost": ["in the keeper's stream: caused-by-e11"]}


def test_a_command_that_was_acknowledged_and_left_nothing_is_lost():
    evidence = replace(HEALTHY, receipts=["writer/3", "writer/99"])
    assert found(evidence) == {"lost": ["acknowledged: writer/99"]}


def test_an_event_that_was_stored_twice_is_doubled():
    evidence = replace(HEALTHY, ledger_stream=[*HEALTHY.ledger_stream, ENTRIES[11]])
    assert found(evidence) == {"doubled": ["in the ledger's stream: e11"]}


def test_an_event_with_two_effects_is_doubled_even_if_it_caused_two_events():
    again = Seen("e11", ENTRIES[11].key, detail="caused-again")
    evidence = replace(
        HEALTHY,
        effects=[*EFFECTS, again],
        keeper_stream=[*CAUSED, Seen("caused-again", again.key)],
        audits=[*HEALTHY.audits, Seen("caused-again", "")],
    )
    assert found(evidence) == {"doubled": ["in the keeper's effects: e11"]}


def test_two_events_of_one_key_in_the_wrong_order_are_inverted():
    stream = list(HEALTHY.ledger_stream)
    first, second = stream.index(ENTRIES[2]), stream.index(ENTRIES[5])
    stream[first], stream[second] = stream[second], stream[first]
    assert found(replace(HEALTHY, ledger_stream=stream)) == {"inverted": ["in the ledger's stream: e2"]}


def test_two_events_of_different_keys_or_of_none_may_come_in_any_order():
    by_key = sorted(ENTRIES, key=lambda each: each.key)
    assert found(replace(HEALTHY, ledger_stream=[*by_key, *reversed(NOTES)])) == {}


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("ledger_stream", "in the ledger's stream"),
        ("effects", "in the keeper's effects"),
        ("keeper_stream", "in the keeper's stream"),
        ("audits", "in the auditor's effects"),
    ],
)
def test_an_event_of_no_command_is_a_ghost_wherever_it_is(place: str, where: str):
    made_up = Seen("nobody's", "key-0", detail="caused-by-e0")
    evidence = replace(HEALTHY, **{place: [*getattr(HEALTHY, place), made_up]})
    ghosts = found(evidence)["ghosts"]
    assert ghosts == [f"{where}: nobody's"]


def test_what_a_command_wrote_that_was_to_be_rolled_back_is_a_ghost_even_if_all_else_fits():
    never = Seen("e12", "key-0", detail="writer/12 never")
    evidence = replace(
        HEALTHY,
        entries=[*HEALTHY.entries, never],
        ledger_stream=[*HEALTHY.ledger_stream, never],
        effects=[*EFFECTS, Seen("e12", "key-0", detail="caused-by-e12")],
        keeper_stream=[*CAUSED, Seen("caused-by-e12", "key-0")],
        audits=[*HEALTHY.audits, Seen("caused-by-e12", "")],
    )
    assert found(evidence) == {"ghosts": ["entries: e12"]}


def test_an_event_that_waits_somewhere_is_stuck_and_not_lost_as_well():
    evidence = replace(
        HEALTHY,
        audits=[each for each in HEALTHY.audits if each.id != "n1"],
        stuck=["parked by the keeper: n1"],
    )
    assert found(evidence) == {"stuck": ["parked by the keeper: n1"]}


@given(
    lost=st.sets(st.sampled_from(NOTES), max_size=2),
    doubled=st.sets(st.sampled_from(ENTRIES[-3:]), max_size=2),
    ghosts=st.sets(st.text("xyz", min_size=1, max_size=3), max_size=2),
)
def test_whatever_is_wrong_in_the_stream_is_found_exactly(lost, doubled, ghosts):
    stream = [each for each in HEALTHY.ledger_stream if each not in lost]
    stream += [*sorted(doubled, key=lambda each: each.id), *(Seen(each, "key-1") for each in ghosts)]
    wrong = count(replace(HEALTHY, ledger_stream=stream)).wrong()
    ids = {name: {each.rpartition(" ")[2] for each in wrong[name]} for name in wrong}
    assert ids["lost"] == {each.id for each in lost}
    assert ids["doubled"] == {each.id for each in doubled}
    assert ids["ghosts"] == ghosts
    assert not ids["inverted"] | ids["stuck"]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def test_one_lost_doubled_inverted_and_made_up_event_are_read_from_a_real_stream_and_real_databases(tmp_path):
    committed = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]
    stored = ["a2", "a1", "b1", "b2", "nobody's"]  # a inverted; c1 lost; one ghost
    keys = dict(committed)
    async with NatsServer() as server, connected(server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="events-ledger", subjects=["events.ledger.>"])
        for event_id in [*stored, "b2"]:  # without a message id, so that it is stored again
            headers = {"ce-id": event_id, "ce-partitionkey": keys.get(event_id, "b")}
            await jetstream.publish("events.ledger.booked.0", b"", headers=headers)
        engines = {}
        async with (
            open_engine(f"sqlite:///{tmp_path}/ledger.db") as ledger,
            open_engine(f"sqlite:///{tmp_path}/keeper.db") as keeper,
        ):
            engines = {"ledger": ledger, "keeper": keeper}
            for engine in engines.values():
                await tables.create_tables(engine, ["a"], TABLES)
            await tables.insert(ledger, "entries", [Seen(event_id, key) for event_id, key in committed])
            counts = count(await gathered(engines, [server.url], []))
    in_the_stream = {
        name: [each for each in wrong if "ledger's stream" in each] for name, wrong in counts.wrong().items()
    }
    assert in_the_stream == {
        "lost": ["in the ledger's stream: c1"],
        "doubled": ["in the ledger's stream: b2"],
        "inverted": ["in the ledger's stream: a1"],
        "ghosts": ["in the ledger's stream: nobody's"],
        "stuck": [],
    }


def verdict(counts: Counts | None = None, **faults: int) -> Verdict:
    enough = {"SIGKILL relay": 13, "SIGKILL nats-server": 1, "SIGSTOP relay": 1, "restart of PostgreSQL": 1}
    named = {name.replace("_", " "): number for name, number in faults.items()}
    return Verdict(counts or Counts(events=500), {**enough, **named}, 60.0, 7, "postgresql")


def test_a_run_that_did_enough_and_found_nothing_ends_with_0():
    assert (verdict().too_little(), verdict().status) == ([], 0)


@pytest.mark.parametrize("name", ["lost", "doubled", "inverted", "ghosts", "stuck"])
def test_a_run_that_found_something_ends_with_1(name: str):
    assert verdict(Counts(events=500, **{name: ["x"]})).status == 1


@pytest.mark.parametrize(
    ("missed", "done"),
    [
        ("12 SIGKILLs", verdict(SIGKILL_relay=12)),
        ("0 kills of nats-server", replace(verdict(), faults={"SIGKILL writer": 20, "restart of PostgreSQL": 1})),
        ("0 restarts of PostgreSQL", replace(verdict(), faults={"SIGKILL writer": 20, "SIGKILL nats-server": 1})),
        ("14 faults", replace(verdict(), faults={"SIGKILL writer": 13, "SIGKILL nats-server": 1})),
        ("499 events with effect", verdict(Counts(events=499))),
    ],
)
def test_a_run_that_did_too_little_ends_with_1_and_says_what(missed: str, done: Verdict):
    assert any(missed in each for each in done.too_little())
    assert done.status == 1
    assert any(missed in line for line in done.lines())


def test_a_longer_run_has_to_do_more():
    assert replace(verdict(), seconds=120.0).status == 1


def test_the_figures_are_integers_and_faults_by_kind():
    figures = json.loads(json.dumps(verdict().figures()))
    assert set(figures) == {"lost", "doubled", "inverted", "ghosts", "stuck", "events", "seed", "faults"}
    assert all(type(figures[name]) is int for name in set(figures) - {"faults"})
    assert figures["faults"]["SIGKILL relay"] == 13


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_minute_of_the_schedule_is_enough_for_the_verdict_whatever_the_seed(database: str):
    for seed in range(20):
        faults = [each.kind for each in planned(seed, database, 60.0)]
        assert set(faults) == set(kinds_of(database))
        counted = {kind: faults.count(kind) for kind in faults}
        assert Verdict(Counts(events=500), counted, 60.0, seed, database).too_little() == []


@pytest.mark.parametrize(("answers", "more"), [([True], 0), ([False] * 9 + [True], 9), ([False] * 1000, 1000)])
async def test_a_campaign_goes_on_until_enough_has_happened_at_most_four_times_as_long(answers: list[bool], more: int):
    """A busy machine makes it longer, and no run that found nothing a failure."""
    asked = iter(answers)

    async def is_enough() -> bool:
        return next(asked)

    faults = [each.at async for each in lasting(1, "postgresql", 45.0, is_enough)]
    whole = [each.at for each in planned(1, "postgresql", 180.0)]
    assert faults == whole[: sum(at < 45.0 for at in whole) + more]


def test_the_seed_alone_decides_what_happens_when():
    def plan(seed: int) -> list[tuple[float, str, float]]:
        return [(each.at, each.kind, each.rng.random()) for each in planned(seed, "sqlite", 45.0)]

    assert plan(4) == plan(4) != plan(5)
    assert plan(4) == sorted(plan(4))
