"""The checker of the campaign finds exactly the wrong events, and has no findings for a healthy run."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nats
import pytest
from dependency_injector import containers
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.errors import AfterCommitError, CommitOutcomeUnknownError, CommittedError
from mediator.nats import NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.campaign.checker import Counts, Evidence, count, gathered
from tests.faults.campaign.schedule import kinds_of, lasting, planned
from tests.faults.campaign.site import TABLES, Options
from tests.faults.campaign.troubles import (
    JUMPED,
    LOG_FAILED,
    NOT_CLOSED,
    FullDisk,
    Journal,
    Told,
    Unclosable,
    outcome_of,
    read_journals,
)
from tests.faults.campaign.verdict import Verdict
from tests.faults.scenarios import tables
from tests.faults.scenarios.processes import ROOT
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
    told=[
        Told("writer/0", "committed"),
        Told("writer/1", "unknown"),
        Told("writer/98", "unknown"),
        Told("writer/99", "failed"),
    ],
)


def found(evidence: Evidence) -> dict[str, list[str]]:
    return {name: wrong for name, wrong in count(evidence).wrong().items() if wrong}


def test_a_healthy_run_has_no_findings():
    assert found(HEALTHY) == {}
    assert count(HEALTHY).events == len(ENTRIES) + len(NOTES) + len(CAUSED)


def test_an_event_missing_from_the_stream_is_lost_there():
    evidence = replace(HEALTHY, ledger_stream=[each for each in HEALTHY.ledger_stream if each.id != "e5"])
    assert found(evidence) == {"lost": ["in the ledger's stream: e5"]}


def test_an_event_without_an_effect_is_lost_in_the_effects():
    evidence = replace(HEALTHY, audits=[each for each in HEALTHY.audits if each.id != "n1"])
    assert found(evidence) == {"lost": ["in the auditor's effects: n1"]}


def test_an_event_raised_by_a_consumer_and_missing_from_its_stream_is_lost():
    assert found(replace(HEALTHY, keeper_stream=CAUSED[:-1])) == {"lost": ["in the keeper's stream: caused-by-e11"]}


def test_an_acknowledged_command_without_a_row_is_lost():
    evidence = replace(HEALTHY, receipts=["writer/3", "writer/99"])
    assert found(evidence) == {"lost": ["acknowledged: writer/99"]}


def test_an_event_that_was_stored_twice_is_doubled():
    evidence = replace(HEALTHY, ledger_stream=[*HEALTHY.ledger_stream, ENTRIES[11]])
    assert found(evidence) == {"doubled": ["in the ledger's stream: e11"]}


def test_an_event_with_two_effects_is_doubled_even_if_each_caused_an_event():
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
def test_an_event_without_a_command_is_a_ghost_in_every_place(place: str, where: str):
    made_up = Seen("nobody's", "key-0", detail="caused-by-e0")
    evidence = replace(HEALTHY, **{place: [*getattr(HEALTHY, place), made_up]})
    ghosts = found(evidence)["ghosts"]
    assert ghosts == [f"{where}: nobody's"]


def test_a_row_of_a_rolled_back_command_is_a_ghost_even_if_its_event_and_effects_match():
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


def test_a_waiting_event_is_stuck_and_not_lost():
    evidence = replace(
        HEALTHY, audits=[each for each in HEALTHY.audits if each.id != "n1"], stuck=["parked by the keeper: n1"]
    )
    assert found(evidence) == {"stuck": ["parked by the keeper: n1"]}


@pytest.mark.parametrize("told", [Told("writer/5", "failed"), Told("writer/99", "committed")])
def test_a_sender_with_a_wrong_answer_is_misinformed(told: Told):
    assert found(replace(HEALTHY, told=[*HEALTHY.told, told])) == {"misinformed": [f"told {told.outcome}: {told.name}"]}


def test_a_sender_is_misinformed_if_its_command_was_reported_rolled_back_and_left_a_row():
    never = Seen("e12", "", detail="writer/12 never")
    evidence = replace(HEALTHY, entries=[*HEALTHY.entries, never], told=[Told("writer/12", "failed")])
    assert found(evidence)["misinformed"] == ["told failed: writer/12"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "committed"),
        (CommittedError("1", "response"), "committed"),
        (AfterCommitError("1", "response", ()), "committed"),
        (ExceptionGroup("", [CommittedError("1", None), AfterCommitError("1", None, ())]), "committed"),
        (ExceptionGroup("", [CommittedError("1", None), OSError()]), "failed"),
        (CommitOutcomeUnknownError("1", "the answer is lost"), "unknown"),
        (asyncio.CancelledError(), "unknown"),
        (OSError(28, "full"), "failed"),
        (TimeoutError(), "failed"),
    ],
)
def test_the_type_of_an_error_tells_its_sender_the_outcome_of_the_command(error: BaseException | None, outcome: str):
    assert outcome_of(error) == outcome


def test_a_journal_is_read_without_its_unfinished_last_line(tmp_path: Path):
    journal = Journal(str(tmp_path))
    journal.tell("writer/1", "failed")
    journal.happened(JUMPED)
    journal.tell("writer/2", "committed")
    (file,) = tmp_path.glob("*.journal")
    file.write_bytes(file.read_bytes() + b'{"told": "writer/3", "outco')
    journals = read_journals(tmp_path)
    assert journals.told == [Told("writer/1", "failed"), Told("writer/2", "committed")]
    assert journals.troubles == {JUMPED: 1}


def test_a_log_sink_fails_as_often_as_requested_and_records_each_failure(tmp_path: Path):
    sink, said = FullDisk(Journal(str(tmp_path)), 0.5, random.Random(1)), []
    for number in range(100):
        with contextlib.suppress(OSError):
            said.append(sink(None, "info", {"event": number}))
    assert read_journals(tmp_path).troubles == {LOG_FAILED: 100 - len(said)}
    assert 30 < len(said) < 70


async def test_failing_closes_of_a_scope_are_recorded(tmp_path: Path):
    class Container(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        unclosable = Scoped(Unclosable, Journal(str(tmp_path)), 1.0, random.Random(1))

    container = Container()
    async with lifespan(container):
        with contextlib.suppress(Exception):  # the journal does not depend on the type of the error
            async with container.mediator().scope():
                container.unclosable()
    assert read_journals(tmp_path).troubles == {NOT_CLOSED: 2}


def test_a_jumping_clock_is_hours_to_nine_days_wrong_and_jumps_again():
    script = """if True:
        from tests.faults.campaign import clock
        import random, time
        jumps, true = [], clock._true
        assert abs(time.time() - true()) < 60
        monotonic, elapsed = time.monotonic, 0.0
        time.monotonic = lambda: elapsed
        clock.jump(random.Random(1), lambda: jumps.append(1))
        wrong = []
        for elapsed in range(100):
            wrong.append(time.time() - true())
            assert abs(clock.utc_now().timestamp() - time.time()) < 60
        assert all(3500 < abs(each) <= 9 * 86_400 + 60 for each in wrong), wrong
        assert min(wrong) < 0 < max(wrong)
        assert 30 <= len(jumps) <= 100, len(jumps)
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


