"""`mediator doctor` reports each fault of the broker and of the workers by its name, and nothing else."""

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import CliRunner
from dependency_injector import providers

from mediator import EventConsumer
from mediator.cli.commands import cli
from mediator.cli.doctor.brokers import Brokers
from mediator.cli.doctor.command import diagnose
from mediator.cli.doctor.finding import Check, Finding, Report, examine, fault, ok, warning
from mediator.cli.doctor.inspection import AccountState, Inspection
from mediator.cli.doctor.installation import Broker, Installation, Options
from mediator.errors import PublisherUnavailableError
from mediator.nats import NatsCluster, NatsEventSubscription, NatsServer, StreamSettings, open_connection
from mediator.nats.topology import Topology, WantedStream
from tests.adapters.cli.doctor.application import (
    Container,
    FaultyContainer,
    RemoteContainer,
    fail_to_resolve,
    hang_forever,
    with_setting,
)
from tests.adapters.cli.doctor.examination import call, change, config, doctor, found, put_consumer, replace, set_up
from tests.adapters.cli.samples.sample import IdleContainer
from tests.adapters.shipping.application import create_last

SAMPLE = "tests.adapters.cli.doctor.application"


@pytest.fixture
def server(shared_server: NatsServer) -> NatsServer:
    return shared_server


