"""Foreign messages, drawn at random, on subjects where events or requests are expected.

They are bytes, because no client would send most of them. A seed yields the same messages each time.
"""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mediator.distributed.cloudevents import bucket_of

MAX_PAYLOAD = 1024**2
"""The default limit of nats-server for headers and body, in bytes."""

_PARTITIONS = 16
_KEYS = 50

_TEXTS = [
    b"", b" ", b"x", b"0", b"-1", b"null", b"x" * 255, b"x" * 256, b"x" * 300, b"y" * 5_000, b"z" * 60_000,
    b"%00", b"%0d%0aNats-Rollup: all", b"%1B[2J%1B[31m", b"%ff", b"%", b"%zz", b"%ED%A0%80", b"\xff\xfe", b"\x00", b"a\x00b",
    b"\x1b[2J\x07", b"\x7f", "ä€😀".encode(), "\u202egnp\u2066".encode(), b"\xed\xa0\x80", b'"', b'"quoted"', b'"\\"',
    b"'; --",
    b"a,b;c=d", b"*", b">", b"$JS.API.STREAM.DELETE.events-load", b"../../etc/passwd", b"{}", b"[" * 1000, b"%25" * 2000,
    b"\xc3\x28", b"\xf0\x9f", b"t\tt", b"a\rb", b"\x0b\x0c", "\u2028".encode(), b"%E2%80%A8" * 100, b"None", b"true",
    b"1e999",
]  # fmt: skip
"""Values of headers, and parts of subjects."""

_TIMES = [
    b"2026-01-01T00:00:00Z", b"2026-01-01t00:00:00z", b"2026-01-01T00:00:00.000001+23:59:59.999999",
    b"2026-01-01T00:00:00.000001-23:59:59.999999", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59.999999-23:59",
    b"2026-W01-1T00:00:00Z", b"20260101T000000Z", b"2026-01-01", b"2026-01-01T00:00:00", b"2026-01-01T25:00:00Z",
    b"tomorrow",
    b"2026-02-30T00:00:00Z", b"1767225600", b"-0001-01-01T00:00:00Z", b"2026-01-01T00:00:00+00:00:00.000001",
    b"2026-01-01T24:00:00Z", b"2026-01-01T00:00:00,5Z", b"2026-01-01T00:00:00.1234567891234Z", b"1" * 5000,
    "٢٠٢٦-01-01T00:00:00Z".encode(), b"2026-01-01T00:00:60Z",
]  # fmt: skip
_VERSIONS = [b"1.0", b"1.0", b"1.0 ", b"0.3", b"1.1", b"2.0", b"1", b"", b"%31.0", b'"1.0"', b"1.0\x00"]
_TYPES = [
    b"load.kept.v1", b"load.told.v1", b"load.kept.v2", b"load.kept.v0", b"load.kept.v-1", b"load.kept.v" + b"9" * 30,
    b"load.kept",
    b"LOAD.KEPT.V1", b"load.kept.v1.v1", b"other.kept.v1", b"kept.v1", b".v1", b"..", b"load.kept.v1\x00",
    b"load.kept.v%31", b"a.b.v1",
    b"load." + b"x" * 1000 + b".v1", b"com.legacy.Order", b"load.noted.v1",
]  # fmt: skip
_CONTENT_TYPES = [
    b"application/json", b"text/plain", b"image/png", b"application/cloudevents+json", b"application/cloudevents",
    b"application/cloudevents-batch+json", b"application/cloudevents+avro", b"APPLICATION/CLOUDEVENTS+JSON; charset=x",
    b"x" * 300,
]  # fmt: skip
_TIMEOUTS = [
    b"5", b"5", b"0", b"-1", b"0.0001", b"nan", b"inf", b"-inf", b"1e400", b"3600", b"3601", b"9" * 400, b"", b"5s",
    b"0x10", b"1_0",
    "\u0665".encode(), b" 5 ", b"5\x00",
]  # fmt: skip
_JETSTREAM = [
    (b"Nats-Rollup", b"all"), (b"Nats-Rollup", b"sub"), (b"Nats-Expected-Stream", b"events-load"),
    (b"Nats-Expected-Stream", b"other"), (b"Nats-Expected-Last-Sequence", b"1"), (b"Nats-Expected-Last-Sequence", b"x"),
    (b"Nats-Expected-Last-Msg-Id", b"x"), (b"Nats-Expected-Last-Subject-Sequence", b"0"), (b"Nats-TTL", b"1s"),
    (b"Nats-TTL", b"never"), (b"Nats-TTL", b"x"), (b"Nats-Msg-Id", b"again"), (b"Nats-Msg-Id", b"i" * 10_000),
    (b"Nats-Msg-Id", b""),
    (b"Nats-Batch-Id", b"b"), (b"Nats-Incr", b"+1"), (b"Nats-Schedule", b"@every 1s"), (b"Nats-Schedule-Target",
    b"events.load.kept.1"),
    (b"Nats-Marker-Reason", b"Purge"), (b"Nats-Sequence", b"1"), (b"Nats-Stream", b"other"), (b"Nats-Num-Pending", b"9"),
    (b"Status", b"404"), (b"Status", b"503"), (b"Description", b"Consumer Deleted"), (b"Nats-Pending-Messages", b"x"),
    (b"Nats-Required-Api-Level", b"9"), (b"Nats-Last-Consumer", b"1"), (b"Nats-Consumer-Stalled", b"events.load.kept.1"),
]  # fmt: skip
"""Headers with a meaning for the broker or for a client."""