@given(
    lost=st.sets(st.sampled_from(NOTES), max_size=2),
    doubled=st.sets(st.sampled_from(ENTRIES[-3:]), max_size=2),
    ghosts=st.sets(st.text("xyz", min_size=1, max_size=3), max_size=2),
)
def test_exactly_the_lost_doubled_and_made_up_events_of_a_stream_are_found(lost, doubled, ghosts):
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


async def test_lost_doubled_inverted_and_made_up_events_are_found_in_a_real_stream_and_database(tmp_path):
    committed = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]
    stored = ["a2", "a1", "b1", "b2", "nobody's"]  # a1 is inverted, c1 is lost, and one event is a ghost
    keys = dict(committed)
    async with NatsServer() as server, connected(server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="events-ledger", subjects=["events.ledger.>"])
        for event_id in [*stored, "b2"]:  # without a message id, so that the stream stores b2 twice
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
            await tables.insert(
                ledger, "entries", [Seen(event_id, key, detail=f"wrote/{event_id}") for event_id, key in committed]
            )
            told = [Told("wrote/a1", "failed"), Told("wrote/b1", "committed"), Told("wrote/none", "committed")]
            counts = count(await gathered(engines, [server.url], [], told))
    in_the_stream = {
        name: [each for each in wrong if "ledger's stream" in each] for name, wrong in counts.wrong().items()
    }
    assert in_the_stream == {
        "lost": ["in the ledger's stream: c1"],
        "doubled": ["in the ledger's stream: b2"],
        "inverted": ["in the ledger's stream: a1"],
        "ghosts": ["in the ledger's stream: nobody's"],
        "stuck": [],
        "misinformed": [],
    }
    assert counts.misinformed == ["told failed: wrote/a1", "told committed: wrote/none"]


