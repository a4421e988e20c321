"""Timeouts of states: what follows when a state stays active for too long, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvloop
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st
from strategies import NAMES, behaving, behaviours, operations, schemas
from virtual import VirtualLoop, in_virtual_time

import asyncmachine as am
from asyncmachine import actor

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


class Net(am.States):
    """A connection that may take 2.5 s to come about, and fails after that."""

    Connecting: str = am.state(timeout=2.5, on_timeout="Slow", remove=["Connected"])
    Connected: str = am.state(remove=[Connecting])
    Slow: str = am.state()


def seen(mach: am.Machine, *states: str) -> list[tuple[float, str]]:
    """Note when states become active, in seconds from now."""
    log: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    start = loop.time()

    def note(e: am.Event) -> None:
        log.append((loop.time() - start, e.state))

    mach.bind_handlers({f"{state}State": note for state in states}, id="seen")
    return log


def timers() -> list[asyncio.TimerHandle]:
    """Give the timers that run on the loop, whatever loop it is."""
    gc.collect()
    found = [timer for timer in gc.get_objects() if type(timer).__name__ == "TimerHandle"]
    # Those of uvloop that are done with have nothing to call any more, and are not called cancelled.
    return [timer for timer in found if not timer.cancelled() and repr(timer) != "<TimerHandle>"]


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# What follows.


@in_virtual_time
async def test_a_state_still_active_after_its_timeout_adds_the_other_state() -> None:
    mach = am.Machine(Net)
    log = seen(mach, "Slow")
    mach.add1("Connecting")
    await anyio.sleep(2.4)
    assert mach.not1("Slow")
    await anyio.sleep(60)
    assert log == [(2.5, "Slow")]
    assert str(mach) == "(Connecting:1 Slow:1)"


@in_virtual_time
async def test_without_another_state_the_state_itself_is_removed() -> None:
    mach = am.Machine({"Pressed": {"timeout": 5}})
    mach.add1("Pressed")
    await anyio.sleep(4.9)
    assert mach.is1("Pressed")
    await anyio.sleep(0.2)
    assert mach.tick("Pressed") == 2


@in_virtual_time
async def test_the_args_say_which_state_it_was_and_since_when() -> None:
    mach = am.Machine({"Foo": {"timeout": 5}, "Bar": {"timeout": 7, "on_timeout": "Late"}, "Late": {}})
    found: list[am.TimeoutArgs] = []
    for handler in ("FooEnd", "LateState"):
        mach.bind_handlers({handler: lambda e: found.append(e.arg(am.TimeoutArgs))})
    late = mach.when_args("Late", {"state": "Bar", "timeout": 7})
    await anyio.sleep(1)
    mach.add("Foo", "Bar")
    assert (await late)["tick"] == 1
    assert found == [am.TimeoutArgs("Foo", 5, 1, since=101.0), am.TimeoutArgs("Bar", 7, 1, since=101.0)]


@in_virtual_time
async def test_a_state_left_in_time_has_no_timeout() -> None:
    mach = am.Machine(Net)
    log = seen(mach, "Slow")
    mach.add1("Connecting")
    await anyio.sleep(2)
    mach.add1("Connected")
    assert timers() == []
    await anyio.sleep(60)
    assert log == []


@in_virtual_time
async def test_a_state_left_and_entered_again_has_all_of_its_time_again() -> None:
    mach = am.Machine(Net)
    log = seen(mach, "Slow")
    mach.add1("Connecting")
    await anyio.sleep(2)
    mach.remove1("Connecting")
    mach.add1("Connecting")
    await anyio.sleep(60)
    assert log == [(4.5, "Slow")]


@in_virtual_time
async def test_adding_what_is_active_already_does_not_prolong_its_time() -> None:
    mach = am.Machine(Net)
    log = seen(mach, "Slow")
    mach.add1("Connecting")
    await anyio.sleep(2)
    mach.add1("Connecting")
    await anyio.sleep(60)
    assert log == [(2.5, "Slow")]


@in_virtual_time
async def test_a_multi_state_activated_anew_has_all_of_its_time_again() -> None:
    mach = am.Machine({"Beat": {"multi": True, "timeout": 10, "on_timeout": "Silent"}, "Silent": {"remove": ["Beat"]}})
    log = seen(mach, "Silent")
    for _ in range(5):
        mach.add1("Beat")
        assert mach.statistics().timeouts == 1
        await anyio.sleep(9)
    await mach.when1("Silent")
    assert log == [(46.0, "Silent")]
    assert str(mach) == "(Silent:1)"


@in_virtual_time
async def test_an_activation_runs_out_of_time_once() -> None:
    mach = am.Machine({"Foo": {"timeout": 1, "on_timeout": "Tick"}, "Tick": {"multi": True}})
    log = seen(mach, "Tick")
    mach.add1("Foo")
    await anyio.sleep(60)
    assert log == [(1.0, "Tick")]


@in_virtual_time
async def test_each_state_has_a_time_of_its_own() -> None:
    schema: dict[str, am.StateDict] = {"A": {"timeout": 3}, "B": {"timeout": 1}, "C": {"timeout": 2}}
    mach = am.Machine(schema)
    ends: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    mach.bind_handlers({f"{state}End": lambda e: ends.append((loop.time() - 100, e.state)) for state in schema})
    mach.add("A", "B", "C")
    assert mach.statistics().timeouts == 3
    await anyio.sleep(60)
    assert ends == [(1, "B"), (2, "C"), (3, "A")]


@in_virtual_time
async def test_an_auto_state_that_runs_out_comes_again() -> None:
    mach = am.Machine({"Open": {}, "Fresh": {"auto": True, "require": ["Open"], "timeout": 2}})
    log = seen(mach, "Fresh")
    mach.add1("Open")
    await anyio.sleep(5)
    mach.remove1("Open")
    await anyio.sleep(60)
    assert log == [(0, "Fresh"), (2.0, "Fresh"), (4.0, "Fresh")]


@in_virtual_time
async def test_work_of_the_state_is_cancelled_when_its_time_is_up() -> None:
    mach = am.Machine({"Fetching": {"timeout": 60}})
    ends: list[str] = []

    @mach.on.state("Fetching")
    async def fetch(e: am.Event) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            ends.append(f"after {asyncio.get_running_loop().time() - 100} s")

    mach.add1("Fetching")
    await anyio.sleep(61)
    assert ends == ["after 60.0 s"]


@in_virtual_time
async def test_the_mutation_comes_from_no_transition_but_keeps_the_context() -> None:
    mach = am.Machine(Net)
    found: list[tuple[am.Source | None, str]] = []
    mach.bind_handlers(
        {
            "ConnectedState": lambda e: e.machine.add1("Connecting"),
            "SlowState": lambda e: found.append((e.mutation.source, REQUEST.get())),
        }
    )
    REQUEST.set("the one that connected")
    mach.add1("Connected")
    REQUEST.set("another one")
    await anyio.sleep(3)
    assert found == [(None, "the one that connected")]


# As an error.


@pytest.mark.parametrize("on_timeout", ["ErrSlow", "Exception"])
@in_virtual_time
async def test_an_error_state_is_added_as_an_error(on_timeout: str, caplog: pytest.LogCaptureFixture) -> None:
    foo = am.State(timeout=2.5, on_timeout=on_timeout)
    mach = am.Machine({"Foo": foo, "ErrSlow": {"require": ["Exception"]}, "Never": {}})
    told: list[BaseException] = []
    mach.on_error(lambda _, err: told.append(err))
    mach.add1("Foo")
    with pytest.raises(am.StateTimeoutError, match=r"Foo was still active after 2\.5 s") as raised:
        await mach.expect("Never")
    assert mach.is_(on_timeout, "Exception", "Foo")
    assert isinstance(raised.value, TimeoutError)
    assert (raised.value.state, raised.value.timeout) == ("Foo", 2.5)
    assert mach.err is raised.value
    assert told == [raised.value]
    # Nobody has handled it.
    assert texts(caplog) == ["[error] StateTimeoutError('Foo was still active after 2.5 s')"]


@in_virtual_time
async def test_handlers_of_the_error_have_the_args_of_both(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {"timeout": 2.5, "on_timeout": "Exception"}})
    found: list[tuple[str, int]] = []

    @mach.on.state("Exception")
    def handle(e: am.Event) -> None:
        found.append((str(e.arg(am.ExceptionArgs).err), e.arg(am.TimeoutArgs).tick))

    mach.add1("Foo")
    await anyio.sleep(3)
    assert found == [("Foo was still active after 2.5 s", 1)]
    assert texts(caplog) == []


@in_virtual_time
async def test_who_is_told_of_the_error_is_in_no_transition_either() -> None:
    mach = am.Machine({"Foo": {"timeout": 2.5, "on_timeout": "Exception"}, "Noted": {}})
    sources: list[am.Source | None] = []
    mach.bind_handlers({"NotedState": lambda e: sources.append(e.mutation.source), "ExceptionState": lambda e: None})
    mach.on_error(lambda machine, _: machine.add1("Noted"))
    mach.add1("Foo")
    await mach.when1("Noted")
    assert sources == [None]


# What stands in its way.


@in_virtual_time
async def test_a_refused_timeout_is_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {"timeout": 2.5, "on_timeout": "Bar"}, "Bar": {"require": ["Baz"]}, "Baz": {}})
    mach.add1("Foo")
    await anyio.sleep(60)
    text = "[timeout] Foo was still active after 2.5 s, but [add Bar] was canceled: Bar requires Baz"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, text)]
    assert str(mach) == "(Foo:1)"
    assert timers() == []


@in_virtual_time
async def test_a_vetoed_removal_is_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {"timeout": 2}}, handlers={"FooExit": lambda e: False})
    mach.add1("Foo")
    await anyio.sleep(60)
    (text,) = texts(caplog)
    assert text.startswith("[timeout] Foo was still active after 2 s, but [remove Foo] was canceled: vetoed by FooExit")
    assert mach.is1("Foo")


@in_virtual_time
async def test_a_refused_error_is_logged_as_an_error_too(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {"timeout": 2, "on_timeout": "Exception"}}, handlers={"ExceptionEnter": lambda e: False})
    mach.add1("Foo")
    await anyio.sleep(60)
    warned, failed = sorted(texts(caplog), reverse=True)
    assert "but [add Exception] was canceled: vetoed by ExceptionEnter" in warned
    assert failed == "[error] StateTimeoutError('Foo was still active after 2 s')"
    assert isinstance(mach.err, am.StateTimeoutError)


@pytest.mark.parametrize("raise_errors", [False, True])
@in_virtual_time
async def test_what_fails_in_a_handler_is_the_machines_error(
    raise_errors: bool,  # noqa: FBT001 - a case of the test
) -> None:
    mach = am.Machine(Net, raise_errors=raise_errors, handlers={"ExceptionState": lambda e: None})
    error = ValueError("no fuel")

    @mach.on.state("Slow")
    def fail(e: am.Event) -> None:
        raise error

    mach.add1("Connecting")
    assert await mach.when_err() is error
    assert mach.not1("Slow")


@in_virtual_time
async def test_what_cannot_be_carried_out_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(am.RelationsResolver):
        def resolve(self, type_: Any, called: Any, active: Any, **options: Any) -> tuple[int, ...]:
            if type_ is am.MutationType.REMOVE:
                raise ValueError("removing is not for me")
            return super().resolve(type_, called, active, **options)

    mach = am.Machine({"Foo": {"timeout": 2}}, resolver=Refusing)
    mach.add1("Foo")
    await anyio.sleep(3)
    first, second = caplog.records
    assert first.getMessage().endswith("but [remove Foo] was canceled: removing is not for me")
    assert second.getMessage() == "what follows from the timeout of Foo could not be carried out"
    assert second.exc_info is not None
    assert repr(second.exc_info[1]) == "ValueError('removing is not for me')"


@in_virtual_time
async def test_a_timeout_runs_before_what_waits_and_no_full_queue_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each mutation is more than a drain may carry out: what waits is left to the actor, with a turn of the loop each.
    monkeypatch.setattr(actor, "BUDGET", -1)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    order: list[str] = []

    def step(e: am.Event) -> None:
        number = e.args["number"]
        if number < 4:
            e.machine.add1("Step", {"number": number + 1})
        if number == 3:
            loop.pass_time(60)
        if number == 4:
            # The timer's turn is next, and the queue is full.
            assert e.machine.remove1("Foo", {"why": "done"}).queued
            assert e.machine.add1("Bar", {"why": "more"}).reason == "queue full (1)"

    schema: dict[str, am.StateDict] = {
        "Step": {"multi": True},
        "Foo": {"timeout": 50, "on_timeout": "Late"},
        "Late": {},
        "Bar": {},
    }
    mach = am.Machine(schema, queue_limit=1)
    mach.bind_handlers({"StepState": step})
    mach.bind_handlers({name: lambda e: order.append(e.name) for name in ("LateState", "FooEnd")})
    mach.add1("Foo")
    mach.add1("Step", {"number": 1})
    await mach.when_not1("Foo")
    assert order == ["LateState", "FooEnd"]


# Where it lives.


def test_without_a_loop_a_state_with_a_timeout_is_refused_before_anything_changes() -> None:
    mach = am.Machine({"Foo": {"timeout": 1, "add": ["Bar"]}, "Bar": {}, "Baz": {}})
    with pytest.raises(am.MachineLoopError, match="needs a running event loop for this"):
        mach.add1("Foo")
    assert mach.add1("Baz") == am.Result.EXECUTED
    assert str(mach) == "(Baz:1)"
    assert mach.can_add1("Foo") == am.Result.EXECUTED


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_state_can_be_left_after_its_loop_has_ended(loop_factory: LoopFactory) -> None:
    mach = am.Machine({"Foo": {"timeout": 60}, "Bar": {"timeout": 60}})

    async def main() -> None:
        mach.add("Foo", "Bar")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert mach.remove1("Foo") == am.Result.EXECUTED
    with pytest.raises(am.MachineLoopError):
        mach.add1("Foo")
    mach.dispose()
    assert mach.statistics().timeouts == 0


def test_another_loop_than_the_machines_is_refused_before_anything_changes() -> None:
    mach = am.Machine({"Foo": {"timeout": 60}})

    @in_virtual_time
    async def enter_and_leave() -> None:
        mach.add1("Foo")
        mach.remove1("Foo")

    enter_and_leave()
    with pytest.raises(am.MachineLoopError, match="bound to another event loop"):
        enter_and_leave()
    assert mach.tick("Foo") == 2


async def test_a_timeout_started_by_another_thread_runs_on_the_machines_loop() -> None:
    async with am.Machine({"Foo": {"timeout": 0.001}}) as mach:
        threads: list[int] = []
        mach.bind_handlers({"FooEnd": lambda e: threads.append(threading.get_ident())})
        added = mach.threadsafe.add1
        await anyio.to_thread.run_sync(lambda: added("Foo").result())
        await mach.when_time1("Foo", 2)
        assert threads == [threading.get_ident()]


# Activations that fail.


@in_virtual_time
async def test_an_activation_that_is_rolled_back_leaves_no_timer() -> None:
    def fail(e: am.Event) -> None:
        raise ValueError("no fuel")

    mach = am.Machine({"Foo": {"timeout": 1}}, handlers={"FooState": fail, "ExceptionState": lambda e: None})
    assert mach.add1("Foo").canceled
    assert mach.tick("Foo") == 2
    assert mach.statistics().timeouts == 0
    assert timers() == []


@in_virtual_time
async def test_a_state_that_falls_with_a_failed_one_leaves_no_timer() -> None:
    left = ValueError("no fuel")

    def fail(e: am.Event) -> None:
        if e.machine.is1("Foo"):
            raise left

    schema: dict[str, am.StateDict] = {
        "Base": {"multi": True},
        "Foo": {"require": ["Base"], "timeout": 1, "on_timeout": "Late"},
        "Late": {},
    }
    mach = am.Machine(schema, handlers={"BaseState": fail, "ExceptionState": lambda e: None})
    mach.add1("Base")
    mach.add1("Foo")
    assert mach.statistics().timeouts == 1
    assert mach.add1("Base").canceled
    assert mach.tick("Foo") == 2
    assert mach.statistics().timeouts == 0
    assert timers() == []


@in_virtual_time
async def test_a_vetoed_activation_starts_no_timer_and_stops_none() -> None:
    mach = am.Machine({"Foo": {"multi": True, "timeout": 5}})
    mach.add1("Foo")
    await anyio.sleep(3)
    mach.bind_handlers({"FooEnter": lambda e: False})
    assert mach.add1("Foo").canceled
    await anyio.sleep(2.5)
    assert mach.tick("Foo") == 2


# Machines that change.


@in_virtual_time
async def test_restored_states_begin_their_time_anew() -> None:
    mach = am.Machine(Net, id="net")
    mach.add1("Connecting")
    saved = mach.export()
    again = am.Machine(Net, id="net")
    log = seen(again, "Slow")
    await anyio.sleep(2)
    again.restore(saved)
    await anyio.sleep(60)
    assert log == [(4.5, "Slow")]


@in_virtual_time
async def test_restoring_stops_the_timers_of_what_was_active_before() -> None:
    mach = am.Machine(Net, id="net")
    saved = mach.export()
    mach.add1("Connecting")
    mach.restore(saved)
    assert timers() == []


def test_states_with_a_timeout_are_not_restored_without_a_loop() -> None:
    saved: list[am.Snapshot] = []

    @in_virtual_time
    async def save() -> None:
        mach = am.Machine(Net, id="net")
        mach.add1("Connecting")
        saved.append(mach.export())

    save()
    mach = am.Machine(Net, id="net")
    with pytest.raises(am.MachineLoopError, match="needs a running event loop for this"):
        mach.restore(saved[0])
    assert (str(mach), mach.machine_tick) == ("()", 1)
    # Where none is active, none is needed.
    mach.add1("Connected")
    mach.restore(mach.export())
    assert mach.is1("Connected")


@in_virtual_time
async def test_the_timeout_of_a_new_schema_counts_from_then() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {"timeout": 5}, "Baz": {"timeout": 5}, "Qux": {"timeout": 5}})
    ends: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    states = ("Foo", "Bar", "Baz", "Qux")
    mach.bind_handlers({f"{state}End": lambda e: ends.append((loop.time() - 100, e.state)) for state in states})
    mach.add(states)
    await anyio.sleep(2)
    mach.set_schema({"Foo": {"timeout": 4}, "Bar": {"timeout": 6}, "Baz": {"timeout": 5, "tags": ["same"]}, "Qux": {}})
    await anyio.sleep(60)
    assert ends == [(5, "Baz"), (6, "Foo"), (8, "Bar")]
    assert mach.is1("Qux")


@in_virtual_time
async def test_a_new_schema_says_what_follows_from_a_timer_that_runs_already() -> None:
    mach = am.Machine({"Foo": {"timeout": 5}})
    mach.add1("Foo")
    mach.set_schema({"Foo": {"timeout": 5, "on_timeout": "Late"}, "Late": {}})
    await anyio.sleep(6)
    assert mach.is_("Foo", "Late")


def test_a_new_timeout_of_an_active_state_needs_a_loop() -> None:
    mach = am.Machine({"Foo": {}})
    mach.add1("Foo")
    with pytest.raises(am.MachineLoopError):
        mach.set_schema({"Foo": {"timeout": 5}})
    assert mach.schema["Foo"].timeout is None
    mach.remove1("Foo")
    mach.set_schema({"Foo": {"timeout": 5}})
    assert mach.schema["Foo"].timeout == 5


# The law.


@given(schemas, st.dictionaries(st.sampled_from(NAMES), st.integers(1, 5)), operations, behaviours)
def test_just_the_active_states_with_a_timeout_have_a_timer(
    schema: dict[str, am.State],
    timeouts: dict[str, int],
    ops: list[tuple[str, list[str]]],
    behaviour: dict[str, str],
) -> None:
    """Whatever is asked for, whatever relations, vetoes and errors make of it."""

    @in_virtual_time
    async def run() -> None:
        timed = {name: state.extend(am.State(timeout=timeouts.get(name))) for name, state in schema.items()}
        mach = am.Machine(timed, handlers={"ExceptionState": lambda e: None, **behaving(behaviour, [])})
        for method, states in ops:
            getattr(mach, method)(states)
            assert mach.statistics().timeouts == sum(mach.is1(name) for name in timeouts)
        await mach.dispose()
        assert mach.statistics().timeouts == 0

    run()


# What is left.


async def test_disposal_stops_all_timers() -> None:
    mach = am.Machine({"Foo": {"timeout": 60}, "Bar": {"timeout": 60}})
    mach.add("Foo", "Bar")
    assert len(timers()) == 2
    await mach.dispose()
    assert mach.statistics().timeouts == 0
    assert timers() == []


async def test_ten_thousand_timeouts_started_and_left_leave_nothing() -> None:
    machines = [am.Machine({"Foo": {"timeout": 3600.0, "multi": True}, "Bar": {"remove": ["Foo"]}}) for _ in range(10)]
    for _ in range(1000):
        for mach in machines:
            mach.add1("Foo")
            assert mach.add1("Foo" if mach.tick("Foo") % 4 == 1 else "Bar")
    for mach in machines:
        mach.add1("Bar")
    assert timers() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    found = [weakref.ref(mach) for mach in machines]
    del mach
    machines.clear()
    await turns()
    gc.collect()
    assert [ref() for ref in found if ref() is not None] == []


async def test_timeouts_of_a_millisecond_come_in_their_order_on_every_loop() -> None:
    mach = am.Machine({"First": {"timeout": 0.001, "on_timeout": "Second"}, "Second": {"timeout": 0.001}})
    mach.add1("First")
    await mach.when_time1("Second", 2)
    assert str(mach) == "(First:1)"
    assert timers() == []


@in_virtual_time
async def test_a_machine_is_held_until_its_timeout_and_no_longer() -> None:
    fired: list[str] = []
    mach = am.Machine(Net, handlers={"SlowState": lambda e: fired.append(e.args["state"])})
    mach.add1("Connecting")
    found = weakref.ref(mach)
    del mach
    gc.collect()
    await anyio.sleep(3)
    assert fired == ["Connecting"]
    gc.collect()
    assert found() is None
