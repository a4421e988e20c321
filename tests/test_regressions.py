"""What random cases once found to be wrong, as plain cases."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

import asyncmachine as am


class Stuck(BaseException):
    """Ends what would not end by itself; it is no error of a handler, so it goes on to the caller."""


class Failing:
    """A handler that always fails, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, e: am.Event) -> None:
        self.calls += 1
        if self.calls > 500:
            raise Stuck
        raise ValueError("no fuel")


@pytest.mark.parametrize("handler", ["AutoEnter", "AutoState", "FooAuto", "AnyEnter", "AnyState"])
def test_an_auto_state_whose_handler_always_fails_does_not_go_on_for_ever(handler: str) -> None:
    """Each error changes the clock of `Exception`, which is why auto states are tried again."""
    failing = Failing()
    mach = am.Machine(
        {"Auto": {"auto": True}, "Foo": {}}, handlers={handler: failing, "ExceptionState": lambda e: None}
    )
    mach.add1("Foo")
    assert mach.is_err
    assert mach.is_idle
    assert failing.calls < 50


@pytest.mark.parametrize("tracers", [[], [am.Tracer()]])
def test_how_often_failing_auto_states_are_tried_again_does_not_depend_on_who_watches(
    tracers: Sequence[am.Tracer], caplog: pytest.LogCaptureFixture
) -> None:
    """An auto mutation that succeeds, seen by no handler, ends a row of failures as any other does."""
    caplog.set_level(logging.CRITICAL + 1)
    mach = am.Machine({"Auto": {"auto": True}, "Block": {"remove": ["Auto"]}}, tracers=tracers)

    def fail_until_it_rests() -> int:
        failing = Failing()
        mach.add1("Block")
        id = mach.bind_handlers({"AutoEnter": failing})
        mach.remove1("Block")
        mach.detach_handlers(id)
        return failing.calls

    tried = fail_until_it_rests()
    assert tried > 1
    mach.toggle1("Block")
    mach.toggle1("Block")
    assert mach.is1("Auto")
    assert fail_until_it_rests() == tried
