"""FastAPI on a real uvicorn: one scope per web request, in which commands run one after the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI
from structlog.testing import capture_logs

from examples import fastapi_app
from mediator import TransactionMode, current_context, current_scope
from mediator.errors import ContainerError
from mediator.fastapi import RequestMediator, container_lifespan, context_of


class Server(uvicorn.Server):
    """A server that signals when it listens."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, port=0, lifespan="on", log_level="critical"))
        self.listens = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        self.listens.set()

    @property
    def url(self) -> str:
        port = self.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    server = Server(app)
    async with asyncio.TaskGroup() as group:
        group.create_task(server._serve())
        async with asyncio.timeout(10):
            await server.listens.wait()
        try:
            async with httpx.AsyncClient(base_url=server.url) as client:
                yield client
        finally:
            server.should_exit = True


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(fastapi_app.create(f"sqlite:///{tmp_path}/students.db")) as opened:
        yield opened


async def test_a_dependency_with_yield_shares_the_scope_of_its_request_and_ends_before_the_response(tmp_path: Path):
    app = fastapi_app.create(f"sqlite:///{tmp_path}/students.db")
    ended: list[str] = []

    async def audited(mediator: RequestMediator) -> AsyncIterator[list[int]]:
        found: list[int] = []
        yield found
        ended.append(f"{found} {await mediator.send(fastapi_app.EnrollStudent('Bob'))}")

    @app.post("/audited")
    async def audit(
        mediator: RequestMediator, found: Annotated[list[int], Depends(audited, scope="function")]
    ) -> list[int]:
        found.append(await mediator.send(fastapi_app.EnrollStudent("Ada")))
        return found

    async with serving(app) as client:
        assert (await client.post("/audited")).json() == [1]
        assert ended == ["[1] 2"]


async def test_the_example_sends_the_commands_of_web_requests(client: httpx.AsyncClient):
    assert (await client.post("/students", json={"name": "Ada"})).json() == 1
    assert (await client.post("/classes", json=[{"name": "Bob"}, {"name": "Cyd"}])).json() == [2, 3]
    assert (await client.get("/students")).json() == ["Ada", "Bob", "Cyd"]


async def test_each_command_of_a_request_commits_by_itself(client: httpx.AsyncClient):
    answer = await client.post("/classes", json=[{"name": "Ada"}, {"name": "Ada"}, {"name": "Bob"}])
    assert answer.status_code == 500
    assert (await client.get("/students")).json() == ["Ada"]


async def test_concurrent_requests_have_scopes_of_their_own(client: httpx.AsyncClient):
    answers = await asyncio.gather(*(client.post("/students", json={"name": f"{n}"}) for n in range(20)))
    assert sorted(answer.json() for answer in answers) == list(range(1, 21))


async def test_the_flow_that_the_header_names_is_in_every_log_line(client: httpx.AsyncClient):
    with capture_logs() as logs:
        await client.post("/classes", json=[{"name": "Ada"}, {"name": "Bob"}], headers={"X-Correlation-ID": "flow-7"})
        await client.get("/students", headers={"X-Correlation-ID": "not a proper id"})
    found = [line["correlation_id"] for line in logs if line["event"] == "handled"]
    assert found[:2] == ["flow-7", "flow-7"]
    assert len(found) == 3
    assert " " not in found[2]


def app_with(endpoint: Any, tmp_path: Path) -> FastAPI:
    container = fastapi_app.AppContainer(config={"database_url": f"sqlite:///{tmp_path}/students.db"})
    app = FastAPI(lifespan=container_lifespan(container, relay_elsewhere=True))
    app.get("/")(endpoint)
    return app


async def test_a_request_has_one_scope_which_is_closed_before_the_response(tmp_path: Path):
    scopes: list[Any] = []

    async def endpoint(mediator: RequestMediator) -> str:
        scopes.append(current_scope())
        await mediator.send(fastapi_app.EnrollStudent("Ada"))
        await mediator.send(fastapi_app.EnrollStudent("Bob"), mode=TransactionMode.NEW)
        assert current_scope() is scopes[-1]
        return current_context().message_id

    async with serving(app_with(endpoint, tmp_path)) as client:
        first, second = (await client.get("/")).status_code, (await client.get("/")).status_code
        assert (first, second) == (200, 500)
        assert all(scope.closed for scope in scopes)
    assert scopes[0] is not scopes[1]


async def test_the_error_of_an_application_without_the_lifespan_names_the_remedy():
    app = FastAPI()

    @app.get("/")
    async def endpoint(mediator: RequestMediator) -> None:
        raise AssertionError(mediator)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(ContainerError, match="container_lifespan"):
            await client.get("/")


@pytest.mark.parametrize("header", [None, "", " ", "a b", "ä", "x" * 129, "line\nfeed"])
def test_an_invalid_correlation_header_begins_a_new_flow(header: str | None):
    context = context_of(header)
    assert context.correlation_id == context.message_id


def test_a_valid_correlation_header_continues_its_flow():
    assert context_of("x" * 128).correlation_id == "x" * 128
    assert context_of("7f3c-!~").causation_id is None
