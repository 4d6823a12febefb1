"""`mediator events`: a list of the events, their frozen samples, and a check of the samples."""

import json
import sys

import pytest
from click.testing import CliRunner

from mediator.cli.commands import cli

SAMPLE = "tests.adapters.cli.samples.sample:create"
FILE = "sales.order-placed.v1.json"


@pytest.fixture(autouse=True)
def database(monkeypatch):
    monkeypatch.setenv("SAMPLE_DATABASE", "sqlite:///unused.db")


def events(*arguments):
    return CliRunner().invoke(cli, ["events", *map(str, arguments)])


VERSIONED = """
from dataclasses import dataclass
from typing import ClassVar
from dependency_injector import containers, providers
from mediator import Command, DistributedEvent, DistributedEventBroker, DistributedEventHandler, RequestHandler
from mediator.dependency_injector import MediatorProvider

class Order(Command[None]): ...

@dataclass
class Placed(DistributedEvent):
    event_type: ClassVar[str] = "shop.placed"
    event_version: ClassVar[int] = 3
    upcasters: ClassVar = {1: dict, 2: dict}
    partition_key: str

class Sent(DistributedEvent):
    event_type = "shop.sent"

class OrderHandler(RequestHandler[Order, None]):
    async def handle(self, command: Order) -> None:
        Placed("1")

class Ship(DistributedEventHandler[Placed]):
    async def handle(self, event: Placed) -> None: ...

class Shop(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    order = providers.Factory(OrderHandler)
    ship = providers.Factory(Ship)
"""


def test_list_shows_the_role_of_the_application_for_each_event(tmp_path, monkeypatch):
    package = tmp_path / "versioned_shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "app.py").write_text(VERSIONED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    result = events("list", "versioned_shop.app:Shop")
    for name in ("versioned_shop", "versioned_shop.app"):
        sys.modules.pop(name)

    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["TYPE", "VERSION", "CLASS", "USE", "PARTITION", "KEY"],
        ["shop.placed", "3", "(reads", "1,", "2)", "versioned_shop.app.Placed", "published,", "handled", "yes"],
        ["shop.sent", "1", "versioned_shop.app.Sent", "declared", "no"],
    ]


def test_freeze_writes_each_sample_once_and_again_when_forced(tmp_path):
    folder = tmp_path / "new" / "events"
    results = [events("freeze", SAMPLE, "--into", folder) for _ in range(2)]
    text = (folder / FILE).read_text()
    (folder / FILE).write_text("{}")
    results.append(events("freeze", SAMPLE, "--into", folder))
    kept = (folder / FILE).read_text()
    results.append(events("freeze", SAMPLE, "--into", folder, "--force"))

    assert [result.exit_code for result in results] == [0] * 4
    assert [result.stdout.split()[0] for result in results] == ["written", "kept", "kept", "written"]
    assert kept == "{}"
    assert (folder / FILE).read_text() == text


def test_check_ends_with_status_0_when_all_samples_can_be_read(tmp_path):
    events("freeze", SAMPLE, "--into", tmp_path)
    result = events("check", SAMPLE, "--against", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "1 frozen sample can be read.\n")


def test_check_ends_with_status_1_and_names_the_changes(tmp_path):
    result = events("check", SAMPLE, "--against", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "sales.order-placed.v1 (OrderPlaced): is not frozen yet" in result.stderr

    events("freeze", SAMPLE, "--into", tmp_path)
    frozen = json.loads((tmp_path / FILE).read_text())
    frozen["schema"]["$defs"]["OrderPlaced"]["properties"]["order"] = {"type": "integer"}
    (tmp_path / FILE).write_text(json.dumps(frozen))
    result = events("check", SAMPLE, "--against", tmp_path)
    assert result.exit_code == 1
    assert "the field `order` was integer, and is now string" in result.stderr


def test_check_passes_and_names_the_samples_that_can_be_refreshed(tmp_path):
    events("freeze", SAMPLE, "--into", tmp_path)
    frozen = json.loads((tmp_path / FILE).read_text())
    frozen["schema"]["$defs"]["OrderPlaced"]["properties"]["note"] = {"type": "integer"}
    (tmp_path / FILE).write_text(json.dumps(frozen))
    result = events("check", SAMPLE, "--against", tmp_path)
    assert result.exit_code == 0
    assert "the field `note`, which has a default, was removed. Its sample can be refreshed" in result.stdout


@pytest.mark.parametrize("command", ["list", "freeze", "check"])
def test_a_bad_target_is_a_wrong_call(command):
    assert events(command, "no_such_module:create").exit_code == 2


@pytest.mark.parametrize("folder", ["file", "file/below", "/dev/null/x", "/proc/none", "x" * 5000, "\udcff/x"])
@pytest.mark.parametrize("command", [("freeze", "--into"), ("check", "--against")])
def test_an_impossible_folder_is_one_clear_line(tmp_path, monkeypatch, command, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    name, option = command
    result = events(name, SAMPLE, option, folder)
    assert result.exit_code in ({0, 1} if "\udcff" in folder else {1, 2}), result.output
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert "Traceback" not in result.output
