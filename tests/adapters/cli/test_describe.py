"""`mediator describe`: the exact chain of every message, without starting the application."""

import json

import pytest
from click.testing import CliRunner

from mediator.cli.commands import cli

SAMPLE = "tests.adapters.cli.samples.sample"


def describe(*arguments):
    return CliRunner().invoke(cli, ["describe", *arguments])


def test_every_message_is_shown_with_its_chain():
    result = describe(f"{SAMPLE}:IdleContainer")

    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "ShipOrder -> str",
        "1. LoggingBehavior container.logging",
        "handler: ShipOrderHandler container.ship",
        "",
        "OrderShipped",
        "1. LoggingBehavior container.logging",
        "subscriber: TellCustomer container.tell",
    ]


def test_an_event_is_shown_with_its_subscribers_and_nothing_is_opened(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMPLE_DATABASE", f"sqlite:///{tmp_path}/missing/app.db")

    result = describe(f"{SAMPLE}:create", "OrderPlaced")

    assert result.exit_code == 0
    assert "subscriber: SlowRecord" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_scanned_handlers_are_shown_like_others():
    result = describe("tests.adapters.dependency_injector.school.container:School", "Enrolled")

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["Enrolled"],
        ["subscriber:", "Welcome", "container.handlers[Welcome]"],
        ["subscriber:", "congratulate", "container.handlers[congratulate]"],
    ]


def test_a_named_message_is_shown_without_the_others():
    result = describe(f"{SAMPLE}:IdleContainer", "ShipOrder")

    assert "ShipOrder -> str" in result.stdout
    assert "OrderShipped" not in result.stdout


def test_the_error_for_an_unknown_message_suggests_the_nearest_names():
    result = describe(f"{SAMPLE}:IdleContainer", "shipOrders")

    assert result.exit_code == 2
    assert "Did you mean ShipOrder" in result.stderr


def test_the_json_output_can_be_parsed():
    result = describe(f"{SAMPLE}:IdleContainer", "ShipOrder", "--format", "json")

    assert result.exit_code == 0
    (application,) = json.loads(result.stdout)["applications"]
    assert [message["name"] for message in application["messages"]] == ["ShipOrder"]
    assert application["messages"][0]["handlers"][0]["label"] == "container.ship"


def test_mermaid_is_a_flowchart():
    result = describe(f"{SAMPLE}:IdleContainer", "ShipOrder", "--format", "mermaid")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "flowchart LR",
        '  n1["ShipOrder → str"]',
        '  n2(["LoggingBehavior"])',
        '  n3[["ShipOrderHandler"]]',
        "  n1 --> n2",
        "  n2 --> n3",
    ]


@pytest.mark.parametrize("form", ["text", "json", "mermaid"])
def test_several_applications_are_shown_under_their_names(form, monkeypatch):
    monkeypatch.setenv("SAMPLE_DATABASE", "sqlite:///unused.db")
    result = describe(f"{SAMPLE}:IdleContainer", "--with", f"{SAMPLE}:create", "--format", form)

    assert result.exit_code == 0
    assert [name in result.stdout for name in ("IdleContainer", "create", "ShipOrder", "SlowRecord")] == [True] * 4


def test_applications_with_the_same_name_are_distinguished_by_their_modules():
    result = describe(f"{SAMPLE}:idle", "--with", "tests.adapters.cli.samples.sample:idle", "--format", "mermaid")

    assert f'"{SAMPLE}:idle"' in result.stdout


def test_an_unknown_format_is_refused():
    assert describe(f"{SAMPLE}:IdleContainer", "--format", "svg").exit_code == 2
