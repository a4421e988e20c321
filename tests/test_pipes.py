"""Pipes: states of one machine follow those of another, in order, until either ends; and bad input is refused."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

import asyncmachine as am


def machines(*ids: str, states: am.SchemaLike | None = None) -> list[am.Machine]:
    """Give machines with the states Ready and Busy, and Event, which is multi."""
    return [am.Machine(states or {"Ready": {}, "Busy": {}, "Event": {"multi": True}}, id=id) for id in ids]


class Recorder(am.Tracer):
    """Writes down the mutations a machine gets."""

    def __init__(self) -> None:
        self.mutations: list[am.Mutation] = []

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        if not transition.is_auto:
            self.mutations.append(transition.mutation)

    @property
    def lines(self) -> list[str]:
        return [f"{mutation.type} {' '.join(mutation.called)}" for mutation in self.mutations]


def recorded(machine: am.Machine) -> Recorder:
    recorder = Recorder()
    machine.bind_tracer(recorder)
    return recorder


@pytest.fixture(autouse=True)
def _in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call drain the queue, however long that takes: a loaded computer may leave some of it to the task."""
    monkeypatch.setattr("asyncmachine.actor.BUDGET", math.inf)


# Activity, both ways.


def test_the_target_follows_the_activity_of_the_source() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target, "Busy")
    source.add1("Ready")
    assert target.active_states() == ("Busy",)
    source.remove1("Ready")
    assert target.active_states() == ()
    source.set("Ready")
    assert target.active_states() == ("Busy",)
    source.set("Event")
    assert target.active_states() == ()


def test_the_target_state_is_the_one_of_the_same_name_if_none_is_named() -> None:
    source, target = machines("source", "target")
    assert repr(am.pipe(source, "Ready", target)) == "<Pipe source -> target: Ready -> Ready>"
    source.add1("Ready")
    assert target.is1("Ready")


def test_other_states_pass_nothing_on() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target)
    seen = recorded(target)
    source.add(["Busy", "Event"])
    source.can_add1("Ready")
    assert seen.lines == []


@pytest.mark.parametrize("flat", [False, True])
def test_present_activity_is_passed_on_when_bound(flat: bool) -> None:  # noqa: FBT001
    source, target = machines("source", "target")
    source.add1("Ready")
    target.add(["Busy", "Event"])
    am.pipe_many(source, target, ["Ready", "Busy"], flat=flat)
    assert set(target.active_states()) == {"Ready", "Event"}


def test_binding_changes_nothing_where_both_agree() -> None:
    source, target = machines("source", "target")
    source.add1("Event")
    target.add1("Event")
    seen = recorded(target)
    am.pipe_many(source, target, ["Event", "Busy"])
    assert seen.lines == []


def test_args_are_passed_on_as_they_are() -> None:
    @dataclass
    class Job:
        name: str

    source, target = machines("source", "target")
    am.pipe(source, "Ready", target)
    seen = recorded(target)
    source.add1("Ready", Job("sweep"))
    source.remove1("Ready", {"why": "done"})
    assert seen.mutations[0].arg(Job).name == "sweep"
    assert seen.mutations[1].args == {"why": "done"}


def test_without_args_the_target_gets_none() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target)
    seen = recorded(target)
    source.add1("Ready")
    assert seen.mutations[0].args == {}


def test_the_mutation_of_the_target_comes_from_the_transition_of_the_source() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target)
    seen = recorded(target)
    source.add1("Busy")
    source.add1("Ready")
    assert seen.mutations[0].source == am.Source("source", "1.2", 1)


# Multi states, and flat pipes.


def test_each_activation_of_a_multi_state_is_passed_on() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Event", target)
    for number in range(3):
        source.add1("Event", {"number": number})
    assert (source.tick("Event"), target.tick("Event")) == (5, 5)
    source.remove1("Event")
    assert (source.tick("Event"), target.tick("Event")) == (6, 6)


def test_a_flat_pipe_passes_on_only_what_changes_activity() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Event", target, flat=True)
    seen = recorded(target)
    for _ in range(3):
        source.add1("Event")
    target.remove1("Event")
    source.add1("Event")
    target.remove1("Event")
    source.remove1("Event")
    assert seen.lines == ["add Event", "remove Event", "add Event", "remove Event"]


