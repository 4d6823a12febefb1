"""NatsEventPublisher: the event publisher that stores events in JetStream streams, one stream for each domain.

When server and stream allow atomic batches, several events for one stream are sent in a batch. Other events are sent
one by one with nats-py's `publish`. All acknowledgements arrive in one inbox. nats-py's `publish_async` is not used:
`publish_async` would never complete when the server refuses a message or the connection is lost.
"""

import asyncio
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.distributed.cloudevents import LONGEST_APPLICATION, CloudEvent
from mediator.distributed.outbox import EventPublisher, PublishResult, check_source
from mediator.errors import (
    EventRefusedError,
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.nats.binding import MESSAGE_ID, checked_prefix, domain_of, stream_name, subject_of, to_headers
from mediator.nats.connection import AuthenticatedClient, NatsConnection, listen
from mediator.nats.publisher.in_flight import AtomicBatches, InFlight, OutgoingMessage, refusal
from mediator.nats.stream_contents import NatsStreamContents
from mediator.nats.subjects import new_inbox
from mediator.nats.topology import DEFAULT_SETTINGS, StreamSettings, Topology, ensure_stream, published, read_answer
from mediator.printable import shown_reason
from mediator.settings import check_not_negative, check_texts, is_seconds

_ORDINARY = 1024**2
"""The maximum size of a message that a server accepts by default, in bytes, including headers."""


class SizeLimits:
    """Decides whether an event that exceeds a size limit of the broker is refused, or waits in the outbox.

    A broker accepts 1 MiB by default. A smaller limit may have been set by mistake. Therefore an event of up to 1 MiB is
    refused only after the limit has been in force for `grace` seconds.

    Args:
        grace: Seconds for which a new limit refuses no event of up to 1 MiB. With 0, events that exceed a limit are
            refused at once.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace = grace
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def note(self, name: str, limit: int) -> None:
        """Record the present limit of the server or of a stream, in bytes; -1 means no limit."""
        if self._seen.get(name, (None, 0.0))[0] != limit:
            self._seen[name] = limit, self._clock()

    def forbid(self, name: str, size: int) -> bool:
        """Return whether a message that exceeds a limit is refused now. If not, the message waits in the outbox."""
        limit, since = self._seen.get(name, (-1, 0.0))
        is_old = 0 <= limit < size and self._clock() - since >= self._grace
        return size > _ORDINARY or is_old or not self._grace


_CONNECT_SECONDS = 1.0
_MARK = re.compile(r"[A-Za-z0-9]{1,64}")
_INDEX = re.compile(r"[0-9]{1,9}")
_TOO_LARGE = 10054
"""The error code for a message that is too large for its stream."""

_REFUSALS = frozenset({10060, 10071, 10097, 10166})
"""Error codes for messages that the broker always refuses, due to a `Nats-Expected-*` header, large headers or a TTL."""

_SERVER = ""


class NatsEventPublisher(EventPublisher):
    """Stores events in the streams `<prefix>-<domain>`, in order per partition key.

    Args:
        connection: The connection to the broker.
        application: The source of events without a source. Delivery without an outbox needs this argument. If an outbox
            has the application's name, the argument may be omitted: the outbox stores the name with each event.
        prefix: The first token of streams and subjects.
        provision: Whether to create missing streams. If not, events for a missing stream fail with
            `StreamNotFoundError`.
        settings: The settings with which missing streams are created and existing streams are compared.
        timeout: The maximum duration of one `publish`, in seconds. If the broker does not describe a stream within half
            of this time, the events for this stream fail. Events for other streams are still sent.
        atomic_batches: Whether to send many events for one stream in batches. The broker stores all events of a batch or
            none. Batches need nats-server 2.12 and `StreamSettings(atomic_batches=True)`. `StreamSettings` describes a
            risk of batches. With `sync_interval: always` on a single server, batches are several times as fast as single
            messages. A broker that rarely syncs to disk is a little faster without batches.
        size_grace: Seconds for which an event of at most 1 MiB waits while it exceeds a limit of the stream or server.
            The time begins when the limit is first seen. After this time, the event is refused. An event of more than
            1 MiB that exceeds a limit is refused at once.

    Raises:
        SettingError: The application, prefix, timeout or size_grace is not valid.
    """

    def __init__(
        self,
        connection: NatsConnection,
        application: str | None = None,
        *,
        prefix: str = "events",
        provision: bool = True,
        settings: StreamSettings = DEFAULT_SETTINGS,
        timeout: float = 5.0,
        atomic_batches: bool = True,
        size_grace: float = 300.0,
    ) -> None:
        if application is not None:
            check_texts(longest=LONGEST_APPLICATION, application=application)
        if not is_seconds(timeout):
            raise SettingError("timeout", timeout, "use a positive number of seconds")
        check_not_negative(size_grace=size_grace)
        self._limits = SizeLimits(size_grace)
        self.connection: NatsConnection = connection
        self._broker = connection.broker
        self.application: str | None = application
        self._prefix = checked_prefix(prefix)
        self._provision = provision
        self._settings = settings
        self._timeout = timeout
        self._atomic_batches = atomic_batches
        self._numbers = itertools.count()
        self._publishing: dict[str, InFlight] = {}
        self._opening = asyncio.Lock()
        self._checking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by domain
        self._epoch = 0
        self._client: Client | None = None
        self._inbox = ""
        # whether a checked stream accepts batches, by epoch (how often the client has connected) and domain
        self._streams: dict[tuple[int, str], bool] = {}
        connection.on_disconnect("publish", self._disconnected)

    def topology(self, event_types: Iterable[str]) -> Topology:
        """Return the streams that are needed to publish events of the given types (`<domain>.<name>`)."""
        return published(self._prefix, event_types, self._settings)

    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        """Send events and return one result for each event, in the given order.

        Raises:
            SettingError: An event has no source, and neither this publisher nor the outbox has an `application`.
        """
        return await self._send(events)

    async def refill(self, events: Sequence[CloudEvent], /, *, mark: str = "") -> Sequence[PublishResult]:
        if mark and not _MARK.fullmatch(mark):
            raise SettingError("mark", mark, "use 1 to 64 letters and digits")
        return await self._send(events, mark, refills=not mark)

    @property
    def contents(self) -> NatsStreamContents:
        """The contents of the streams that this publisher writes to."""
        return NatsStreamContents(self.connection, prefix=self._prefix)

    async def _send(
        self, events: Sequence[CloudEvent], mark: str = "", *, refills: bool = False
    ) -> Sequence[PublishResult]:
        messages = [self._outgoing(event, mark) for event in events]
        keys = [event.partitionkey for event in events]
        in_flight = InFlight(messages, keys, self._broker, too_large=self._too_large, refills=refills)
        number = str(next(self._numbers))
        self._epoch = self.connection.epoch("publish")
        self._publishing[number] = in_flight
        try:
            async with asyncio.timeout(self._timeout):
                await self._publish_all(in_flight, number)
        except TimeoutError:
            self._forget_streams(in_flight.domains())  # check the streams again before the next use
            in_flight.give_up(PublisherUnavailableError(self._broker, f"no acknowledgement within {self._timeout:g} s"))
        except PublisherUnavailableError as error:
            in_flight.give_up(error)
        except (nats.errors.Error, OSError) as error:
            in_flight.give_up(PublisherUnavailableError(self._broker, str(error) or type(error).__name__))
        finally:
            del self._publishing[number]
        outcomes = enumerate(zip(events, in_flight.errors, strict=True))
        return [PublishResult(event, error, index in in_flight.duplicates) for index, (event, error) in outcomes]

    async def wait_for_recovery(self, seconds: float, /) -> bool:
        """Return true when the client has connected again since the last `publish`; return false after `seconds` seconds."""
        connected = asyncio.Event()
        forget = self.connection.on_connect("publish", connected.set)
        try:
            async with asyncio.timeout(seconds):
                if self.connection.epoch("publish") == self._epoch:
                    await connected.wait()
        except TimeoutError:
            return False
        finally:
            forget()
        return True

    async def _publish_all(self, in_flight: InFlight, number: str) -> None:
        if in_flight.done:
            return
        client = await self.connection.client("publish", timeout=min(_CONNECT_SECONDS, self._timeout))
        self._epoch = self.connection.epoch("publish")
        async with self._opening:
            inbox = f"{await self._open_inbox(client)}.{number}"
        batches = AtomicBatches(in_flight, client, inbox, self._broker, self._prefix)
        async with asyncio.TaskGroup() as domains:  # a slow stream delays only the events of its own domain
            for domain in in_flight.domains():
                domains.create_task(self._open_domain(client, in_flight, domain, batches))
            await in_flight.run(client, inbox)

    async def _open_domain(self, client: Client, in_flight: InFlight, domain: str, batches: AtomicBatches) -> None:
        """Check the stream of a domain. Send batches if the stream accepts batches. Then allow single messages."""
        error = await self._check_in_time(client, domain)
        if error is not None:
            in_flight.settle_domain(domain, error)
            return
        epoch = self.connection.epoch("publish")
        if self._atomic_batches and self._streams.get((epoch, domain)):
            await batches.run(domain)
            if domain in batches.unable and (epoch, domain) in self._streams:
                self._streams[epoch, domain] = False
        in_flight.open(domain)

    def _outgoing(self, event: CloudEvent, mark: str) -> OutgoingMessage | EventRefusedError:
        check_source(event, self.application)
        try:
            subject = subject_of(self._prefix, event, self._settings.partitions)
            headers = to_headers(event, application=self.application or "")
            if mark:
                headers[MESSAGE_ID] += f".{mark}"
            return OutgoingMessage(event, domain_of(event.type), subject, headers)
        except ValueError as error:
            return refusal(event, str(error))

    async def _open_inbox(self, client: Client) -> str:
        if self._client is not client:
            inbox = new_inbox(client)
            await listen(client, f"{inbox}.*.*", self._acknowledged)
            if isinstance(client, AuthenticatedClient):
                client.on_any_denied(self._denied)
            self._client, self._inbox = client, inbox
        return self._inbox

    async def _check_in_time(self, client: Client, domain: str) -> PublisherUnavailableError | None:
        """Return why a stream cannot be used; `None` when the stream can be used.

        The check takes at most half of `timeout`. The other half is left for sending the events of other streams.
        """
        if self._is_checked(domain):
            return None
        try:
            async with asyncio.timeout(self._timeout / 2):
                return await self._check_stream(client, domain)
        except TimeoutError:
            return self._unavailable(domain, f"the broker did not describe it within {self._timeout / 2:g} s")

    async def _check_stream(self, client: Client, domain: str) -> PublisherUnavailableError | None:
        """Return why a stream cannot be used; `None` when the stream can be used. Concurrent callers share one check."""
        async with self._checking[domain]:
            if self._is_checked(domain):
                return None
            epoch = self.connection.epoch("publish")
            try:
                config = await ensure_stream(
                    client, self._prefix, domain, self._settings, provision=self._provision, broker=self._broker
                )
            except (StreamNotFoundError, StreamMismatchError) as error:
                return error
            except PublisherUnavailableError as error:
                return self._unavailable(domain, error.reason)
            self._limits.note(domain, config.get("max_msg_size", -1))
            current = {(at, name): atomic for (at, name), atomic in self._streams.items() if at == epoch}
            self._streams = current | {(epoch, domain): bool(config.get("allow_atomic"))}
            return None

    def _is_checked(self, domain: str) -> bool:
        return (self.connection.epoch("publish"), domain) in self._streams

    def _unavailable(self, domain: str, reason: str) -> StreamUnavailableError:
        return StreamUnavailableError(self._broker, reason, stream_name(self._prefix, domain))

    def _forget_streams(self, domains: Collection[str]) -> None:
        """Make the next `publish` check the streams of the given domains again."""
        self._streams = {key: atomic for key, atomic in self._streams.items() if key[1] not in domains}

    async def _acknowledged(self, message: Msg) -> None:
        number, index = message.subject.rsplit(".", 2)[1:]
        in_flight = self._publishing.get(number)
        if in_flight is None:
            return
        data = message.data
        if not _INDEX.fullmatch(index):
            in_flight.answer(index, data)
        elif not in_flight.domain(int(index)):
            return  # no message has this index, so somebody else published this answer
        elif data.startswith(b'{"stream":') and b'"error"' not in data:  # the usual answer is not parsed, for speed
            if b'"duplicate":' in data:
                in_flight.known(int(index))
            else:
                in_flight.settle(int(index), None)
        else:
            self._failed(in_flight, int(index), data)

    def _failed(self, in_flight: InFlight, index: int, data: bytes) -> None:
        domain = in_flight.domain(index)
        self._forget_streams({domain})
        error: dict[str, Any] = read_answer(data).get("error", {}) if data else {}
        reason = (
            f"{shown_reason(str(error.get('description')))} ({error.get('err_code')})"
            if data
            else "no stream answers (503)"
        )
        is_too_large = error.get("err_code") == _TOO_LARGE and self._limits.forbid(domain, in_flight.size(index))
        if is_too_large or error.get("err_code") in _REFUSALS:
            in_flight.refuse(index, reason)
        else:
            in_flight.settle(index, self._unavailable(domain, reason))

    def _too_large(self, event: CloudEvent, size: int, limit: int) -> Exception:
        self._limits.note(_SERVER, limit)
        reason = f"an event has {size:,} bytes, headers included, and the broker takes at most {limit:,}"
        if self._limits.forbid(_SERVER, size):
            return refusal(event, reason)
        return self._unavailable(domain_of(event.type), reason)

    def _denied(self, subject: str) -> None:
        for in_flight in self._publishing.values():
            in_flight.deny(
                subject,
                lambda domain: self._unavailable(domain, f"this application's user may not publish to {subject}"),
            )

    def _disconnected(self) -> None:
        error = PublisherUnavailableError(self._broker, "the connection was lost before the acknowledgement")
        for in_flight in self._publishing.values():
            in_flight.give_up(error)
