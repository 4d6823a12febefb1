"""Payloads as JSON through msgspec, for dataclasses, attrs classes and Structs."""

from mediator.msgspec.codec import MsgspecCodec, MsgspecRequestCodec

__all__ = ["MsgspecCodec", "MsgspecRequestCodec"]