def test_a_flat_pipe_heeds_what_waits_in_the_target() -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target, flat=True)

    @target.on.state("Event")
    def flicker(e: am.Event) -> None:
        source.add1("Ready")
        source.remove1("Ready")  # now the target's Ready is inactive still, but will not be

    target.add1("Event")
    assert target.not1("Ready")


def test_a_flat_pipe_passes_on_what_a_running_transition_may_yet_undo() -> None:
    source, target = machines("source", "target")
    target.add1("Ready")
    am.pipe(source, "Ready", target, flat=True)

    @target.on.exit("Ready")
    def busy(e: am.Event) -> None:
        source.add1("Ready")  # Ready is active here, but about to leave

    target.add1("Ready")
    target.remove1("Ready")
    assert target.is1("Ready")


def test_two_machines_may_follow_each_other() -> None:
    one, two = machines("one", "two")
    am.pipe(one, "Ready", two)
    am.pipe(two, "Ready", one)
    for machine in (one, two, one):
        machine.toggle1("Ready")
        assert one.is1("Ready") == two.is1("Ready")
    assert str(one) == str(two) == "(Ready:3)"


def test_a_flat_pipe_ends_a_circle_of_multi_states() -> None:
    one, two, three = machines("one", "two", "three")
    am.pipe(one, "Event", two)
    am.pipe(two, "Event", three)
    am.pipe(three, "Event", one, flat=True)
    one.add1("Event")
    one.add1("Event")
    assert [machine.tick("Event") for machine in (one, two, three)] == [3, 3, 3]


def test_a_machine_may_be_piped_to_itself() -> None:
    (machine,) = machines("self")
    piped = am.pipe(machine, "Ready", machine, "Busy")
    machine.add1("Ready")
    assert str(machine) == "(Ready:1 Busy:1)"
    machine.remove1("Ready")
    assert str(machine) == "()"
    piped.close()
    assert machine.tracers == ()


# Several states.


def test_what_leaves_is_passed_on_before_what_enters_and_that_as_the_source_has_it() -> None:
    source = am.Machine({"Top": {"require": ["Base"]}, "Base": {}, "Off": {"remove": ["Top", "Base"]}})
    target = am.Machine({"Top": {"require": ["Base"]}, "Base": {}, "Off": {"remove": ["Top", "Base"]}})
    am.pipe_many(source, target, ["Off", "Top", "Base"])
    seen = recorded(target)
    source.set("Off")
    source.set(["Top", "Base"])
    source.set("Off")
    assert seen.lines == [
        "add Off",
        *("remove Off", "add Base", "add Top"),  # else Off would keep both out, and Top would lack Base
        *("remove Top", "remove Base", "add Off"),
    ]
    assert source.active_states() == target.active_states() == ("Off",)


def test_one_state_that_is_refused_does_not_hold_up_the_others() -> None:
    source, target = machines("source", "target")
    target.bind_handlers({"ReadyEnter": lambda e: False})
    am.pipe_many(source, target, ["Ready", "Busy"])
    source.add(["Ready", "Busy"])
    assert target.active_states() == ("Busy",)


def test_one_bare_name_is_no_list_of_letters() -> None:
    source, target = machines("source", "target")
    assert repr(am.pipe_many(source, target, "Ready")) == "<Pipe source -> target: Ready -> Ready>"


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "set", "toggle"]), st.sets(st.sampled_from("ABC")))))
def test_whatever_the_source_does_the_target_agrees(steps: list[tuple[str, set[str]]]) -> None:
    schema: am.SchemaLike = {
        "A": {"require": ["B"]},
        "B": {"multi": True, "remove": ["C"]},
        "C": {"add": ["D"], "remove": ["B"]},
        "D": {"auto": True},
    }
    states = {"A": "Z", "B": "Y", "C": "X", "D": "W"}
    source, target = am.Machine(schema), am.Machine({name: {"multi": name == "Y"} for name in states.values()})
    am.pipe_many(source, target, states)
    for type_, called in steps:
        getattr(source, type_)(sorted(called))
        assert set(target.active_states()) == {states[name] for name in source.active_states()}
    assert source.time(states) == target.time(states.values())


