"""Streams: what they give, in which order, when they end, what becomes of slow readers, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
import uvloop
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {
    "Foo": {},
    "Bar": {"require": ["Foo"]},
    "Multi": {"multi": True},
}
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def machine(**options: Any) -> am.Machine:
    return am.Machine(SCHEMA, id="mach", handlers={"ExceptionState": lambda e: None}, **options)


def told(transition: am.Transition[am.Machine]) -> str:
    mark = "" if transition.is_accepted else " canceled"
    return f"{transition.type} {' '.join(transition.called_states)}{mark}"


def waiting(stream: am.Stream[am.Transition[am.Machine]]) -> list[str]:
    """Read what waits, without waiting."""
    items: list[str] = []
    while stream.buffered:
        with pytest.raises(StopIteration) as read:
            stream.__anext__().send(None)
        items.append(told(read.value.value))
    return items


async def rest(stream: AsyncIterator[Any]) -> list[Any]:
    """Read a stream to its end."""
    return [item async for item in stream]


async def assert_nothing_is_left(mach: am.Machine) -> None:
    await turns()
    assert mach.statistics().waiters == 0
    assert mach._core.tracers == ()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Transitions.


async def test_transitions_are_given_in_order_from_the_call_on() -> None:
    mach = machine()
    mach.add1("Multi")
    done = mach.transitions()
    mach.add1("Foo")
    mach.add1("Bar")
    mach.remove1("Multi")
    assert waiting(done) == ["add Foo", "add Bar", "remove Multi"]


async def test_each_attempt_at_auto_states_is_a_transition() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Auto": {"auto": True, "require": ["Bar"]}})
    done, accepted = mach.transitions(), mach.transitions(accepted=True)
    mach.add1("Foo")
    mach.add1("Bar")
    assert waiting(done) == ["add Foo", "add Auto canceled", "add Bar", "add Auto"]
    assert waiting(accepted) == ["add Foo", "add Bar", "add Auto"]


async def test_a_transition_is_given_complete() -> None:
    mach = machine()
    done = mach.transitions()
    mach.add1("Foo", {"why": "to see"})
    transition = await anext(done)
    assert transition.is_completed
    assert transition.machine is mach
    assert transition.args == {"why": "to see"}
    assert (transition.time_before.sum(), transition.time_after.sum()) == (0, 1)


async def test_canceled_transitions_are_given_and_checks_are_not() -> None:
    mach = machine()
    done = mach.transitions()
    mach.add1("Bar")
    mach.can_add1("Foo")
    mach.can_add1("Bar")
    assert waiting(done) == ["add Bar canceled"]


@pytest.mark.parametrize(
    ("accepted", "given"),
    [
        (None, ["add Foo", "add Bar", "add Multi canceled"]),
        (True, ["add Foo", "add Bar"]),
        (False, ["add Multi canceled"]),
    ],
)
async def test_transitions_are_chosen_by_whether_they_were_carried_out(accepted: Any, given: list[str]) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Multi": {}}, handlers={"MultiEnter": lambda e: False})
    done = mach.transitions(accepted=accepted)
    mach.add1("Foo")
    mach.add1("Bar")
    mach.add1("Multi")
    assert waiting(done) == given


async def test_transitions_are_chosen_by_the_states_they_touch() -> None:
    mach = machine()
    done = mach.transitions("Bar", ["Exception"])
    mach.add1("Bar")  # called, though in vain
    mach.add1("Foo")
    mach.add("Multi", "Bar")
    mach.add1("Multi")
    mach.remove1("Foo")  # Bar falls with it
    mach.add_err(ValueError("no fuel"))
    assert waiting(done) == ["add Bar canceled", "add Multi Bar", "remove Foo", "add Exception"]


async def test_a_state_that_would_have_come_along_is_not_touched() -> None:
    mach = am.Machine({"Foo": {"add": ["Bar"]}, "Bar": {}}, handlers={"FooEnter": lambda e: False})
    foo, bar = mach.transitions("Foo"), mach.transitions("Bar")
    mach.add1("Foo")
    assert (waiting(foo), waiting(bar)) == (["add Foo canceled"], [])


async def test_a_state_that_falls_with_a_failed_one_is_touched() -> None:
    def fail(e: am.Event) -> None:
        if e.machine.is1("Foo"):
            raise ValueError("no fuel")

    mach = am.Machine({"Base": {"multi": True}, "Foo": {"require": ["Base"]}}, handlers={"BaseState": fail})
    mach.bind_handlers({"ExceptionState": lambda e: None})
    mach.add1("Base")
    mach.add1("Foo")
    done = mach.transitions("Foo")
    assert mach.add1("Base").canceled
    assert waiting(done) == ["add Base canceled"]


async def test_a_stream_opened_by_a_handler_begins_with_the_transition_that_runs() -> None:
    mach = machine()
    opened: list[am.Stream[am.Transition[am.Machine]]] = []
    mach.bind_handlers({"FooState": lambda e: opened.append(e.machine.transitions())})
    mach.add1("Foo")
    mach.add1("Multi")
    assert waiting(opened[0]) == ["add Foo", "add Multi"]


async def test_streams_are_no_tracers_that_users_see() -> None:
    watcher = am.Tracer()
    mach = machine(tracers=[watcher], log_level="changes")
    done = mach.transitions()
    assert mach.tracers == (watcher,)
    mach.detach_tracer(watcher)
    mach.log_level = "nothing"
    assert mach.tracers == ()
    mach.add1("Foo")
    assert waiting(done) == ["add Foo"]


async def test_streams_do_not_watch_submachines() -> None:
    mach = machine()
    done = mach.transitions()
    child = am.Machine(SCHEMA, parent=mach)
    child.add1("Foo")
    assert done.buffered == 0


# Activations.


async def test_activations_are_given_in_order_from_the_call_on() -> None:
    mach = machine()
    mach.add1("Foo")
    ticks = mach.activations("Foo")
    mach.add1("Foo")
    mach.remove1("Foo")
    mach.add1("Foo")
    mach.add1("Multi")
    mach.remove1("Foo")
    mach.add1("Foo")
    assert [await anext(ticks), await anext(ticks)] == [3, 5]
    assert ticks.buffered == 0


async def test_a_multi_state_is_activated_anew() -> None:
    mach = machine()
    ticks = mach.activations("Multi")
    for _ in range(3):
        mach.add1("Multi")
    await mach.dispose()
    assert await rest(ticks) == [1, 3, 5]


async def test_an_activation_that_is_rolled_back_is_none() -> None:
    def fail(e: am.Event) -> None:
        raise ValueError("no fuel")

    mach = machine()
    mach.bind_handlers({"FooState": fail, "MultiState": fail})
    foo, multi = mach.activations("Foo"), mach.activations("Multi")
    mach.add1("Foo")
    mach.add1("Multi")
    assert (mach.tick("Foo"), mach.tick("Multi")) == (2, 2)
    assert (foo.buffered, multi.buffered) == (0, 0)


async def test_an_activation_that_is_restored_is_one() -> None:
    mach = machine()
    mach.add1("Multi")
    saved = mach.export()
    again = machine()
    ticks, others = again.activations("Multi"), again.activations("Foo")
    again.restore(saved)
    assert await anext(ticks) == 1
    assert others.buffered == 0


async def test_activations_are_told_in_their_turn_among_those_who_wait() -> None:
    mach = machine()
    order: list[str] = []
    before = mach.when1("Foo")
    ticks = mach.activations("Foo")
    after = mach.when1("Foo")
    before.add_done_callback(lambda _: order.append("before"))
    after.add_done_callback(lambda _: order.append("after"))

    async def read() -> None:
        order.append(f"tick {await anext(ticks)}")

    reader = asyncio.ensure_future(read())
    await turns()
    mach.add1("Foo")
    await reader
    assert order == ["before", "tick 1", "after"]


# Reading.


async def test_a_reader_waits_for_what_comes() -> None:
    mach = machine()
    seen: list[int] = []

    async def read() -> None:
        async for tick in mach.activations("Foo"):
            seen.append(tick)  # noqa: PERF401 - one by one, as they come

    reader = asyncio.ensure_future(read())
    await turns()
    mach.add1("Foo")
    await turns()
    assert seen == [1]
    mach.remove1("Foo")
    mach.add1("Foo")
    await turns()
    assert seen == [1, 3]
    await mach.dispose()
    await reader
    assert seen == [1, 3]
    await assert_nothing_is_left(mach)


async def test_cancelling_a_reader_loses_nothing() -> None:
    mach = machine()
    ticks = mach.activations("Multi")
    reader = asyncio.ensure_future(anext(ticks))
    await turns()
    mach.add1("Multi")
    # The item has come, and the reader has not been told yet.
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    mach.add1("Multi")
    assert [await anext(ticks), await anext(ticks)] == [1, 3]


async def test_a_reader_that_gives_up_waiting_can_read_on() -> None:
    mach = machine()
    ticks = mach.activations("Multi")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(ticks), timeout=0.001)
    mach.add1("Multi")
    assert await anext(ticks) == 1


async def test_a_second_reader_at_once_is_an_error_of_its_own() -> None:
    mach = machine()
    ticks = mach.activations("Multi")
    first = asyncio.ensure_future(anext(ticks))
    await turns()
    text = r"activations\('Multi'\) is being read already, and each item goes to one reader; open a stream for each"
    with pytest.raises(am.StreamBusyError, match=text):
        await anext(ticks)
    mach.add1("Multi")
    assert await first == 1


async def test_each_stream_has_everything() -> None:
    mach = machine()
    one, other = mach.transitions(), mach.transitions()
    mach.add1("Foo")
    assert waiting(one) == waiting(other) == ["add Foo"]


async def test_work_that_reads_is_cancelled_with_its_state_even_while_more_waits() -> None:
    mach = machine()
    seen: list[str] = []

    @mach.on.state("Foo")
    async def follow(e: am.Event) -> None:
        async for transition in e.machine.transitions("Multi"):
            seen.append(told(transition))
            if len(seen) == 2:
                e.machine.remove1("Foo")

    mach.add1("Foo")
    await turns()
    for _ in range(3):
        mach.add1("Multi")
    await turns()
    assert seen == ["add Multi", "add Multi"]
    await assert_nothing_is_left(mach)


# Slow readers.


@pytest.mark.parametrize(("overflow", "left"), [("drop_oldest", [5, 7, 9]), ("drop_newest", [1, 3, 5])])
async def test_a_full_stream_drops_counts_and_warns_once(
    overflow: Any, left: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    mach = machine()
    ticks = mach.activations("Multi", maxsize=3, overflow=overflow)
    for _ in range(5):
        mach.add1("Multi")
    assert (ticks.maxsize, ticks.buffered, ticks.dropped) == (3, 3, 2)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asyncmachine.mach", logging.WARNING)
    assert record.getMessage() == (
        "[stream] activations('Multi') is read too slowly: more than 3 items wait, "
        f"and the {overflow.removeprefix('drop_')} are dropped; see Stream.dropped"
    )
    await mach.dispose()
    assert await rest(ticks) == left


async def test_a_stream_that_may_drop_nothing_ends_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    mach = machine()
    ticks = mach.activations("Multi", maxsize=2, overflow="error")
    for _ in range(5):
        mach.add1("Multi")
    assert ticks.is_ended
    assert [await anext(ticks), await anext(ticks)] == [1, 3]
    with pytest.raises(am.StreamOverflowError, match="of the machine mach was read too slowly: more than 2 items wait"):
        await anext(ticks)
    assert await rest(ticks) == []
    assert ticks.dropped == 0
    assert caplog.records == []
    await assert_nothing_is_left(mach)


async def test_transitions_may_drop_nothing_either() -> None:
    mach = machine()
    done = mach.transitions(maxsize=1, overflow="error")
    mach.add1("Foo")
    mach.add1("Multi")
    mach.add1("Multi")
    assert waiting(done) == ["add Foo"]
    with pytest.raises(am.StreamOverflowError, match=r"transitions\(\) of the machine mach"):
        await anext(done)
    await assert_nothing_is_left(mach)


@pytest.mark.parametrize("maxsize", [0, -1, None, 1.5, True])
async def test_a_stream_is_bounded(maxsize: Any) -> None:
    mach = machine()
    for open_stream in (mach.transitions, lambda **options: mach.activations("Foo", **options)):
        with pytest.raises(ValueError, match=f"how many items may wait to be read, 1 or more, not {maxsize}"):
            open_stream(maxsize=maxsize)
    await assert_nothing_is_left(mach)


async def test_an_unknown_policy_is_refused_with_the_closest() -> None:
    mach = machine()
    text = "overflow is one of 'drop_oldest', 'drop_newest', 'error', not 'drop_old'; did you mean 'drop_oldest'"
    with pytest.raises(ValueError, match=text):
        mach.transitions(overflow="drop_old")  # type: ignore[arg-type]
    await assert_nothing_is_left(mach)


async def test_unknown_states_are_refused_with_the_closest() -> None:
    mach = machine()
    with pytest.raises(am.UnknownStateError, match="did you mean 'Foo'"):
        mach.transitions("Fooo")
    with pytest.raises(am.UnknownStateError, match="did you mean 'Foo'"):
        mach.activations("Fooo")
    await assert_nothing_is_left(mach)


# Loops and threads.


def test_streams_need_a_running_loop() -> None:
    mach = machine()
    with pytest.raises(am.MachineLoopError, match="needs a running event loop"):
        mach.transitions()
    with pytest.raises(am.MachineLoopError, match="needs a running event loop"):
        mach.activations("Foo")
    mach.add1("Foo")
    assert mach._core.tracers == ()


def test_a_stream_is_read_on_the_machines_loop() -> None:
    mach = machine()
    streams: list[am.Stream[int]] = []

    async def open_one() -> None:
        streams.append(mach.activations("Foo"))

    async def read() -> None:
        await anext(streams[0])

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(open_one())
        with (
            asyncio.Runner(loop_factory=asyncio.new_event_loop) as other,
            pytest.raises(am.MachineLoopError, match="bound to another event loop"),
        ):
            other.run(read())
        streams.clear()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stream_outlives_its_loop_and_disturbs_nobody(loop_factory: LoopFactory) -> None:
    mach = machine()
    streams: list[am.Stream[int]] = []

    async def open_one() -> None:
        streams.append(mach.activations("Foo"))

    loop = loop_factory()
    loop.run_until_complete(open_one())
    reading = loop.create_task(rest(streams[0]))
    loop.run_until_complete(turns())
    loop.close()
    assert mach.add1("Foo") == am.Result.EXECUTED
    assert (streams[0].buffered, streams[0].is_ended) == (1, False)
    mach.dispose()
    assert streams[0].is_ended
    with contextlib.suppress(RuntimeError):
        reading.get_coro().close()
    reading._log_destroy_pending = False
    del reading


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stream_collected_after_its_loop_has_ended_is_forgotten(loop_factory: LoopFactory) -> None:
    mach = machine()
    streams: list[am.Stream[Any]] = []

    async def open_both() -> None:
        streams.extend([mach.activations("Foo"), mach.transitions()])

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(open_both())
    streams.clear()
    gc.collect()
    assert mach.statistics().waiters == 0
    assert mach._core.tracers == ()


async def test_a_stream_may_be_collected_in_any_thread() -> None:
    mach = machine()
    streams: list[am.Stream[Any]] = [mach.activations("Foo"), mach.transitions()]
    thread = threading.Thread(target=streams.clear)
    thread.start()
    thread.join()
    await assert_nothing_is_left(mach)


async def test_a_stream_is_closed_by_the_machines_thread_alone() -> None:
    mach = machine()
    ticks = mach.activations("Foo")
    with pytest.raises(am.MachineThreadError):
        await anyio.to_thread.run_sync(ticks.close)
    assert not ticks.is_ended


# Ends.


async def test_disposal_ends_a_stream_after_what_waits() -> None:
    mach = machine()
    done, ticks = mach.transitions(), mach.activations("Foo")
    mach.add1("Foo")
    await mach.dispose()
    assert (done.is_ended, ticks.is_ended) == (True, True)
    assert [told(transition) for transition in await rest(done)] == ["add Foo"]
    assert await rest(ticks) == [1]
    await assert_nothing_is_left(mach)


async def test_what_disposal_itself_does_is_given_too() -> None:
    mach = am.Machine({"Start": {}})
    mach.add1("Start")
    done = mach.transitions()
    await mach.dispose()
    assert [told(transition) for transition in await rest(done)] == ["remove Start"]


async def test_streams_of_a_disposed_machine_have_ended() -> None:
    mach = machine()
    await mach.dispose()
    assert await rest(mach.transitions()) == []
    assert await rest(mach.activations("Foo")) == []
    await assert_nothing_is_left(mach)


async def test_a_stream_is_closed_by_its_block() -> None:
    mach = machine()
    async with mach.transitions() as done, mach.activations("Foo") as ticks:
        mach.add1("Foo")
        assert (done.buffered, ticks.buffered) == (1, 1)
    assert (done.buffered, ticks.buffered) == (0, 0)
    assert await rest(done) == await rest(ticks) == []
    await assert_nothing_is_left(mach)


async def test_a_stream_is_closed_by_whatever_closes_generators() -> None:
    mach = machine()
    async with contextlib.aclosing(mach.activations("Foo")) as ticks:
        pass
    assert ticks.is_ended
    await ticks.aclose()
    await assert_nothing_is_left(mach)


async def test_closing_a_stream_ends_its_reader() -> None:
    mach = machine()
    ticks = mach.activations("Foo")
    reader = asyncio.ensure_future(rest(ticks))
    await turns()
    ticks.close()
    assert await reader == []


async def test_closing_a_stream_that_overflowed_is_the_end_of_its_error() -> None:
    mach = machine()
    ticks = mach.activations("Multi", maxsize=1, overflow="error")
    mach.add1("Multi")
    mach.add1("Multi")
    ticks.close()
    assert await rest(ticks) == []


async def test_a_stream_may_be_closed_while_others_are_told() -> None:
    mach = machine()
    streams = [mach.activations("Foo") for _ in range(3)]
    mach.when1("Foo")

    class Closing(am.Tracer):
        def transition_finals(self, transition: am.Transition[Any]) -> None:
            streams[1].close()

    mach.bind_tracer(Closing())
    mach.add1("Foo")
    assert [stream.buffered for stream in streams] == [1, 0, 1]


async def test_an_abandoned_stream_is_forgotten() -> None:
    mach = machine()
    done, ticks = mach.transitions(), mach.activations("Foo")
    mach.add1("Foo")
    assert (done.buffered, ticks.buffered) == (1, 1)
    del done, ticks
    await assert_nothing_is_left(mach)
    assert mach.add1("Multi") == am.Result.EXECUTED


async def test_an_abandoned_stream_takes_nothing_in_any_more() -> None:
    mach = machine()
    ticks = mach.activations("Foo", maxsize=1, overflow="error")
    channel = ticks._channel
    del ticks
    mach.add1("Foo")
    assert not channel.items


async def test_a_reader_nobody_else_holds_goes_on_reading() -> None:
    mach = machine()
    seen: list[int] = []

    async def read() -> None:
        async for tick in mach.activations("Foo"):
            seen.append(tick)  # noqa: PERF401 - one by one, as they come

    found = weakref.ref(asyncio.ensure_future(read()))
    await turns()
    gc.collect()
    mach.add1("Foo")
    await turns()
    assert seen == [1]
    await mach.dispose()
    await turns()
    gc.collect()
    assert found() is None


async def test_a_machine_with_streams_can_be_collected() -> None:
    mach = machine()
    done, ticks = mach.transitions(), mach.activations("Foo")
    found = weakref.ref(mach)
    del mach, done, ticks
    await turns()
    gc.collect()
    assert found() is None


async def test_ten_thousand_streams_leave_nothing() -> None:
    mach = machine()
    for _ in range(5000):
        async with mach.activations("Multi"):
            mach.activations("Multi")
    mach.add1("Multi")
    await assert_nothing_is_left(mach)


async def test_a_stream_says_what_it_is() -> None:
    mach = machine()
    ticks = mach.activations("Foo")
    mach.add1("Foo")
    assert repr(ticks) == "<Stream activations('Foo') of mach, 1 to read>"
    ticks.close()
    assert repr(ticks) == "<Stream activations('Foo') of mach, 0 to read ended>"
    assert repr(mach.transitions("Foo", ["Bar"])).startswith("<Stream transitions('Foo', 'Bar') of mach,")
