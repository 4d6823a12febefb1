"""`mediator topology`: the streams and consumers that a container needs are compared with the broker, and created."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable

import nats
import pytest
from click.testing import CliRunner, Result
from nats.js.api import ConsumerConfig, StreamConfig

from mediator.cli.commands import cli
from mediator.nats import NatsServer

APPLICATION = "tests.adapters.shipping.application"


@pytest.fixture
def server(shared_server: NatsServer) -> NatsServer:
    return shared_server


@pytest.fixture
def prefix(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    prefix = f"t{uuid.uuid4().hex[:10]}"
    monkeypatch.setenv("SHIPPING_NATS", server.url)
    monkeypatch.setenv("SHIPPING_PREFIX", prefix)
    return prefix


def topology(command: str, name: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["topology", command, f"{APPLICATION}:{name}", *options])


def items(result: Result) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """Return status and details of each stream and consumer in a JSON report."""
    (broker,) = json.loads(result.stdout)["brokers"]
    return {(item["stream"], item["consumer"]): (item["status"], item["details"]) for item in broker["items"]}


def on(server: NatsServer, act: Callable) -> object:
    """Run an action with the JetStream manager of the server."""

    async def run() -> object:
        client = await nats.connect(server.url)
        try:
            return await act(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


def config_of(server: NatsServer, stream: str, consumer: str = "") -> StreamConfig | ConsumerConfig:
    async def ask(manager):
        return await (manager.consumer_info(stream, consumer) if consumer else manager.stream_info(stream))

    return on(server, ask).config


def test_plan_shows_the_changes_that_apply_makes(server: NatsServer, prefix: str):
    planned = topology("plan", "create", "--json")
    wanted = {(f"{prefix}-shipping", ""), (f"{prefix}-sales", ""), (f"{prefix}-sales", "shipping")}
    assert {key: status for key, (status, _) in items(planned).items()} == dict.fromkeys(wanted, "create")
    assert items(planned)[f"{prefix}-sales", "shipping"][1] == [f"receives {prefix}.sales.order-placed.*"]
    assert topology("plan", "create").exit_code == 0

    applied = topology("apply", "create")
    assert applied.exit_code == 0, applied.output
    assert f"created {prefix}-sales shipping\n" in applied.stdout
    assert config_of(server, f"{prefix}-shipping").metadata["mediator.partitions"] == "16"
    assert config_of(server, f"{prefix}-sales", "shipping").filter_subjects == [f"{prefix}.sales.order-placed.*"]


def test_diff_fails_until_there_are_no_differences(prefix: str):
    assert topology("diff", "create").exit_code == 1
    topology("apply", "create")
    result = topology("diff", "create")
    assert (result.exit_code, "nothing to do" in result.stdout) == (0, True)
    again = topology("apply", "create", "--json")
    assert json.loads(again.stdout)["brokers"][0]["done"] == []


def test_a_new_handler_adds_its_subject_and_an_older_version_removes_none(server: NatsServer, prefix: str):
    topology("apply", "create")
    result = topology("plan", "create_next", "--json")
    assert items(result)[f"{prefix}-sales", "shipping"] == (
        "update",
        [f"does not receive {prefix}.sales.order-cancelled.*"],
    )
    topology("apply", "create_next")
    both = [f"{prefix}.sales.order-cancelled.*", f"{prefix}.sales.order-placed.*"]
    assert config_of(server, f"{prefix}-sales", "shipping").filter_subjects == both

    older = topology("apply", "create", "--json")
    assert older.exit_code == 0
    detail = f"receives {prefix}.sales.order-cancelled.*, which nothing handles"
    assert items(older)[f"{prefix}-sales", "shipping"] == ("unwanted", [detail])
    assert config_of(server, f"{prefix}-sales", "shipping").filter_subjects == both
    assert topology("diff", "create").exit_code == 1

    assert topology("apply", "create", "--prune").exit_code == 0
    only = config_of(server, f"{prefix}-sales", "shipping")
    assert (only.filter_subject or only.filter_subjects[0]) == f"{prefix}.sales.order-placed.*"
    assert topology("diff", "create").exit_code == 0


def test_obsolete_consumers_are_reported_and_never_deleted(server: NatsServer, prefix: str):
    topology("apply", "create")
    monkeys = ConsumerConfig(durable_name="billing", filter_subject=f"{prefix}.shipping.order-shipped.*")
    on(server, lambda manager: manager.add_consumer(f"{prefix}-shipping", monkeys))
    on(server, lambda manager: manager.add_consumer(f"{prefix}-shipping", ConsumerConfig(durable_name="shipping-p3")))

    result = topology("apply", "create", "--prune", "--json")

    assert items(result)[f"{prefix}-shipping", "billing"] == ("other", [])
    assert items(result)[f"{prefix}-shipping", "shipping-p3"][0] == "unwanted"
    assert config_of(server, f"{prefix}-shipping", "shipping-p3")
    assert topology("diff", "create").exit_code == 1


def test_a_publisher_nested_in_its_relay_is_found(prefix: str):
    result = topology("plan", "create_last", "--json")
    assert items(result)[f"{prefix}-shipping", ""][0] == "create"


def test_every_difference_of_a_stream_is_reported_and_changed_only_on_request(
    server: NatsServer, prefix: str, monkeypatch
):
    topology("apply", "create")

    async def change(manager):
        config = (await manager.stream_info(f"{prefix}-shipping")).config
        config.max_age, config.duplicate_window, config.max_bytes = 7200.0, 60.0, 10**6
        config.allow_atomic = True
        await manager.update_stream(config)

    on(server, change)
    monkeypatch.setenv("SHIPPING_MAX_AGE", "3600")
    expected = ["duplicate_window is 60 s, not 600 s", "max_age is 7200 s, not 3600 s"]
    expected += ["max_bytes is 1000000, not 1073741824", "allow_atomic is True, not False"]
    assert items(topology("plan", "create", "--json"))[f"{prefix}-shipping", ""] == ("differs", expected)
    refused = topology("apply", "create")
    assert refused.exit_code == 1
    assert config_of(server, f"{prefix}-shipping").max_age == 7200

    assert topology("apply", "create", "--update-streams").exit_code == 0
    changed = config_of(server, f"{prefix}-shipping")
    assert (changed.max_age, changed.duplicate_window, changed.max_bytes) == (3600, 600, 1024**3)
    assert not changed.allow_atomic
    assert changed.metadata["mediator.partitions"] == "16"


def test_the_number_of_partitions_is_never_changed(server: NatsServer, prefix: str, monkeypatch):
    topology("apply", "create")
    monkeypatch.setenv("SHIPPING_PARTITIONS", "8")
    monkeypatch.setenv("SHIPPING_MAX_AGE", "3600")

    result = topology("apply", "create", "--update-streams", "--json")

    assert result.exit_code == 1
    details = ["mediator.partitions in the stream's metadata is 16, not 8", "max_age is 604800 s, not 3600 s"]
    assert items(result)[f"{prefix}-shipping", ""] == ("differs", details)
    assert config_of(server, f"{prefix}-shipping").metadata["mediator.partitions"] == "16"


def test_a_stream_of_another_application_is_not_compared(server: NatsServer, prefix: str):
    theirs = StreamConfig(name=f"{prefix}-sales", subjects=[f"{prefix}.sales.>"], max_age=60)
    on(server, lambda manager: manager.add_stream(theirs))

    result = topology("apply", "create", "--json")

    assert (result.exit_code, items(result)[f"{prefix}-sales", ""]) == (0, ("present", []))
    assert config_of(server, f"{prefix}-sales").max_age == 60


def test_no_consumers_of_an_ordered_group_are_created_on_a_stream_that_it_refuses(server: NatsServer, prefix: str):
    metadata = {"mediator.partitions": "32"}
    theirs = StreamConfig(name=f"{prefix}-sales", subjects=[f"{prefix}.sales.>"], metadata=metadata)
    on(server, lambda manager: manager.add_stream(theirs))

    planned, applied = topology("plan", "create_mails", "--json"), topology("apply", "create_mails", "--json")

    difference = "mediator.partitions in the stream's metadata is 32, not 16"
    assert items(planned)[f"{prefix}-sales", ""] == ("differs", [difference])
    detail = f"not created because of its stream: {difference}"
    assert items(planned)[f"{prefix}-sales", "mails-p0"] == ("differs", [detail])
    assert applied.exit_code == 1
    consumers = on(server, lambda manager: manager.consumers_info(f"{prefix}-sales"))
    assert [each.name for each in consumers] == ["shipping"]


def test_an_unusable_consumer_is_reported_with_all_its_differences(server: NatsServer, prefix: str):
    on(server, lambda manager: manager.add_stream(name=f"{prefix}-sales", subjects=[f"{prefix}.sales.>"]))
    wrong = ConsumerConfig(durable_name="shipping", max_deliver=3, max_ack_pending=1, deliver_subject="push.it")
    on(server, lambda manager: manager.add_consumer(f"{prefix}-sales", wrong))

    result = topology("apply", "create", "--json")

    assert result.exit_code == 1
    status, details = items(result)[f"{prefix}-sales", "shipping"]
    assert status == "differs"
    assert {"max_deliver is 3, not -1", "it pushes instead of being pulled", "max_ack_pending is 1, not 1000"} < {
        *details
    }


@pytest.mark.thorough("waits in real time, or does much work")
def test_apply_may_run_in_several_processes_concurrently(server: NatsServer, prefix: str):
    commands = [
        [sys.executable, "-m", "mediator.cli", "topology", "apply", f"{APPLICATION}:{name}", "--json"]
        for name in ("create", "create_next", "create_next")
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ.copy()) for command in commands]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    both = [f"{prefix}.sales.order-cancelled.*", f"{prefix}.sales.order-placed.*"]
    assert config_of(server, f"{prefix}-sales", "shipping").filter_subjects == both
    assert topology("diff", "create_next").exit_code == 0


def test_the_table_escapes_control_characters_in_foreign_names(server: NatsServer, prefix: str):
    theirs = StreamConfig(name=f"{prefix}-shipping", subjects=[f"{prefix}.shipping.\x1b[2J.>"])
    on(server, lambda manager: manager.add_stream(theirs))
    result = topology("plan", "create")
    assert "\x1b" not in result.stdout
    assert "\\x1b[2J" in result.stdout
    assert result.stdout.splitlines()[1].split() == ["status", "stream", "consumer", "details"]


def test_a_container_without_a_broker_is_reported(prefix: str):
    result = CliRunner().invoke(cli, ["topology", "plan", "tests.adapters.cli.samples.sample:IdleContainer"])
    assert (result.exit_code, "has no broker" in result.stderr) == (2, True)


def test_an_unreachable_broker_is_reported_without_the_secrets_of_its_url(prefix: str, monkeypatch):
    monkeypatch.setenv("SHIPPING_NATS", "nats://user@127.0.0.1:1")
    monkeypatch.setenv("SHIPPING_PASSWORD", "hidden")
    result = topology("plan", "create", "--timeout", "0.5")
    assert (result.exit_code, "is not available" in result.stderr) == (1, True)
    assert "hidden" not in result.output


async def test_descriptions_contain_no_password(server: NatsServer, prefix: str, monkeypatch):
    monkeypatch.setenv("SHIPPING_PASSWORD", "hidden")
    for arguments in (["describe"], ["describe", "--format", "json"], ["describe", "--format", "mermaid"]):
        result = CliRunner().invoke(cli, [arguments[0], f"{APPLICATION}:create", *arguments[1:]])
        assert result.exit_code == 0
        assert "hidden" not in result.output
