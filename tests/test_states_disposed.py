"""Disposal as states: callbacks run before the end, whichever way it was asked for."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from conftest import turns

import asyncmachine as am
from asyncmachine.states import DisposalArgs, DisposedStates, Disposer


class ServiceStates(DisposedStates):
    """A service with work of its own."""

    Serving: str = am.state(require=["Start"])
    Late: str = am.state()


def build(**options: Any) -> am.Machine:
    return am.Machine(ServiceStates, handlers=[Disposer()], **options)


def register(machine: am.Machine, callback: Any) -> am.Result:
    return machine.add1("RegisterDisposal", DisposalArgs(callback))


async def by_state(machine: am.Machine) -> None:
    machine.add1("Disposing")
    await machine.when_disposed()


async def by_call(machine: am.Machine) -> None:
    await machine.dispose()


both_ways = pytest.mark.parametrize("end", [by_state, by_call])
End = Callable[[am.Machine], Awaitable[None]]


@pytest.fixture(autouse=True)
def _in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call drain the queue, however long that takes: a loaded computer may leave some of it to the task."""
    monkeypatch.setattr("asyncmachine.actor.BUDGET", math.inf)


@both_ways
async def test_callbacks_run_the_last_one_first_while_the_machine_is_whole(end: End) -> None:
    machine, seen = build(), []

    def plain() -> None:
        seen.append(("plain", str(machine)))

    async def waits() -> None:
        await turns()
        seen.append(("async", str(machine)))

    machine.add(["Start", "Serving"])
    register(machine, plain)
    register(machine, waits)
    await end(machine)
    assert seen == [("async", "(RegisterDisposal:3 Disposing:1)"), ("plain", "(RegisterDisposal:3 Disposing:1)")]
    assert machine.is_disposed
    assert machine.tick("Disposed") == 1
    assert machine.tick("Disposing") == 2
    assert machine.statistics().work == 0


@both_ways
async def test_each_callback_runs_once_however_often_the_end_is_asked_for(end: End) -> None:
    machine, calls = build(), []
    register(machine, lambda: calls.append(1))
    disposing = machine.dispose()
    machine.add1("Disposing")
    await asyncio.gather(disposing, machine.dispose(), machine.when_disposed())
    await end(build())
    assert calls == [1]


@both_ways
async def test_start_ends_before_callbacks_run(end: End) -> None:
    machine, order = build(), []
    machine.bind_handlers({"StartEnd": lambda e: order.append("StartEnd"), "LateState": lambda e: order.append("Late")})
    machine.add1("Start")
    register(machine, lambda: (order.append("callback"), machine.add1("Late")))
    await end(machine)
    assert order == ["StartEnd", "callback", "Late"]


@both_ways
async def test_a_callback_that_fails_is_an_error_and_holds_nothing_up(end: End) -> None:
    machine, caught, calls = build(), [], []
    machine.bind_handlers({"ExceptionState": lambda e: caught.append(repr(e.arg(am.ExceptionArgs).err))})

    async def fails() -> None:
        raise OSError("async")

    def fails_at_once() -> None:
        raise OSError("plain")

    register(machine, lambda: calls.append(1))
    register(machine, fails)
    register(machine, fails_at_once)
    await end(machine)
    assert caught == ["OSError('plain')", "OSError('async')"]
    assert calls == [1]


async def test_without_callbacks_there_is_nothing_to_wait_for() -> None:
    machine = build(dispose_timeout=3600)
    await machine.dispose()
    assert machine.tick("Disposed") == 1


async def test_callbacks_that_never_end_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    machine, ended = build(dispose_timeout=0.01, id="stuck"), []

    async def sleeps() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(str(machine))

    register(machine, sleeps)
    await machine.dispose()
    assert ended == ["(RegisterDisposal:1 Disposing:1)"]
    assert caplog.messages == ["Disposing is still active after 0.01 s; the disposal goes on"]
    assert machine.statistics().work == 0


