"""Nothing is sent to a subject that a stranger has chosen, unless it is the inbox of a requester."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

import nats
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from mediator import Query
from mediator.distributed.requests import RemoteSender, RequestResponder, trust_broker
from mediator.errors import RemoteTimeoutError, RemoteUnavailableError, SettingError
from mediator.nats import NatsRequestChannel, NatsServer, open_connection
from mediator.nats.subjects import ack_address, answerable, new_inbox
from tests.unit.wiring import handles, wire

USERS = """
authorization { users: [
  { user: admin, password: "administrator" }
  { user: attacker, password: "asks", permissions: { publish: ["requests.advising.>"], subscribe: ["_INBOX_attacker.>"] } }
  { user: advising, password: "answers" }
] }
"""
ID = "0123456789abcdefghijkl"
HOSTILE = [
    "$JS.API.STREAM.DELETE.events-sales",
    "$JS.API.STREAM.PURGE.events-sales",
    "$JS.API.CONSUMER.DELETE.events-sales.shipping",
    "$JS.ACK.events-sales.shipping.1.1.1.1700000000000000000.0",
    "$SYS.REQ.SERVER.PING",
    "events.sales.x.0",
    "mediator-wake.sales",
    "requests.advising.find-advisor",
    "requests.billing.pay",
    "_INBOX",
    f"_INBOX.{ID}.0.17",  # where publishers wait for acknowledgements
    f"_INBOX.{ID}.a.b.c",
    "_INBOX.short",
    f"_INBOX.x.{ID}",
    f"_INBOXES.{ID}",
    f"_inbox.{ID}",
    f"x._INBOX.{ID}",
    f"_INBOX.{ID}.{'x' * 300}",
    f"$JS.API._INBOX.{ID}",
    f"_INBOX_$JS.{ID}",
    f"_INBOX_advising.{ID}.0.17",
]
TOKENS = st.sampled_from(
    [
        "$JS",
        "API",
        "STREAM",
        "DELETE",
        "events-sales",
        "_INBOX",
        "_INBOX_x",
        "events",
        "sales",
        "0",
        ID,
        "ACK",
        "a" * 70,
    ]
) | st.text(st.characters(codec="ascii", exclude_characters=" .*>\t\r\n\v\f\0"), min_size=1, max_size=30)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=8).map(".".join) | st.sampled_from(HOSTILE)
INBOX = re.compile(r"_INBOX(_[\w-]+)?\.[A-Za-z0-9]{20,64}(\.[\w-]{1,64})?", re.ASCII)


@dataclass(frozen=True)
class FindAdvisor(Query[str]):
    request_type: ClassVar[str] = "advising.find-advisor"
    student_id: str


class Advising:
    """A responder, a stranger that sends requests to it, and the messages that both cause."""

    def __init__(self, admin: Client, attacker: Client) -> None:
        self.attacker = attacker
        self.admin = admin
        self.handled: list[str] = []
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    async def handle(self, query: FindAdvisor) -> str:
        self.handled.append(query.student_id)
        return "Grace"

    async def heard(self, message: Msg) -> None:
        self.sent.put_nowait(message.subject)

    async def attack(self, *replies: str) -> list[str]:
        """Return all messages after a stranger's requests with these reply subjects, until the next request is answered."""
        for reply in replies:
            await self.attacker.publish("requests.advising.find-advisor", b'{"student_id": "hostile"}', reply)
            await self.attacker.publish("requests.advising.find-advisor", b"malformed", reply)
        sentinel = self.admin.new_inbox()
        await self.attacker.publish("requests.advising.find-advisor", b'{"student_id": "last"}', sentinel)
        sent: list[str] = []
        async with asyncio.timeout(30):
            while not sent or sent[-1] != sentinel:
                sent.append(await self.sent.get())
        return [
            subject
            for subject in sent[:-1]
            if subject != "requests.advising.find-advisor" and "ADVISORY" not in subject
        ]


@contextlib.asynccontextmanager
async def advising() -> AsyncIterator[Advising]:
    async with (
        NatsServer(settings=USERS) as server,
        open_connection(server.url, user="advising", password="answers", inbox_prefix="_INBOX_advising") as connection,
    ):
        admin = await nats.connect(server.url, user="admin", password="administrator")
        attacker = await nats.connect(server.url, user="attacker", password="asks", inbox_prefix="_INBOX_attacker")
        scene = Advising(admin, attacker)
        await admin.jetstream().add_stream(name="events-sales", subjects=["events.sales.>"])
        await admin.jetstream().publish("events.sales.x.0", b"precious")
        responder = RequestResponder(
            NatsRequestChannel(connection, "advising"),
            wire(handles(FindAdvisor, scene.handle)),
            exposes=[FindAdvisor],
            authenticate=trust_broker,
            concurrency=1,
        )
        running = asyncio.create_task(responder.run())
        try:
            while True:
                try:
                    await admin.request("requests.advising.find-advisor", b'{"student_id": "first"}', timeout=5)
                except nats.errors.NoRespondersError:
                    await asyncio.sleep(0.01)
                else:
                    break
            await admin.subscribe(">", cb=scene.heard)
            await admin.flush()
            scene.handled.clear()
            yield scene
        finally:
            running.cancel()
            await asyncio.wait((running,))
            await admin.close()
            await attacker.close()


