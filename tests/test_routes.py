"""Routes: order while the target is busy, other threads, what is held and let go of."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest
from typing_extensions import override

import asyncmachine as am

STATES: am.SchemaLike = {"Ready": {}, "Event": {"multi": True}, "Go": {}}


@pytest.fixture(autouse=True)
def _in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call drain the queue, however long that takes: a loaded computer may leave some of it to the task."""
    monkeypatch.setattr("asyncmachine.actor.BUDGET", math.inf)


class Recorder(am.Tracer):
    """Writes down the mutations a machine gets, and in which thread."""

    def __init__(self) -> None:
        self.mutations: list[am.Mutation] = []
        self.threads: set[int] = set()

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.mutations.append(transition.mutation)
        self.threads.add(threading.get_ident())


class Elsewhere:
    """A machine in a thread and on a loop of its own, which stop when the block is left."""

    def __init__(self, **options: Any) -> None:
        self.machine = am.Machine(STATES, id="elsewhere", **options)
        self.loop: asyncio.AbstractEventLoop
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._main()])

    async def _main(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.machine.state_ctx("Ready")  # binds the machine to this loop
        self._ready.set_result(None)
        await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=60)
        return self

    def call(self, fn: Callable[[], Any]) -> Any:
        return self.machine.threadsafe.eval(fn).result(timeout=60)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=60)

    def __exit__(self, *args: object) -> None:
        if self._thread.is_alive():
            self.stop()


# A target that is busy.


async def test_a_busy_target_misses_nothing_that_comes_goes_and_comes_again() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    am.pipe(source, "Ready", target)

    @target.on.state("Go")
    def flicker(e: am.Event) -> None:
        source.add1("Ready")
        source.remove1("Ready")
        source.add1("Ready")

    target.add1("Go")
    assert (source.tick("Ready"), target.tick("Ready")) == (3, 3)


async def test_a_full_queue_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source, target = am.Machine(STATES), am.Machine(STATES, id="target", queue_limit=2)
    am.pipe(source, "Event", target)

    @target.on.state("Go")
    def flood(e: am.Event) -> None:
        for _ in range(3):
            source.add1("Event")

    target.add1("Go")
    assert target.tick("Event") == 3
    assert caplog.messages == ["a piped mutation is lost, and the states differ now: queue full (2)"]
    assert caplog.records[0].name == "asyncmachine.target"


async def test_a_target_that_ends_within_the_call_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    am.pipe_many(source, target, ["Ready", "Event"])
    target.add_breakpoint(["Ready"], action=target.dispose)
    caplog.set_level(logging.ERROR)

    @target.on.state("Go")
    def both(e: am.Event) -> None:
        source.add(["Ready", "Event"])

    target.add1("Go")
    assert caplog.messages == []


async def test_a_target_that_goes_on_in_its_task_gets_the_rest_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", -1.0)
    source, target = am.Machine(STATES), am.Machine(STATES)
    am.pipe(source, "Ready", target)
    target.bind_handlers({"GoState": lambda e: [source.toggle1("Ready") for _ in range(7)] and None})
    target.add1("Go")
    await target.when_queue_ends()
    assert (source.tick("Ready"), target.tick("Ready")) == (7, 7)
    await source.dispose()
    await target.dispose()


# Threads.


async def test_a_target_in_another_thread_is_changed_there_in_order() -> None:
    recorder = Recorder()
    source = am.Machine(STATES, id="source")
    with Elsewhere(tracers=[recorder]) as there:
        am.pipe(source, "Ready", there.machine)
        for _ in range(50):
            source.toggle1("Ready")
        there.call(lambda: None)
        assert there.machine.tick("Ready") == source.tick("Ready") == 50
        assert recorder.threads == {there._thread.ident}
        assert recorder.mutations[-1].source == am.Source("source", "1.50", 49)
        there.machine.threadsafe.add1("Go").result(timeout=60)


async def test_a_source_in_another_thread_must_be_piped_there() -> None:
    target = am.Machine(STATES)
    with Elsewhere() as there:
        with pytest.raises(am.MachineThreadError, match=r"use mach\.threadsafe"):
            am.pipe(there.machine, "Ready", target)
        assert there.machine.tracers == ()


async def test_two_machines_in_two_threads_may_follow_each_other() -> None:
    with Elsewhere() as one, Elsewhere() as two:
        one.call(lambda: am.pipe(one.machine, "Ready", two.machine))
        two.call(lambda: am.pipe(two.machine, "Ready", one.machine))
        one.call(lambda: one.machine.add1("Ready") and None)
        two.call(lambda: None)
        one.call(lambda: None)
        assert one.machine.is1("Ready")
        assert two.machine.is1("Ready")


