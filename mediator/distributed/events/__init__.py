"""Distributed events: their classes, how payloads are encoded and encrypted, and how older versions are read."""

from mediator.distributed.events.codec import HARMLESS_BYTES, EventCodec, PlainDataCodec, SchemaCodec, check_collisions
from mediator.distributed.events.encryption import EncryptingCodec, PayloadCipher
from mediator.distributed.events.event import DistributedEvent, KeyLocking, Upcaster, split_wire_type, wire_type
from mediator.distributed.events.upcasting import decode_event, readable_types, upcast, upcast_types, upcaster_problem

__all__ = [
    "HARMLESS_BYTES",
    "DistributedEvent",
    "EncryptingCodec",
    "EventCodec",
    "KeyLocking",
    "PayloadCipher",
    "PlainDataCodec",
    "SchemaCodec",
    "Upcaster",
    "check_collisions",
    "decode_event",
    "readable_types",
    "split_wire_type",
    "upcast",
    "upcast_types",
    "upcaster_problem",
    "wire_type",
]