def verdict(counts: Counts | None = None, **faults: int) -> Verdict:
    enough = {"SIGKILL relay": 13, "SIGKILL nats-server": 1, "SIGSTOP relay": 1, "restart of PostgreSQL": 1}
    named = {name.replace("_", " "): number for name, number in faults.items()}
    return Verdict(counts or Counts(events=500), {**enough, **named}, 60.0, 7, "postgresql")


def test_a_sufficient_run_without_findings_ends_with_0():
    assert (verdict().too_little(), verdict().status) == ([], 0)


@pytest.mark.parametrize("name", ["lost", "doubled", "inverted", "ghosts", "stuck", "misinformed"])
def test_a_run_with_a_finding_ends_with_1(name: str):
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
def test_a_run_that_did_too_little_ends_with_1_and_names_the_shortage(missed: str, done: Verdict):
    assert any(missed in each for each in done.too_little())
    assert done.status == 1
    assert any(missed in line for line in done.lines())


def test_a_run_whose_troubles_did_not_happen_ends_with_1_and_names_them():
    wanted = Options().troubles
    enough = dict.fromkeys(wanted, 10)
    assert set(wanted) == {LOG_FAILED, NOT_CLOSED, JUMPED}
    assert replace(verdict(), wanted=wanted, troubles=enough).status == 0
    done = replace(verdict(), wanted=wanted, troubles={**enough, JUMPED: 9})
    assert done.status == 1
    assert any("9 jumps of clocks" in each for each in done.too_little())
    unwanted = Options(log_failures=0.0, close_failures=0.0, clock_jumps=False).troubles
    assert replace(verdict(), wanted=unwanted).status == 0


def test_a_longer_run_has_to_do_more():
    assert replace(verdict(), seconds=120.0).status == 1


def test_the_figures_are_integers_and_faults_by_kind():
    figures = json.loads(json.dumps(verdict().figures()))
    numbers = {"lost", "doubled", "inverted", "ghosts", "stuck", "misinformed", "events", "seed"}
    assert set(figures) == {*numbers, "faults", "troubles", "told"}
    assert all(type(figures[name]) is int for name in numbers)
    assert figures["faults"]["SIGKILL relay"] == 13


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_minute_of_the_schedule_suffices_for_the_verdict_with_any_seed(database: str):
    for seed in range(20):
        faults = [each.kind for each in planned(seed, database, 60.0)]
        assert set(faults) == set(kinds_of(database))
        counted = {kind: faults.count(kind) for kind in faults}
        assert Verdict(Counts(events=500), counted, 60.0, seed, database).too_little() == []


@pytest.mark.parametrize(("answers", "more"), [([True], 0), ([False] * 9 + [True], 9), ([False] * 1000, 1000)])
async def test_a_campaign_runs_until_enough_has_happened_and_at_most_four_times_as_long(answers: list[bool], more: int):
    """A busy machine prolongs the campaign, and does not make a run without findings fail."""
    asked = iter(answers)

    async def is_enough() -> bool:
        return next(asked)

    faults = [each.at async for each in lasting(1, "postgresql", 45.0, is_enough)]
    whole = [each.at for each in planned(1, "postgresql", 180.0)]
    assert faults == whole[: sum(at < 45.0 for at in whole) + more]


def test_the_seed_alone_determines_the_schedule():
    def plan(seed: int) -> list[tuple[float, str, float]]:
        return [(each.at, each.kind, each.rng.random()) for each in planned(seed, "sqlite", 45.0)]

    assert plan(4) == plan(4) != plan(5)
    assert plan(4) == sorted(plan(4))
