"""`mediator outbox`: lists pending and published events, and publishes them again."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from mediator.cli.commands import cli
from mediator.sqlalchemy import create_schema, open_engine
from tests.adapters.cli.samples.outbox_sample import BROKER

MODULE = "tests.adapters.cli.samples.outbox_sample"
ROW = "VALUES (?, ?, ?, '2026-01-02T03:04:05+00:00', ?, 1, 'application/json', '{\"tenant\": \"acme\"}', ?, ?, 'sales')"


class Application:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"
        asyncio.run(self._create())

    async def _create(self) -> None:
        async with open_engine(self.url) as engine:
            await create_schema(engine)

    def put(
        self,
        table: str,
        *ids: str,
        at: float | None = None,
        key: str | None = "k",
        kind: str = "sales.order-placed.v1",
        data: bytes = b'{"secret": 1}',
    ) -> None:
        connection = sqlite3.connect(self.file)
        with connection:
            [(last,)] = connection.execute(f"SELECT coalesce(max(sequence), 0) FROM {table}").fetchall()
            rows = [(last + place, each, kind, key, data, at) for place, each in enumerate(ids, 1)]
            connection.executemany(f"INSERT INTO {table} {ROW}", rows)
        connection.close()

    def wait(self, *ids: str, **options: object) -> None:
        self.put("mediator_outbox", *ids, **options)  # type: ignore[arg-type]

    def archive(self, *ids: str, **options: object) -> None:
        self.put("mediator_outbox_archive", *ids, **{"at": time.time(), **options})  # type: ignore[arg-type]

    def call(self, command: str, *arguments: str, target: str = "create", stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, ["outbox", command, f"{MODULE}:{target}", *arguments], input=stdin)

    def ids(self, *arguments: str) -> list[str]:
        return [row["id"] for row in json.loads(self.call("list", "--json", *arguments).stdout)]


@pytest.fixture(autouse=True)
def reset_structlog() -> None:
    structlog.reset_defaults()
    BROKER.lose(*(event.id for event in BROKER.events))


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    made = Application(tmp_path / "app.db")
    monkeypatch.setenv("SAMPLE_DATABASE", made.url)
    return made


def held() -> list[str]:
    return [event.id for event in BROKER.events]


def test_list_shows_number_and_age_of_pending_events_and_never_a_payload(application: Application):
    application.wait("a", "b")
    result = application.call("list")
    assert result.exit_code == 0, result.output
    header, first, _ = result.stdout.splitlines()
    assert header.split() == ["SEQUENCE", "PLACE", "ID", "TYPE", "KEY", "BYTES", "RAISED", "ARCHIVED/DUE"]
    assert first.split() == ["1", "waiting", "a", "sales.order-placed.v1", "k", "13", "2026-01-02T03:04:05+00:00"]
    assert result.stderr.startswith("2, the oldest from 2026-01-02T03:04:05+00:00, ")
    assert "secret" not in result.output + application.call("list", "--json").output
    assert application.call("list", "--limit", "1").stderr.startswith("1 of 2, ")


def test_list_can_filter_and_show_archived_and_delayed_events(application: Application):
    application.wait("a")
    application.wait("b", key=None, kind="stock.counted.v1")
    application.wait("later", at=time.time() + 3600)
    application.archive("old", at=time.time() - 7200)
    application.archive("new")
    assert application.ids() == ["a", "b"]
    assert application.ids("--delayed") == ["later"]
    assert application.ids("--archived") == ["old", "new"]
    assert application.ids("--archived", "--since", "1h") == ["new"]
    assert application.ids("--key", "k") == ["a"]
    assert application.ids("--type", "stock.counted.v1") == ["b"]
    assert application.ids("--stream", "memory-stock") == application.ids("--stream", "stock") == ["b"]
    assert application.ids("--since", "2027-01-01") == []
    assert application.call("list", "--since", "yesterday").exit_code == 2
    assert application.call("list", "--stream", "a%b").exit_code == 2
    assert "Nothing is there." in application.call("list", "--key", "nobody").stdout


def test_show_prints_a_whole_event_with_control_characters_escaped(application: Application):
    application.archive("a", data=b'{"order": "\x1b[2J"}', key="\x1b[31mred")
    result = application.call("show", "a")
    assert result.exit_code == 0, result.output
    assert '{"order": "\\x1b[2J"}' in result.stdout
    assert "tenant: acme" in result.stdout
    assert "\x1b" not in result.output + application.call("list", "--archived").output
    shown = json.loads(application.call("show", "a", "--json").stdout)
    assert (shown["place"], shown["data"]) == ("archived", '{"order": "\x1b[2J"}')
    missing = application.call("show", "nowhere")
    assert (missing.exit_code, "no event with the id 'nowhere'" in missing.stderr) == (1, True)


def test_republish_publishes_the_chosen_events_after_a_confirmation(application: Application):
    application.archive("a", "b", "c")
    assert application.call("republish").exit_code == 2
    assert application.call("republish", "--all", "--key", "k").exit_code == 2
    assert application.call("republish", "--all", stdin="n\n").exit_code == 1
    assert held() == []
    result = application.call("republish", "--id", "c", "--id", "a", stdin="y\n")
    assert (result.exit_code, held()) == (0, ["a", "c"])
    result = application.call("republish", "--all", "--yes")
    assert result.stdout == "container.outbox: 1 stored, 2 known to the broker\n"
    assert "mediator outbox verify" in result.stderr
    assert "[3/3] up to sequence 3" in result.stderr
    assert "Nothing to publish" in application.call("republish", "--key", "nobody", "--yes").stdout
    assert application.call("republish", "--all", "--rate", "0").exit_code == 1


def test_republish_can_continue_after_a_sequence(application: Application):
    application.archive("a", "b", "c")
    result = application.call("republish", "--all", "--after", "2", "--yes")
    assert (result.exit_code, held()) == (0, ["c"])


def test_verify_names_missing_events_and_refills_them(application: Application):
    assert application.call("verify").stdout == "Nothing is archived.\n"
    application.archive("a", "b", "c")
    assert application.call("republish", "--all", "--yes").exit_code == 0
    BROKER.lose("a", "c", remember=True)
    result = application.call("verify")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "missing a sales.order-placed.v1 k (archive sequence 1, stream memory-sales)",
        "missing c sales.order-placed.v1 k (archive sequence 3, stream memory-sales)",
        "3 checked, 2 missing",
    ]
    assert application.call("verify", "--republish", stdin="n\n").exit_code == 1
    assert held() == ["b"]
    result = application.call("verify", "--republish", "--yes", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["refilled"], told["missing"], told["finished"]) == (0, 2, 0, True)
    assert [(row["id"], row["outcome"]) for row in told["events"]] == [("a", "refilled"), ("c", "refilled")]
    assert held() == ["b", "a", "c"]
    BROKER.lose("a", "b", "c")


def test_a_container_without_outbox_or_publisher_is_a_wrong_call(application: Application):
    application.archive("a")
    for command, target in (("list", "Nothing"), ("verify", "create_silent"), ("republish", "create_two")):
        arguments = ("--all", "--yes") if command == "republish" else ()
        assert application.call(command, *arguments, target=target).exit_code == 2, target
    result = application.call("republish", "--all", "--yes", "--publisher", "second", target="create_two")
    assert (result.exit_code, [event.source for event in BROKER.events]) == (0, ["sales"])
    assert "Did you mean outbox?" in application.call("list", "--outbox", "outbix").stderr


@pytest.mark.thorough("waits in real time, or does much work")
def test_ctrl_c_ends_a_slow_republish_with_status_130_and_names_the_command_that_continues(application: Application):
    application.archive("a", "b", "c", "d", "e")
    command = [sys.executable, "-m", "mediator.cli", "outbox", "republish", f"{MODULE}:create"]
    process = subprocess.Popen(
        [*command, "--all", "--yes", "--rate", "0.05"], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr is not None
    said = ""
    while "up to sequence 1" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped" in rest
    assert "Continue with --outbox container.outbox --after 1." in rest


def test_an_empty_key_is_a_wrong_call_and_does_not_select_every_key(application: Application):
    application.archive("a")
    for command, *arguments in (("list", "--archived"), ("republish", "--yes"), ("verify",)):
        result = application.call(command, *arguments, "--key", "")
        assert (result.exit_code, "an empty key matches no event" in result.stderr) == (2, True), command
    assert held() == []
