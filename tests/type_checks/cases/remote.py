"""Types of requests to other applications: the same as of requests to local handlers."""

from dataclasses import dataclass
from typing import ClassVar, assert_type

from mediator import Notification, Query
from mediator.distributed.requests import RemoteSender, RequestChannel, RequestResponder, trust_broker
from mediator.mediator import Mediator


@dataclass(frozen=True)
class FindAdvisor(Query[str | None]):
    request_type: ClassVar[str] = "advising.find-advisor"
    student: str


class Happened(Notification):
    pass


async def asking(remote: RemoteSender) -> None:
    assert_type(await remote.send(FindAdvisor("Ada")), str | None)
    await remote.send(Happened())  # error
    await remote.send("Ada")  # error


def answering(channel: RequestChannel, mediator: Mediator) -> None:
    RequestResponder(channel, mediator, exposes=[FindAdvisor], authenticate=trust_broker)
    RequestResponder(channel, mediator, exposes=[Happened], authenticate=trust_broker)  # error
    RequestResponder(channel, mediator, exposes=[FindAdvisor])  # error