# Failures.


def test_a_state_that_is_rolled_back_is_seen_inactive() -> None:
    source, target = machines("source", "target")
    am.pipe_many(source, target, ["Ready", "Event"])

    @source.on.state("Ready", "Event")
    def fail(e: am.Event) -> None:
        if e.args.get("fail"):
            raise OSError("no")

    seen = recorded(target)
    source.add1("Ready", {"fail": True})
    assert seen.lines == []
    source.add1("Event")
    source.add1("Event", {"fail": True})
    assert seen.lines == ["add Event", "remove Event"]
    assert (source.tick("Event"), target.tick("Event")) == (4, 2)


def test_a_target_that_refuses_disturbs_nobody_and_may_come_later(caplog: pytest.LogCaptureFixture) -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Event", target)
    target.bind_handlers({"EventEnter": lambda e: bool(e.args)})
    assert source.add1("Event").executed
    assert target.not1("Event")
    source.add1("Event", {"may": "come"})
    assert target.is1("Event")
    assert caplog.messages == []


def test_an_error_of_the_target_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    source, target = machines("source", "target")
    am.pipe(source, "Ready", target)
    target.bind_handlers({"ReadyState": lambda e: 1 / 0, "ExceptionState": lambda e: None})
    assert source.add1("Ready").executed
    assert not source.is_err
    assert isinstance(target.err, ZeroDivisionError)
    assert caplog.messages == []


def test_an_error_the_target_would_raise_becomes_its_state_and_the_pipe_lives_on() -> None:
    source = am.Machine({"Ready": {}})
    target = am.Machine({"Ready": {}}, raise_errors=True)
    piped = am.pipe(source, "Ready", target)
    id = target.bind_handlers({"ReadyState": lambda e: 1 / 0})
    source.add1("Ready")
    assert isinstance(target.err, ZeroDivisionError)
    assert str(target) == "(Exception:1)"
    target.detach_handlers(id)
    source.set([])
    source.add1("Ready")
    assert target.is1("Ready")
    assert not piped.is_closed


def test_a_target_that_fails_at_its_own_error_too_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    source = am.Machine({"Ready": {}})
    target = am.Machine({"Ready": {}, "Sorry": {}}, id="target", raise_errors=True)
    piped = am.pipe(source, "Ready", target)
    fails: dict[str, Any] = {"ReadyState": lambda e: 1 / 0, "SorryState": lambda e: [].pop()}
    target.bind_handlers({**fails, "ExceptionState": lambda e: e.machine.add1("Sorry") and None})
    source.add1("Ready")
    (record,) = caplog.records
    assert record.getMessage() == "the error of a piped mutation could not be handled"
    assert record.name == "asyncmachine.target"
    assert record.exc_info is not None
    assert record.exc_info[0] is IndexError
    assert not piped.is_closed


# Errors.


def test_errors_are_passed_on_with_the_error_and_stay() -> None:
    source, target = am.Machine({}, id="source"), am.Machine({"ErrSource": {"require": ["Exception"]}})
    caught: list[am.ExceptionArgs] = []
    for machine in (source, target):
        machine.bind_handlers({"ExceptionState": lambda e: caught.append(e.arg(am.ExceptionArgs))})
    am.pipe_err(source, target, "ErrSource")
    seen = recorded(target)
    error = OSError("disk full")
    source.add_err(error, {"disk": "sda"})
    assert target.active_states() == ("Exception", "ErrSource")
    assert [args.err for args in caught] == [error, error]
    assert seen.mutations[0].args["disk"] == "sda"
    assert seen.mutations[0].source == am.Source("source", "1.1", 0)
    source.remove1("Exception")
    assert target.is1("ErrSource")


def test_every_error_is_passed_on_also_one_of_a_handler_and_a_second_one() -> None:
    source, target = machines("source", "target")
    quiet: dict[str, Any] = {"ExceptionState": lambda e: None}
    source.bind_handlers({**quiet, "ReadyState": lambda e: 1 / 0})
    target.bind_handlers(quiet)
    am.pipe_err(source, target)
    source.add_err(OSError("first"))
    assert repr(target.err) == "OSError('first')"
    source.add1("Ready")
    assert isinstance(target.err, ZeroDivisionError)
    assert target.tick("Exception") == 3


