"""Events that strangers or administrators can cause any number of times are logged in a few lines."""

import asyncio

import nats
import pytest
from structlog.testing import capture_logs

from mediator.distributed.requests import RemoteSender
from mediator.errors import PublisherUnavailableError, RemoteUnavailableError, StreamUnavailableError
from mediator.nats import NatsEventPublisher, NatsRequestChannel, NatsServer, open_connection
from tests.adapters.nats.test_channel import Echo, echoing

DENYING = """
authorization { users: [
  { user: app, password: "secret", permissions: { publish: { deny: ["events.>", "requests.>"] } } }
] }
"""


async def test_an_unreadable_request_leaves_a_log_line_and_a_flood_of_them_leaves_ten(
    shared_server: NatsServer,
) -> None:
    async with echoing(shared_server.url) as sender:
        stranger = await nats.connect(shared_server.url)
        with capture_logs() as logs:
            for headers in ({"mediator-timeout": "soon\x1b[31m"}, {"x": "%ff"}, None):
                asking = (
                    stranger.request("requests.tools.echo", b"\xff", headers=headers, timeout=20) for _ in range(100)
                )
                answers = await asyncio.gather(*asking)
                assert {(each.headers or {})["mediator-status"] for each in answers} == {"refused"}
                await stranger.publish("requests.tools.echo", b"{}", "$JS.API.INFO")
            assert await sender.send(Echo("still there")) == "still there"
        await stranger.close()
    lines = [line for line in logs if line["event"] in {"request refused", "request without an inbox ignored"}]
    assert 12 <= len(lines) <= 50
    assert all(str(value).isprintable() for line in lines for value in line.values())


async def test_missing_rights_leave_a_few_log_lines_for_any_number_of_subjects(event) -> None:
    async with NatsServer(settings=DENYING) as server:
        with capture_logs() as logs:
            async with open_connection(server.url, user="app", password="secret") as connection:
                publisher = NatsEventPublisher(connection, "app", atomic_batches=False)
                for batch in range(5):
                    results = await publisher.publish([event(f"{batch}-{number}") for number in range(100)])
                    assert {type(result.error) for result in results} <= {
                        StreamUnavailableError,
                        PublisherUnavailableError,
                    }
                sender = RemoteSender(NatsRequestChannel(connection, "app"))
                for number in range(50):
                    with pytest.raises(RemoteUnavailableError):
                        await sender.send(Echo(f"{number}"))
    assert 1 <= len([line for line in logs if line["event"] == "refused by the broker"]) <= 20
