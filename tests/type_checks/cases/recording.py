"""Types of the arguments and results of the recording mediator."""

from typing import assert_type

from cases.university import EnrollStudent, FindStudents, ListStudents, StudentEnrolled, StudentId

from mediator import DistributedEventBroker, Mediator
from mediator.testing import RecordingMediator


async def proper(mediator: RecordingMediator) -> None:
    mediator.expect(EnrollStudent).returns(StudentId("s-1"))
    mediator.expect(EnrollStudent("Ada")).returns(StudentId("s-1"))
    mediator.expect(FindStudents("Ada")).raises(LookupError("Ada"))
    mediator.expect(ListStudents).returns([StudentId("s-1")])
    assert_type(await mediator.send(EnrollStudent("Ada")), StudentId)
    assert_type(mediator.distributed_events, DistributedEventBroker)


def stands_in(mediator: RecordingMediator) -> Mediator:
    return mediator


def mistakes(mediator: RecordingMediator) -> None:
    mediator.expect(EnrollStudent).returns(1)  # error
    mediator.expect(ListStudents).returns([1])  # error
    mediator.expect(EnrollStudent).raises(LookupError)  # error
    mediator.expect(StudentEnrolled)  # error
    mediator.expect("EnrollStudent")  # error
