"""Behaviors of a container: their collaborators are found by type, and a wrong order is reported before the start."""

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    Command,
    LoggingBehavior,
    MessageContext,
    Notification,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Query,
    Request,
    RequestHandler,
    StreamRequest,
    TimeoutBehavior,
    ValidationBehavior,
    ValidationFailure,
    Validator,
)
from mediator.behaviors import (
    CachingBehavior,
    ConcurrencyLimitBehavior,
    Handled,
    MemoryCache,
    RateLimitBehavior,
    RequestExceptionAction,
    RequestExceptionActionProcessorBehavior,
    RequestExceptionHandler,
    RequestExceptionProcessorBehavior,
    RequestPostProcessor,
    RequestPostProcessorBehavior,
    RequestPreProcessor,
    RequestPreProcessorBehavior,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override, validate
from mediator.errors import ContainerValidationError, NotAuthorizedError, RateLimitedError, ValidationFailedError
from tests.adapters.dependency_injector.shop import CountOrders, CountOrdersHandler, OrderPlaced, Seen, UnitOfWork


@dataclass(frozen=True, slots=True)
class Pay(Command[str]):
    amount: int = 1


class PayHandler(RequestHandler[Pay, str]):
    async def handle(self, command: Pay) -> str:
        if command.amount > 100:
            raise OverflowError
        return f"paid {command.amount}"


@dataclass
class AmountIsPositive(Validator[Pay]):
    seen: Seen

    async def validate(self, command: Pay) -> list[ValidationFailure]:
        self.seen.items.append("validator")
        return [ValidationFailure("amount", "is not positive")] if command.amount < 1 else []


class OnlySignedIn(Authorizer[Command[Any]]):
    async def authorize(self, _command: Command[Any], context: MessageContext) -> bool:
        return context.principal is not None


@dataclass
class Before(RequestPreProcessor[Pay]):
    seen: Seen
    unit_of_work: UnitOfWork

    async def process(self, _command: Pay) -> None:
        self.seen.items.append(self.unit_of_work)


@dataclass
class After(RequestPostProcessor[Pay, str]):
    seen: Seen
    unit_of_work: UnitOfWork

    async def process(self, _command: Pay, response: str) -> None:
        self.seen.items += [self.unit_of_work, response]


class TooMuch(RequestExceptionHandler[Pay, str, OverflowError]):
    async def handle(self, _command: Pay, _error: OverflowError) -> Handled[str]:
        return Handled("too much")


@dataclass
class Report(RequestExceptionAction[Request[Any], Exception]):
    seen: Seen

    async def execute(self, _request: Request[Any], error: Exception) -> None:
        self.seen.items.append(type(error))


class Shop(containers.DeclarativeContainer):
    seen = providers.Singleton(Seen)
    unit_of_work = Scoped(UnitOfWork)
    actions = providers.Factory(RequestExceptionActionProcessorBehavior)
    authorization = providers.Factory(AuthorizationBehavior)
    rescue = providers.Factory(RequestExceptionProcessorBehavior)
    validation = providers.Singleton(ValidationBehavior)
    before = providers.Factory(RequestPreProcessorBehavior)
    after = providers.Factory(RequestPostProcessorBehavior)
    mediator = MediatorProvider(behaviors=providers.List(actions, authorization, rescue, validation, before, after))

    pay = providers.Factory(PayHandler)
    count = providers.Factory(CountOrdersHandler)
    amount_is_positive = providers.Factory(AmountIsPositive, seen)
    only_signed_in = providers.Factory(OnlySignedIn)
    run_before = providers.Factory(Before, seen, unit_of_work)
    run_after = providers.Factory(After, seen, unit_of_work)
    too_much = providers.Factory(TooMuch)
    report = providers.Factory(Report, seen)


ADA = MessageContext("1", "1", principal="ada")


async def pay(container: Any, amount: int) -> str:
    mediator = container.mediator()
    async with mediator.scope(context=ADA):
        response: str = await mediator.send(Pay(amount))
        return response


async def test_collaborators_of_behaviors_are_found_by_type_and_constructed_in_the_scope():
    async with lifespan(Shop()) as container:
        assert await pay(container, 7) == "paid 7"
        what, first, second, response = container.seen().items
        assert (what, response) == ("validator", "paid 7")
        assert first is second
        assert first.closed


async def test_every_kind_of_collaborator_takes_effect():
    async with lifespan(Shop()) as container:
        with pytest.raises(ValidationFailedError) as caught:
            await pay(container, -7)
        assert caught.value.by_field == {"amount": ["is not positive"]}
        with pytest.raises(NotAuthorizedError):
            await container.mediator().send(Pay(7))
        assert container.seen().items == ["validator", ValidationFailedError, NotAuthorizedError]
        assert await pay(container, 1000) == "too much"
        assert await container.mediator().send(CountOrders()) == 7


async def test_the_description_of_a_message_shows_the_collaborators_of_its_behaviors():
    assert Shop().mediator().describe(Pay).splitlines() == [
        "Pay -> str",
        "  1. RequestExceptionActionProcessorBehavior container.actions",
        "     with Report                         container.report",
        "  2. AuthorizationBehavior               container.authorization",
        "     with OnlySignedIn                   container.only_signed_in",
        "  3. RequestExceptionProcessorBehavior   container.rescue",
        "     with TooMuch                        container.too_much",
        "  4. ValidationBehavior                  container.validation",
        "     with AmountIsPositive               container.amount_is_positive",
        "  5. RequestPreProcessorBehavior         container.before",
        "     with Before                         container.run_before",
        "  6. RequestPostProcessorBehavior        container.after",
        "     with After                          container.run_after",
        "  handler: PayHandler                    container.pay",
    ]
    assert Shop().mediator().describe(CountOrders).splitlines()[1:-1] == [
        "  1. RequestExceptionActionProcessorBehavior container.actions",
        "     with Report                         container.report",
    ]


async def test_an_override_of_a_collaborator_takes_effect_at_once():
    class Lenient(Validator[Pay]):
        async def validate(self, _command: Pay) -> list[ValidationFailure]:
            return []

    async with lifespan(Shop()) as container:
        with override(container, amount_is_positive=providers.Factory(Lenient)):
            assert await pay(container, -7) == "paid -7"
        with pytest.raises(ValidationFailedError):
            await pay(container, -7)


def problems(behaviors: Any = (), **named: Any) -> list[tuple[str, str, str]]:
    """Return the problems that `validate` reports for a container with these behaviors, in this order."""
    container = containers.DynamicContainer()
    labelled = {f"b{number}": behavior for number, behavior in enumerate(behaviors, 1)}
    for name, provider in {**labelled, "pay": providers.Factory(PayHandler), **named}.items():
        setattr(container, name, provider)
    container.mediator = MediatorProvider(behaviors=providers.List(*labelled.values()))
    try:
        validate(container, relay_elsewhere=True)
    except ContainerValidationError as error:
        return [(each.label, each.subject, each.text) for each in error.problems]
    return []


Message = TypeVar("Message", bound=Command[Any] | Notification)


class Transaction(PipelineBehavior[Message, Any]):
    one_of = "unit of work"

    async def handle(self, _message: Any, call_next: Any) -> Any:
        return await call_next()


class PayTransaction(Transaction[Pay]):
    pass


TRANSACTION = providers.Factory(Transaction)
RETRY = providers.Factory(RetryBehavior, on=ConnectionError)
TIMEOUT = providers.Factory(TimeoutBehavior, seconds=1.0)
AUTHORIZATION = providers.Factory(AuthorizationBehavior)
VALIDATION = providers.Factory(ValidationBehavior)
CACHING = providers.Factory(CachingBehavior, providers.Singleton(MemoryCache))
ONLY_SIGNED_IN = {"only": providers.Factory(OnlySignedIn)}


class AnybodyAsks(Authorizer[Query[Any]]):
    async def authorize(self, _query: Query[Any], _context: MessageContext) -> bool:
        return True


class EverythingIsFine(Validator[Any]):
    async def validate(self, _message: Any) -> list[ValidationFailure]:
        return []


def only(found: list[tuple[str, str, str]]) -> tuple[str, str, str]:
    (problem,) = found
    return problem


def test_a_retry_inside_the_transaction_is_found():
    label, subject, text = only(problems([TRANSACTION, RETRY]))
    assert (label, subject) == ("container.b2", "RetryBehavior")
    assert text == (
        "stands inside the unit of work in the pipeline of Pay: a failed transaction cannot continue, so each attempt needs "
        "its own transaction. Put it before container.b1 in the list."
    )
    assert problems([RETRY, TRANSACTION]) == []


@pytest.mark.parametrize(
    ("behavior", "options"),
    [(RateLimitBehavior, {"limit": 5, "max_wait": 1.0}), (ConcurrencyLimitBehavior, {"limit": 5, "max_wait": 1.0})],
)
def test_a_limit_inside_the_transaction_is_found(behavior, options):
    limit = providers.Singleton(behavior, **options)
    label, subject, text = only(problems([TRANSACTION, limit]))
    assert (label, subject) == ("container.b2", behavior.__name__)
    assert text == (
        "stands inside the unit of work in the pipeline of Pay: no message waits inside a transaction, and a refused "
        "message should not begin one. Put it before container.b1 in the list."
    )
    assert problems([limit, TRANSACTION]) == []


def test_a_limit_that_is_constructed_for_each_message_is_found():
    label, subject, text = only(problems([providers.Factory(RateLimitBehavior, limit=5)]))
    assert (label, subject) == ("container.b1", "RateLimitBehavior")
    assert text == (
        "is made anew for each message, so it would remember nothing of earlier messages. Write "
        "`providers.Singleton(RateLimitBehavior, ...)`."
    )
    assert problems([providers.ThreadSafeSingleton(RateLimitBehavior, limit=5)]) == []
    assert problems([providers.Object(RateLimitBehavior(limit=5))]) == []


async def test_a_limit_in_a_container_counts_across_messages():
    class Limited(containers.DeclarativeContainer):
        limit = providers.Singleton(RateLimitBehavior, limit=1, seconds=3600.0)
        mediator = MediatorProvider(behaviors=providers.List(limit))
        pay = providers.Factory(PayHandler)

    async with lifespan(Limited()) as container:
        assert await container.mediator().send(Pay(7)) == "paid 7"
        with pytest.raises(RateLimitedError):
            await container.mediator().send(Pay(7))


def test_caching_outside_authorization_is_found():
    count = providers.Factory(CountOrdersHandler)
    anybody = providers.Factory(AnybodyAsks)
    label, subject, text = only(problems([CACHING, AUTHORIZATION], count=count, anybody=anybody))
    assert (label, subject) == ("container.b1", "CachingBehavior")
    assert text.startswith("stands outside the authorization in the pipeline of CountOrders: otherwise it would answer")
    assert text.endswith("Put it after container.b2 in the list.")
    assert problems([AUTHORIZATION, CACHING], count=count, anybody=anybody) == []


def test_validation_outside_authorization_is_found():
    named = {**ONLY_SIGNED_IN, "fine": providers.Factory(EverythingIsFine)}
    label, subject, text = only(problems([VALIDATION, AUTHORIZATION], **named))
    assert (label, subject) == ("container.b1", "ValidationBehavior")
    assert "stands outside the authorization in the pipeline of Pay" in text
    assert problems([AUTHORIZATION, VALIDATION], **named) == []


def test_a_wrong_order_that_applies_to_no_message_is_no_fault():
    count = providers.Factory(CountOrdersHandler)
    assert problems([CACHING, AUTHORIZATION], count=count, **ONLY_SIGNED_IN) == []
    assert problems([providers.Factory(PayTransaction), providers.Factory(QueryRetry, on=OSError)]) == []


class QueryRetry(RetryBehavior[Query[Any]]):
    pass


def test_two_units_of_work_for_one_message_are_found():
    label, subject, text = only(problems([TRANSACTION, providers.Factory(Transaction)]))
    assert (label, subject) == ("container.b2", "Transaction")
    assert "is one unit of work too many for Pay: container.b1 is equally specific, and only one" in text


def test_a_more_specific_unit_of_work_is_no_fault():
    assert problems([TRANSACTION, providers.Factory(PayTransaction)]) == []


def test_a_second_timeout_for_one_message_is_found():
    label, subject, text = only(problems([TIMEOUT, providers.Factory(TimeoutBehavior, seconds=2.0)]))
    assert (label, subject) == ("container.b2", "TimeoutBehavior")
    assert "one timeout too many" in text


def test_an_applications_own_behavior_is_checked_by_its_role():
    class MyAuthorization(PipelineBehavior[Any, Any]):
        role = "authorization"

        async def handle(self, _message: Any, call_next: Any) -> Any:
            return await call_next()

    class Quota(PipelineBehavior[Command[Any], Any]):
        belongs_inside = {"authorization": "a stranger has no quota"}  # noqa: RUF012

        async def handle(self, _message: Any, call_next: Any) -> Any:
            return await call_next()

    label, subject, text = only(problems([providers.Factory(Quota), providers.Factory(MyAuthorization)]))
    assert (label, subject) == ("container.b1", "Quota")
    assert "a stranger has no quota" in text


def test_a_wrong_order_is_found_if_it_applies_to_only_one_subclass_of_a_message():
    class CountOrdersOfToday(CountOrders):
        pass

    class PayTwice(Pay):
        pass

    class RetriedPay(RetryBehavior[PayTwice]):
        pass

    class Nobody(Authorizer[CountOrdersOfToday]):
        async def authorize(self, _query: CountOrdersOfToday, _context: MessageContext) -> bool:
            return False

    retry = providers.Factory(RetriedPay, on=ConnectionError)
    assert "in the pipeline of PayTwice" in only(problems([TRANSACTION, retry]))[2]
    named = {"count": providers.Factory(CountOrdersHandler), "nobody": providers.Factory(Nobody)}
    assert "in the pipeline of CountOrdersOfToday" in only(problems([CACHING, AUTHORIZATION], **named))[2]


def test_a_wrong_order_is_reported_once_for_any_number_of_messages():
    class Refund(Command[str]):
        pass

    class RefundHandler(RequestHandler[Refund, str]):
        async def handle(self, _command: Refund) -> str:
            return "refunded"

    assert len(problems([TRANSACTION, RETRY], refund=providers.Factory(RefundHandler))) == 1


def test_a_correct_order_of_all_behaviors_has_no_fault():
    logging = providers.Factory(LoggingBehavior)
    rescue = providers.Factory(RequestExceptionProcessorBehavior)
    order = [logging, AUTHORIZATION, VALIDATION, CACHING, rescue, TIMEOUT, RETRY, TRANSACTION]
    named = {**ONLY_SIGNED_IN, "fine": providers.Factory(EverythingIsFine), "much": providers.Factory(TooMuch)}
    assert problems(order, count=providers.Factory(CountOrdersHandler), **named) == []


class CallsAndForgets(PipelineBehavior[Any, Any]):
    async def handle(self, message: Any, call_next: Any) -> None:
        if message:
            call_next()


class ReturnsAndForgets(NotificationPipelineBehavior[Notification]):
    async def handle(self, notification: Notification, handler: type, go_on: Any) -> None:
        return go_on()


class Remembers(PipelineBehavior[Any, Any]):
    async def handle(self, message: Any, call_next: Any) -> Any:
        def again() -> Any:
            return call_next()

        going = call_next()
        return await going or await again()


@pytest.mark.parametrize(("behavior", "name"), [(CallsAndForgets, "call_next"), (ReturnsAndForgets, "go_on")])
def test_a_behavior_whose_code_forgets_to_await_is_found(behavior: Any, name: str):
    label, subject, text = only(problems([providers.Factory(behavior)]))
    assert (label, subject) == ("container.b1", behavior.__name__)
    assert text.startswith(f"calls `{name}()` without `await`")


def test_a_behavior_may_store_the_coroutine_of_call_next_and_await_it_later():
    assert problems([providers.Factory(Remembers)]) == []


def test_a_collaborator_of_a_stream_request_that_no_behavior_would_call_is_found():
    class ListPayments(StreamRequest[int]):
        pass

    class NobodyMayList(Authorizer[ListPayments | Pay]):
        async def authorize(self, message: Any, _context: MessageContext) -> bool:
            return False

    label, subject, text = only(problems([AUTHORIZATION], nobody=providers.Factory(NobodyMayList)))
    assert (label, subject) == ("container.nobody", "NobodyMayList")
    assert text.startswith("is for the stream request ListPayments.")


def test_a_collaborator_that_no_behavior_uses_is_found():
    label, subject, text = only(problems([AUTHORIZATION], fine=providers.Factory(EverythingIsFine)))
    assert (label, subject) == ("container.fine", "EverythingIsFine")
    assert text == "is a Validator that would never be called, because no behavior in the list works with a Validator."


def test_a_collaborator_that_cannot_be_constructed_is_found():
    label, _, text = only(problems([VALIDATION], fine=providers.Factory(AmountIsPositive)))
    assert label == "container.fine"
    assert "missing a required argument: 'seen'" in text


def test_a_collaborator_without_a_message_type_is_found():
    class Vague(Validator):  # type: ignore[type-arg]  # the fault
        async def validate(self, _message: Any) -> list[ValidationFailure]:
            return []

    label, subject, text = only(problems([VALIDATION], vague=providers.Factory(Vague)))
    assert (label, subject) == ("container.vague", "Vague")
    assert "does not say what it is for. Declare `class Vague(Validator[...])`" in text


def test_a_collaborator_that_is_not_async_is_found():
    class Hasty(Validator[Pay]):
        def validate(self, _message: Pay) -> list[ValidationFailure]:  # type: ignore[override]  # the fault
            return []

    assert only(problems([VALIDATION], hasty=providers.Factory(Hasty))) == (
        "container.hasty",
        "Hasty",
        "has a `validate` that is not async. Write `async def validate(...)`.",
    )


def test_a_handler_of_cancellation_is_found():
    class Undying(RequestExceptionHandler[Pay, str, asyncio.CancelledError]):  # type: ignore[type-var]  # the fault
        async def handle(self, _command: Pay, _error: asyncio.CancelledError) -> Handled[str]:
            return Handled("never mind")

    label, _, text = only(
        problems([providers.Factory(RequestExceptionProcessorBehavior)], undying=providers.Factory(Undying))
    )
    assert label == "container.undying"
    assert text == "is a RequestExceptionHandler of CancelledError, which does not derive from Exception."


def test_an_error_handler_with_a_response_type_unlike_the_requests_is_found():
    class Wrong(RequestExceptionHandler[Pay, int, OverflowError]):
        async def handle(self, _command: Pay, _error: OverflowError) -> Handled[int]:
            return Handled(0)

    label, subject, text = only(
        problems([providers.Factory(RequestExceptionProcessorBehavior)], wrong=providers.Factory(Wrong))
    )
    assert (label, subject) == ("container.wrong", "Wrong")
    assert text == "is for a response int, but Pay is a request for str."


def test_a_postprocessor_that_cannot_take_the_response_is_found():
    class Wrong(RequestPostProcessor[Pay, int]):
        async def process(self, _command: Pay, _response: int) -> None: ...

    class Right(RequestPostProcessor[Pay, str | int]):
        async def process(self, _command: Pay, _response: str | int) -> None: ...

    behaviors = [providers.Factory(RequestPostProcessorBehavior)]
    label, _, text = only(problems(behaviors, wrong=providers.Factory(Wrong), right=providers.Factory(Right)))
    assert (label, text) == ("container.wrong", "is for a response int, but Pay is a request for str.")


def test_a_processor_of_a_notification_is_found():
    class Never(RequestPreProcessor[OrderPlaced]):  # type: ignore[type-var]  # the fault
        async def process(self, _notification: OrderPlaced) -> None: ...

    _, _, text = only(problems([providers.Factory(RequestPreProcessorBehavior)], never=providers.Factory(Never)))
    assert text == "is a RequestPreProcessor of OrderPlaced, which does not derive from Request."


def test_caching_of_a_command_is_found():
    class PayCaching(CachingBehavior[Pay]):  # type: ignore[type-var]  # the fault
        pass

    found = problems([providers.Factory(PayCaching, providers.Singleton(MemoryCache))])
    assert only(found)[2] == "is a CachingBehavior of Pay, which does not derive from Query."


@pytest.mark.parametrize("frozen", [True, False])
def test_caching_of_an_unhashable_query_is_found(frozen):
    @dataclass(frozen=frozen)
    class Find(Query[int]):
        number: int

    class FindHandler(RequestHandler[Find, int]):
        async def handle(self, query: Find) -> int:
            return query.number

    found = problems([CACHING], find=providers.Factory(FindHandler))
    if frozen:
        assert found == []
    else:
        label, subject, text = only(found)
        assert (label, subject) == ("container.b1", "CachingBehavior")
        assert text.startswith("cannot keep responses of Find, which is not hashable by value.")


def test_a_query_that_is_compared_by_identity_cannot_be_cached():
    class Find(Query[int]):
        pass

    class FindHandler(RequestHandler[Find, int]):
        async def handle(self, _query: Find) -> int:
            return 1

    assert "not hashable by value" in only(problems([CACHING], find=providers.Factory(FindHandler)))[2]


def test_one_report_contains_all_faults_of_behaviors():
    found = problems(
        [TRANSACTION, RETRY, VALIDATION, AUTHORIZATION],
        fine=providers.Factory(EverythingIsFine),
        report=providers.Factory(Report, providers.Singleton(Seen)),
        **ONLY_SIGNED_IN,
    )
    assert [(label, subject) for label, subject, _ in found] == [
        ("container.b2", "RetryBehavior"),
        ("container.b3", "ValidationBehavior"),
        ("container.report", "Report"),
    ]
