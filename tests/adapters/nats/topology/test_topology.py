"""The topology that an application needs on a broker, and the steps when the broker has another one."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy

from mediator.errors import (
    ConsumerNotFoundError,
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
    StreamNotFoundError,
)
from mediator.nats import NatsConnection, NatsEventPublisher, NatsEventSubscription, StreamSettings
from mediator.nats.topology import (
    ConsumerSettings,
    Item,
    JetStreamApi,
    Topology,
    ensure_consumer,
    ensure_stream,
    merged,
    plan,
    provision,
    published,
    survey,
)
from mediator.nats.topology.consumers import adapted, consumer_config, consumer_updates, filters, surplus
from mediator.nats.topology.provisioning import Survey
from mediator.nats.topology.streams import stream_config

BROKER = "nats://somewhere"
names = st.sampled_from(["a.b.*", "a.c.*", "a.d.*", "a.e.*"])
some = st.sets(names, min_size=1)


@pytest.fixture
async def api(connection: NatsConnection) -> JetStreamApi:
    return JetStreamApi(await connection.client("publish", timeout=5), BROKER)


def wanted(connection: NatsConnection, prefix: str, event_types: Iterable[str], **options: object) -> Topology:
    return NatsEventSubscription(connection, "shipping", prefix=prefix, **options).topology(event_types)


def config(subjects: Iterable[str], *, name: str = "group", **changes: object) -> dict[str, object]:
    return consumer_config(ConsumerSettings(name, list(subjects), **changes))


@given(some, some)
def test_an_adapted_consumer_receives_its_old_and_the_wanted_subjects(now: set[str], then: set[str]) -> None:
    changed = adapted(config(now), config(then))
    assert filters(changed) == now | then
    assert consumer_updates(config(now), changed) == []
    assert filters(adapted(config(now), config(then), prune=True)) == now
    assert len(surplus(config(now), config(then))) == len(then - now)


@given(some, some)
def test_two_versions_that_adapt_a_consumer_in_turn_converge(one: set[str], other: set[str]) -> None:
    there = adapted(config(other), adapted(config(one), config({"a.z.*"})))
    assert consumer_updates(config(one), there) == consumer_updates(config(other), there) == []


def test_a_consumer_of_every_subject_is_narrowed_only_on_request() -> None:
    everything = config([])
    assert consumer_updates(config(["a.b.*"]), everything) == []
    assert adapted(config(["a.b.*"]), everything)["filter_subjects"] == []
    assert adapted(config(["a.b.*"]), everything, prune=True)["filter_subjects"] == ["a.b.*"]
    assert surplus(config(["a.b.*"]), everything) == ["receives every subject of its stream"]


def test_a_stream_or_consumer_wanted_by_several_parts_is_planned_once(connection: NatsConnection) -> None:
    one, other = wanted(connection, "e", ["sales.paid"]), wanted(connection, "e", ["sales.placed", "stock.empty"])
    topology = merged([one, other, published("e", ["sales.paid"], StreamSettings(max_age=900))])
    assert [(stream.name, stream.own, stream.settings.max_age) for stream in topology.streams] == [
        ("e-sales", True, 900),
        ("e-stock", False, 604800),
    ]
    assert [(each.stream, *each.settings.subjects) for each in topology.consumers] == [
        ("e-sales", "e.sales.paid.*", "e.sales.placed.*"),
        ("e-stock", "e.stock.empty.*"),
    ]


def test_parts_that_want_different_settings_for_one_stream_or_consumer_are_an_error(connection: NatsConnection) -> None:
    with pytest.raises(SettingError, match="two publishers want the stream e-sales"):
        merged([published("e", ["sales.paid"], StreamSettings(max_age=age)) for age in (900, 1000)])
    with pytest.raises(SettingError, match="two subscriptions want the consumer shipping of e-sales"):
        merged([wanted(connection, "e", ["sales.paid"], ack_wait=wait) for wait in (10, 20)])


def test_two_parts_that_need_different_numbers_of_partitions_are_an_error(connection: NatsConnection) -> None:
    few, many = (
        NatsEventSubscription(connection, f"g{number}", prefix="e", settings=StreamSettings(partitions=number))
        for number in (2, 3)
    )
    ordered = [each.topology(["sales.paid"], ordering="key") for each in (few, many)]
    own = published("e", ["sales.paid"], StreamSettings(partitions=2))
    for contrary in (ordered, [own, ordered[1]], [many.topology(["sales.paid"]), *ordered]):
        for parts in permutations(contrary):
            with pytest.raises(SettingError, match="e-sales is needed with 2 and with 3 partitions"):
                merged(parts)
    for harmless in ([few.topology(["sales.paid"]), ordered[1]], [own, many.topology(["sales.paid"])]):
        assert {merged(parts).streams for parts in permutations(harmless)} == {merged(harmless).streams}


def test_a_stream_without_a_number_of_partitions_differs(connection: NatsConnection) -> None:
    topology = NatsEventSubscription(connection, "g", prefix="e").topology(["sales.paid"], ordering="key")
    items = plan(topology, Survey({"e-sales": {"config": {**sales(16), "metadata": {}}}}, {}))
    assert items[0].details == ("mediator.partitions is missing in the stream's metadata, and must be 16",)


@pytest.mark.parametrize("partitions", [None, 16, 32])
@pytest.mark.parametrize("published_type", ["sales.paid", "stock.empty"])
@pytest.mark.parametrize("ordering", ["none", "key"])
def test_the_plan_is_the_same_for_any_order_of_declaration(
    connection: NatsConnection, partitions: int | None, published_type: str, ordering: str
) -> None:
    other_settings = StreamSettings(partitions=3, max_age=900)
    parts = [
        wanted(connection, "e", ["sales.paid"]),
        NatsEventSubscription(connection, "mails", prefix="e").topology(["sales.paid"], ordering=ordering),
        NatsEventSubscription(connection, "bills", prefix="e", settings=other_settings).topology(["sales.paid"]),
        published("e", [published_type], StreamSettings()),
    ]
    there = Survey({} if partitions is None else {"e-sales": {"config": sales(partitions)}}, {})
    plans = [sorted(repr((item, item.config)) for item in plan(merged(each), there)) for each in permutations(parts)]
    assert all(each == plans[0] for each in plans)


def sales(partitions: int) -> dict[str, object]:
    return stream_config("e", "sales", StreamSettings(partitions=partitions))


@pytest.mark.parametrize("declared", [["none", "key"], ["key", "none"]], ids=str)
def test_no_partition_consumers_are_planned_on_a_stream_with_other_partitions(
    connection: NatsConnection, declared: list[str]
) -> None:
    topologies = [
        NatsEventSubscription(connection, f"by-{each}", prefix="e").topology(["sales.paid"], ordering=each)
        for each in declared
    ]
    subjects = ["e.sales.paid.3"]
    there = {("e-sales", "by-key-p3"): {"config": config(subjects, name="by-key-p3")}}
    items = plan(merged(topologies), Survey({"e-sales": {"config": sales(32)}}, there))
    reason = "mediator.partitions in the stream's metadata is 32, not 16"
    found = {item.consumer: (item.status, item.details) for item in items}
    assert found.pop("") == ("differs", (reason,))
    assert found.pop("by-none")[0] == "create"
    assert found.pop("by-key-p3") == ("differs", (f"left as it is because of its stream: {reason}",))
    assert found == {
        f"by-key-p{number}": ("differs", (f"not created because of its stream: {reason}",))
        for number in range(16)
        if number != 3
    }
    assert [item.consumer for item in items if item.config] == ["by-none"]


def test_refused_partitions_are_reported_although_the_application_also_publishes_into_the_stream(
    connection: NatsConnection,
) -> None:
    parts = [
        published("e", ["sales.paid"], StreamSettings()),
        NatsEventSubscription(connection, "shipping", prefix="e").topology(["sales.paid"], ordering="key"),
    ]
    for declared in permutations(parts):
        items = plan(merged(declared), Survey({"e-sales": {"config": sales(32)}}, {}))
        assert {item.status for item in items if item.consumer} == {"differs"}
        assert [item for item in items if item.config] == []


def test_consumers_of_a_group_are_known_by_their_names(connection: NatsConnection) -> None:
    topology = wanted(connection, "e", ["sales.paid"])
    assert [topology.is_of_group(name) for name in ("shipping", "shipping-p12", "shipping-px", "billing")] == [
        True,
        True,
        False,
        False,
    ]


def test_the_plan_is_empty_if_no_stream_or_consumer_is_wanted() -> None:
    assert plan(Topology(), Survey({}, {})) == []


async def test_concurrent_provisions_create_each_stream_and_consumer_once(
    api: JetStreamApi, connection: NatsConnection, prefix: str
) -> None:
    own = NatsEventPublisher(connection, "shipping", prefix=prefix).topology(["stock.empty"])
    versions = [merged([own, wanted(connection, prefix, [f"sales.{each}", "sales.paid"])]) for each in "abcdef"]
    done: list[Item] = []
    await asyncio.gather(*(provision(api, version, done=done.append) for version in versions))

    found = await survey(api, merged(versions))
    assert [item.status for item in plan(merged(versions), found)] == ["present"] * 3
    assert not found.streams[f"{prefix}-stock"]["config"].get("allow_atomic")
    again: list[Item] = []
    await provision(api, merged(versions), done=again.append)
    assert again == []


@pytest.mark.thorough("waits in real time, or does much work")
async def test_an_endless_conflict_with_another_provision_is_given_up(
    api: JetStreamApi, connection: NatsConnection, prefix: str
) -> None:
    topology = wanted(connection, prefix, ["sales.paid"])
    stream, _ = f"{prefix}-sales", await provision(api, topology, done=lambda item: None)

    def undo(item: Item) -> None:
        undone.append(asyncio.create_task(narrow()))

    async def narrow() -> None:
        config = consumer_config(ConsumerSettings("shipping", [f"{prefix}.sales.paid.*"]))
        await api.put_consumer(stream, config, "update")

    undone: list[asyncio.Task[None]] = []
    with pytest.raises(PublisherUnavailableError, match="another process keeps changing shipping"):
        await provision(api, wanted(connection, prefix, ["sales.paid", "sales.placed"]), done=undo)
    await asyncio.gather(*undone)


async def test_all_of_many_streams_and_consumers_are_surveyed(
    api: JetStreamApi, connection: NatsConnection, prefix: str
) -> None:
    await provision(api, wanted(connection, prefix, ["sales.paid"]), done=lambda item: None)
    for number in range(300):  # the API tells of 256 at a time
        settings = ConsumerSettings(f"group-{number}", [f"{prefix}.sales.paid.*"])
        await api.put_consumer(f"{prefix}-sales", consumer_config(settings), "create")
    assert len((await survey(api, wanted(connection, prefix, ["sales.paid"]))).consumers) == 301


@pytest.mark.parametrize(
    ("deliver", "policy"),
    [("all", "all"), ("new", "new"), (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "by_start_time")],
)
async def test_a_new_consumer_begins_at_its_configured_start(
    api: JetStreamApi, raw: Client, prefix: str, deliver, policy: str
) -> None:
    stream = f"{prefix}-sales"
    await ensure_stream(api.client, prefix, "sales", StreamSettings(), provision=True, broker=BROKER)
    settings = ConsumerSettings("g-p3", [f"{prefix}.sales.*.3"], 10.0, 1, deliver)
    for _ in range(2):
        await ensure_consumer(api.client, stream, settings, broker=BROKER)
    found = (await raw.jetstream().consumer_info(stream, "g-p3")).config
    assert (found.deliver_policy, found.ack_wait, found.max_ack_pending) == (DeliverPolicy(policy), 10, 1)
    if policy == "by_start_time":
        assert datetime.fromisoformat(str(found.opt_start_time)) == deliver


def test_a_start_time_must_have_a_time_zone_and_may_have_any() -> None:
    there = datetime(2026, 1, 2, 12, tzinfo=timezone(timedelta(hours=2)))
    assert config(["a.b.*"], deliver=there)["opt_start_time"] == "2026-01-02T10:00:00Z"
    with pytest.raises(SettingError, match="zone"):
        ConsumerSettings("g", ["a.b.*"], deliver=datetime(2026, 1, 2))  # noqa: DTZ001
    for wrong in ({"ack_wait": 0}, {"max_ack_pending": 0}):
        with pytest.raises(SettingError):
            ConsumerSettings("g", ["a.b.*"], **wrong)


async def test_ensure_consumer_without_provision_creates_and_changes_nothing(
    api: JetStreamApi, raw: Client, prefix: str
) -> None:
    stream, settings = f"{prefix}-sales", ConsumerSettings("g", [f"{prefix}.sales.paid.*"])
    with pytest.raises(StreamNotFoundError):
        await ensure_consumer(api.client, stream, settings, broker=BROKER, provision=False)
    await ensure_stream(api.client, prefix, "sales", StreamSettings(), provision=True, broker=BROKER)
    with pytest.raises(ConsumerNotFoundError, match="topology apply"):
        await ensure_consumer(api.client, stream, settings, broker=BROKER, provision=False)
    await raw.jetstream().add_consumer(stream, ConsumerConfig(durable_name="g", filter_subject=f"{prefix}.sales.x.*"))
    with pytest.raises(StreamMismatchError) as caught:
        await ensure_consumer(api.client, stream, settings, broker=BROKER, provision=False)
    assert caught.value.differences == [f"consumer g: does not receive {prefix}.sales.paid.*"]
    await ensure_consumer(api.client, stream, settings, broker=BROKER)
    await ensure_consumer(api.client, stream, settings, broker=BROKER, provision=False)


async def test_an_ordered_group_has_one_consumer_per_partition_and_no_unordered_consumer(
    api: JetStreamApi, connection: NatsConnection, prefix: str
) -> None:
    subscription = NatsEventSubscription(connection, "g", prefix=prefix, settings=StreamSettings(partitions=3))
    ordered, unordered = (subscription.topology(["sales.paid"], ordering=each) for each in ("key", "none"))
    await provision(api, ordered, done=lambda item: None)
    found = await survey(api, ordered)
    assert {name: list(filters(info["config"])) for (_, name), info in found.consumers.items()} == {
        f"g-p{number}": [f"{prefix}.sales.paid.{number}"] for number in range(3)
    }
    done: list[Item] = []
    items = await provision(api, unordered, done=done.append)
    assert done == []  # an instance of the ordered version would stop
    assert [(item.consumer, item.status) for item in items] == [
        ("", "present"),
        ("g", "differs"),
        ("g-p0", "unwanted"),
        ("g-p1", "unwanted"),
        ("g-p2", "unwanted"),
    ]


async def test_an_ordered_group_checks_the_partitions_of_another_applications_stream(
    api: JetStreamApi, connection: NatsConnection, prefix: str
) -> None:
    few, many = (
        NatsEventSubscription(connection, "g", prefix=prefix, settings=StreamSettings(partitions=number, max_age=age))
        for number, age in ((2, 900.0), (3, 1000.0))
    )
    await provision(api, few.topology(["sales.paid"], ordering="key"), done=lambda item: None)
    items = plan(many.topology(["sales.paid"], ordering="key"), await survey(api, few.topology(["sales.paid"])))
    assert items[0].details == ("mediator.partitions in the stream's metadata is 2, not 3",)
    assert plan(many.topology(["sales.paid"]), Survey({}, {}))[0].status == "create"
