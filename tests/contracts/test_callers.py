"""Callers and tenants: unverified attributes from another application have no effect; in memory and over NATS."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    IdempotencyBehavior,
    Mediator,
    MessageContext,
    PipelineBehavior,
    Query,
    Request,
    current_context,
    current_scope,
)
from mediator.behaviors import CachingBehavior, MemoryCache, RateLimitBehavior
from mediator.binding import Binding
from mediator.distributed.callers import Caller
from mediator.distributed.requests import (
    RemoteCall,
    RemoteReply,
    RemoteSender,
    ReplyStatus,
    RequestChannel,
    RequestResponder,
    trust_broker,
)
from mediator.errors import NotAuthorizedError, RemoteUnavailableError
from mediator.nats import NatsRequestChannel, NatsServer, open_connection
from mediator.registry import Registry
from mediator.testing import (
    InMemoryDatabase,
    InMemoryIdempotency,
    InMemoryOutbox,
    InMemoryRequestChannel,
    InMemoryUnitOfWork,
)
from tests.unit.wiring import bind, handles

LIMIT = 4
TENANTS = ("acme", "globex")
PRINCIPALS = ("ada", "bob")


@dataclass(frozen=True, slots=True)
class Seen:
    """The caller for which a handler ran, and the number of the call."""

    principal: str | None
    tenant: str | None
    vouched_by: str | None
    number: int


@dataclass(frozen=True, slots=True)
class Pay(Command[Seen]):
    request_type: ClassVar[str] = "bank.pay"
    amount: int = 1
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Balance(Query[Seen]):
    request_type: ClassVar[str] = "bank.balance"
    account: str = "main"


async def by_token(call: RemoteCall) -> Caller | None:
    """Vouch for the principal and the tenant of a token; without a token, vouch for no caller."""
    token = call.headers.get("authorization")
    if token is None:
        return None
    principal, _, tenant = token.partition("@")
    return Caller(principal, tenant)


async def by_token_only(call: RemoteCall) -> Caller:
    caller = await by_token(call)
    if caller is None:
        raise NotAuthorizedError(call.name, None, "no token")
    return caller


async def by_name(call: RemoteCall) -> Caller | None:
    """Vouch for the principal but not for the tenant."""
    caller = await by_token(call)
    return None if caller is None else Caller(caller.principal)


MODES: dict[str, Any] = {mode.__name__: mode for mode in (by_token, by_token_only, by_name, trust_broker)}


class Bank:
    """An application with every behavior that depends on a tenant or a principal."""

    def __init__(self) -> None:
        self.database = InMemoryDatabase()
        self.idempotency = InMemoryIdempotency(self.database)
        self.decided_by: list[MessageContext] = []
        self.done: list[Seen] = []
        self.contexts: list[MessageContext] = []
        self.limit = RateLimitBehavior(limit=LIMIT, seconds=1e6, key=self._tenant, clock=lambda: 0.0)
        self.cache = MemoryCache()
        self.mediator = Mediator(
            Registry(
                [bind(handles(Pay, self._work)), bind(handles(Balance, self._work))],
                [
                    bind(AuthorizationBehavior),
                    bind(self.limit),
                    bind(CachingBehavior(self.cache)),
                    Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior),
                    bind(IdempotencyBehavior(self.idempotency)),
                ],
                [bind(self._authorizer())],
            )
        )

    def _authorizer(self) -> Any:
        decided_by = self.decided_by

        class Everybody(Authorizer[Request[Any]]):
            async def authorize(self, _message: Any, context: MessageContext, /) -> bool:
                decided_by.append(context)
                return True

        return Everybody()

    def _tenant(self, _message: Any, context: MessageContext) -> str | None:
        self.decided_by.append(context)
        return context.tenant

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = current_scope().instances.setdefault(self, InMemoryUnitOfWork(self.database))
        return DistributedUnitOfWorkBehavior(
            unit_of_work, DistributedEventBroker(unit_of_work), InMemoryOutbox(self.database)
        )

    async def _work(self, _request: Any) -> Seen:
        context = current_context()
        self.contexts.append(context)
        seen = Seen(context.principal, context.tenant, context.vouched_by, len(self.done))
        self.done.append(seen)
        return seen


Channels = Callable[[], Awaitable[RequestChannel]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Channels]:
    channel = InMemoryRequestChannel()

    async def another() -> RequestChannel:
        return channel

    yield another


@asynccontextmanager
async def over_nats() -> AsyncIterator[Channels]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer())

        async def another() -> RequestChannel:
            return NatsRequestChannel(await stack.enter_async_context(open_connection(server.url)), "bank")

        yield another


@pytest.fixture(params=[in_memory, over_nats])
async def channels(request: pytest.FixtureRequest) -> AsyncIterator[Channels]:
    async with request.param() as opened:
        yield opened


class Asking:
    """A sender that can set any header on the wire."""

    def __init__(self, channel: RequestChannel) -> None:
        self._channel = channel

    async def call(self, request: Any, **headers: str | None) -> tuple[ReplyStatus, Any]:
        said = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        codec = self._channel.codec
        reply = await self._channel.call(RemoteCall(request.request_type, codec.encode(request), 10.0, said))
        return reply.status, codec.decode(reply.data, Seen) if reply.status is ReplyStatus.OK else reply.reason


@asynccontextmanager
async def serving(channels: Channels, bank: Bank, authenticate: Any) -> AsyncIterator[Asking]:
    responder = RequestResponder(await channels(), bank.mediator, exposes=[Pay, Balance], authenticate=authenticate)
    running = asyncio.create_task(responder.run())
    channel = await channels()
    try:
        async with asyncio.timeout(10):
            while not await _answers(channel):
                await asyncio.sleep(0.01)
        yield Asking(channel)
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _answers(channel: RequestChannel) -> bool:
    """Return whether a responder answers an unreadable request, which it does not handle."""
    try:
        for request in (Pay, Balance):
            reply = await channel.call(RemoteCall(request.request_type, b"!", 10.0))
            assert reply.status in {ReplyStatus.REFUSED, ReplyStatus.FAILED}
    except Exception:  # no responder serves the channel yet
        return False
    return True


TOKENS = st.one_of(st.none(), st.builds("{}@{}".format, st.sampled_from(PRINCIPALS), st.sampled_from(TENANTS)))
CALLS = st.tuples(
    TOKENS,
    st.sampled_from([None, *TENANTS]),  # the stated tenant
    st.sampled_from([None, "k1", "k2"]),  # the key in the header
    st.one_of(
        st.builds(Pay, st.integers(1, 2), st.sampled_from([None, "k1", "k2"])),
        st.builds(Balance, st.sampled_from(["main", "savings"])),
    ),
)


@pytest.mark.thorough("waits in real time, or does much work")
@given(mode=st.sampled_from(sorted(MODES)), calls=st.lists(CALLS, max_size=14))
@settings(max_examples=120)
def test_no_caller_shares_a_response_a_cache_entry_or_a_limit_with_another(mode: str, calls: list[Any]):
    async def run() -> None:
        bank = Bank()
        used: dict[Any, int] = {}
        firsts: dict[Any, Seen] = {}
        async with in_memory() as channels, serving(channels, bank, MODES[mode]) as caller:
            for token, tenant, header, request in calls:
                principal, vouched_tenant = token.split("@") if token and mode != "trust_broker" else (None, None)
                if mode == "by_name":
                    vouched_tenant = None
                handled = len(bank.done)
                status, answer = await caller.call(
                    request,
                    authorization=token,
                    tenant=tenant,
                    idempotency_key=header,
                    principal="root",
                    vouched_by="root",
                )
                if mode == "by_token_only" and token is None:
                    assert (status, answer) == (ReplyStatus.REFUSED, "no token")
                    continue
                limited = (principal is None, vouched_tenant)
                used[limited] = used.get(limited, 0) + 1
                if used[limited] > LIMIT:
                    assert status is ReplyStatus.FAILED
                    continue
                key = getattr(request, "idempotency_key", None)
                if key is not None and principal is None:
                    assert status is ReplyStatus.REFUSED
                    assert len(bank.done) == handled
                    continue
                same = (principal, vouched_tenant, type(request), key or request)
                if status is ReplyStatus.FAILED:  # a conflict with the same caller's own payload
                    assert key is not None
                    assert same in firsts
                    continue
                assert status is ReplyStatus.OK
                assert (answer.principal, answer.tenant) == (principal, vouched_tenant)
                assert answer.vouched_by == (None if principal is None else mode)
                if principal is None or (isinstance(request, Pay) and key is None):
                    assert answer.number == handled  # no response of another caller
                else:
                    assert answer == firsts.setdefault(same, answer)
        assert all(not context.unverified.headers and not context.unverified.tenant for context in bank.decided_by)

    asyncio.run(run())


async def test_unverified_attributes_of_a_caller_are_kept_apart_and_decide_nothing(channels):
    bank = Bank()
    async with serving(channels, bank, by_token) as caller:
        said = {"tenant": "globex", "idempotency_key": "k1", "x_role": "admin"}
        status, answer = await caller.call(Pay(), authorization="ada@acme", **said)
        assert (status, answer) == (ReplyStatus.OK, Seen("ada", "acme", "by_token", 0))
        status, answer = await caller.call(Pay(), **said)
        assert (status, answer) == (ReplyStatus.OK, Seen(None, None, None, 1))
    known, stranger = bank.contexts
    for context in (known, stranger):
        assert context.unverified.tenant == "globex"
        assert context.unverified.headers["x-role"] == "admin"
        assert dict(context.headers) == {}
        assert "globex" not in str(context.log_fields())
    assert stranger.caused("next").vouched_by is None
    assert stranger.caused("next").unverified == stranger.unverified


async def test_two_tenants_with_one_idempotency_key_never_share_a_response(channels):
    bank = Bank()
    pay = Pay(1, "k1")
    async with serving(channels, bank, by_token) as caller:
        acme = await caller.call(pay, authorization="ada@acme", tenant="globex")
        globex = await caller.call(pay, authorization="ada@globex", tenant="acme")
        bob = await caller.call(pay, authorization="bob@acme")
        again = await caller.call(pay, authorization="ada@acme")
        for tenant in (None, *TENANTS):
            status, reason = await caller.call(pay, tenant=tenant)
            assert status is ReplyStatus.REFUSED
            assert "its sender is not verified" in reason
    assert [answer.number for _, answer in (acme, globex, bob, again)] == [0, 1, 2, 0]
    assert len(bank.done) == 3


async def test_an_anonymous_caller_uses_no_cache_entry_stored_response_or_limit_of_the_application(channels):
    bank = Bank()
    own_query, own_command = await bank.mediator.send(Balance()), await bank.mediator.send(Pay(1, "k1"))
    async with serving(channels, bank, trust_broker) as caller:
        assert (await caller.call(Balance()))[1].number == 2
        assert (await caller.call(Balance(), tenant="acme"))[1].number == 3
        assert (await caller.call(Pay(1, "k1")))[0] is ReplyStatus.REFUSED
        assert (await caller.call(Pay(1, "k2")))[0] is ReplyStatus.REFUSED
    assert len(bank.cache) == 1
    assert (own_query.number, own_command.number) == (0, 1)
    assert [(await bank.mediator.send(Pay(1, "k1"))).number for _ in range(LIMIT - 2)] == [
        1,
        1,
    ]  # and the limit of the application itself is not used up
    assert len(bank.database.tables["mediator_idempotency"]) == 1


async def test_a_request_that_a_handler_sends_for_an_anonymous_caller_is_anonymous_too(channels):
    """Its tenant is not passed on with requests or events either."""
    bank = Bank()
    seen: list[RemoteCall] = []

    class Recording(InMemoryRequestChannel):
        async def call(self, call: RemoteCall, /) -> RemoteReply:
            seen.append(call)
            raise TimeoutError

    onward = RemoteSender(Recording())

    async def pass_on(_request: Any) -> None:
        with pytest.raises(NotAuthorizedError, match="its sender is not verified"):
            await bank.mediator.send(Pay(1, "inner"))
        with pytest.raises(TimeoutError):
            await onward.send(Balance())
        async with bank.mediator.context(tenant="acme"):  # from here on this application vouches for the caller
            await bank.mediator.send(Pay(1, "inner"))

    @dataclass(frozen=True)
    class PassOn(Query[None]):
        request_type: ClassVar[str] = "bank.pass-on"

    mediator = Mediator(Registry([bind(handles(PassOn, pass_on))], []))
    responder = RequestResponder(await channels(), mediator, exposes=[PassOn], authenticate=trust_broker)
    running = asyncio.create_task(responder.run())
    try:
        sender = RemoteSender(await channels())
        async with asyncio.timeout(10), Mediator(Registry([], [])).context(tenant="globex"):
            while True:
                try:
                    await sender.send(PassOn())
                    break
                except RemoteUnavailableError:
                    await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert "tenant" not in seen[0].headers
    assert [(each.tenant, each.vouched_by) for each in bank.contexts] == [("acme", "this application")]


@pytest.mark.parametrize("returned", ["ada", ("ada", "acme"), True, {"principal": "ada"}])
async def test_an_authenticator_that_returns_another_object_accepts_no_caller(channels, returned):
    async def sloppy(_call: RemoteCall) -> Any:
        return returned

    bank = Bank()
    async with serving(channels, bank, sloppy) as caller:
        assert await caller.call(Balance()) == (ReplyStatus.REFUSED, "not authorized")
    assert bank.done == []


async def test_the_text_of_a_failed_authentication_is_not_sent_to_the_caller(channels):
    async def careless(call: RemoteCall) -> Caller:
        return Caller(str(int(call.headers["authorization"])), "x" * 1000)

    async with serving(channels, Bank(), careless) as caller:
        for token in ("secret", "4711"):
            assert await caller.call(Balance(), authorization=token) == (ReplyStatus.REFUSED, "not authorized")


@pytest.mark.parametrize(("principal", "tenant"), [("ada", "acme"), ("ada", None), (None, "acme"), (None, None)])
async def test_the_format_of_stored_idempotency_keys_of_remote_callers_has_not_changed(principal, tenant):
    """The format of the keys has not changed."""

    async def authenticate(_call: RemoteCall) -> Caller:
        return Caller(principal, tenant)

    bank = Bank()
    key = hashlib.sha256(json.dumps(["2", principal, tenant, "bank.pay", "k1"]).encode()).hexdigest()
    async with in_memory() as channels, serving(channels, bank, authenticate) as caller:
        first = await caller.call(Pay(1, "k1"))
        kept = bank.database.tables["mediator_idempotency"]
        assert list(kept) == [key]
        assert await caller.call(Pay(1, "k1"), tenant="globex") == first
