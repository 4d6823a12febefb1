"""Descriptions: what happens to every message, as text, as JSON and as a flowchart."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import DistributedEventHandler, Mediator, NotificationHandler, RequestHandler
from mediator.binding import Binding
from mediator.describe import Application, described, dispatches_of, kind_of
from mediator.describe.description import Chart, label
from mediator.describe.dispatches import Dispatch
from mediator.errors import HandlerNotFoundError
from mediator.registry import Registry
from tests.unit.describe.described.handlers import (
    Announce,
    Audit,
    Inheriting,
    OrderHandler,
    Overriding,
    PayHandler,
    PriceHandler,
)
from tests.unit.describe.described.messages import Changed, Order, Ordered, OrderPlaced, Pay, Ping, Price
from tests.unit.wiring import bind, wire


def shop() -> Mediator:
    return wire(OrderHandler, PriceHandler, PayHandler, Announce, behaviors=[Audit])


def found(cls: type) -> list[Any]:
    return [each.message for each in dispatches_of(cls)]


def test_the_messages_that_a_class_dispatches_are_read_from_its_methods():
    assert dispatches_of(OrderHandler) == (Dispatch(Price, declared=False), Dispatch(Ordered, declared=False))
    assert found(Announce) == [OrderPlaced]
    assert found(PriceHandler) == found(Inheriting) == found(Audit) == []


def test_a_method_that_is_overridden_is_not_read():
    assert found(Overriding) == [Price]


def test_declared_messages_replace_those_read_from_the_code():
    assert dispatches_of(PayHandler) == (Dispatch(Ordered, declared=True), Dispatch(Ping, declared=True))


def test_names_of_an_enclosing_function_are_known():
    message = Order

    class Local(NotificationHandler[Changed]):
        async def handle(self, notification: Changed, /) -> None:
            message()

    assert found(Local) == [Order]


def test_a_class_without_source_has_no_known_dispatches():
    names: dict[str, Any] = {"NotificationHandler": NotificationHandler, "Changed": Changed, "Order": Order}
    exec("class Typed(NotificationHandler[Changed]):\n async def handle(self, notification, /):\n  Order()", names)
    assert found(names["Typed"]) == []


def test_code_is_read_and_never_run():
    class Careful(NotificationHandler[Changed]):
        @property
        def trap(self) -> Any:
            raise AssertionError

        async def handle(self, notification: Changed, /) -> None:
            raise AssertionError(self.trap.Order())

    assert found(Careful) == []


@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        (Order, "command"),
        (Price, "query"),
        (Ping, "request"),
        (Changed, "notification"),
        (OrderPlaced, "event"),
        (dict, ""),
    ],
)
def test_messages_have_kinds(cls: type, kind: str):
    assert kind_of(cls) == kind


def test_the_text_format_shows_the_chain_and_is_the_default():
    assert shop().describe(Price) == shop().describe(Price, format="text")
    assert shop().describe(Order).splitlines()[0] == "Order -> list[str]"


def test_the_json_format_has_the_chain_and_the_dispatched_messages():
    (application,) = json.loads(shop().describe(Order, format="json"))["applications"]
    (order,) = application["messages"]
    assert (order["name"], order["kind"], order["response"]) == ("Order", "command", "list[str]")
    assert order["class"] == "tests.unit.describe.described.messages.Order"
    assert [(each["name"], each["label"]) for each in order["behaviors"]] == [("Audit", "container.Audit")]
    (handler,) = order["handlers"]
    assert (handler["name"], handler["label"]) == ("OrderHandler", "container.OrderHandler")
    assert [(each["name"], each["kind"], each["found"]) for each in handler["dispatches"]] == [
        ("Price", "query", "read in the code"),
        ("Ordered", "notification", "read in the code"),
    ]


def test_the_json_format_without_a_class_has_every_handled_message():
    (application,) = json.loads(shop().describe(format="json"))["applications"]
    assert [message["name"] for message in application["messages"]] == ["Order", "Price", "Pay", "Changed"]
    pay, changed = application["messages"][2:]
    assert [each["found"] for each in pay["handlers"][0]["dispatches"]] == ["declared", "declared"]
    assert changed["strategy"] == "Sequential(on_error='stop')"
    assert changed["handlers"][0]["dispatches"][0]["kind"] == "event"


def test_the_diagram_of_a_message_shows_its_consequences_and_nothing_else():
    assert shop().describe(Order, format="mermaid").splitlines() == [
        "flowchart LR",
        '  n1["Order → list[str]"]',
        '  n2(["Audit"])',
        '  n3[["OrderHandler"]]',
        '  n4["Price → int"]',
        '  n5("Ordered")',
        '  n6[["PriceHandler"]]',
        '  n7[["Announce"]]',
        '  n8{{"shop.order-placed.v2"}}',
        "  n1 --> n2",
        "  n2 --> n3",
        "  n3 -.->|sends| n4",
        "  n3 -.->|publishes| n5",
        "  n4 --> n6",
        "  n5 --> n7",
        "  n7 -.->|raises| n8",
    ]


def test_declared_dispatches_are_solid_arrows_and_a_request_without_a_handler_stands_alone():
    lines = shop().describe(Pay, format="mermaid").splitlines()
    assert '  n5["Ping → None"]' in lines
    assert "  n3 -->|sends| n5" in lines
    assert not any(line.startswith("  n5 ") for line in lines)


@pytest.mark.parametrize("form", ["text", "json", "mermaid"])
def test_a_request_without_a_handler_is_refused_in_every_format(form: Any):
    with pytest.raises(HandlerNotFoundError):
        shop().describe(Ping, format=form)


class Ship(DistributedEventHandler[OrderPlaced]):
    async def handle(self, event: OrderPlaced, /) -> None:
        """Ships."""


def test_distributed_events_connect_applications_by_their_type():
    warehouse = Registry([Binding(Ship, Ship, "container.ship", DistributedEventHandler)])
    selling = shop().registry
    applications = [
        Application("Shop", selling, selling.message_types()),
        Application('Ware"house', warehouse, warehouse.message_types()),
    ]
    lines = described(applications, "mermaid").splitlines()
    assert [line for line in lines if "subgraph" in line or line == "  end"] == [
        '  subgraph g1["Shop"]',
        "  end",
        '  subgraph g2["Ware#34;house"]',
        "  end",
    ]
    (event,) = re.findall(r'^  (n\d+)\{\{"shop.order-placed.v2"}}$', "\n".join(lines), re.MULTILINE)
    (announce,) = re.findall(r'^    (n\d+)\[\["Announce"', "\n".join(lines), re.MULTILINE)
    (ship,) = re.findall(r'^    (n\d+)\[\["Ship"', "\n".join(lines), re.MULTILINE)
    assert {f"  {announce} -.->|raises| {event}", f"  {event} --> {ship}"} <= set(lines)
    assert "Shop\n\nOrder -> list[str]" in described(applications)


class Twice(RequestHandler[Price, int]):
    async def handle(self, query: Price, /) -> int:
        return 2


def test_equal_names_of_different_things_are_different_nodes():
    first = Registry([bind(Twice)])
    second = Registry([bind(Twice)])
    applications = [Application(name, each, (Price,)) for name, each in (("a", first), ("b", second))]
    assert described(applications, "mermaid").count('[["Twice"]]') == 2


@given(st.text(max_size=40))
def test_any_text_is_escaped_into_one_label_and_can_be_recovered(text: str):
    written = label(text)
    assert re.fullmatch(r"(?:[\w .:,|\[\]()-]|#\d+;)*", written)
    assert not written.startswith("-")
    assert re.sub(r"#(\d+);", lambda found: chr(int(found[1])), written) == text


@given(st.lists(st.text(max_size=10), max_size=5))
def test_every_node_is_one_line_for_any_text(texts: list[str]):
    chart = Chart()
    for number, text in enumerate(texts):
        chart.node(number, label(text), "[", "]")
    assert len(str(chart).split("\n")) == 1 + len(texts)
    assert '""' not in str(chart)
