"""The states nearly every machine has: how they hang together, alone and mixed into others."""

from __future__ import annotations

import ast
import inspect
import sys
from types import ModuleType

import pytest

import asyncmachine as am
from asyncmachine import states
from asyncmachine.states import BasicStates, ConnectedStates, DisposedStates, basic, connected, disposed

MIXINS: list[type[am.States]] = [BasicStates, ConnectedStates, DisposedStates]


class AllStates(BasicStates, ConnectedStates, DisposedStates):
    """All of them."""

    Ready: str = am.state(extend=True, auto=True, require=["Connected"])


class OtherOrder(DisposedStates, ConnectedStates, BasicStates):
    """All of them, the other way round."""


def test_all_basic_states_are_there() -> None:
    assert set(BasicStates.states()) == {
        *("Start", "Ready", "Healthcheck", "Heartbeat", "Exception", "ErrNetwork", "ErrHandlerTimeout"),
    }


def test_being_ready_takes_being_started() -> None:
    machine = am.Machine(BasicStates)
    assert machine.add1("Ready").reason == "Ready requires Start"
    machine.add(["Start", "Ready"])
    machine.remove1("Start")
    assert machine.not_("Start", "Ready")


@pytest.mark.parametrize("state", ["ErrNetwork", "ErrHandlerTimeout"])
def test_an_error_state_comes_and_goes_with_exception_and_may_come_again(state: str) -> None:
    machine = am.Machine(BasicStates, handlers={"ExceptionState": lambda e: None})
    machine.add1(state)
    machine.add_err_state(state, OSError("no"))
    assert (machine.tick(state), machine.tick("Exception")) == (3, 3)
    machine.remove1("Exception")
    assert machine.not1(state)


@pytest.mark.parametrize("state", ["Healthcheck", "Heartbeat"])
def test_a_sign_of_life_counts_each_time_and_starts_no_auto_states(state: str) -> None:
    class Eager(BasicStates):
        Ready: str = am.state(auto=True)

    machine = am.Machine(Eager)
    machine.add1(state)
    machine.add1(state)
    assert str(machine) == f"({state}:3)"


@pytest.mark.parametrize("mixed", MIXINS)
def test_each_can_be_a_schema_by_itself(mixed: type[am.States]) -> None:
    assert am.Machine(mixed).add1("Start").executed


@pytest.mark.parametrize("mixed", [AllStates, OtherOrder])
def test_all_can_be_mixed_in_any_order_and_mean_the_same(mixed: type[am.States]) -> None:
    for one in MIXINS:
        own = one.schema()
        for name in set(own) - {"Ready"}:
            assert mixed.schema()[name] == own[name]
        assert mixed.groups().items() >= one.groups().items()


def test_a_mixed_in_state_can_be_extended() -> None:
    machine = am.Machine(AllStates)
    assert AllStates.schema()["Ready"].require == ("Start", "Connected")
    machine.add(["Start", "Connected"])
    assert machine.is1("Ready")


@pytest.mark.parametrize("module", [basic, connected, disposed], ids=lambda module: module.__name__)
def test_each_state_says_what_it_means_where_an_editor_looks_for_it(module: ModuleType) -> None:
    for body in ast.parse(inspect.getsource(module)).body:
        if isinstance(body, ast.ClassDef) and body.name.endswith("States"):
            for declared, following in zip(body.body, body.body[1:], strict=False):
                if isinstance(declared, ast.AnnAssign):
                    assert isinstance(following, ast.Expr)
                    assert isinstance(following.value, ast.Constant)
                    assert str(following.value.value).rstrip().endswith((".", "`"))


def test_the_public_names_say_where_they_are_imported_from() -> None:
    assert {getattr(states, name).__module__ for name in states.__all__} == {"asyncmachine.states"}
    assert states.__all__ == sorted(states.__all__)
    public = {name for name, value in vars(states).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public - {"annotations"} == set(states.__all__)


def test_the_package_itself_does_not_import_them() -> None:
    assert "states" not in am.__all__
    assert "import asyncmachine.states" not in inspect.getsource(sys.modules["asyncmachine"])
