"""Public names: each is unique, defined and documented."""

import inspect

import mediator
from tests.architecture.package import modules, needs_docstring, public_names, rule_for

each_front_door = rule_for("module", [m for m in modules() if hasattr(m, "__all__")], lambda module: module.__name__)
each_public_name = rule_for("public", public_names(), lambda public: f"{public[0].__name__}.{public[1]}")


@each_front_door
def test_public_names_are_unique_and_defined(module):
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@each_public_name
def test_every_public_name_has_a_docstring(public):
    module, name = public
    value = getattr(module, name, None)
    if needs_docstring(value):
        assert inspect.getdoc(value)
    if inspect.isclass(value) and needs_docstring(value):
        methods = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
        silent = [name for name, member in methods if needs_docstring(member) and not inspect.getdoc(member)]
        assert silent == []


def test_the_root_module_offers_everything_a_handler_needs():
    assert {"Mediator", "Command", "Query", "Notification", "DistributedEvent"} <= set(mediator.__all__)
