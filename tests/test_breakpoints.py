from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import asyncmachine as am


def machine(id: str = "door") -> am.Machine:
    return am.Machine({"A": {}, "B": {}, "Go": {}, "Auto": {"auto": True, "require": ["Go"]}}, id=id)


@pytest.mark.parametrize(
    ("added", "removed", "mutate", "hits"),
    [
        (["A"], (), lambda m: m.add1("A"), 1),
        (["A"], (), lambda m: m.add(["B", "A"]), 1),
        (["A"], (), lambda m: m.set(["A"]), 1),
        (["A"], (), lambda m: m.toggle1("A"), 1),
        (["A"], (), lambda m: m.can_add1("A"), 1),
        (["A"], (), lambda m: m.add1("B"), 0),
        (["A"], (), lambda m: m.remove1("A"), 0),
        (["A", "B"], (), lambda m: m.add(["B", "Go", "A"]), 1),
        (["A", "B"], (), lambda m: m.add1("A"), 0),
        ("A", (), lambda m: m.add1("A"), 1),
        ((), ["A"], lambda m: m.remove1("A"), 1),
        ((), ["A"], lambda m: m.remove(["A", "B"]), 1),
        ((), ["A", "B"], lambda m: m.remove1("A"), 0),
        ((), ["A"], lambda m: m.add1("A"), 0),
        ((), ["A"], lambda m: m.set(["B"]), 0),
        (["A"], ["B"], lambda m: m.add1("A"), 1),
        (["A"], ["B"], lambda m: m.remove1("B"), 1),
        (["A"], ["B"], lambda m: m.add1("B"), 0),
        (["A"], ["B"], lambda m: m.remove1("A"), 0),
        (["Exception"], (), lambda m: m.add_err(ValueError("no fuel")), 1),
        (["Auto"], (), lambda m: m.add1("Go"), 0),
    ],
)
def test_a_mutation_that_asks_for_all_of_the_states_is_reported(
    added: Any, removed: Any, mutate: Callable[[am.Machine], object], hits: int
) -> None:
    mach, calls = machine(), []
    mach.add_breakpoint(added, removed, action=lambda: calls.append(str(mach)))
    mutate(mach)
    # As it is asked for: nothing has happened yet.
    assert calls == ["()"] * hits


@pytest.mark.parametrize("strict", [False, True])
def test_a_strict_breakpoint_passes_over_what_is_so_already(strict: object) -> None:
    mach, calls = machine(), []
    mach.add_breakpoint(["A"], ["B"], strict=bool(strict), action=lambda: calls.append(mach.active_states()))
    mach.add1("A")
    mach.add1("A")
    mach.remove1("B")
    mach.add(["A", "B"])
    mach.remove1("B")
    idle = [] if strict else [("A",)]
    assert calls == [(), *idle, *idle, *idle, ("A", "B")]


def test_a_strict_breakpoint_of_several_states_is_hit_while_one_of_them_is_otherwise() -> None:
    mach, calls = machine(), []
    mach.add_breakpoint(["A", "B"], ["A", "B"], strict=True, action=lambda: calls.append(mach.active_states()))
    mach.add1("A")
    mach.add(["A", "B"])
    mach.add(["A", "B"])
    mach.remove1("B")
    mach.remove(["A", "B"])
    mach.remove(["A", "B"])
    assert calls == [("A",), ("A",)]


def test_a_breakpoint_logs_the_stack_of_whoever_asks(caplog: pytest.LogCaptureFixture) -> None:
    def who_asks(mach: am.Machine) -> None:
        mach.add(["A", "B"])

    mach = machine()
    mach.add_breakpoint(["A"])
    who_asks(mach)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asyncmachine.door", logging.WARNING)
    first, *stack = record.getMessage().splitlines()
    assert first == "[breakpoint] [add] A B"
    assert any("in who_asks" in line for line in stack)
    assert any('mach.add(["A", "B"])' in line for line in stack)
    # It ends with the call that was made, not with how the machine came to log it.
    assert [line for line in stack if line.startswith("  File ")][-1].endswith("in add")


def test_a_breakpoint_finds_the_handler_that_asks(caplog: pytest.LogCaptureFixture) -> None:
    def GoState(e: am.Event) -> None:
        e.machine.remove1("Go")

    mach = machine()
    mach.bind_handlers({"GoState": GoState})
    mach.add_breakpoint1(removed="Go")
    mach.add1("Go")
    (record,) = caplog.records
    assert record.getMessage().startswith("[breakpoint] [remove] Go\n")
    assert "in GoState" in record.getMessage()


def test_a_breakpoint_of_one_state() -> None:
    mach, calls = machine(), []
    mach.add_breakpoint1("A", action=lambda: calls.append("added"))
    mach.add_breakpoint1(removed="A", action=lambda: calls.append("removed"))
    mach.add_breakpoint1("A", "A", strict=True, action=lambda: calls.append("either"))
    mach.add1("A")
    mach.add1("A")
    mach.remove1("A")
    assert calls == ["added", "either", "added", "removed", "either"]


def test_a_breakpoint_of_nothing_is_never_hit(caplog: pytest.LogCaptureFixture) -> None:
    mach = machine()
    mach.add_breakpoint()
    mach.add1("A")
    mach.remove1("A")
    assert caplog.records == []


def test_a_breakpoint_of_an_unknown_state_is_refused() -> None:
    with pytest.raises(am.UnknownStateError, match=r"^'Aa' is no state of this machine"):
        machine().add_breakpoint(["Aa"])


def test_a_breakpoint_changes_nothing_for_the_mutation(caplog: pytest.LogCaptureFixture) -> None:
    mach = machine()
    mach.add_breakpoint(["A"])
    assert mach.add1("A") == am.Result.EXECUTED
    assert mach.is1("A")
    assert len(caplog.records) == 1


def test_what_a_breakpoint_raises_goes_to_whoever_asks() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    mach = machine()
    mach.add_breakpoint(["A"], action=stop)
    with pytest.raises(KeyboardInterrupt):
        mach.add1("A")
    assert mach.not1("A")
    assert mach.add1("B") == am.Result.EXECUTED
