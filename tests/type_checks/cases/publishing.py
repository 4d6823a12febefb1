"""Types of the arguments of `publish` and of the broker."""

from typing import assert_type

from cases.university import EnrollStudent, StudentEnrolled, StudentId, StudentStatusChanged

from mediator import DistributedEventBroker, Mediator, Publisher


async def proper(mediator: Mediator, publisher: Publisher, broker: DistributedEventBroker) -> None:
    await mediator.publish(StudentEnrolled(StudentId("s-1")))
    await publisher.publish(StudentEnrolled(StudentId("s-1")))
    assert_type(broker.add(StudentStatusChanged("s-1", "enrolled")), str)


def parts(mediator: Mediator) -> Publisher:
    return mediator


async def mistakes(mediator: Mediator, broker: DistributedEventBroker) -> None:
    await mediator.publish(EnrollStudent("Ada"))  # error
    await mediator.publish(StudentStatusChanged("s-1", "enrolled"))  # error
    await mediator.publish("StudentEnrolled")  # error
    broker.add(StudentEnrolled(StudentId("s-1")))  # error
    broker.add(EnrollStudent("Ada"))  # error
    broker.add("StudentStatusChanged")  # error