_OWN = [b"mediator-status", b"mediator-reason", b"mediator-error", b"mediator-reference", b"mediator-timeout"]
_FLOW = [b"correlationid", b"causationid", b"tenant", b"traceparent", b"tracestate", b"principal", b"authorization"]

CHOSEN = [
    b"$JS.API.STREAM.DELETE.events-load", b"$JS.API.STREAM.PURGE.events-load", b"$JS.API.STREAM.UPDATE.events-load",
    b"$JS.API.STREAM.MSG.DELETE.events-load", b"$JS.API.CONSUMER.DELETE.events-load.teller",
    b"$JS.API.CONSUMER.DELETE.events-load.keeper-p0", b"$JS.API.CONSUMER.PAUSE.events-load.teller",
    b"$JS.API.STREAM.CREATE.stolen", b"$JS.API.CONSUMER.MSG.NEXT.events-load.teller",
    b"$JS.ACK.events-load.teller.1.1.1.1.0",
    b"$JS.ACK", b"$JS.ACK.x", b"$JS.FC.events-load.teller.1", b"$SYS.REQ.SERVER.PING", b"$KV.bucket.key", b"$O.bucket.C.x",
    b"$SRV.PING",
    b"events.load.kept.0", b"events.load.told.1", b"requests.load.note", b"requests.load.look", b"mediator-wake.load",
    b"chosen", b"chosen.by.me",
    b"chosen.*", b"chosen.>", b"*", b">", b"_INBOX", b"_INBOX.", b"_INBOX.>", b"_INBOX.*.1", b"_INBOX_.a.b", b"_inbox.a.b",
    b"chosen.\xff",
    b"chosen.\x00", b"chosen." + b"x" * 2000, b"chosen" + b".x" * 500,
]  # fmt: skip
"""Reply subjects to which no answer may be sent."""

_UNHEARD = [
    b"_INBOX." + b"q" * 22,
    b"_INBOX." + b"q" * 22 + b"." + b"r" * 22,
    b"_INBOX_NAME." + b"n" * 22,
    b"_INBOX.nobody.x",
]


@dataclass(frozen=True, slots=True)
class Message:
    """A message; without headers, it is sent as a message without headers."""

    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes

    @property
    def size(self) -> int:
        return len(self.headers) + len(self.body)


