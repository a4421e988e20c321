"""Exploring machines with hypothesis: what holds passes, what does not is found and told."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import looptime
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import asyncmachine as am
from asyncmachine.rules import MUTATIONS, Explorer
from asyncmachine.testing import machine_rules

DOOR = {"Open": {"remove": ["Closed"]}, "Closed": {"remove": ["Open"]}, "Locked": {"require": ["Closed"]}}
QUICK = settings(max_examples=30, stateful_step_count=12, deadline=None, database=None, derandomize=True)
QUICK = settings(QUICK, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


def explore(rules: type[Any]) -> None:
    run_state_machine_as_test(rules, settings=QUICK)


def failure(rules: type[Any]) -> str:
    with pytest.raises(AssertionError) as caught:
        explore(rules)
    return str(caught.value)


class Handlers:
    def __init__(self) -> None:
        self.opened = 0

    def OpenState(self, e: am.Event) -> None:
        self.opened += 1

    async def ClosedState(self, e: am.Event) -> None:
        await asyncio.sleep(0)
        e.machine.add1("Locked")


TestDoor = machine_rules(
    DOOR, handlers=Handlers, invariants=[lambda mach: not mach.is_("Open", "Locked"), lambda mach: None]
).TestCase
TestDoor.settings = QUICK


def test_it_is_a_test_case_that_says_what_it_explores() -> None:
    rules = machine_rules(DOOR)
    assert issubclass(rules, Explorer)
    assert rules.TestCase.__name__.startswith("MachineRules")
    assert all(callable(getattr(rules, method)) for method in MUTATIONS)


def test_all_kinds_of_mutations_are_tried_on_all_states_but_exception() -> None:
    asked: set[str] = set()

    class Recorder(am.Tracer):
        def transition_init(self, transition: am.Transition[am.Machine]) -> None:
            check = "can_" if transition.mutation.is_check else ""
            asked.update(f"{check}{transition.type} {name}" for name in transition.called_states)

    explore(machine_rules(DOOR, tracers=[Recorder()]))
    assert asked == {f"{kind} {name}" for kind in ("add", "remove", "set", "can_add", "can_remove") for name in DOOR}


def test_only_the_states_that_are_given_are_asked_for() -> None:
    rules = machine_rules(DOOR, states=["Closed"], invariants=[lambda mach: mach.not_("Open", "Locked")])
    explore(rules)


def test_an_invariant_that_does_not_hold_is_found_and_told_with_what_led_there() -> None:
    def never_locked(mach: am.Machine) -> bool:
        return mach.not1("Locked")

    told = failure(machine_rules(DOOR, invariants=[never_locked]))
    assert re.match(r"the invariant \S*never_locked does not hold\n  the machine: \(Closed:1 Locked:1\) ", told)
    assert told.endswith("Locked: +Locked") or "+Closed +Locked" in told


def test_an_invariant_may_raise() -> None:
    def law(mach: am.Machine) -> None:
        assert mach.tick("Open") < 2, "opened twice"

    assert failure(machine_rules(DOOR, invariants=[law])).startswith("opened twice")


def test_the_machine_has_settled_before_anything_is_checked() -> None:
    class Slow:
        started = finished = 0

        async def ClosedState(self, e: am.Event) -> None:
            Slow.started += 1
            for _ in range(3):
                await asyncio.sleep(0)
            Slow.finished += 1

    explore(machine_rules(DOOR, handlers=Slow, invariants=[lambda mach: Slow.started == Slow.finished]))
    assert Slow.started


class Failing:
    async def OpenState(self, e: am.Event) -> None:
        await asyncio.sleep(0)
        raise OSError("stuck")


def test_an_error_is_a_failure() -> None:
    told = failure(machine_rules(DOOR, handlers=Failing))
    assert told.startswith("an error came up\n")
    assert "its error: OSError('stuck')" in told


def test_errors_may_be_part_of_what_is_explored() -> None:
    seen: list[bool] = []
    explore(machine_rules(DOOR, handlers=Failing, errors=True, invariants=[lambda mach: seen.append(mach.is_err)]))
    assert True in seen


def test_handlers_are_made_anew_for_each_example() -> None:
    made: list[Handlers] = []

    def make() -> Handlers:
        made.append(Handlers())
        return made[-1]

    explore(machine_rules(DOOR, handlers=make))
    assert len(made) > 5
    assert len({id(handlers) for handlers in made}) == len(made)


def test_loops_are_made_as_asked_and_closed() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.new_event_loop())
        return loops[-1]

    explore(machine_rules(DOOR, loop_factory=make))
    assert loops
    assert all(loop.is_closed() for loop in loops)


def test_hours_may_pass_on_the_way() -> None:
    came: list[int] = []

    class Later:
        async def ClosedState(self, e: am.Event) -> None:
            await asyncio.sleep(3600)
            came.append(e.machine.tick("Closed"))

    explore(machine_rules(DOOR, handlers=Later, loop_factory=looptime.new_event_loop, pauses=[1, 3600]))
    assert came
    came.clear()
    explore(machine_rules(DOOR, handlers=Later, loop_factory=looptime.new_event_loop))
    assert not came


# What a machine never does is done to it here.


class Odd(am.RelationsResolver):
    """Forgets all relations."""

    def resolve(self, type_: Any, called: Any, active: Any, *, steps: Any = None) -> tuple[int, ...]:
        left = [i for i in active if i not in called]
        return tuple(left if type_ == "remove" else [*called, *left])


def test_broken_relations_are_found() -> None:
    told = failure(machine_rules(DOOR, resolver=Odd))
    assert told.startswith("relations are broken: ")


def test_a_clock_that_goes_back_is_found() -> None:
    class Back(am.Tracer):
        def transition_end(self, transition: am.Transition[am.Machine]) -> None:
            if transition.machine.tick("Open") == 2:
                transition.machine._live.ticks[0] = 0

    assert failure(machine_rules(DOOR, tracers=[Back()])).startswith("clocks went back: Open")


def test_a_tick_that_tells_another_thing_than_the_active_states_is_found() -> None:
    class Astray(am.Tracer):
        def transition_end(self, transition: am.Transition[am.Machine]) -> None:
            transition.machine._live.ticks[-1] = 1

    assert failure(machine_rules(DOOR, tracers=[Astray()])).startswith("ticks say that Exception")


def test_a_check_that_changes_something_is_found() -> None:
    class Hasty(am.Tracer):
        def transition_end(self, transition: am.Transition[am.Machine]) -> None:
            if transition.mutation.is_check:
                transition.machine._live.ticks[0] += 2

    assert failure(machine_rules(DOOR, tracers=[Hasty()])).startswith("can_")


# Bad input.


def test_a_state_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(am.UnknownStateError, match="did you mean 'Open'"):
        machine_rules(DOOR, states=["Opne"])
    with pytest.raises(am.SchemaError):
        machine_rules({"Open": {"require": ["Closed"]}})


def test_handlers_that_cannot_be_made_anew_are_refused() -> None:
    with pytest.raises(am.HandlerError, match="give what makes them, such as their class"):
        machine_rules(DOOR, handlers=Handlers())