def test_a_present_error_is_passed_on_when_bound(caplog: pytest.LogCaptureFixture) -> None:
    source, target, other = machines("source", "target", "other")
    caplog.set_level(logging.CRITICAL)
    error = OSError("disk full")
    source.add_err(error)
    am.pipe_err(source, target)
    assert target.err is error
    source.remove1("Exception")
    am.pipe_err(source, other)
    assert other.err is None


def test_a_bare_exception_is_passed_on_bare() -> None:
    source, target = machines("source", "target")
    am.pipe_err(source, target)
    seen = recorded(target)
    source.add1("Exception", {"code": 7})
    source.add1("Exception")
    assert target.tick("Exception") == 3
    assert target.err is None
    assert [dict(mutation.args) for mutation in seen.mutations] == [{"code": 7}, {}]


def test_a_bare_error_state_brings_exception_along() -> None:
    source, target = am.Machine({}), am.Machine({"ErrSource": {"require": ["Exception"]}})
    am.pipe_err(source, target, "ErrSource")
    source.add1("Exception")
    assert target.active_states() == ("Exception", "ErrSource")


def test_an_error_goes_round_a_circle_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    one, two, three = machines("one", "two", "three")
    for source, target in ((one, two), (two, three), (three, one)):
        am.pipe_err(source, target)
    two.add_err(OSError("disk full"))
    assert [machine.tick("Exception") for machine in (one, two, three)] == [1, 1, 1]
    assert one.err is two.err is three.err


# The end.


@pytest.mark.parametrize("bind", [am.pipe, lambda *args: am.pipe_many(args[0], args[2], [args[1]])])
def test_a_closed_pipe_passes_nothing_on(bind: Any) -> None:
    source, target = machines("source", "target")
    piped: am.Pipe = bind(source, "Ready", target)
    source.add1("Ready")
    piped.close()
    piped.close()
    source.remove1("Ready")
    assert target.is1("Ready")
    assert piped.is_closed
    assert repr(piped) == "<Pipe source -> target: Ready -> Ready closed>"


def test_closing_one_pipe_leaves_the_others_of_the_same_state() -> None:
    source, one, two = machines("source", "one", "two")
    with am.pipe(source, "Ready", one) as first:
        am.pipe(source, "Ready", two)
        source.add1("Ready")
    assert first.is_closed
    source.remove1("Ready")
    assert (one.is1("Ready"), two.is1("Ready")) == (True, False)


def test_the_tracers_of_the_source_stay() -> None:
    source, target = machines("source", "target")
    seen = recorded(source)
    with am.pipe(source, "Ready", target):
        source.add1("Ready")
    assert source.tracers == (seen,)
    assert seen.lines == ["add Ready"]


def test_a_pipe_may_be_closed_while_it_passes_something_on() -> None:
    source, target = machines("source", "target")
    piped = am.pipe_many(source, target, ["Ready", "Busy"])
    target.bind_handlers({"ReadyState": lambda e: piped.close()})
    source.add(["Ready", "Busy"])
    assert target.active_states() == ("Ready",)
    assert source.tracers == ()


def test_a_pipe_bound_in_a_handler_follows_what_becomes_of_the_transition() -> None:
    source, target = machines("source", "target")
    source.bind_handlers({"ExceptionState": lambda e: None})

    @source.on.state("Ready")
    def bind_and_fail(e: am.Event) -> None:
        am.pipe(e.machine, "Ready", target)
        raise OSError("no")

    source.add1("Ready")
    assert target.tick("Ready") == 2
    source.bind_handlers({"BusyState": lambda e: am.pipe(e.machine, "Busy", target) and None})
    source.add1("Busy")
    assert target.tick("Busy") == 1


async def test_the_disposal_of_the_middle_one_of_three_closes_both_pipes() -> None:
    first, middle, last = machines("first", "middle", "last")
    pipes = [am.pipe(first, "Ready", middle), am.pipe(middle, "Ready", last)]
    first.add1("Ready")
    assert last.is1("Ready")
    await middle.dispose()
    assert [piped.is_closed for piped in pipes] == [True, True]
    assert first.tracers == ()
    assert last.not1("Ready")  # what is disposed is not ready any more
    assert first.remove1("Ready").executed
    assert first.add1("Ready").executed
    await first.dispose()
    await last.dispose()