class Foreign:
    """Draws messages.

    Args:
        seed: Determines the messages.
    """

    def __init__(self, seed: object) -> None:
        self._rng = random.Random(f"{seed}")
        self._count = 0

    def event(self) -> Message:
        """Draw a message on or near a subject of events."""
        rng = self._rng
        self._count += 1
        name, key, event_id = rng.choice(["kept", "told"]), self._key(), f"foreign-{self._count}"
        body = self._body(key)
        attributes: dict[bytes, bytes] = {
            b"ce-specversion": b"1.0", b"ce-id": event_id.encode(), b"ce-source": b"abroad",
            b"ce-type": f"load.{name}.v1".encode(),
            b"ce-time": b"2026-01-01T00:00:00+00:00", b"ce-datacontenttype": b"application/json",
            b"ce-partitionkey": key.encode(),
        }  # fmt: skip
        pool = {
            b"ce-specversion": _VERSIONS, b"ce-type": _TYPES + _TEXTS, b"ce-time": _TIMES + _TEXTS, b"ce-id": [b"again",
            *_TEXTS],
            b"content-type": _CONTENT_TYPES, b"ce-datacontenttype": _CONTENT_TYPES,
        }  # fmt: skip
        headers = self._headers(
            attributes, pool, [b"ce-" + each for each in [*_FLOW, b"note", b"", b"\xc3\xa4", b"data", b"a" * 500]]
        )
        if rng.random() < 0.1:
            headers, body = self._structured(attributes, body)
        partition = bucket_of(key, event_id) % _PARTITIONS
        return self._sized(self._event_subject(name, partition), self._event_reply(), headers, body)

    def request(self) -> Message:
        """Draw a message on or near a subject of requests."""
        rng = self._rng
        self._count += 1
        flow: dict[bytes, bytes] = {b"mediator-timeout": b"5", b"messageid": f"foreign-{self._count}".encode()}
        headers = self._headers(
            flow, {b"mediator-timeout": _TIMEOUTS}, [*_FLOW, *_OWN, b"x", b"", b"\xc3\xa4", b"a" * 500]
        )
        subject = b"requests.load.note" if rng.random() < 0.95 else b"requests." + rng.choice(
            [b"load.nothing", b"load.note.x", b"load", b"load.*", b"load.>", b"LOAD.NOTE", b"$JS", b"load." + b"x" * 1000,
            b"\xff"]
        )  # fmt: skip
        kind = rng.random()
        reply = rng.choice(CHOSEN) if kind < 0.4 else rng.choice(_UNHEARD) if kind < 0.9 else b""
        return self._sized(subject, reply, headers, self._body(self._key()))

    def _key(self) -> str:
        """Draw a key that is shared or unique, because a broken event parks its key."""
        return f"key-{self._rng.randrange(_KEYS) if self._rng.random() < 0.3 else self._count + _KEYS}"

    def _event_subject(self, name: str, partition: int) -> bytes:
        rng = self._rng
        if rng.random() < 0.9:
            return f"events.load.{name}.{partition}".encode()
        if rng.random() < 0.4:
            return f"events.load.{name}.{rng.randrange(_PARTITIONS)}".encode()
        token = rng.choice(
            [b"16", b"99", b"-1", b"03", b"abc", b"0.0", b"*", b">", b"\x0b5", b"\xff", b"a\rb", b"x" * 200, b"1" * 5]
        )
        return rng.choice(
            [
                b"events.load.%s.%s" % (name.encode(), token),
                b"events.load.other.3",
                b"events.other.kept.0",
                b"events.load",
            ]
        )

    def _event_reply(self) -> bytes:
        kind = self._rng.random()
        return self._rng.choice(CHOSEN) if kind < 0.1 else self._rng.choice(_UNHEARD) if kind < 0.3 else b""

    def _headers(self, usual: dict[bytes, bytes], pool: dict[bytes, list[bytes]], names: Iterable[bytes]) -> bytes:
        rng = self._rng
        if rng.random() < 0.03:
            return rng.choice([b"", b"NATS/1.0", b"\r\n\r\n", b"XX\r\n\r\n", b"NATS/1.0 503\r\n\r\n",
            b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
                b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"NATS/1.0 \xff\r\n\r\n", b"NATS/1.0\r\nno colon at all\r\n\r\n",
                b"NATS/1.0\r\n: \r\n\r\n",
                b"NATS/1.0\r\nce-id: 1", b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n",
                b"NATS/1.0\n\nx: y\n\n"])  # fmt: skip
        lines = list(usual.items())
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            self._spoil(lines, pool, list(names))
        text = b"".join(
            b"%s%s%s\r\n" % (name, rng.choice([b": ", b": ", b": ", b":", b" : "]), value) for name, value in lines
        )
        return b"NATS/1.0\r\n" + text + b"\r\n"

    def _spoil(self, lines: list[tuple[bytes, bytes]], pool: dict[bytes, list[bytes]], names: list[bytes]) -> None:
        rng = self._rng
        place = rng.randrange(len(lines)) if lines else 0
        kind = rng.choice(
            ["leave out", "value", "value", "value", "double", "case", "broker", "batch", "more", "many", "name"]
        )
        if kind in {"leave out", "value", "double", "case"} and not lines:
            return
        if kind == "leave out":
            del lines[place]
        elif kind == "value":
            name = rng.choice([*pool, lines[place][0]])
            lines[:] = [each for each in lines if each[0] != name] + [(name, rng.choice(pool.get(name, _TEXTS)))]
        elif kind == "double":
            lines.insert(rng.randrange(len(lines) + 1), (lines[place][0], rng.choice(_TEXTS)))
        elif kind == "case":
            lines[place] = (
                bytes(rng.choice([each, each ^ 0x20]) if chr(each).isalpha() else each for each in lines[place][0]),
                lines[place][1],
            )
        elif kind == "broker":
            lines.append(rng.choice(_JETSTREAM))
        elif kind == "batch":  # a batch that is never committed
            lines += [(b"Nats-Batch-Id", b"batch-%d" % self._count), (b"Nats-Batch-Sequence", b"1")]
        elif kind == "more":
            lines.append((rng.choice(names), rng.choice(_TEXTS)))
        elif kind == "many":
            lines += [(b"ce-x%d" % number, b"v") for number in range(rng.choice([10, 1000]))]
        else:
            lines.append(
                (
                    rng.choice(
                        [b"a b", b"\x00", b"\xff", b" ", b"ce-\x1b[2J", b"n" * 5000, b"ce-ID\x00", b"Nats-", b"\t"]
                    ),
                    b"v",
                )
            )

    def _structured(self, attributes: dict[bytes, bytes], body: bytes) -> tuple[bytes, bytes]:
        """Draw a body in the JSON event format, mostly well formed."""
        rng = self._rng
        members: dict[str, object] = {name[3:].decode(): value.decode() for name, value in attributes.items()}
        for _ in range(rng.choice([0, 0, 1, 2])):
            members[rng.choice([*members, "data", "data_base64", "x"])] = rng.choice(
                [None, 1, True, 1.5, "", "x" * 300, [], {}, "\ud800", "\0", "!", 10**30]
            )
        document = json.dumps(members).encode()
        if b"data" not in document.split(b'"'):
            document = document[:-1] + b', "data": ' + body[:10_000] + b"}"
        return b"NATS/1.0\r\ncontent-type: application/cloudevents+json\r\n\r\n", document

    def _body(self, key: str) -> bytes:
        rng = self._rng
        good = {"key": key, "number": self._count, "texts": ["a"], "amounts": {"x": 1.5}, "at": "2026-01-01T00:00:00Z"}
        if rng.random() < 0.4:
            return json.dumps(good).encode()
        if rng.random() < 0.4:
            values: list[object] = [
                None, 1, -1, 1.5, 10**30, 10**400, True, "", "x", "x" * 300, "x" * 10_000, "\0", "\ud800", "\x1b[2J",
                "ä€😀", [], {}, [1], {"a": 1}, "1", "key-1",
                float("nan"), float("inf"), "2026-01-01T00:00:00.000001+23:59", "0001-01-01T00:00:00+23:59", ["x"] * 1000,
                {"k" * 1000: 1.0},
            ]  # fmt: skip
            for _ in range(rng.choice([1, 1, 2])):
                good[rng.choice([*good])] = rng.choice(values)
            return json.dumps(good, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
        whole = json.dumps(good).encode()
        broken: list[Callable[[], bytes]] = [
            lambda: b"", lambda: whole[: rng.randrange(len(whole))], lambda: rng.randbytes(rng.choice([1, 100, 5000])),
            lambda: b"[" * rng.choice([10, 1000, 100_000]),
            lambda: b'{"a":' * rng.choice([100, 20_000]), lambda: b"9" * rng.choice([20, 5000, 50_000]), lambda: b"1e999",
            lambda: b"NaN", lambda: b"null",
            lambda: b"[]", lambda: b"{}", lambda: b'""', lambda: b"\xef\xbb\xbf" + whole,
            lambda: whole[:-1] + b"," + whole[1:], lambda: whole + whole,
            lambda: b'{"key":"\\ud800","number":1}', lambda: b'{"key":"\xff","number":1}',
            lambda: b'{"key":"a\x00","number":1}', lambda: b'{"key":"\\u0000","number":1}',
            lambda: whole.replace(b'"number"', b'"number":1,"number"'), lambda: whole.decode().encode("utf-16"),
            lambda: b" " * 10_000 + whole, lambda: whole[:-1] + b',"more":' + b"[" * 500 + b"]" * 500 + b"}",
            lambda: b'{"key":"k","number":1,"amounts":{%s}}' % b",".join(b'"%d":1' % each for each in range(5000)),
            lambda: b"\r\n", lambda: b"PUB x 0\r\n\r\n",
        ]  # fmt: skip
        return rng.choice(broken)()

    def _sized(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> Message:
        """Draw a body of any size, seldom of the largest size or one byte more."""
        kind = self._rng.random()
        if kind < 0.0006:
            size = MAX_PAYLOAD - len(headers) + (kind < 0.0002)
            body = (body[:1000] if kind < 0.0004 else b'{"key": "').ljust(size, b"x")
        return Message(subject, reply, headers, body)