async def test_a_pipe_closes_when_the_loop_of_its_target_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    source = am.Machine(STATES)
    with Elsewhere() as there:
        piped = am.pipe(source, "Ready", there.machine)
    assert source.add1("Ready").executed
    assert piped.is_closed
    assert source.tracers == ()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("a pipe closes, as its target cannot be reached any more: the machine elsewhe")


async def test_a_target_that_is_disposed_elsewhere_leaves_its_source_there_where_that_lives() -> None:
    source = am.Machine(STATES)
    source.state_ctx("Ready")  # binds it to this loop
    with Elsewhere() as there:
        piped = am.pipe(source, "Ready", there.machine)
        end = asyncio.run_coroutine_threadsafe(dispose(there.machine), there.loop)
        await anyio.to_thread.run_sync(end.result)
        assert piped.is_closed
        await asyncio.wrap_future(source.threadsafe.eval(lambda: None))  # behind what was posted before
    assert source.tracers == ()
    await source.dispose()


async def dispose(machine: am.Machine) -> None:
    await machine.dispose()


async def test_a_pipe_may_be_closed_in_any_thread_also_when_the_loop_of_its_source_has_gone() -> None:
    with Elsewhere() as there:
        first, second = (there.call(lambda: am.pipe(there.machine, "Ready", am.Machine(STATES))) for _ in range(2))
        first.close()
        there.call(lambda: None)
        assert len(there.machine.tracers) == 1
    second.close()
    assert first.is_closed
    assert second.is_closed


# What is held.


def count_held(machine: am.Machine) -> tuple[int, int]:
    return len(machine.tracers), len(machine._core.dispose_callbacks)


@pytest.mark.parametrize("at_once", [False, True])
async def test_ten_thousand_pipes_bound_and_closed_leave_nothing(at_once: bool) -> None:  # noqa: FBT001
    source, target = am.Machine(STATES), am.Machine(STATES)
    before = source.statistics(), target.statistics()
    pipes: list[am.Pipe] = []
    for number in range(10_000):
        pipes.append(am.pipe(source, ("Ready", "Event", "Go")[number % 3], target))
        if not at_once:
            pipes.pop().close()
    if at_once:
        assert count_held(source) == (1, 0)
        assert count_held(target) == (0, 10_000)
    gone = [weakref.ref(piped._link) for piped in pipes]
    while pipes:
        pipes.pop().close()
    assert count_held(source) == count_held(target) == (0, 0)
    assert (source.statistics(), target.statistics()) == before
    assert not any(ref() for ref in gone)


async def test_a_closed_pipe_that_is_kept_holds_neither_machine() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    refs = weakref.ref(source), weakref.ref(target)
    target.on_dispose(partial(print, target))  # leads from the target's callbacks to the target
    piped = am.pipe(source, "Ready", target)
    piped.close()
    del source, target
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert piped.is_closed


async def test_an_open_pipe_does_not_keep_its_source_alive_and_leaves_nothing_when_it_goes() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    ref = weakref.ref(source)
    piped = am.pipe(source, "Ready", target)
    del source
    gc.collect()
    assert ref() is None
    piped.close()
    assert count_held(target) == (0, 0)


async def test_a_pipe_that_goes_with_its_source_leaves_nothing_at_the_target() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    am.pipe(source, "Ready", target)
    del source
    gc.collect()
    assert count_held(target) == (0, 0)


async def test_a_source_keeps_its_target_until_the_target_is_disposed() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    ref = weakref.ref(target)
    am.pipe(source, "Ready", target)
    del target
    gc.collect()
    kept = ref()
    assert kept is not None
    source.add1("Ready")
    assert kept.is1("Ready")
    await kept.dispose()
    del kept
    gc.collect()
    assert ref() is None
    assert source.tracers == ()


async def test_machines_that_follow_each_other_go_together() -> None:
    one, two = am.Machine(STATES), am.Machine(STATES)
    refs = weakref.ref(one), weakref.ref(two)
    am.pipe(one, "Ready", two)
    am.pipe(two, "Ready", one)
    del one, two
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


async def test_a_pipe_needs_no_task() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    am.pipe(source, "Ready", target)
    source.add1("Ready")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert target.is1("Ready")
    await source.dispose()
    await target.dispose()


async def test_a_pipe_whose_tracer_somebody_took_off_can_still_be_closed() -> None:
    source, target = am.Machine(STATES), am.Machine(STATES)
    first = am.pipe(source, "Ready", target)
    source.detach_tracer(source.tracers[0])
    second = am.pipe(source, "Event", target)
    first.close()
    assert len(source.tracers) == 1
    second.close()
    assert source.tracers == ()