@pytest.fixture
def given(server: NatsServer, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a new application with its own stream prefix."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    return config(database=f"sqlite:///{tmp_path / 'app.db'}", nats=server.url, prefix=prefix)


@pytest.fixture
async def installed(given: dict[str, Any]) -> dict[str, Any]:
    await set_up(given)
    return given


async def test_a_healthy_application_has_neither_faults_nor_warnings(installed: dict[str, Any]):
    report = await doctor(installed)
    assert found(report) == []
    assert report.status(strict=True) == 0
    assert {each.name for each in report.findings} == {
        "wiring", "database", "schema", "sqlite-settings", "pool", "outbox", "parked", "broker", "stream", "consumer",
        "inbox-retention", "clock",
    }  # fmt: skip


async def set_up_in(cluster: NatsCluster, given: dict[str, Any]) -> None:
    """Set up the application; retry during leader elections, and wait until all servers have the streams."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(PublisherUnavailableError):
                await set_up(given)
                break
        await cluster.start()


@pytest.mark.thorough("builds a cluster of three servers")
async def test_a_healthy_cluster_has_no_findings_and_a_stream_with_one_copy_is_a_warning(tmp_path: Path):
    async with NatsCluster() as cluster:
        three = config(database=f"sqlite:///{tmp_path / 'app.db'}", nats=cluster.urls, prefix="three", replicas=3)
        await set_up_in(cluster, three)
        assert found(await doctor(three)) == []

        single = {**three, "prefix": "single", "replicas": 1}
        await set_up_in(cluster, single)
        assert found(await doctor(single)) == [("warning", "stream-replicas")] * 2

        await cluster.servers[2].kill()
        away = {("warning", "stream-replica-away")}
        async with asyncio.timeout(60):
            while set(found(await doctor(three, timeout=5))) != away:
                await asyncio.sleep(0.2)


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_an_unreachable_broker_is_one_fault_and_the_other_checks_still_report(installed: dict[str, Any]):
    report = await doctor({**installed, "nats": "nats://user:hidden@127.0.0.1:1"}, timeout=1)
    assert found(report) == [("fault", "broker-unreachable")]
    assert "hidden" not in report.as_text() + report.as_json()
    assert {"database", "schema", "outbox"} <= {each.name for each in report.findings}


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_a_broker_that_does_not_answer_is_reported_within_the_timeout(tmp_path: Path):
    async with NatsServer() as frozen:
        given = config(database=f"sqlite:///{tmp_path / 'app.db'}", nats=frozen.url, prefix="events")
        await set_up(given)
        frozen.suspend()
        started = time.monotonic()
        report = await doctor(given, timeout=1)
        frozen.resume()
    assert found(report) == [("fault", "broker-unreachable")]
    assert time.monotonic() - started < 10


async def test_a_server_without_jetstream_is_one_fault(installed: dict[str, Any]):
    accounts = "accounts { PLAIN { users: [{ user: a, password: secret }] } }"
    async with NatsServer(settings=accounts) as plain:
        url = plain.url.replace("://", "://a:secret@")
        assert found(await doctor({**installed, "nats": url})) == [("fault", "jetstream-disabled")]


async def test_a_server_with_a_too_small_payload_limit_is_a_fault(tmp_path: Path):
    async with NatsServer(settings="max_payload: 1000100") as small:
        given = config(database=f"sqlite:///{tmp_path / 'app.db'}", nats=small.url, prefix="events")
        await set_up(given)
        assert found(await doctor(given)) == [("fault", "max-payload")]


async def test_a_server_that_syncs_late_is_a_warning_when_its_monitoring_says_so(installed: dict[str, Any], server):
    monitoring = f"http://127.0.0.1:{server._monitoring}"
    report = await doctor(installed, monitoring=monitoring)
    assert set(found(report)) == {("warning", "stream-sync-interval")}
    assert (report.status(), report.status(strict=True)) == (0, 1)


async def test_a_stream_and_a_consumer_that_do_not_exist_are_reported_as_missing(
    given: dict[str, Any], installed: dict[str, Any]
):
    await call(given["nats"], f"STREAM.DELETE.{given['prefix']}-dispatch")
    assert found(await doctor(given)) == [("fault", "stream-missing")]
    await call(given["nats"], f"CONSUMER.DELETE.{given['prefix']}-ordering.shipping")
    assert found(await doctor(given)) == [("fault", "stream-missing"), ("fault", "consumer-missing")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"discard": "old"}, ("fault", "stream-discard-old")),
        ({"duplicate_window": 5 * 10**9}, ("warning", "stream-duplicate-window")),
        ({"max_age": 86400 * 10**9}, ("warning", "stream-differs")),
        ({"allow_atomic": True}, ("warning", "stream-differs")),
    ],
)
async def test_a_stream_with_a_different_setting_is_reported_by_that_setting(
    installed: dict[str, Any], changes, expected
):
    await change(installed["nats"], f"{installed['prefix']}-dispatch", **changes)
    assert found(await doctor(installed)) == [expected]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"storage": "memory"}, "stream-storage"),
        ({"persist_mode": "async", "allow_atomic": False}, "stream-persist-mode"),
        ({"retention": "interest"}, "stream-retention"),
    ],
)
async def test_a_stream_of_another_kind_is_reported_by_its_kind(installed: dict[str, Any], changes, expected):
    await replace(installed["nats"], f"{installed['prefix']}-dispatch", **changes)
    assert found(await doctor(installed)) == [("fault", expected)]


async def test_a_stream_that_is_nearly_full_is_a_warning(installed: dict[str, Any]):
    await change(installed["nats"], f"{installed['prefix']}-dispatch", max_bytes=10_000)
    await publish(installed, "dispatch.order-shipped.0", "x" * 8500)
    names = [name for _, name in found(await doctor(installed))]
    assert names == ["stream-filling", "stream-differs"]


async def test_a_consumer_that_gives_up_is_a_fault(installed: dict[str, Any]):
    url, stream = installed["nats"], f"{installed['prefix']}-ordering"
    wanted = (await call(url, f"CONSUMER.INFO.{stream}.shipping"))["config"]
    await put_consumer(url, stream, wanted | {"max_deliver": 5})
    assert found(await doctor(installed)) == [("fault", "consumer-max-deliver")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ack_wait": 5 * 10**9}, ["consumer-ack-wait"]),
        ({"max_ack_pending": 7}, ["consumer-differs"]),
        ({"filter_subjects": ["{prefix}.ordering.other.*"]}, ["consumer-differs"]),
    ],
)
async def test_a_consumer_that_differs_is_a_warning(installed: dict[str, Any], changes, expected):
    url, stream = installed["nats"], f"{installed['prefix']}-ordering"
    filled = {
        key: [each.format(prefix=installed["prefix"]) for each in value] if isinstance(value, list) else value
        for key, value in changes.items()
    }
    wanted = (await call(url, f"CONSUMER.INFO.{stream}.shipping"))["config"]
    wanted.pop("filter_subject", None)
    await put_consumer(url, stream, wanted | filled)
    assert sorted(found(await doctor(installed))) == [("warning", code) for code in expected]


async def test_a_group_with_the_other_ordering_is_a_fault(installed: dict[str, Any]):
    assert found(await doctor({**installed, "ordering": "key"})) == [("fault", "group-ordering")]


async def test_missing_consumers_of_an_ordered_group_are_one_fault_and_superfluous_ones_a_warning(
    given: dict[str, Any],
):
    given = {**given, "ordering": "key"}
    await set_up(given)
    url, stream = given["nats"], f"{given['prefix']}-ordering"
    assert found(await doctor(given)) == []

    other = (await call(url, f"CONSUMER.INFO.{stream}.shipping-p3"))["config"]
    await put_consumer(url, stream, other | {"name": "shipping-p77", "durable_name": "shipping-p77"})
    assert found(await doctor(given)) == [("warning", "consumer-unneeded")]

    for number in (4, 5):
        await call(url, f"CONSUMER.DELETE.{stream}.shipping-p{number}")
    report = await doctor(given)
    assert found(report) == [("fault", "consumer-missing"), ("warning", "consumer-unneeded")]
    assert "shipping-p4, shipping-p5" in report.as_text()


@pytest.mark.parametrize(
    ("partitions", "remedy"), [("8", "StreamSettings(partitions=8)"), ("32", "=32)"), ("", "-> Drain")]
)
async def test_a_stream_with_other_partitions_is_one_fault_for_any_consumers_of_an_ordered_group(
    given: dict[str, Any], partitions: str, remedy: str
):
    """No consumer is created, changed or used before the numbers agree, so applying the topology would not help."""
    given = {**given, "ordering": "key"}
    await set_up(given)
    url, stream = given["nats"], f"{given['prefix']}-ordering"
    settings = (await call(url, f"CONSUMER.INFO.{stream}.shipping-p0"))["config"]
    await put_consumer(url, stream, settings | {"ack_wait": 5 * 10**9})
    await put_consumer(url, stream, settings | {"name": "shipping-p31", "durable_name": "shipping-p31"})
    for number in range(8, 16):
        await call(url, f"CONSUMER.DELETE.{stream}.shipping-p{number}")
    await change(url, stream, metadata={"mediator.partitions": partitions} if partitions else {})
    await publish(given, "ordering.order-placed.0", {})

    report = await doctor(given)

    assert found(report) == [("fault", "stream-partitions")]
    assert remedy in report.as_text()
    assert "topology apply" not in report.as_text()


async def test_consumers_that_give_up_are_reported_although_their_stream_has_other_partitions(given: dict[str, Any]):
    given = {**given, "ordering": "key"}
    await set_up(given)
    url, stream = given["nats"], f"{given['prefix']}-ordering"
    wanted = (await call(url, f"CONSUMER.INFO.{stream}.shipping-p3"))["config"]
    await put_consumer(url, stream, wanted | {"max_deliver": 5})
    await change(url, stream, metadata={"mediator.partitions": "8"})
    assert found(await doctor(given)) == [("fault", "stream-partitions"), ("fault", "consumer-max-deliver")]


async def test_other_partitions_are_a_fault_for_a_publisher_and_no_finding_for_an_unordered_consumer(
    installed: dict[str, Any],
):
    url, prefix = installed["nats"], installed["prefix"]
    await change(url, f"{prefix}-ordering", metadata={"mediator.partitions": "8"})
    assert found(await doctor(installed)) == []
    await call(url, f"CONSUMER.DELETE.{prefix}-ordering.shipping")
    assert found(await doctor(installed)) == [("fault", "consumer-missing")]
    await change(url, f"{prefix}-dispatch", metadata={"mediator.partitions": "8"}, max_age=86400 * 10**9)
    report = await doctor(installed)
    assert found(report) == [
        ("fault", "stream-partitions"),
        ("warning", "stream-differs"),
        ("fault", "consumer-missing"),
    ]
    assert "mediator.partitions" not in report.as_text(), "the difference is reported once, not also among the others"


async def test_events_without_a_consumer_are_reported(installed: dict[str, Any]):
    await publish(installed, "ordering.order-placed.0", {})
    assert found(await doctor(installed)) == [("warning", "consumer-idle")]


async def test_a_consumer_that_falls_behind_is_reported(installed: dict[str, Any]):
    for number in range(4):
        await publish(installed, "ordering.order-placed.0", number)
    client = await nats.connect(installed["nats"])
    stream = f"{installed['prefix']}-ordering"
    puller = await client.jetstream().pull_subscribe_bind("shipping", stream)
    await puller.fetch(1, timeout=10)
    await client.close()
    assert found(await doctor(installed, lag=2)) == [("warning", "consumer-lag")]
    assert found(await doctor(installed, lag=3)) == []


async def test_a_paused_consumer_is_reported(installed: dict[str, Any]):
    until = datetime.fromtimestamp(time.time() + 600, UTC).isoformat().replace("+00:00", "Z")
    name = f"CONSUMER.PAUSE.{installed['prefix']}-ordering.shipping"
    await call(installed["nats"], name, {"pause_until": until})
    assert found(await doctor(installed)) == [("warning", "consumer-paused")]


async def test_an_inbox_with_a_too_short_retention_is_a_fault(installed: dict[str, Any]):
    report = await doctor({**installed, "keep_seconds": 7 * 86400.0})
    assert found(report) == [("fault", "inbox-retention")]
    assert "691200 is needed" in report.as_text()


async def test_an_inbox_is_compared_with_the_actual_stream(installed: dict[str, Any]):
    await change(installed["nats"], f"{installed['prefix']}-ordering", max_age=30 * 86400 * 10**9)
    assert found(await doctor(installed)) == [("fault", "inbox-retention")]


async def test_clocks_that_differ_are_a_warning(installed: dict[str, Any]):
    ahead = await doctor(installed, clock=lambda: time.time() + 10)
    assert found(ahead) == [("warning", "clock-offset")]
    offsets = [float(each) for each in re.findall(r"([\d.]+) s behind", ahead.as_text())]
    assert offsets == [pytest.approx(10, abs=1)]


async def test_faulty_wiring_is_a_fault_and_the_other_checks_still_run(installed: dict[str, Any]):
    report = await doctor(installed, FaultyContainer)
    assert set(found(report)) == {("fault", "wiring")}
    assert {"database", "broker", "stream"} <= {each.name for each in report.findings}


async def test_a_part_that_cannot_be_constructed_is_a_fault(installed: dict[str, Any]):
    report = await doctor({**installed, "prefix": "no.prefix"})
    assert set(found(report)) == {("fault", "part-failed")}


@pytest.mark.thorough("waits for checks to reach their timeout")
@pytest.mark.parametrize(
    ("part", "setting", "value", "unseen"),
    [
        ("consumer", "concurrency", providers.Callable(fail_to_resolve), ""),
        ("consumer", "concurrency", providers.Coroutine(hang_forever), ""),
        ("consumer", "concurrency", "many", ""),
        ("consumer", "concurrency", 0, ""),
        ("consumer", "ordering", providers.Callable(fail_to_resolve), "consumer"),  # the wanted consumers depend on it
        ("consumer", "ordering", "some", "consumer"),
        ("consumer", "retry_delays", (0.0, 60.0), ""),  # longer than an event may keep its place
        ("consumer", "later_delays", providers.Callable(fail_to_resolve), ""),
        ("consumer", "later_delays", (30.0, -1.0), ""),
        ("consumer", "later_delays", 30.0, ""),
        ("unit_of_work", "max_event_bytes", providers.Callable(fail_to_resolve), ""),
        ("unit_of_work", "max_event_bytes", None, ""),
        (
            "outbox",
            "archive_seconds",
            providers.Callable(fail_to_resolve),
            "outbox",
        ),  # the subscription cannot be constructed, either
    ],
)
async def test_a_missing_or_invalid_setting_is_one_fault_and_the_other_checks_still_run(
    installed: dict[str, Any], part: str, setting: str, value: Any, unseen: str
):
    healthy = {each.name for each in (await doctor(installed)).findings}

    report = await doctor(installed, with_setting(part, setting, value), timeout=3)

    assert found(report) == [("fault", "part-failed")]
    assert {each.name for each in report.findings} == healthy - {unseen} | {"part-failed"}
    assert [each.label for each in report.findings if each.name == "part-failed"] == [f"container.{part}"]


async def test_an_unavailable_setting_is_reported_by_its_name_and_its_default_is_used(installed: dict[str, Any]):
    report = await doctor(installed, with_setting("consumer", "concurrency", providers.Callable(fail_to_resolve)))
    assert "container.consumer: part-failed: concurrency: LookupError: no value for it" in report.as_text()
    assert "3 are needed for 1 events at a time" in report.as_text()


async def test_the_ordering_of_a_group_is_not_guessed_when_its_setting_is_unavailable(given: dict[str, Any]):
    given = {**given, "ordering": "key"}
    await set_up(given)
    report = await doctor(given, with_setting("consumer", "ordering", providers.Callable(fail_to_resolve)))
    assert found(report) == [("fault", "part-failed")]
    assert {"broker", "stream"} <= {each.name for each in report.findings}


async def test_a_setting_that_depends_on_a_failed_resource_is_not_reported_again(installed: dict[str, Any]):
    def make(config: dict[str, Any]) -> Container:
        container = Container(config=config)
        container.consumer.add_kwargs(concurrency=providers.Callable(len, container.engine))
        return container

    report = await doctor({**installed, "database": "sqlite:////no/such/folder/app.db"}, make)
    assert found(report) == [("fault", "database-unreachable")]


async def test_a_malformed_answer_of_a_broker_is_one_warning_and_the_other_checks_still_report(
    installed: dict[str, Any],
):
    mapped = 'mappings { "$JS.API.INFO": "nonsense" }'
    accounts = f"accounts {{ PLAIN {{ users: [{{ user: a, password: secret }}], {mapped} }} }}"
    async with NatsServer(settings=accounts) as plain:
        url = plain.url.replace("://", "://a:secret@")
        client = await nats.connect(url)

        async def answer(message: Any) -> None:
            await message.respond(b"no JSON")

        await client.subscribe("nonsense", cb=answer)
        await client.flush()
        report = await doctor({**installed, "nats": url})
        await client.close()
    assert found(report) == [("warning", "broker-unseen")]
    assert "not in the format of JetStream" in report.as_text()
    assert {"database", "schema", "outbox"} <= {each.name for each in report.findings}


async def test_parts_nested_in_a_worker_are_found(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHIPPING_NATS", given["nats"])
    monkeypatch.setenv("SHIPPING_PREFIX", given["prefix"])
    report = await diagnose(create_last(), Options())
    assert set(found(report)) == {("fault", "database-unreachable"), ("fault", "stream-missing")}


async def test_an_application_without_database_and_broker_is_healthy():
    report = await diagnose(IdleContainer(), Options())
    assert [(each.level.value, each.name) for each in report.findings] == [("ok", "wiring")]


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_a_connection_for_requests_only_needs_no_jetstream(given: dict[str, Any]):
    accounts = "accounts { PLAIN { users: [{ user: a, password: secret }] } }"
    async with NatsServer(settings=accounts) as plain:
        url = plain.url.replace("://", "://a:secret@")
        healthy = await diagnose(RemoteContainer(config={"nats": url}), Options())
        assert {each.name for each in healthy.findings} == {"wiring", "broker"}
        assert found(healthy) == []
    away = await diagnose(RemoteContainer(config={"nats": "nats://127.0.0.1:1"}), Options(timeout=1))
    assert found(away) == [("fault", "broker-unreachable")]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"server_version": "2.9.25"}, ("fault", "broker-version")),
        ({"server_version": "2.11.4"}, None),
        ({"account": AccountState(900, 1000)}, ("warning", "broker-storage")),
        ({"account": AccountState(700, 1000)}, None),
    ],
)
async def test_states_that_no_test_server_can_have_are_reported(seen: dict[str, Any], expected):
    assert await findings_for(seen, StreamSettings()) == ([expected] if expected else [])


async def test_a_server_without_batches_is_reported_when_the_settings_ask_for_batches():
    settings = StreamSettings(atomic_batches=True)
    assert await findings_for({"server_version": "2.11.4"}, settings) == [("warning", "broker-version")]
    assert await findings_for({"server_version": "2.12.0"}, settings) == []


async def findings_for(seen: dict[str, Any], settings: StreamSettings) -> list[tuple[str, str]]:
    """Return the findings for a broker in this state when one stream is wanted."""
    stream = WantedStream("events", "dispatch", settings)
    state = Inspection("nats://broker", **{"server_version": "2.12.0", "max_payload": 2**20, "jetstream": True} | seen)
    async with open_connection("nats://127.0.0.1:1") as connection:
        installation = Installation(None, Options())
        installation.brokers.append(Broker("container.publisher", connection, Topology((stream,)), state))
        report = Report(await examine(installation, [Brokers()], timeout=5))
    return found(report)


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_missing_rights_to_inspect_the_broker_are_a_warning(tmp_path: Path):
    permissions = 'publish: ["$JS.API.INFO", "$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.INFO.>"]'
    users = f"""authorization {{ users: [
        {{ user: admin, password: "administrator" }}
        {{ user: app, password: "secret", permissions: {{ {permissions} }} }}
    ] }}"""
    async with NatsServer(settings=users) as guarded:
        database = f"sqlite:///{tmp_path / 'app.db'}"
        admin = guarded.url.replace("://", "://admin:administrator@")
        await set_up(config(database=database, nats=admin, prefix="events"))
        app = config(database=database, nats=guarded.url.replace("://", "://app:secret@"), prefix="events")
        report = await doctor(app)
    assert found(report) == [("warning", "broker-unseen")]
    assert "STREAM.NAMES" in report.as_text()


class Sleeping(Check):
    name = "sleeping"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        yield ok("first", "container", "found before")
        await asyncio.Event().wait()


class Failing(Check):
    name = "failing"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        raise ValueError("no idea")
        yield


@pytest.mark.thorough("waits for checks to reach their timeout")
async def test_a_check_that_hangs_or_fails_is_a_fault_and_the_other_checks_still_run(installed: dict[str, Any]):
    report = await doctor(installed, checks=(Sleeping(), Failing(), Sleeping()), timeout=1)
    names = [each.name for each in report.findings]
    assert names == ["first", "check-timeout", "check-failed", "first", "check-timeout"]
    assert "no idea" in report.as_text()


def test_the_report_names_remedies_and_escapes_control_characters():
    report = Report([fault("a", "container.x\x1b[2J", "bad\nthing", "Mend it."), warning("b", "container", "odd", "")])
    assert report.as_text().splitlines() == [
        "fault    container.x\\x1b[2J: a: bad thing",
        "         -> Mend it.",
        "warning  container: b: odd",
        "",
        "1 fault, 1 warning",
    ]
    assert json.loads(report.as_json())["summary"] == {"ok": 0, "warning": 1, "fault": 1}


async def test_the_exit_status_of_the_command_tells_whether_there_are_faults(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    for name in ("database", "nats", "prefix"):
        monkeypatch.setenv(f"DOCTOR_{name.upper()}", given[name])

    def invoke(*options: str):
        return CliRunner().invoke(cli, ["doctor", f"{SAMPLE}:create", *options])

    broken = await asyncio.to_thread(invoke, "--json")
    assert broken.exit_code == 1
    names = [each["name"] for each in json.loads(broken.stdout)["findings"] if each["level"] == "fault"]
    assert names == ["schema-missing", "stream-missing", "stream-missing"]

    await set_up(given)
    healthy = await asyncio.to_thread(invoke)
    assert (healthy.exit_code, healthy.stdout.splitlines()[-1]) == (0, "0 faults, 0 warnings")
    await publish(given, "ordering.order-placed.0", {})
    assert (await asyncio.to_thread(invoke)).exit_code == 0
    assert (await asyncio.to_thread(invoke, "--strict")).exit_code == 1


@pytest.mark.parametrize("options", [["--monitoring", "file:///etc/passwd"], ["--timeout", "0"], ["--timeout", "soon"]])
def test_a_wrong_call_has_an_exit_status_of_its_own(options: list[str]):
    assert CliRunner().invoke(cli, ["doctor", f"{SAMPLE}:create", *options]).exit_code == 2
    assert CliRunner().invoke(cli, ["doctor", f"{SAMPLE}:nothing"]).exit_code == 2


async def test_the_command_reports_a_missing_setting_together_with_the_other_findings(
    installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    for name in ("database", "nats", "prefix"):
        monkeypatch.setenv(f"DOCTOR_{name.upper()}", installed[name])
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["doctor", f"{SAMPLE}:create_incomplete"])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "1 fault, 0 warnings")
    assert "container.consumer: part-failed: concurrency: Error: Undefined configuration option" in result.stdout


async def publish(given: dict[str, Any], subject: str, body: Any) -> None:
    client = await nats.connect(given["nats"])
    await client.jetstream().publish(f"{given['prefix']}.{subject}", json.dumps(body).encode())
    await client.close()


def with_attempts(places: int, **tries: Any) -> type[Container]:
    """Return a function that creates the application with another parking limit and other attempts."""

    class Trying(Container):
        subscription = providers.Singleton(
            NatsEventSubscription,
            Container.nats,
            "shipping",
            prefix=Container.config.prefix,
            settings=Container.settings,
            max_ack_pending=places,
        )
        consumer = providers.Singleton(
            EventConsumer,
            subscription,
            Container.inbox,
            Container.unit_of_work.provider,
            Container.mediator,
            **{"parking": Container.parking, "ordering": Container.config.ordering, **tries},
        )

    return Trying


@pytest.mark.parametrize(
    ("places", "tries", "said", "warns"),
    [
        (1000, {}, "type would fill all places of the group (max_ack_pending) for up to 5 s", False),
        (10, {"retry_delays": [0.0, 1.0]}, "10 failing events of one type would fill all places", False),
        (1000, {"parking": None}, "without a parking, 1,000 failing events", True),
    ],
)
async def test_the_parking_limit_of_a_group_is_compared_with_the_attempts_of_its_consumer(
    given: dict[str, Any], places: int, tries: dict[str, Any], said: str, warns: bool
):
    await set_up(given)
    await put_consumer(given["nats"], f"{given['prefix']}-ordering", await wanted_consumer(given, places))
    report = await doctor(given, with_attempts(places, **tries))
    assert found(report) == ([("warning", "consumer-places")] if warns else [])
    (finding,) = [each for each in report.findings if each.name in {"consumer", "consumer-places"}]
    assert said in finding.text
    assert not warns or "max_ack_pending" in finding.remedy


async def wanted_consumer(given: dict[str, Any], places: int) -> dict[str, Any]:
    there = await call(given["nats"], f"CONSUMER.INFO.{given['prefix']}-ordering.shipping")
    return there["config"] | {"max_ack_pending": places}


async def test_a_group_without_parking_can_stay_full(given: dict[str, Any]):
    class Endless(Container):
        consumer = providers.Singleton(
            EventConsumer, Container.subscription, Container.inbox, Container.unit_of_work.provider, Container.mediator
        )

    await set_up(given)
    report = await doctor(given, Endless)
    assert found(report) == [("warning", "consumer-places")]
    assert "(max_ack_pending) forever" in report.as_text()


async def test_later_tries_without_a_parking_are_one_fault(given: dict[str, Any]):
    await set_up(given)
    report = await doctor(given, with_attempts(1000, parking=None, later_delays=(30.0,)))
    assert ("fault", "part-failed") in found(report)
    assert "container.consumer: part-failed: later_delays: SettingError" in report.as_text()


async def test_a_group_that_is_nearly_full_is_reported(given: dict[str, Any]):
    few = with_attempts(10, retry_delays=[0.0, 1.0])
    await set_up(given)
    stream = f"{given['prefix']}-ordering"
    await put_consumer(given["nats"], stream, await wanted_consumer(given, 10))
    async with open_connection(given["nats"]) as connection:
        client = await connection.client("publish", timeout=10)
        subject = f"{given['prefix']}.ordering.order-placed.1"
        for _ in range(9):
            await client.jetstream().publish(subject, b"{}")
        inbox = await client.subscribe(client.new_inbox())
        asking = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.shipping"
        for taken, names in ((7, []), (1, [("warning", "consumer-full")])):
            for _ in range(taken):
                await client.publish(asking, json.dumps({"batch": 1, "expires": 10**9}).encode(), reply=inbox.subject)
                await inbox.next_msg(timeout=5)
            report = await doctor(given, few)
            assert [each for each in found(report) if each[1] == "consumer-full"] == names
    assert "8 of at most 10 events are unacknowledged" in report.as_text()


async def test_an_ordered_group_is_not_reported_as_one_that_can_fill_up(given: dict[str, Any]):
    ordered = {**given, "ordering": "key"}
    await set_up(ordered)
    assert "fill all places" not in (await doctor(ordered)).as_text()
