"""Helpers for tests of machines: settle, record, and assertions whose errors can be read.

Nothing here needs pytest; `asyncmachine.pytest_plugin` does, and adds a fixture and reports. Import this module by its
name, the package itself does not.

>>> from asyncmachine.testing import assert_states, record
>>> rec = record(mach)
>>> mach.add1("Foo")
Result.EXECUTED
>>> assert_states(mach, "Foo")
>>> rec.assert_equal(["add Foo: +Foo"])
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.machine import Machine
from asyncmachine.reading import flatten
from asyncmachine.recording import Recording, describe, line_of, record
from asyncmachine.schema import EXCEPTION, SchemaLike
from asyncmachine.settling import settle
from asyncmachine.testbench import Bench
from asyncmachine.transition import Transition

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

__all__ = ["Bench", "Recording", "assert_never", "assert_states", "assert_ticks", "machine_rules", "record", "settle"]


def assert_states(mach: MachineApi, *states: str | Iterable[str], exact: bool = True) -> None:
    """Fail unless these states are active, in any order, and no others; no states at all: none is active.

    Naming `Exception` means that its error has been looked at, for the `machine` fixture.

    Args:
        mach: any machine.
        states: names of states.
        exact: False lets other states be active, too.

    Raises:
        AssertionError: others are active; the text says what differs, and what led there, if it was recorded.
        UnknownStateError: a state is none of the machine's.

    >>> from asyncmachine.testing import assert_states
    >>> mach.add("Foo", "Bar")
    Result.EXECUTED
    >>> assert_states(mach, "Bar", "Foo")
    >>> assert_states(mach, "Foo", exact=False)
    """
    __tracebackhide__ = True
    expected = sorted(set(flatten(states)), key=mach.index1)
    active = sorted(mach.active_states(), key=mach.index1)
    missing = [state for state in expected if state not in active]
    others = [state for state in active if state not in expected] if exact else []
    if EXCEPTION in expected and EXCEPTION in active:
        _ = mach.err
    if missing or others:
        told = [f"{mach.id} is not in the states expected", f"  expected: {_words(expected)}"]
        told.append(f"  got:      {_words(active)}{', for it is disposed' if mach.is_disposed else ''}")
        told += [f"  missing:  {_words(missing)}"] if missing else []
        told += [f"  too many: {_words(others)}"] if others else []
        raise AssertionError("\n".join([*told, *describe(mach)]))


def assert_ticks(mach: MachineApi, ticks: Mapping[str, int]) -> None:
    """Fail unless the clocks of these states stand where they should; other states do not count.

    Raises:
        AssertionError: some stand elsewhere; the text says which, and what led there, if it was recorded.
        UnknownStateError: a state is none of the machine's.

    >>> from asyncmachine.testing import assert_ticks
    >>> mach.add1("Foo"), mach.remove1("Foo"), mach.add1("Bar")
    (Result.EXECUTED, Result.EXECUTED, Result.EXECUTED)
    >>> assert_ticks(mach, {"Foo": 2, "Bar": 1})
    """
    __tracebackhide__ = True
    different = [(state, tick, mach.tick(state)) for state, tick in ticks.items() if mach.tick(state) != tick]
    if different:
        told = [f"the clocks of {mach.id} do not stand where they should"]
        told += [f"  {state}: expected {_told(tick)}, got {_told(now)}" for state, tick, now in different]
        raise AssertionError("\n".join([*told, *describe(mach)]))


def _told(tick: int) -> str:
    return f"{tick} ({'active' if tick % 2 else 'inactive'})"


def _words(states: Iterable[str]) -> str:
    return " ".join(states) or "none"


class Never(Tracer):
    """Notes the first transition that activates one of some states."""

    def __init__(self, states: Iterable[str]) -> None:
        self.states: frozenset[str] = frozenset(states)
        self.seen: tuple[str, Transition[Any]] | None = None

    @override
    def transition_finals(self, transition: Transition[Any]) -> None:
        # Told between the commit and the final handlers, so that one which is rolled back counts, too: it was active.
        for state in transition.enters:
            if state in self.states and self.seen is None:
                self.seen = state, transition


@contextmanager
def assert_never(mach: MachineApi, *states: str | Iterable[str]) -> Generator[None]:
    """Fail if one of the states becomes active within the block, for however short a time, or is when it begins.

    An error the block itself raises goes on, with what was seen as a note.

    Raises:
        AssertionError: it was active. The text names the mutation and where it came from; the error of `Exception` is
            its cause.
        UnknownStateError: a state is none of the machine's.

    >>> from asyncmachine.testing import assert_never
    >>> with assert_never(mach, "Exception", "Baz"):
    ...     mach.add1("Foo")
    Result.EXECUTED
    """
    __tracebackhide__ = True
    names = tuple(flatten(states))
    if not names:
        raise ValueError("assert_never needs at least one state: assert_never(mach, 'Exception')")
    mach.index(names)
    now = [state for state in names if mach.is1(state)]
    if now:
        raise AssertionError("\n".join([f"{mach.id} is in {_words(now)} from the start", *describe(mach)]))
    tracer = Never(names)
    mach.bind_tracer(tracer)
    try:
        yield
    except BaseException as err:
        if tracer.seen is not None:
            err.add_note("\n".join(_activated(mach, *tracer.seen)))
        raise
    finally:
        mach.detach_tracer(tracer)
    if tracer.seen is not None:
        state, transition = tracer.seen
        cause = transition.mutation.error.err if transition.mutation.error is not None else None
        raise AssertionError("\n".join([*_activated(mach, state, transition), *describe(mach)])) from cause
    restored = [state for state in names if mach.is1(state)]
    if restored:
        raise AssertionError("\n".join([f"{mach.id} was restored to {_words(restored)}", *describe(mach)]))


def _activated(mach: MachineApi, state: str, transition: Transition[Any]) -> list[str]:
    """Say how a state came to be active."""
    told = [f"{mach.id} was to stay out of {state}, but it was activated", f"  by:   {line_of(transition)}"]
    source = transition.mutation.source
    if source is not None:
        told.append(f"  from: transition {source.transition_id} of {source.machine_id}")
    return told


def machine_rules(
    schema: SchemaLike,
    *,
    handlers: Callable[[], object] | None = None,
    invariants: Iterable[Callable[[Machine], object]] = (),
    states: Iterable[str] | None = None,
    errors: bool = False,
    pauses: Iterable[float] = (),
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    **options: Any,
) -> type[RuleBasedStateMachine]:
    """Give a hypothesis state machine that explores a machine: its `TestCase` is what pytest or unittest runs.

    Each example builds a machine and adds, removes, sets, toggles and checks random states, one to three at a time,
    with `settle` after each. After each step it is checked that no active state lacks a Require or is removed by
    another, that clocks go on and tell what is active, that no error came up, and what you give as invariants.
    Needs hypothesis.

    Args:
        schema: the states.
        handlers: makes the handlers of each example: their class, or any function.
        invariants: functions of the machine; one that returns False, or raises, fails.
        states: those to ask for; all but `Exception` if None.
        errors: True lets handlers and work raise: the machine is explored in its error state, too.
        pauses: seconds, some of which are let pass now and then; for loops with a clock that jumps.
        loop_factory: makes the loop of each example, such as `looptime.new_event_loop`; asyncio's own if None.
        options: more arguments of `Machine`.

    Raises:
        SchemaError: the schema cannot work.
        UnknownStateError: there is no such state.

    >>> from asyncmachine.testing import machine_rules
    >>> door = {"Open": {"remove": ["Closed"]}, "Closed": {"remove": ["Open"]}}
    >>> TestDoor = machine_rules(door, invariants=[lambda mach: not mach.is_("Open", "Closed")]).TestCase
    """
    from asyncmachine.rules import rules_of  # noqa: PLC0415 - hypothesis is needed here alone

    laws = tuple(invariants)
    how: dict[str, Any] = {"errors": errors, "pauses": pauses, "loop_factory": loop_factory, "options": options}
    return rules_of(schema, handlers, laws, states, **how)
