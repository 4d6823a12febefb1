"""What the modules make public."""

import inspect

import pytest

import mediator
from tests.architecture.package import modules, needs_docstring, public_names

PUBLIC = [pytest.param(getattr(module, name, None), id=f"{module.__name__}.{name}") for module, name in public_names()]


@pytest.mark.parametrize("module", [m for m in modules() if hasattr(m, "__all__")], ids=lambda module: module.__name__)
def test_public_names_are_sorted_unique_and_there(module):
    assert list(module.__all__) == sorted(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("value", PUBLIC)
def test_what_is_public_says_what_it_promises(value):
    if needs_docstring(value):
        assert inspect.getdoc(value)
    if inspect.isclass(value) and needs_docstring(value):
        methods = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
        silent = [name for name, member in methods if needs_docstring(member) and not inspect.getdoc(member)]
        assert silent == []


def test_the_root_module_offers_everything_a_handler_needs():
    assert {"Mediator", "Command", "Query", "Notification", "DistributedEvent"} <= set(mediator.__all__)
