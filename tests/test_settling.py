"""`settle`: all that runs by itself has run, and nothing else was waited for."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.to_thread
import pytest

import asyncmachine as am
from asyncmachine.testing import settle


@pytest.fixture
async def mach() -> AsyncIterator[am.Machine]:
    async with am.Machine({"Foo": {}, "Bar": {}, "Baz": {"multi": True}}, id="mach") as mach:
        yield mach


async def test_an_idle_machine_rests(mach: am.Machine) -> None:
    await settle(mach)
    await settle()


async def test_async_handlers_run_up_to_where_they_wait(mach: am.Machine) -> None:
    @mach.on.state("Foo")
    async def foo(e: am.Event) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        mach.add1("Bar")
        await anyio.sleep(3600)
        mach.add1("Baz")

    mach.add1("Foo")
    await settle(mach)
    assert str(mach) == "(Foo:1 Bar:1)"


async def test_one_piece_of_work_may_wait_for_another(mach: am.Machine) -> None:
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return value * 2

    @mach.on.state("Foo")
    async def foo(e: am.Event) -> None:
        values = await asyncio.gather(*(asyncio.wait_for(asyncio.gather(double(n)), 3600) for n in range(3)))
        async with anyio.create_task_group() as group:
            group.start_soon(asyncio.sleep, 0)
        mach.add1("Bar", {"values": values})

    seen = mach.when_args("Bar")
    mach.add1("Foo")
    await settle(mach)
    assert seen.result() == {"values": [[0], [2], [4]]}


async def test_it_lets_long_chains_of_callbacks_end(mach: am.Machine) -> None:
    loop = asyncio.get_running_loop()
    start = loop.create_future()
    last: asyncio.Future[None] = start
    for _ in range(20):
        previous, last = last, loop.create_future()
        previous.add_done_callback(lambda _, following=last: following.set_result(None))

    async def wait() -> None:
        await last
        mach.add1("Bar")

    mach.fork(wait)
    await settle(mach)
    start.set_result(None)
    await settle(mach)
    assert mach.is1("Bar")


async def test_callbacks_of_the_loop_that_move_a_machine_are_let_end(mach: am.Machine) -> None:
    loop = asyncio.get_running_loop()

    def again(left: int) -> None:
        mach.add1("Baz")
        if left:
            loop.call_soon(again, left - 1)

    again(100)
    await settle(mach)
    assert mach.tick("Baz") == 201


async def test_several_machines_settle_together(mach: am.Machine) -> None:
    async with am.Machine({"Foo": {}}, id="other") as other:

        async def back() -> None:
            await other.when1("Foo")
            await asyncio.sleep(0)
            mach.add1("Bar")

        mach.fork(back)
        await settle(mach, other)
        other.add1("Foo")
        await settle(mach, other)
        assert mach.is1("Bar")


async def test_work_that_is_cancelled_has_ended(mach: am.Machine) -> None:
    async def tidy_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
            mach.add1("Bar")

    mach.add1("Foo")
    mach.fork(tidy_up, state="Foo")
    await settle(mach)
    mach.remove1("Foo")
    await settle(mach)
    assert mach.is1("Bar")


async def test_a_cancelled_scope_whose_work_cleans_up_slowly_is_at_rest(mach: am.Machine) -> None:
    done = asyncio.Event()

    async def tidy_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await done.wait()

    mach.add1("Foo")
    work = mach.fork(tidy_up, state="Foo")
    await settle(mach)
    mach.remove1("Foo")
    await settle(mach)  # anyio has callbacks of its own turn with the loop, for as long as the scope is not left
    assert not work.done()
    done.set()
    await settle(mach)
    assert work.done()


async def test_a_queue_that_outlasts_its_budget_is_drained(mach: am.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", 0)

    @mach.on.state("Baz")
    def again(e: am.Event) -> None:
        if mach.tick("Baz") < 20:
            mach.add1("Baz")

    mach.add1("Baz")
    assert mach.tick("Baz") < 20
    await settle(mach)
    assert mach.tick("Baz") == 21


async def test_it_waits_for_no_timer_and_no_thread_and_no_future(mach: am.Machine) -> None:
    release = threading.Event()

    async def outside() -> None:
        await anyio.to_thread.run_sync(release.wait)
        mach.add1("Bar")

    future = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await future
        mach.add1("Baz")

    mach.fork(outside)
    mach.fork(wait)
    mach.fork(asyncio.sleep, 0, delay=3600)
    await settle(mach)
    assert mach.statistics().work == 3
    assert str(mach) == "()"
    release.set()
    await mach.when1("Bar")
    future.set_result(None)
    await settle(mach)
    assert mach.is1("Baz")


async def test_two_may_settle_at_once(mach: am.Machine) -> None:
    await asyncio.gather(settle(mach), settle(mach), settle())


async def test_a_disposed_machine_rests(mach: am.Machine) -> None:
    await mach.dispose()
    await settle(mach)


async def test_what_never_rests_is_an_error_that_says_what_moves(mach: am.Machine) -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - nothing is waited for
            await asyncio.sleep(0)

    mach.fork(spin)
    with pytest.raises(AssertionError) as caught:
        await settle(mach, turns=50)
    title, *moving = str(caught.value).splitlines()
    assert title == "no rest within 50 turns of the loop; what still moves by itself:"
    (line,) = moving
    assert re.fullmatch(r"  the task mach\.\S*spin: in \S*spin, \S*test_settling\.py:\d+", line)


async def test_a_machine_that_feeds_itself_never_rests(mach: am.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", 0)

    @mach.on.state("Baz")
    def again(e: am.Event) -> None:
        if feeding:
            mach.add1("Baz")

    feeding = True
    mach.add1("Baz")
    with pytest.raises(AssertionError, match=r"mach: 1 mutations wait\n  the task mach\.actor: in Actor\._main, "):
        await settle(mach, turns=50)
    feeding = False


async def test_a_task_whose_future_is_done_is_about_to_run(mach: am.Machine) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    waiting = asyncio.ensure_future(asyncio.wait_for(future, None))
    await settle(mach)
    loop.call_soon(future.set_result, None)
    with pytest.raises(AssertionError, match=f"the task {waiting.get_name()}: "):
        await settle(mach, turns=1)
    await waiting


async def test_tasks_that_wake_each_other_never_rest(mach: am.Machine) -> None:
    """None of them is about to run whenever it is looked at, but each waits for something new."""
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        while True:
            future = loop.create_future()
            loop.call_soon(loop.call_soon, loop.call_soon, future.set_result, None)
            await future

    mach.fork(wait)
    with pytest.raises(AssertionError, match="what still moves by itself:\n"):
        await settle(mach, turns=100)


async def test_a_task_in_somebody_elses_code_still_moves(mach: am.Machine) -> None:
    task = asyncio.Task(asyncio.sleep(0), name="short")
    with pytest.raises(AssertionError, match="the task short: about to end"):
        await settle(mach, turns=1)
    await task


def test_a_machine_of_another_loop_is_refused() -> None:
    mach = am.Machine({"Foo": {}})
    asyncio.run(settle(mach))
    with pytest.raises(am.MachineLoopError, match="bound to another event loop"):
        asyncio.run(settle(mach))