async def test_a_disposal_that_is_asked_for_while_mutations_wait_still_runs_callbacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", -1.0)
    machine, calls = build(), []
    register(machine, lambda: calls.append(machine.tick("Late")))

    @machine.on.state("Start")
    def flicker(e: am.Event) -> None:
        for n in range(9):
            (machine.remove1 if n % 2 else machine.add1)("Late", {"n": n})

    machine.add1("Start")
    assert not machine.is_idle
    await machine.dispose()
    assert calls == [9]


def test_without_a_loop_callbacks_run_within_the_call() -> None:
    for end in (am.Machine.dispose, lambda machine: machine.add1("Disposing")):
        machine, calls = build(), []
        register(machine, lambda: calls.append(1))  # noqa: B023
        register(machine, lambda: calls.append(2))  # noqa: B023
        machine.add1("Start")
        end(machine)
        assert calls == [2, 1]
        assert machine.is_disposed
        assert machine.tick("Disposed") == 1


def test_without_a_loop_what_would_have_to_be_awaited_is_an_error() -> None:
    caught: list[str] = []
    machine, calls = build(id="service"), []
    machine.bind_handlers({"ExceptionState": lambda e: caught.append(str(e.arg(am.ExceptionArgs).err))})

    class Later:
        def __await__(self) -> Any:
            raise AssertionError

    async def waits() -> None:
        raise AssertionError

    register(machine, lambda: calls.append(1))
    register(machine, waits)
    register(machine, Later)
    machine.dispose()
    assert calls == [1]
    text = "a callback for the disposal of service is async, but no event loop is running to await it"
    assert caught == [f"{text}; use `async with` or `await mach.dispose()`"] * 2


# What is refused.


async def test_what_comes_too_late_is_refused() -> None:
    machine, late = build(), []
    register(machine, lambda: late.append(register(machine, print)))
    await machine.dispose()
    assert [(await result).reason for result in late] == ["vetoed by RegisterDisposalEnter of Disposer"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (DisposalArgs("close"), "a callback for the disposal is a function without arguments, not 'close'"),  # type: ignore[arg-type]
        (None, "this mutation carries no DisposalArgs"),
        ({"callback": print}, "this mutation carries no DisposalArgs"),
    ],
)
def test_what_is_no_callback_is_an_error(args: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    machine = build()
    assert machine.add1("RegisterDisposal", args).canceled
    assert isinstance(machine.err, am.ArgsError)
    assert str(machine.err).startswith(text)


def test_asking_whether_a_callback_could_be_registered_is_no_error() -> None:
    machine = build()
    assert machine.can_add1("RegisterDisposal").executed
    assert not machine.is_err


# Without a Disposer: what the core does with a state of that name.


async def test_a_state_disposing_of_your_own_is_added_and_waited_for() -> None:
    machine = am.Machine({"Start": {}, "Disposing": {}})
    order: list[str] = []

    @machine.on.state("Disposing")
    async def say_goodbye(e: am.Event) -> None:
        await turns()
        order.append(f"goodbye {machine}")
        e.machine.remove1("Disposing")

    machine.add1("Start")
    await machine.dispose()
    assert order == ["goodbye (Start:1 Disposing:1)"]


async def test_a_state_disposing_that_nobody_handles_is_not_waited_for() -> None:
    machine = am.Machine({"Disposing": {}}, dispose_timeout=3600)
    await machine.dispose()
    assert machine.tick("Disposing") == 1


def test_an_error_on_the_way_ends_no_disposal(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Disposing": {}}, raise_errors=True, handlers={"DisposingState": lambda e: 1 / 0})
    machine.dispose()
    assert machine.is_disposed
    assert caplog.messages == ["adding Disposing at the end of the machine failed"]


async def test_an_error_on_the_way_ends_no_disposal_on_a_loop(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Disposing": {}}, raise_errors=True, handlers={"DisposingState": lambda e: 1 / 0})
    await machine.dispose()
    assert machine.is_disposed
    assert caplog.messages == ["adding Disposing at the end of the machine failed"]
