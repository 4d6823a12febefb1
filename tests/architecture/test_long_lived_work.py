"""Tasks, threads and callbacks that outlive a dispatch start in an empty context."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.package import FILES, label

MAKERS = {
    "Thread",
    "add_done_callback",
    "add_reader",
    "add_signal_handler",
    "call_at",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "create_task",
    "ensure_future",
    "run_coroutine_threadsafe",
    "run_in_executor",
    "start_blocking_portal",
    "submit",
    "to_thread",
}

OVER_WITH_THEIR_MAKER = {
    "behaviors/limiting.py ConcurrencyLimitBehavior._wait_in_line ensure_future": "how long one waits for a place",
    "blocking.py BlockingMediator._begin run_coroutine_threadsafe": "one call, for which its thread waits",
    "blocking.py BlockingMediator._run add_done_callback": "of the call's own task",
    "blocking.py _Stream.ask call_soon_threadsafe": "one step of a stream, for which its thread waits",
    "blocking.py _Stream.end call_soon_threadsafe": "the last step of a stream, for which its thread waits",
    "cli/doctor/finding.py examine create_task": "in a group",
    "cli/doctor/opening.py Resources.start create_task": "in a group",
    "dependency_injector/scoped.py Scoped.make ensure_future": "an object of the scope, stopped with it",
    "distributed/inbox/shared_lock.py Guard._wait create_task": "beside one start of the handlers",
    "distributed/shield.py alongside create_task": "beside one delivery, or one start of its handlers",
    "distributed/shield.py drain ensure_future": "one delivery or request, in its worker",
    "distributed/shield.py finish add_done_callback": "of a COMMIT or ROLLBACK whose answer is late",
    "distributed/shield.py finish create_task": "a COMMIT or ROLLBACK, which is its dispatch's also when it is late",
    "cli/doctor/inspection.py _sync_always to_thread": "one page, for the doctor",
    "nats/publisher/publisher.py NatsEventPublisher._publish_all create_task": "in a group",
    "sqlalchemy/engine.py _engine to_thread": "one look at a file",
    "strategies.py Concurrent.run create_task": "in a group",
}

OF_WORKERS = {
    "cli/running.py _Stop._on_signal call_later": "the command line has no dispatch",
    "cli/running.py _Stop._listen add_signal_handler": "the command line has no dispatch",
    "cli/running.py _Stop._on_signal_of_the_system call_soon_threadsafe": "the command line has no dispatch",
    "dependency_injector/workers.py _watch create_task": "in the context of the watcher, which is outside of every dispatch",
    "distributed/inbox/consumer.py EventConsumer.run create_task": "in a group",
    "distributed/outbox/relay.py OutboxRelay.run create_task": "beside a worker",
    "distributed/requests/responder.py RequestResponder.run create_task": "in a group",
    "nats/subscription/puller.py Puller.run create_task": "in a group, in a task that is detached",
    "nats/subscription/subscription.py NatsEventSubscription._open add_done_callback": "of a puller",
    "sqlalchemy/sqlite.py SqliteDatabase._roll_back add_done_callback": "of a task that is detached, and touches a set only",
}

IN_A_THREAD_OF_ITS_OWN = {"blocking.py BlockingMediator.__enter__ start_blocking_portal"}


def made() -> Iterator[tuple[str, ast.Call]]:
    """Yield each call that starts a task, thread or callback, with its place as `file function maker`."""
    for file in FILES:
        if "conformance" not in file.parts:
            yield from _in(file, ast.parse(file.read_text()), ())


def _in(file: Path, node: ast.AST, around: tuple[str, ...]) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        around = (*around, node.name)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in MAKERS:
            yield f"{label(file)} {'.'.join(around)} {name}", node
    for child in ast.iter_child_nodes(node):
        yield from _in(file, child, around)


def is_in_a_context_of_its_own(call: ast.Call) -> bool:
    return any(keyword.arg == "context" for keyword in call.keywords)


def test_tasks_that_outlive_a_dispatch_are_started_in_their_own_context():
    known = OVER_WITH_THEIR_MAKER.keys() | OF_WORKERS.keys() | IN_A_THREAD_OF_ITS_OWN
    assert {name for name, call in made() if not is_in_a_context_of_its_own(call)} == known


def test_only_the_supervised_client_and_the_cluster_make_nats_subscriptions_and_requests():
    """nats-py starts a task for each subscription and for the first request; these tasks may outlive a dispatch."""
    for file in FILES:
        if label(file) in {"nats/connection/supervised.py", "nats/cluster.py"} or not label(file).startswith("nats/"):
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert [
            ast.unparse(call)
            for call in calls
            if isinstance(call.func, ast.Attribute)
            and call.func.attr in {"subscribe", "request"}
            and "client" in ast.unparse(call.func.value)
        ] == []