async def test_the_disposal_of_a_source_leaves_errors_and_what_was_inactive() -> None:
    source, target = machines("source", "target")
    target.bind_handlers({"ExceptionState": lambda e: None})
    source.bind_handlers({"ExceptionState": lambda e: None})
    am.pipe_err(source, target)
    am.pipe_many(source, target, ["Ready", "Busy"])
    target.add1("Busy")
    source.add_err(OSError("disk full"))
    seen = recorded(target)
    await source.dispose()
    assert seen.lines == []
    assert set(target.active_states()) == {"Busy", "Exception"}


async def test_what_a_source_does_while_it_is_disposed_is_passed_on() -> None:
    source, target = am.Machine({"Start": {}, "Ready": {"require": ["Start"]}}), am.Machine({"Ready": {}})
    seen = recorded(target)
    async with source:
        am.pipe(source, "Ready", target)
        source.add(["Start", "Ready"])
    assert seen.lines == ["add Ready", "remove Ready"]


# Bad input.


@pytest.mark.parametrize("disposed", ["source", "target"])
def test_a_disposed_machine_cannot_be_piped(disposed: str) -> None:
    source, target = machines("source", "target")
    {"source": source, "target": target}[disposed].dispose()
    text = f"^the {disposed} of the pipe, the machine '{disposed}', is disposed already$"
    for bind in (am.pipe_err, lambda s, t: am.pipe(s, "Ready", t)):
        with pytest.raises(am.MachineDisposedError, match=text):
            bind(source, target)
    assert source.tracers == ()


@pytest.mark.parametrize(("states", "role", "hint"), [
    (("Redy", "Ready"), "source", "; did you mean 'Ready'"),
    (("Ready", "Bussy"), "target", "; did you mean 'Busy'"),
    ((7, "Busy"), "source", ""),
])  # fmt: skip
def test_an_unknown_state_is_refused_and_the_error_says_of_which_machine(states: Any, role: str, hint: str) -> None:
    source, target = machines("source", "target")
    with pytest.raises(am.UnknownStateError, match=f"is no state of the pipe's {role}, the machine '{role}'{hint}"):
        am.pipe(source, states[0], target, states[1])
    assert source.tracers == target.tracers == ()


def test_the_error_state_of_pipe_err_is_one_of_the_target() -> None:
    source, target = machines("source", "target")
    with pytest.raises(am.UnknownStateError, match="'ErrSource' is no state of the pipe's target"):
        am.pipe_err(source, target, "ErrSource")


def test_a_state_cannot_follow_itself() -> None:
    (machine,) = machines("self")
    with pytest.raises(ValueError, match=r"^Ready of the machine 'self' would follow itself; pipe another state$"):
        am.pipe(machine, "Ready", machine)
    with pytest.raises(ValueError, match=r"^Exception of the machine 'self' would follow itself"):
        am.pipe_err(machine, machine)


def test_no_states_at_all_are_refused() -> None:
    source, target = machines("source", "target")
    with pytest.raises(ValueError, match=r"^there is nothing to pipe; name states"):
        am.pipe_many(source, target, {})


@pytest.mark.parametrize("role", ["source", "target"])
def test_what_is_no_machine_is_refused(role: str) -> None:
    both: dict[str, Any] = {"source": am.Machine({"Ready": {}}), "target": am.Machine({"Ready": {}})}
    both[role] = am.States
    with pytest.raises(TypeError, match=f"^the {role} of a pipe is a machine, not <class"):
        am.pipe(both["source"], "Ready", both["target"])


def test_a_target_that_lives_nowhere_yet_is_refused() -> None:
    made: Future[am.Machine] = Future()
    thread = threading.Thread(target=lambda: made.set_result(am.Machine({"Ready": {}}, id="target")))
    thread.start()
    thread.join()
    source = am.Machine({"Ready": {}})
    with pytest.raises(am.MachineLoopError, match="the machine target has no event loop yet"):
        am.pipe(source, "Ready", made.result())
    assert source.tracers == ()
