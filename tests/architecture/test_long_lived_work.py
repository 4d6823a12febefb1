"""Tasks, threads and callbacks that outlive a dispatch start in an empty context."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.package import FILES, label

STARTERS = {
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

ENDED_BY_THEIR_CREATOR = {
    "behaviors/limiting.py ConcurrencyLimitBehavior._wait_in_line ensure_future": "ends with the wait for a place",
    "blocking.py BlockingMediator._begin run_coroutine_threadsafe": "one call; its thread waits for the result",
    "blocking.py BlockingMediator._run add_done_callback": "a callback of the task of the call",
    "blocking.py _Stream.ask call_soon_threadsafe": "one step of a stream; its thread waits for the result",
    "blocking.py _Stream.end call_soon_threadsafe": "the last step of a stream; its thread waits for the result",
    "cli/doctor/finding.py examine create_task": "in a task group",
    "cli/doctor/opening.py Resources.start create_task": "in a task group",
    "dependency_injector/scoped.py Scoped.make ensure_future": "an object of the scope; its task ends with the scope",
    "distributed/inbox/shared_lock.py Guard._wait create_task": "ends with one start of the handlers",
    "distributed/shield.py alongside create_task": "ends with one delivery or one start of its handlers",
    "distributed/shield.py drain ensure_future": "one delivery or request; its worker waits for the end",
    "distributed/shield.py finish add_done_callback": "a callback of a COMMIT or ROLLBACK with a late answer",
    "distributed/shield.py finish create_task": "a COMMIT or ROLLBACK, which belongs to its dispatch also when late",
    "cli/doctor/inspection.py _sync_always to_thread": "reads one page; the doctor waits for the result",
    "nats/publisher/publisher.py NatsEventPublisher._publish_all create_task": "in a task group",
    "sqlalchemy/engine.py _engine to_thread": "reads a file once",
    "strategies.py Concurrent.run create_task": "in a task group",
}

STARTED_BY_WORKERS = {
    "cli/running.py _Stop._on_signal call_later": "the command line has no dispatch",
    "cli/running.py _Stop._listen add_signal_handler": "the command line has no dispatch",
    "cli/running.py _Stop._on_interruption call_soon_threadsafe": "the command line has no dispatch",
    "dependency_injector/workers.py _watch create_task": "in the context of the watcher, outside every dispatch",
    "distributed/inbox/consumer.py EventConsumer.run create_task": "in a task group",
    "distributed/outbox/relay.py OutboxRelay.run create_task": "ends with its worker",
    "distributed/requests/responder.py RequestResponder.run create_task": "in a task group",
    "nats/subscription/puller.py Puller.run create_task": "in a task group, in a detached task",
    "nats/subscription/subscription.py NatsEventSubscription._open add_done_callback": "a callback of a puller",
    "sqlalchemy/sqlite.py SqliteDatabase._roll_back add_done_callback": "a callback of a detached task; changes a set",
}

IN_THEIR_OWN_THREAD = {"blocking.py BlockingMediator.__enter__ start_blocking_portal"}


def starting_calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield each call that starts a task, thread or callback, with its place as `file function maker`."""
    for file in FILES:
        if "conformance" not in file.parts:
            yield from _in(file, ast.parse(file.read_text()), ())


def _in(file: Path, node: ast.AST, around: tuple[str, ...]) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        around = (*around, node.name)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in STARTERS:
            yield f"{label(file)} {'.'.join(around)} {name}", node
    for child in ast.iter_child_nodes(node):
        yield from _in(file, child, around)


def has_its_own_context(call: ast.Call) -> bool:
    return any(keyword.arg == "context" for keyword in call.keywords)


def test_tasks_that_outlive_a_dispatch_are_started_in_their_own_context():
    known = ENDED_BY_THEIR_CREATOR.keys() | STARTED_BY_WORKERS.keys() | IN_THEIR_OWN_THREAD
    assert {name for name, call in starting_calls() if not has_its_own_context(call)} == known


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
