from __future__ import annotations

import copy
import pickle
import re

import pytest

import asyncmachine as am

ERRORS = [value for name, value in vars(am).items() if name.endswith("Error") and isinstance(value, type)]


def made(kind: type[am.AsyncMachineError]) -> am.AsyncMachineError:
    """Make an error of a class, whatever it is called with."""
    if issubclass(kind, am.SchemaError):
        return kind(["Foo is wrong", "Bar is wrong"])
    if issubclass(kind, am.UnknownStateError):
        return kind("Fooo", ["Foo"])
    if issubclass(kind, am.StateTimeoutError):
        return kind("Foo", 2.5)
    return kind("it went wrong")


def test_the_tree_has_every_public_error() -> None:
    assert {kind.__name__ for kind in ERRORS} == {
        "ArgsError",
        "AsyncMachineError",
        "HandlerError",
        "MachineBusyError",
        "MachineDisposedError",
        "MachineLoopError",
        "MachineThreadError",
        "SchemaError",
        "SnapshotError",
        "StateTimeoutError",
        "StreamBusyError",
        "StreamOverflowError",
        "UnknownStateError",
    }


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_can_be_caught_as_the_base(kind: type[am.AsyncMachineError]) -> None:
    with pytest.raises(am.AsyncMachineError):
        raise made(kind)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (am.ArgsError, TypeError),
        (am.HandlerError, TypeError),
        (am.MachineBusyError, RuntimeError),
        (am.MachineDisposedError, RuntimeError),
        (am.MachineLoopError, RuntimeError),
        (am.MachineThreadError, RuntimeError),
        (am.SchemaError, ValueError),
        (am.SnapshotError, ValueError),
        (am.StateTimeoutError, TimeoutError),
        (am.StreamBusyError, RuntimeError),
        (am.StreamOverflowError, RuntimeError),
        (am.UnknownStateError, LookupError),
    ],
)
def test_errors_are_what_python_calls_such_an_error(kind: type[am.AsyncMachineError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("again", [copy.copy, lambda err: pickle.loads(pickle.dumps(err))])  # noqa: S301 - our own
def test_errors_survive_copies_and_processes(kind: type[am.AsyncMachineError], again: object) -> None:
    err = made(kind)
    err.add_note("while it was tried")
    assert callable(again)
    other = again(err)
    assert type(other) is kind
    assert str(other) == str(err)
    assert vars(other) == vars(err)


def test_a_schema_error_has_its_problems_as_data_and_as_text() -> None:
    err = am.SchemaError(f"{name} is wrong" for name in ("Foo", "Bar"))
    assert err.problems == ("Foo is wrong", "Bar is wrong")
    assert str(err) == "Foo is wrong; Bar is wrong"


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("Fooo", "; did you mean 'Foo'?"),
        ("Bat", "; did you mean 'Baz' or 'Bar'?"),
        ("Nothing", ""),
        (5, ""),
    ],
)
def test_an_unknown_state_is_named_with_the_closest_ones(state: str, hint: str) -> None:
    mach = am.Machine({"Foo": {}, "Bag": {}, "Bar": {}, "Baz": {}})
    text = f"{state!r} is no state of this machine{hint}"
    with pytest.raises(am.UnknownStateError, match=f"^{re.escape(text)}$") as caught:
        mach.add([state])
    assert caught.value.state == state


def test_an_unknown_state_may_be_said_to_be_missing_elsewhere() -> None:
    err = am.UnknownStateError("Baz", ["Bar"], "the other machine")
    assert str(err) == "'Baz' is no state of the other machine; did you mean 'Bar'?"


def test_an_unknown_state_leaves_the_machine_as_it_was() -> None:
    mach = am.Machine({"Foo": {}})
    with pytest.raises(am.UnknownStateError):
        mach.add(["Foo", "Bar"])
    assert str(mach) == "()"
    assert mach.queue_tick == 1