async def test_no_reply_subject_of_a_stranger_deletes_a_stream_or_writes_into_one() -> None:
    async with advising() as scene:
        with capture_logs() as logs:
            assert await scene.attack(*HOSTILE) == []
        assert scene.handled == ["last"]  # a request that cannot be answered is not handled
        stream = await scene.admin.jetstream().stream_info("events-sales")
        assert stream.state.messages == 1
    [*lines] = [line for line in logs if line["event"] == "request without an inbox ignored"]
    assert 1 <= len(lines) <= 10
    assert {line["request"] for line in lines} == {"advising.find-advisor"}


@pytest.mark.timeout(120)
def test_a_responder_sends_only_to_inboxes_for_any_reply_subjects_of_strangers() -> None:
    with asyncio.Runner() as runner:
        scene_of = advising()
        scene = runner.run(scene_of.__aenter__())
        try:

            @settings(max_examples=40)
            @given(st.lists(SUBJECTS, max_size=8))
            @example([f"_INBOX.{ID}", f"_INBOX_x.{ID}.{ID}"])
            def attacked(replies: list[str]) -> None:
                sent = runner.run(scene.attack(*replies))
                assert sorted(sent) == sorted(
                    2 * [each for each in replies if INBOX.fullmatch(each) and len(each) < 256]
                )

            attacked()
            assert runner.run(scene.admin.jetstream().stream_info("events-sales")).state.messages == 1
        finally:
            runner.run(scene_of.__aexit__(None, None, None))


@pytest.mark.thorough("waits in real time, or does much work")
async def test_requesters_with_other_inbox_prefixes_are_answered_if_the_prefixes_are_configured(
    shared_server: NatsServer,
) -> None:
    async def answer(query: FindAdvisor) -> str:
        return query.student_id

    async def ask(prefix: str) -> str:
        async with open_connection(shared_server.url, inbox_prefix=prefix) as connection:
            sender = RemoteSender(NatsRequestChannel(connection, "enrollment"), timeout=0.5)
            while True:
                with contextlib.suppress(RemoteUnavailableError):
                    return await sender.send(FindAdvisor(prefix))
                await asyncio.sleep(0.01)

    async with open_connection(shared_server.url) as connection:
        channel = NatsRequestChannel(connection, "advising", inbox_prefixes=["answers.enrollment"])
        responder = RequestResponder(
            channel, wire(handles(FindAdvisor, answer)), exposes=[FindAdvisor], authenticate=trust_broker
        )
        running = asyncio.create_task(responder.run())
        try:
            assert await ask("answers.enrollment") == "answers.enrollment"
            for other in ("_INBOX", "answers", "answers.enrollment.x", "answersXenrollment"):
                with pytest.raises(RemoteTimeoutError):
                    await ask(other)
        finally:
            running.cancel()
            await asyncio.wait((running,))


def test_an_invalid_inbox_prefix_is_refused() -> None:
    for wrong in ("", "$JS", "a..b", ">", "a b"):
        with pytest.raises(SettingError, match="inbox_prefix"):
            answerable([wrong])


@given(SUBJECTS | st.text(max_size=40))
def test_only_inbox_subjects_are_answered(subject: str) -> None:
    assert answerable(None)(subject) == (INBOX.fullmatch(subject) is not None and len(subject) < 256)
    assert not answerable([])(subject)


async def test_a_generated_inbox_is_answerable_and_does_not_predict_the_next_one(shared_server: NatsServer) -> None:
    async with open_connection(shared_server.url, inbox_prefix="_INBOX_sales") as connection:
        client = await connection.client("publish", timeout=10)
        inboxes = {new_inbox(client) for _ in range(20)}
        assert all(map(answerable(None), inboxes))
        assert all(map(answerable(["_INBOX_sales"]), inboxes))
        assert len({inbox[: len("_INBOX_sales.") + 8] for inbox in inboxes}) == 20


WORD = st.text(st.characters(codec="ascii", exclude_characters=" .*>\t\r\n\v\f\0"), min_size=1, max_size=12)
NUMBER = st.integers(0, 10**9 - 1).map(str)
ACKS = st.tuples(WORD, WORD, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER)


@given(ACKS, st.none() | st.tuples(st.just("_") | st.text("abcdef-", min_size=1), st.text("abcdefgh", min_size=8)))
def test_every_acknowledgement_address_is_parsed_with_and_without_a_domain(
    tokens: tuple[str, ...], domain: tuple[str, str] | None
) -> None:
    """The part after a JetStream domain is not a number, while the part after a stream's name might be one."""
    found = ack_address(".".join(["$JS", "ACK", *(domain or ()), *tokens, *(["token"] if domain else [])]))
    assert found is not None
    assert (found.stream, found.consumer) == tokens[:2]
    assert (found.attempt, found.sequence, found.number, found.stored, found.remaining) == tuple(map(int, tokens[2:]))


@given(SUBJECTS | ACKS.map(lambda tokens: ".".join(["$JS", "API", *tokens])) | ACKS.map(".".join))
def test_other_subjects_are_not_acknowledgement_addresses(subject: str) -> None:
    found = ack_address(subject)
    assert found is None or re.match(r"\$JS\.ACK\.", subject)
