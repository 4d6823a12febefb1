"""`mediator parked`: lists, replays, edits and discards parked events."""

import asyncio
import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from mediator.cli.commands import cli
from mediator.distributed.parking import ParkedEvent, ParkReason
from mediator.sqlalchemy import SqlAlchemyParking, create_schema, open_engine

SAMPLE = "tests.adapters.cli.parking.parking_sample:create"
HEADERS = {"ce-specversion": "1.0", "ce-source": "sales", "ce-type": "store.order-placed.v1"}


def event(event_id: str, order: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
    given: dict[str, Any] = {
        "direction": "in",
        "consumer": "shipping",
        "source": "sales",
        "event_id": event_id,
        "type": "store.order-placed.v1",
        "time": "2026-01-02T03:04:05+00:00",
        "partition_key": key,
        "content_type": "application/json",
        "extensions": {},
        "data": json.dumps({"order": order}).encode(),
        "subject": "events.store.order-placed.3",
        "headers": {**HEADERS, "ce-id": event_id},
        "sequence": 7,
        "reason": ParkReason.HANDLER_FAILED,
        "error": "ValueError: cannot ship the secret",
        "attempts": 8,
        "parked_at": 1_767_000_000.0,
    }
    return ParkedEvent(**{**given, **changes})


def waiting(event_id: str, order: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
    """Return an event that its consumer tries again at 03:04:35 by itself."""
    due_at = datetime(2026, 1, 2, 3, 4, 35, tzinfo=UTC).timestamp()
    return event(event_id, order, key, **{"reason": ParkReason.WAITING, "due_at": due_at, "tries": 2, **changes})


HOLDER = "tests.adapters.cli.parking.parking_sample.Ship"


def held(event_id: str, order: str, key: str | None = "k", **changes: Any) -> ParkedEvent:
    """Return an event that the open circuit of a handler holds."""
    given = {"reason": ParkReason.CIRCUIT_OPEN, "error": "ConnectionError: port 25", "attempts": 0, "held_by": HOLDER}
    return event(event_id, order, key, **{**given, **changes})


def outgoing(event_id: str, sequence: int) -> ParkedEvent:
    sent_by = {"direction": "out", "consumer": "", "source": "", "headers": {}}
    return event(event_id, event_id, None, reason=ParkReason.REFUSED, sequence=sequence, **sent_by)


class Application:
    """The database of the sample, and the command on its container."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"
        asyncio.run(self._create())

    async def _create(self) -> None:
        async with open_engine(self.url) as engine:
            await create_schema(engine)
        self.read("CREATE TABLE shipped (name TEXT)")

    def park(self, *events: ParkedEvent) -> None:
        async def park() -> None:
            async with open_engine(self.url) as engine:
                for each in events:
                    assert await SqlAlchemyParking(engine).park(each)

        asyncio.run(park())

    def read(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.file)
        try:
            rows = [row[0] for row in connection.execute(statement)]
            connection.commit()
            return rows
        finally:
            connection.close()

    @property
    def shipped(self) -> list[str]:
        return self.read("SELECT name FROM shipped ORDER BY rowid")

    @property
    def parked(self) -> list[str]:
        return self.read("SELECT event_id FROM mediator_parked ORDER BY number")

    def call(self, command: str, *arguments: object, target: str = SAMPLE, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, ["parked", command, target, *map(str, arguments)], input=stdin)


@pytest.fixture(autouse=True)
def reset_structlog() -> None:
    """Reset structlog, because tests that capture logs leave it configured."""
    structlog.reset_defaults()


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    made = Application(tmp_path / "app.db")
    monkeypatch.setenv("SAMPLE_DATABASE", made.url)
    return made


def test_list_shows_key_reason_and_error_of_each_event_and_never_a_payload(application: Application):
    application.park(event("1", "secret"), event("2", "x", None, consumer="other", reason="undecodable", error="no: x"))
    result = application.call("list")
    assert result.exit_code == 0, result.output
    header, first, second = result.stdout.splitlines()
    titles = ["NUMBER", "WAY", "CONSUMER", "TYPE", "KEY", "REASON", "ERROR", "ATTEMPTS", "PARKED", "NEXT", "TRY"]
    assert header.split() == titles
    assert first.split()[:7] == ["1", "in", "shipping", "store.order-placed.v1", "k", "handler-failed", "ValueError"]
    assert second.split()[:3] == ["2", "in", "other"]
    assert "secret" not in result.output
    assert "secret" not in application.call("list", "--json").output


def test_list_can_filter_and_shows_the_total(application: Application):
    application.park(
        event("1", "a"),
        event("2", "b", None, type="store.order-lost.v1"),
        event("3", "c", "other", parked_at=2e9),
        event("4", "d", reason=ParkReason.KEY_PARKED),
    )

    def ids(*options: str) -> list[str]:
        return [row["event_id"] for row in json.loads(application.call("list", "--json", *options).stdout)]

    assert ids() == ["1", "2", "3", "4"]
    assert ids("--key", "k") == ["1", "4"]
    assert ids("--type", "store.order-lost.v1") == ["2"]
    assert ids("--reason", "key-parked") == ["4"]
    assert ids("--consumer", "nobody") == []
    assert ids("--direction", "out") == []
    assert ids("--since", "2030-01-01") == ids("--since", "2030-01-01T00:00:00+00:00") == ["3"]
    assert ids("--since", "1h") == ["3"]
    assert ids("--limit", "2") == ["1", "2"]
    assert "2 of 4" in application.call("list", "--limit", "2").stderr
    assert application.call("list", "--since", "yesterday").exit_code == 2
    assert "Nothing is parked." in application.call("list", "--consumer", "nobody").stdout


def test_list_tells_events_that_are_tried_later_from_events_that_wait_for_a_person(application: Application):
    application.park(
        waiting("1", "a"), event("2", "b", reason=ParkReason.KEY_PARKED), event("3", "c", "other"), outgoing("4", 7)
    )
    lines = application.call("list").stdout.splitlines()[1:]
    assert [line.split("  ")[-1] for line in lines] == ["2026-01-02T03:04:35+00:00", "follows", "by hand", "by hand"]

    rows = json.loads(application.call("list", "--json").stdout)
    assert [(row["reason"], row["due_at"], row["tries"], row["next_try"]) for row in rows] == [
        ("waiting", "2026-01-02T03:04:35+00:00", 2, "2026-01-02T03:04:35+00:00"),
        ("key-parked", None, 0, "follows"),
        ("handler-failed", None, 0, "by hand"),
        ("refused", None, 0, "by hand"),
    ]


def test_an_event_whose_predecessor_was_discarded_is_listed_as_one_that_waits_for_a_person(application: Application):
    application.park(waiting("1", "a"), event("2", "b", reason=ParkReason.KEY_PARKED))
    assert application.call("discard", 1, "--because", "test", "--yes").exit_code == 0
    (row,) = json.loads(application.call("list", "--json").stdout)
    assert (row["event_id"], row["next_try"]) == ("2", "by hand")


def test_events_that_are_tried_later_can_be_chosen_or_left_out(application: Application):
    application.park(waiting("1", "a"), event("2", "b", "other"), waiting("3", "c", None))

    def ids(*options: str) -> list[str]:
        return [row["event_id"] for row in json.loads(application.call("list", "--json", *options).stdout)]

    assert ids("--waiting") == ["1", "3"]
    assert ids("--not-waiting") == ["2"]
    assert ids("--waiting", "--key", "k") == ["1"]
    assert application.call("discard", "--waiting", "--because", "test", "--yes").exit_code == 0
    assert application.parked == ["2"]


def test_show_and_export_have_the_time_of_the_next_try_and_the_number_of_used_pauses(application: Application):
    application.park(waiting("1", "a"))
    lines = application.call("show", 1).stdout.splitlines()
    assert {"reason: waiting", "due_at: 2026-01-02T03:04:35+00:00", "tries: 2"} <= {*lines}
    for command in (("show", 1, "--json"), ("export",)):
        row = json.loads(application.call(*command).stdout)
        assert (row["due_at"], row["tries"]) == ("2026-01-02T03:04:35+00:00", 2)


def test_a_waiting_event_is_replayed_at_once_and_the_events_behind_it_follow(application: Application):
    application.park(waiting("1", "a", due_at=4e9), event("2", "b", reason=ParkReason.KEY_PARKED))
    result = application.call("replay", 1, "--yes")
    assert (result.exit_code, application.shipped, application.parked) == (0, ["a", "b"], [])


def test_a_waiting_event_whose_replay_fails_waits_for_the_same_later_try(application: Application):
    application.park(waiting("1", "poison", due_at=4e9))
    assert application.call("replay", 1, "--yes").exit_code == 1
    (row,) = json.loads(application.call("list", "--json").stdout)
    assert (row["reason"], row["due_at"], row["tries"], row["attempts"]) == (
        "waiting",
        "2096-10-02T07:06:40+00:00",
        2,
        9,
    )


def test_a_waiting_event_can_be_edited_and_discarded(application: Application):
    application.park(waiting("1", "poison", due_at=4e9), event("2", "b", reason=ParkReason.KEY_PARKED))
    assert application.call("edit", 1, "--data", "-", "--yes", stdin='{"order": "good"}').exit_code == 0
    row = json.loads(application.call("show", 1, "--json").stdout)
    assert (row["data"], row["reason"], row["due_at"]) == ('{"order": "good"}', "waiting", "2096-10-02T07:06:40+00:00")

    assert application.call("discard", 1, "--because", "test", "--yes").exit_code == 0
    assert application.call("replay", "--key", "k", "--yes").exit_code == 0
    assert (application.shipped, application.parked) == (["b"], [])


def test_list_names_the_handler_whose_circuit_holds_an_event_in_place_of_the_next_try(application: Application):
    application.park(held("1", "a"), event("2", "b", reason=ParkReason.KEY_PARKED), held("3", "c", None))
    lines = application.call("list").stdout.splitlines()[1:]
    assert [line.split("  ")[-1] for line in lines] == ["held by Ship", "follows", "held by Ship"]
    assert lines[0].split()[5:8] == ["circuit-open", "ConnectionError", "0"]

    rows = json.loads(application.call("list", "--json").stdout)
    assert [(row["held_by"], row["next_try"]) for row in rows] == [
        (HOLDER, "held by Ship"),
        (None, "follows"),
        (HOLDER, "held by Ship"),
    ]


def test_show_and_export_have_the_full_name_of_the_handler_that_holds_an_event(application: Application):
    application.park(held("1", "a"))
    assert {f"held_by: {HOLDER}", "reason: circuit-open", "due_at: "} <= {
        *application.call("show", 1).stdout.splitlines()
    }
    for command in (("show", 1, "--json"), ("export",)):
        assert json.loads(application.call(*command).stdout)["held_by"] == HOLDER


def test_held_events_can_be_chosen_by_their_handler_and_as_events_that_are_tried_again(application: Application):
    application.park(held("1", "a"), held("2", "b", None, held_by="shop.Pack"), waiting("3", "c", None))
    application.park(event("4", "d", None))

    def ids(*options: str) -> list[str]:
        return [row["event_id"] for row in json.loads(application.call("list", "--json", *options).stdout)]

    assert ids("--held-by", HOLDER) == ["1"]
    assert ids("--held-by", "Ship") == []
    assert ids("--waiting") == ["1", "2", "3"]
    assert ids("--not-waiting") == ["4"]
    assert ids("--reason", "circuit-open") == ["1", "2"]
    assert application.call("discard", "--held-by", "shop.Pack", "--because", "test", "--yes").exit_code == 0
    assert application.parked == ["1", "3", "4"]


def test_a_held_event_is_replayed_at_once_and_the_events_behind_it_follow(application: Application):
    application.park(held("1", "a"), event("2", "b", reason=ParkReason.KEY_PARKED), held("3", "c", None))
    result = application.call("replay", "--held-by", HOLDER, "--yes")
    assert (result.exit_code, application.shipped, application.parked) == (0, ["a", "b", "c"], [])


def test_a_held_event_whose_replay_fails_is_still_held_with_the_new_error(application: Application):
    application.park(held("1", "poison"))
    assert application.call("replay", 1, "--yes").exit_code == 1
    (row,) = json.loads(application.call("list", "--json").stdout)
    assert (row["reason"], row["held_by"], row["due_at"], row["attempts"], row["error_class"]) == (
        "circuit-open",
        HOLDER,
        None,
        1,
        "ValueError",
    )


def test_a_held_event_can_be_edited_and_discarded(application: Application):
    application.park(held("1", "poison"), event("2", "b", reason=ParkReason.KEY_PARKED))
    assert application.call("edit", 1, "--data", "-", "--yes", stdin='{"order": "good"}').exit_code == 0
    row = json.loads(application.call("show", 1, "--json").stdout)
    assert (row["data"], row["reason"], row["held_by"]) == ('{"order": "good"}', "circuit-open", HOLDER)

    assert application.call("discard", 1, "--because", "test", "--yes").exit_code == 0
    assert application.call("replay", "--key", "k", "--yes").exit_code == 0
    assert (application.shipped, application.parked) == (["b"], [])


def test_show_prints_the_whole_event_with_control_characters_escaped(application: Application):
    headers = {**HEADERS, "x": "\x1b[31mred\nline", "\x07": "bell"}
    application.park(event("1", "\x1b[2J", headers=headers, data=b'{"order": "\x1b[2J"}', error="E: \x1b[0m\nx"))
    result = application.call("show", 1)
    assert result.exit_code == 0
    assert "x: \\x1b[31mred\\nline" in result.stdout
    assert '{"order": "\\x1b[2J"}' in result.stdout
    assert not set("\x1b\x07") & set(result.output)
    shown = json.loads(application.call("show", 1, "--json").stdout)
    assert (shown["headers"], shown["data"]) == (headers, '{"order": "\x1b[2J"}')
    assert not set("\x1b\x07") & set(application.call("show", 1, "--json").output)


def test_a_binary_body_is_shown_and_exported_as_base64(application: Application):
    application.park(event("1", "x", data=b"\xff\x00"))
    assert "(base64) /wA=" in application.call("show", 1).stdout
    (line,) = application.call("export").stdout.splitlines()
    assert base64.b64decode(json.loads(line)["data_base64"]) == b"\xff\x00"


def test_a_missing_event_is_an_error_with_status_1(application: Application):
    for command in (("show", 5), ("edit", 5, "--data", "-", "--yes")):
        result = application.call(*command, stdin="x")
        assert (result.exit_code, "No event is parked under the number 5" in result.stderr) == (1, True)


def test_replay_runs_the_handlers_in_order_and_removes_the_parked_events(application: Application):
    application.park(event("1", "a"), event("2", "b", reason=ParkReason.KEY_PARKED), event("3", "c", None))
    result = application.call("replay", 1, "--yes")
    assert (result.exit_code, application.shipped, application.parked) == (0, ["a", "b"], ["3"])
    assert "[1/1] 1 store.order-placed.v1 replayed" in result.stdout
    assert "2 replayed" in result.stderr
    assert application.call("replay", "--all", "--yes").exit_code == 0
    assert (application.shipped, application.parked) == (["a", "b", "c"], [])
    assert "Nothing to replay." in application.call("replay", "--all", "--yes").stderr


def test_a_replay_that_fails_stops_its_key_has_no_effect_and_status_1(application: Application):
    application.park(event("1", "poison"), event("2", "b"), event("3", "c", "other"))
    result = application.call("replay", "--consumer", "shipping", "--yes")
    assert (result.exit_code, application.shipped, application.parked) == (1, ["c"], ["1", "2"])
    assert "ValueError: cannot ship \\x1b[31mpoison" in result.stdout
    assert "\x1b" not in result.stdout
    assert "waits behind 1" in result.stdout
    assert "1 failed, 1 blocked, 1 replayed" in result.stderr
    assert application.read("SELECT attempts FROM mediator_parked") == [9, 8]
    lines = application.call("replay", "--all", "--yes", "--json").stdout.splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["failed", "blocked"]


def test_a_replay_reports_an_event_that_cannot_be_put_back_and_continues_with_the_others(application: Application):
    application.park(outgoing("a", 7), outgoing("b", 8))
    assert application.call("replay", "--all", "--yes").exit_code == 0
    application.read("DELETE FROM mediator_inbox")
    application.park(outgoing("a", 9), outgoing("c", 8), outgoing("d", 10))
    result = application.call("replay", "--all", "--yes")
    assert (result.exit_code, application.parked) == (1, ["a", "c"]), result.output
    assert "failed: ParkedEventConflictError: The parked event 3 " in result.stdout
    assert "Discard the parked event" in result.stdout
    assert "failed: ParkedEventConflictError: The parked event 4 " in result.stdout
    assert "Replay the parked event after event " in result.stdout
    assert "2 failed, 1 replayed" in result.stderr
    assert application.read("SELECT id FROM mediator_outbox ORDER BY sequence") == ["a", "b", "d"]


def test_a_dry_run_changes_nothing_and_asks_nothing(application: Application):
    application.park(event("1", "a"), event("2", "b"))
    result = application.call("replay", "--all", "--dry-run")
    assert (result.exit_code, application.shipped, application.parked) == (0, [], ["1", "2"])
    assert result.stdout.count("ready") == 2
    result = application.call("discard", "--all", "--because", "test", "--dry-run")
    assert (result.exit_code, application.parked) == (0, ["1", "2"])
    assert "1 store.order-placed.v1 would be discarded" in result.stdout


def test_no_event_is_replayed_or_discarded_without_confirmation(application: Application):
    application.park(event("1", "a"))
    for command in (("replay", "--all"), ("discard", 1, "--because", "test"), ("edit", 1, "--data", __file__)):
        for answer in ("n\n", ""):
            assert application.call(*command, stdin=answer).exit_code == 1
    assert (application.shipped, application.parked) == ([], ["1"])
    assert application.call("replay", "--all", stdin="y\n").exit_code == 0
    assert application.shipped == ["a"]


def test_selecting_every_event_needs_an_explicit_option(application: Application):
    application.park(event("1", "a"))
    assert application.call("replay", "--yes").exit_code == 2
    assert application.call("discard", "--because", "x", "--yes").exit_code == 2
    assert application.call("discard", "--all", "--because", " ", "--yes").exit_code == 2
    assert application.call("replay", "--all", 1, "--yes").exit_code == 2
    assert application.call("replay", "--all", "--rate", 0, "--yes").exit_code == 1
    assert application.parked == ["1"]


def test_an_edited_event_is_replayed_in_its_edited_form(application: Application, tmp_path: Path):
    application.park(event("1", "poison", headers={}))
    assert application.call("replay", 1, "--yes").exit_code == 1
    (tmp_path / "headers.json").write_text(json.dumps({**HEADERS, "ce-id": "1"}))
    edited = application.call(
        "edit", 1, "--data", "-", "--headers", tmp_path / "headers.json", "--yes", stdin='{"order": "good"}'
    )
    assert edited.exit_code == 0
    assert "parked event edited" in edited.stderr
    assert application.call("replay", 1, "--yes").exit_code == 0
    assert application.shipped == ["good"]


@pytest.mark.parametrize("headers", ["no json", "[]", '{"a": 1}'])
def test_headers_that_are_not_strings_are_refused(application: Application, headers: str):
    application.park(event("1", "a"))
    assert application.call("edit", 1, "--headers", "-", "--yes", stdin=headers).exit_code == 2
    assert application.call("edit", 1).exit_code == 2


@pytest.mark.thorough("waits in real time, or does much work")
def test_headers_are_read_as_utf_8_under_any_locale(application: Application, tmp_path: Path):
    application.park(event("1", "a"))
    file = tmp_path / "headers.json"
    file.write_text(json.dumps({**HEADERS, "ce-id": "1", "tenant": "Zoë"}, ensure_ascii=False), "utf-8")
    command = [sys.executable, "-m", "mediator.cli", "parked", "edit", SAMPLE, "1", "--headers", file, "--yes"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, env={**os.environ, **ascii_only}, check=True)
    (headers,) = application.read("SELECT headers FROM mediator_parked")
    assert json.loads(headers)["tenant"] == "Zoë"


def test_a_discarded_event_is_gone_its_reason_logged_and_its_key_free(application: Application):
    application.park(event("1", "poison"), event("2", "b"))
    result = application.call("discard", 1, "--because", "sent twice by mistake", "--yes")
    assert (result.exit_code, application.parked) == (0, ["2"])
    assert "parked event discarded" in result.stderr
    assert "sent twice by mistake" in result.stderr
    assert application.call("replay", 2, "--yes").exit_code == 0
    assert application.shipped == ["b"]


def test_an_event_that_another_process_removes_does_not_stop_discarding_the_others(application: Application):
    application.park(event("1", "a"), event("2", "b"), event("3", "c"))
    application.read(
        "CREATE TRIGGER somebody_else AFTER DELETE ON mediator_parked WHEN OLD.event_id = '1' "
        "BEGIN DELETE FROM mediator_parked WHERE event_id = '2'; END"
    )
    result = application.call("discard", "--key", "k", "--because", "test", "--yes")
    assert (result.exit_code, application.parked) == (0, []), result.output
    assert result.stdout.splitlines()[-3:] == [
        "1 store.order-placed.v1 discarded",
        "2 store.order-placed.v1 is gone: somebody else has replayed or discarded it meanwhile",
        "3 store.order-placed.v1 discarded",
    ]
    assert result.stderr.count("parked event discarded") == 2


def test_discarding_only_a_number_that_does_not_exist_is_an_error(application: Application):
    application.park(event("1", "a"))
    for options in (("--yes",), ("--dry-run",)):
        result = application.call("discard", 5, "--because", "test", *options)
        assert (result.exit_code, "No event is parked under the number 5" in result.stderr) == (1, True)
    assert application.call("discard", 1, 5, "--because", "test", "--yes").exit_code == 0
    assert application.parked == []


def test_export_writes_one_json_object_per_line(application: Application, tmp_path: Path):
    application.park(event("1", "a"), event("2", "b", None))
    result = application.call("export", "--output", tmp_path / "parked.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "parked.jsonl").read_text().splitlines()]
    assert [(row["event_id"], json.loads(row["data"])["order"]) for row in rows] == [("1", "a"), ("2", "b")]
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "2 events\n")
    (line,) = application.call("export", "--key", "k").stdout.splitlines()
    assert json.loads(line)["headers"] == {**HEADERS, "ce-id": "1"}


def test_a_number_needs_the_name_of_a_parking_if_there_are_several(application: Application):
    application.park(event("1", "a"))
    two = "tests.adapters.cli.parking.parking_sample:create_two"
    result = application.call("show", 1, target=two)
    assert (result.exit_code, "container.other_parking" in result.stderr) == (2, True)
    assert application.call("show", 1, "--parking", "other_parking", target=two).exit_code == 0
    assert application.call("show", 1, "--parking", "container.parking", target=two).exit_code == 0
    result = application.call("show", 1, "--parking", "parkin", target=two)
    assert (result.exit_code, "Did you mean" in result.stderr) == (2, True)


def test_the_error_for_a_container_without_parking_names_the_missing_provider():
    result = CliRunner().invoke(cli, ["parked", "list", "tests.adapters.cli.samples.sample:IdleContainer"])
    assert (result.exit_code, "SqlAlchemyParking" in result.stderr) == (2, True)


COMMANDS = {
    "list": (),
    "show": ("1",),
    "edit": ("1", "--data", "-", "--yes"),
    "replay": ("1", "--yes"),
    "discard": ("1", "--because", "test", "--yes"),
    "export": (),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
async def test_the_error_for_missing_tables_names_the_command_that_creates_them(
    dialect: str, command: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path}/empty.db"
        if dialect == "postgresql":
            url = await stack.enter_async_context(request.getfixturevalue("postgres").database())
        monkeypatch.setenv("SAMPLE_DATABASE", url)
        arguments = ["parked", command, SAMPLE, *COMMANDS[command]]
        result = await asyncio.to_thread(CliRunner().invoke, cli, arguments, input="x")
    assert (result.exit_code, "has no table mediator_parked" in result.stderr) == (1, True)
    assert "mediator schema create" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.thorough("waits in real time, or does much work")
def test_ctrl_c_leaves_the_current_event_parked_and_ends_with_status_130(application: Application):
    application.park(event("1", "a", None), event("2", "slow", None), event("3", "c", None))
    command = [sys.executable, "-m", "mediator.cli", "parked", "replay", SAMPLE, "--all", "--yes"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SAMPLE_DATABASE": application.url},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "shipping slowly" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Stopped." in stderr
    assert "1 replayed" in stderr
    assert "Traceback" not in stderr
    assert (application.shipped, application.parked) == (["a"], ["2", "3"])


@pytest.mark.parametrize(
    "command",
    [
        ["list", "--limit", "600"],
        ["list", "--json"],
        ["discard", "--all", "--dry-run", "--because", "x"],
        ["discard", "--all", "--yes", "--because", "x"],
        ["replay", "--all", "--dry-run"],
        ["replay", "--all", "--dry-run", "--json"],
    ],
)
def test_commands_that_show_no_bodies_read_no_bodies(application: Application, command: list[str]) -> None:
    application.park(*(event(str(number), "x", None, data=b"x" * 300_000) for number in range(60)))
    tracemalloc.start()
    try:
        result = application.call(*command)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.exit_code == 0, result.output
    assert peak < 6_000_000  # all bodies have 18 MB


def test_an_export_holds_few_bodies_in_memory(application: Application, tmp_path: Path) -> None:
    application.park(*(event(str(number), "x", None, data=b"x" * 300_000) for number in range(100)))
    tracemalloc.start()
    try:
        result = application.call("export", "--output", str(tmp_path / "events"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.exit_code == 0, result.output
    assert (tmp_path / "events").read_text().count("\n") == 100
    assert peak < 20_000_000  # all bodies have 30 MB


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["edit", "1", "--yes", "--headers", "latin"], 2),
        (["edit", "1", "--yes", "--headers", "deep"], 2),
        (["edit", "1", "--yes", "--data", "folder"], 2),
        (["edit", "1", "--yes", "--data", "missing"], 2),
        (["export", "--output", "/dev/full"], 1),
        (["export", "--output", "folder"], 1),
        (["export", "--output", "missing/file"], 1),
        (["list", "--since", f"{'9' * 5000}d"], 2),
        (["list", "--key", "\udcff"], 0),
        (["list", "--type", "\udcff"], 2),
    ],
)
def test_an_invalid_file_or_value_is_one_clear_line(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin").write_bytes(b'{"a": "\xe9"}')
    Path("deep").write_bytes(b"[" * 100_000)
    Path("folder").mkdir()
    application.park(event("1", "x"))
    result = application.call(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
