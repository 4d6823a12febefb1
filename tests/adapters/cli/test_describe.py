"""`mediator describe`: the exact chain of every message, without starting anything."""

from click.testing import CliRunner

from mediator.cli.commands import cli

SAMPLE = "tests.adapters.cli.sample"


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


def test_one_message_is_shown_alone():
    result = describe(f"{SAMPLE}:IdleContainer", "ShipOrder")

    assert "ShipOrder -> str" in result.stdout
    assert "OrderShipped" not in result.stdout


def test_an_unknown_message_comes_with_the_nearest_names():
    result = describe(f"{SAMPLE}:IdleContainer", "shipOrders")

    assert result.exit_code == 2
    assert "Did you mean ShipOrder" in result.stderr
