import asyncio

from dependency_injector import containers, providers
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.dependency_injector import Scoped
from mediator.dependency_injector.graph import Graph, find_captives, find_cycles
from mediator.dependency_injector.lifespan import started_resources


class Thing:
    def __init__(self, *needs) -> None:
        self.needs = needs


KINDS = (providers.Factory, providers.Singleton, providers.Resource, Scoped, providers.List)
EDGES = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14)


def built(kinds, edges):
    made = [kind(Thing) if kind is not providers.List else providers.List() for kind in kinds]
    for start, end in sorted(edges):
        made[start].add_args(made[end])
    container = containers.DynamicContainer()
    for number, provider in enumerate(made):
        setattr(container, f"p{number}", provider)
    return container, made


def reachable(start, edges, through):
    found, waiting = set(), [end for begin, end in edges if begin == start]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [end for begin, end in edges if begin == node] if through(node) else []
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=8, max_size=8), EDGES)
def test_a_cycle_is_reported_exactly_when_a_provider_reaches_itself(kinds, edges):
    container, _ = built(kinds, edges)
    in_cycles = {node for node in range(8) if node in reachable(node, edges, lambda _: True)}
    problems = list(find_cycles(Graph(container)))
    assert bool(problems) == bool(in_cycles)
    assert {problem.label for problem in problems} <= {f"container.p{node}" for node in in_cycles}


@settings(deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=8, max_size=8), EDGES)
def test_a_captive_is_reported_for_exactly_the_providers_that_keep_a_scoped_object(kinds, edges):
    container, _ = built(kinds, edges)
    keeping = {node for node, kind in enumerate(kinds) if kind in {providers.Singleton, providers.Resource}}
    expected = {
        f"container.p{node}"
        for node in keeping
        if any(kinds[each] is Scoped for each in reachable(node, edges, lambda each: each not in keeping))
    }
    assert {problem.label for problem in find_captives(Graph(container))} == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([providers.Factory, providers.Singleton, providers.Resource]), min_size=8, max_size=8),
    EDGES,
)
def test_resources_start_after_their_dependencies_and_stop_before_them(kinds, edges):
    downward = {(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]}
    container, made = built(kinds, downward)
    log = []

    async def open_thing(number, *_):
        log.append(number)
        yield number
        log.append(number)

    for number, provider in enumerate(made):
        if kinds[number] is providers.Resource:
            provider.set_provides(open_thing)
            provider.set_args(number, *provider.args)

    async def start_and_stop():
        async with started_resources(container):
            pass

    asyncio.run(start_and_stop())
    resources = {node for node, kind in enumerate(kinds) if kind is providers.Resource}
    started = log[: len(resources)]
    assert set(started) == resources
    assert log[len(resources) :] == started[::-1]
    for node in resources:
        needs = reachable(node, downward, lambda _: True) & resources
        assert all(started.index(need) < started.index(node) for need in needs)
