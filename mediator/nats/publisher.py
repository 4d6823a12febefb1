"""NatsEventPublisher: the event publisher that stores events in JetStream streams, one stream a context.

Several events for one stream go in an atomic batch where server and stream allow it. The others are pipelined over
`publish` with one wildcard inbox for all acknowledgements: `publish_async` of nats-py leaves futures pending for ever
when the server refuses a message or the connection breaks.
"""

import asyncio
import contextlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.distributed.bounds import check_texts
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.publisher import EventPublisher, PublishResult
from mediator.errors import (
    EventRefusedError,
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.nats.batch import AtomicBatches
from mediator.nats.binding import (
    LONGEST_APPLICATION,
    MESSAGE_ID,
    checked_prefix,
    context_of,
    stream_name,
    subject_of,
    to_headers,
)
from mediator.nats.connection import NatsConnection
from mediator.nats.contents import NatsStreamContents
from mediator.nats.flight import Flight, Letter, refusal
from mediator.nats.link import listen
from mediator.nats.streams import DEFAULT_SETTINGS, StreamSettings, ensure_stream
from mediator.nats.topology import Topology, published

_CONNECT_SECONDS = 1.0
_MARK = re.compile(r"[A-Za-z0-9]{1,64}")
_REFUSALS = frozenset({10054, 10060, 10071, 10097, 10166})
"""Error codes that the same message meets every time: too large, wrong expectation, headers too large, a TTL that is not
allowed."""


class NatsEventPublisher(EventPublisher):
    """Stores events in the streams `<prefix>-<context>`, in order per partition key.

    Args:
        connection: Where the broker is.
        application: The source of events that have none: the name of this application.
        prefix: The first token of streams and subjects.
        provision: Create missing streams; otherwise their events fail with `StreamNotFoundError`.
        settings: How missing streams are created, and what existing ones are compared with.
        timeout: How long one `publish` takes at most, in seconds. Streams that do not answer whether they fit take up to
            half of it from the others.
        atomic_batches: Send many events for one stream in batches of which the broker stores all or nothing, where it
            can (nats-server 2.12 and streams with `allow_atomic`). With `sync_interval: always` on one server that is
            several times as fast as anything else; a broker that syncs rarely is a little faster without.

    Raises:
        SettingError: The application, prefix or timeout cannot work.
    """

    def __init__(
        self,
        connection: NatsConnection,
        application: str,
        *,
        prefix: str = "events",
        provision: bool = True,
        settings: StreamSettings = DEFAULT_SETTINGS,
        timeout: float = 5.0,
        atomic_batches: bool = True,
    ) -> None:
        check_texts(longest=LONGEST_APPLICATION, application=application)
        if timeout <= 0:
            raise SettingError("timeout", timeout, "use a positive number of seconds")
        self._connection = connection
        self._broker = connection.broker
        self._application = application
        self._prefix = checked_prefix(prefix)
        self._provision = provision
        self._settings = settings
        self._timeout = timeout
        self._atomic_batches = atomic_batches
        self._numbers = itertools.count()
        self._flights: dict[str, Flight] = {}
        self._opening = asyncio.Lock()
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # one a context
        self._epoch = 0
        self._client: Client | None = None
        self._inbox = ""
        self._streams: dict[
            tuple[int, str], bool
        ] = {}  # those looked at since the last connect: whether they take batches
        connection.on_disconnect("publish", self._disconnected)

    @property
    def connection(self) -> NatsConnection:
        """Where the broker is."""
        return self._connection

    def topology(self, event_types: Iterable[str]) -> Topology:
        """What publishing events of some types (`<context>.<name>`) needs of the broker."""
        return published(self._prefix, event_types, self._settings)

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """Send events and return one result an event, in the order given (see `EventPublisher.publish`)."""
        letters = [self._letter(event) for event in events]
        return await self._send(events, Flight(letters, [e.partitionkey for e in events], self._broker))

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        """Store events again that the streams hold no longer (see `EventPublisher.refill`)."""
        if mark and not _MARK.fullmatch(mark):
            raise SettingError("mark", mark, "use 1 to 64 letters and digits")
        letters = [self._letter(event, mark) for event in events]
        return await self._send(
            events, Flight(letters, [e.partitionkey for e in events], self._broker, refills=not mark)
        )

    @property
    def contents(self) -> NatsStreamContents:
        """What the streams hold."""
        return NatsStreamContents(self._connection, self._application, prefix=self._prefix)

    async def _send(self, events: Sequence[CloudEvent], flight: Flight) -> Sequence[PublishResult]:
        number = str(next(self._numbers))
        self._epoch = self._connection.epoch("publish")
        self._flights[number] = flight
        try:
            async with asyncio.timeout(self._timeout):
                await self._fly(flight, number)
        except TimeoutError:
            self._forget_streams(flight.contexts())  # to ask about them again tells whether they are the reason
            flight.give_up(PublisherUnavailableError(self._broker, f"no acknowledgement within {self._timeout:g} s"))
        except PublisherUnavailableError as error:
            flight.give_up(error)
        except (nats.errors.Error, OSError) as error:
            flight.give_up(PublisherUnavailableError(self._broker, str(error) or type(error).__name__))
        finally:
            del self._flights[number]
        outcomes = enumerate(zip(events, flight.errors, strict=True))
        return [PublishResult(event, error, index in flight.duplicates) for index, (event, error) in outcomes]

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        """Wait for the connection to be made anew since the last `publish` (see `EventPublisher.wait_for_recovery`)."""
        connected = asyncio.Event()
        forget = self._connection.on_connect("publish", connected.set)
        try:
            async with asyncio.timeout(seconds):
                if self._connection.epoch("publish") == self._epoch:
                    await connected.wait()
        except TimeoutError:
            return False
        finally:
            forget()
        return True

    async def _fly(self, flight: Flight, number: str) -> None:
        if flight.done:
            return
        client = await self._connection.client("publish", timeout=min(_CONNECT_SECONDS, self._timeout))
        self._epoch = self._connection.epoch("publish")
        async with self._opening:
            inbox = f"{await self._open_inbox(client)}.{number}"
        await self._check_streams(client, flight)
        if self._atomic_batches:
            await self._fly_batches(AtomicBatches(flight, client, inbox, self._broker, self._prefix), flight.contexts())
        await flight.run(client, inbox)

    async def _fly_batches(self, batches: AtomicBatches, contexts: Sequence[str]) -> None:
        epoch = self._connection.epoch("publish")
        await batches.run([context for context in contexts if self._streams.get((epoch, context))])
        self._streams |= {(epoch, context): False for context in batches.unable if (epoch, context) in self._streams}

    def _letter(self, event: CloudEvent, mark: str = "") -> Letter | EventRefusedError:
        try:
            subject = subject_of(self._prefix, event, self._settings.partitions)
            headers = to_headers(event, application=self._application)
            if mark:
                headers[MESSAGE_ID] += f".{mark}"
            return Letter(event, context_of(event.type), subject, headers)
        except ValueError as error:
            return refusal(event, str(error))

    async def _open_inbox(self, client: Client) -> str:
        if self._client is not client:
            inbox = client.new_inbox()
            await listen(client, f"{inbox}.*.*", self._acknowledged)
            self._client, self._inbox = client, inbox
        return self._inbox

    async def _check_streams(self, client: Client, flight: Flight) -> None:
        """Ask about all streams at a time, and leave half of the time to send what is for those that answer."""
        unknown = [each for each in flight.contexts() if not self._is_checked(each)]
        checks: dict[str, asyncio.Task[PublisherUnavailableError | None]] = {}
        if unknown:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout / 2), asyncio.TaskGroup() as group:
                    checks = {each: group.create_task(self._check_stream(client, each)) for each in unknown}
        for context, check in checks.items():
            error = self._silence(context) if check.cancelled() else check.result()
            if error is not None:
                flight.settle_context(context, error)

    async def _check_stream(self, client: Client, context: str) -> PublisherUnavailableError | None:
        """What is wrong with a stream. Only who has events for it waits for what others ask about it."""
        async with self._asking[context]:
            if self._is_checked(context):
                return None
            epoch = self._connection.epoch("publish")
            try:
                config = await ensure_stream(
                    client, self._prefix, context, self._settings, provision=self._provision, broker=self._broker
                )
            except (StreamNotFoundError, StreamMismatchError) as error:
                return error
            except PublisherUnavailableError as error:
                return self._unavailable(context, error.reason)
            current = {(at, name): atomic for (at, name), atomic in self._streams.items() if at == epoch}
            self._streams = current | {(epoch, context): bool(config.get("allow_atomic"))}
            return None

    def _is_checked(self, context: str) -> bool:
        return (self._connection.epoch("publish"), context) in self._streams

    def _silence(self, context: str) -> StreamUnavailableError:
        return self._unavailable(context, f"no answer about it within {self._timeout / 2:g} s")

    def _unavailable(self, context: str, reason: str) -> StreamUnavailableError:
        return StreamUnavailableError(self._broker, reason, stream_name(self._prefix, context))

    def _forget_streams(self, contexts: Collection[str]) -> None:
        """Ask about them again before the next event is sent."""
        self._streams = {key: atomic for key, atomic in self._streams.items() if key[1] not in contexts}

    async def _acknowledged(self, message: Msg) -> None:
        number, index = message.subject.rsplit(".", 2)[1:]
        flight = self._flights.get(number)
        if flight is None:
            return
        data = message.data
        if not index.isdigit():
            flight.answer(index, data)
        elif data.startswith(b'{"stream":') and b'"error"' not in data:  # the common case is not parsed
            if b'"duplicate":' in data:
                flight.known(int(index))
            else:
                flight.settle(int(index), None)
        else:
            self._failed(flight, int(index), data)

    def _failed(self, flight: Flight, index: int, data: bytes) -> None:
        context = flight.context(index)
        self._forget_streams({context})
        error: dict[str, Any] = json.loads(data).get("error", {}) if data else {}
        reason = f"{error['description']} ({error.get('err_code')})" if error else "no stream answers (503)"
        if error.get("err_code") in _REFUSALS:
            flight.refuse(index, reason)
        else:
            flight.settle(index, self._unavailable(context, reason))

    def _disconnected(self) -> None:
        error = PublisherUnavailableError(self._broker, "the connection was lost before the acknowledgement")
        for flight in self._flights.values():
            flight.give_up(error)
