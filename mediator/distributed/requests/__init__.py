"""Requests to other applications: the port to the broker, the sender and the responder."""

from mediator.distributed.requests.channel import (
    IncomingCall,
    IncomingCalls,
    RemoteCall,
    RemoteReply,
    ReplyStatus,
    RequestChannel,
    trust_broker,
)
from mediator.distributed.requests.fair_queue import FairQueue
from mediator.distributed.requests.port import RequestCodec, contract_of, encoded_response
from mediator.distributed.requests.responder import RequestResponder
from mediator.distributed.requests.sender import RemoteSender

__all__ = [
    "FairQueue",
    "IncomingCall",
    "IncomingCalls",
    "RemoteCall",
    "RemoteReply",
    "RemoteSender",
    "ReplyStatus",
    "RequestChannel",
    "RequestCodec",
    "RequestResponder",
    "contract_of",
    "encoded_response",
    "trust_broker",
]
