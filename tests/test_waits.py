"""`wait_all`, `wait_any` and `expect` as functions: on any awaitables, with timeouts, and nothing left pending."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, Any] = {"Foo": {}, "Bar": {}, "Baz": {}}

WaitFor = Callable[..., Awaitable[Any]]

BOTH = pytest.mark.parametrize("wait_for", [am.wait_all, am.wait_any], ids=["wait_all", "wait_any"])


def soon(*calls: Callable[[], object]) -> None:
    """Have calls made in one turn of the loop, one after the other, once the test waits."""

    def make_calls() -> None:
        for call in calls:
            call()

    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, make_calls)


def new_futures(count: int) -> list[asyncio.Future[Any]]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


class Sleeper:
    """Awaitables that never end by themselves, and what became of them."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def sleep(self, name: str = "") -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.ends.append(name)


async def give(value: Any) -> Any:
    return value


async def fail(err: BaseException) -> None:
    raise err


@contextmanager
def no_noise() -> Iterator[None]:
    """Fail if the loop has anything to report, also when what is left has been collected."""
    loop = asyncio.get_running_loop()
    noise: list[Mapping[str, Any]] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: noise.append(context))
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(handler)
    assert noise == []


async def assert_no_task_is_left() -> None:
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


class TestWaitAll:
    async def test_gives_what_all_gave_in_their_order_whatever_order_they_came_in(self) -> None:
        first, second, third = new_futures(3)
        soon(lambda: third.set_result("c"), lambda: first.set_result("a"), lambda: second.set_result("b"))
        assert await am.wait_all(first, second, third) == ["a", "b", "c"]

    async def test_takes_awaitables_of_any_kind(self) -> None:
        mach = am.Machine(SCHEMA)
        task = asyncio.create_task(give("task"))
        assert await am.wait_all(give("coroutine"), task, mach.when_not1("Foo"), mach.add1("Bar"), timeout=3600) == [
            "coroutine",
            "task",
            0,
            am.Result.EXECUTED,
        ]
        await assert_no_task_is_left()

    async def test_takes_one_future_several_times(self) -> None:
        (future,) = new_futures(1)
        soon(lambda: future.set_result(1))
        assert await am.wait_all(future, future) == [1, 1]

    async def test_has_nothing_to_wait_for_without_awaitables(self) -> None:
        assert await am.wait_all() == []
        assert await am.wait_all(timeout=0) == []

    async def test_waits_until_the_last_is_done(self) -> None:
        first, second = new_futures(2)
        waiting = asyncio.create_task(am.wait_all(first, second))
        first.set_result(1)
        await turns()
        assert not waiting.done()
        second.set_result(2)
        assert await waiting == [1, 2]

    @pytest.mark.parametrize("failing", [0, 1, 2])
    async def test_raises_the_error_of_one_that_fails_and_cancels_the_rest(self, failing: int) -> None:
        futures = new_futures(3)
        soon(lambda: futures[failing].set_exception(ValueError("no fuel")))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await am.wait_all(*futures)
        assert [future.cancelled() for future in futures] == [i != failing for i in range(3)]

    async def test_raises_the_error_of_a_coroutine_that_fails_and_cancels_the_rest(self) -> None:
        sleeper = Sleeper()
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await am.wait_all(sleeper.sleep("first"), fail(ValueError("no fuel")), sleeper.sleep("last"))
        await assert_no_task_is_left()
        assert sleeper.ends == ["first", "last"]

    async def test_raises_the_error_that_came_first(self) -> None:
        futures = new_futures(2)
        soon(
            lambda: futures[1].set_exception(ValueError("earlier")),
            lambda: futures[0].set_exception(ValueError("later")),
        )
        with no_noise():
            with pytest.raises(ValueError, match=r"^earlier$"):
                await am.wait_all(*futures)
            futures.clear()

    async def test_one_that_is_cancelled_ends_the_wait_as_it_would_end_an_await(self) -> None:
        first, second = new_futures(2)
        soon(second.cancel)
        with pytest.raises(asyncio.CancelledError):
            await am.wait_all(first, second)
        assert first.cancelled()


class TestWaitAny:
    @pytest.mark.parametrize("chosen", [0, 1, 2])
    async def test_gives_the_position_of_the_one_that_is_done_and_cancels_the_rest(self, chosen: int) -> None:
        futures = new_futures(3)
        soon(lambda: futures[chosen].set_result(None))
        assert await am.wait_any(*futures) == chosen
        assert [future.cancelled() for future in futures] == [i != chosen for i in range(3)]

    async def test_gives_the_one_that_was_done_first_also_within_a_turn(self) -> None:
        first, second = new_futures(2)
        soon(lambda: second.set_result(None), lambda: first.set_result(None))
        assert await am.wait_any(first, second) == 1

    async def test_gives_the_first_of_those_done_at_the_call(self) -> None:
        mach = am.Machine(SCHEMA)
        mach.add1("Baz")
        mach.add1("Bar")
        assert await am.wait_any(mach.when1("Foo"), mach.when1("Bar"), mach.when1("Baz")) == 1
        assert mach.statistics().waiters == 0

    async def test_cancels_coroutines_that_are_not_done(self) -> None:
        sleeper = Sleeper()
        assert await am.wait_any(sleeper.sleep("first"), give(1), sleeper.sleep("last")) == 1
        await assert_no_task_is_left()
        assert sleeper.ends == ["first", "last"]

    async def test_raises_the_error_of_the_one_that_fails_first(self) -> None:
        first, second = new_futures(2)
        soon(lambda: second.set_exception(ValueError("no fuel")), lambda: first.set_result(None))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await am.wait_any(first, second)

    @pytest.mark.parametrize("later", range(5))
    async def test_an_error_that_comes_too_late_makes_no_noise(self, later: int) -> None:
        futures = new_futures(2)

        async def decide() -> None:
            await turns()
            futures[1].set_result(None)
            await turns(later)  # some of them come between the decision and the end of the wait
            if not futures[0].done():
                futures[0].set_exception(ValueError("too late"))

        with no_noise():
            deciding = asyncio.create_task(decide())
            assert await am.wait_any(*futures) == 1
            await deciding
            futures.clear()

    async def test_one_that_is_cancelled_ends_the_wait_as_it_would_end_an_await(self) -> None:
        first, second = new_futures(2)
        soon(second.cancel)
        with pytest.raises(asyncio.CancelledError):
            await am.wait_any(first, second)
        assert first.cancelled()

    async def test_takes_one_future_several_times(self) -> None:
        (future,) = new_futures(1)
        soon(lambda: future.set_result(1))
        assert await am.wait_any(future, future) == 0

    async def test_refuses_to_wait_for_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"^wait_any needs at least one awaitable, or it would wait for ever$"):
            await am.wait_any()


class TestTimeout:
    @BOTH
    async def test_says_how_many_were_not_done(self, wait_for: WaitFor) -> None:
        futures = new_futures(3)
        with pytest.raises(TimeoutError, match=r"^3 of 3 waits were not done within 0\.01 s$"):
            await wait_for(*futures, timeout=0.01)
        assert all(future.cancelled() for future in futures)

    async def test_counts_only_those_that_were_not_done(self) -> None:
        futures = new_futures(3)
        futures[1].set_result(None)
        with pytest.raises(TimeoutError, match=r"^2 of 3 waits were not done within 0\.01 s$"):
            await am.wait_all(*futures, timeout=0.01)

    @BOTH
    async def test_of_zero_still_sees_what_is_done(self, wait_for: WaitFor) -> None:
        mach = am.Machine(SCHEMA)
        mach.add1("Foo")
        assert await wait_for(mach.when1("Foo"), mach.when_not1("Bar"), timeout=0) in ([1, 0], 0)
        with pytest.raises(TimeoutError, match="within 0 s"):
            await wait_for(mach.when1("Bar"), timeout=0)
        assert mach.statistics().waiters == 0

    @BOTH
    async def test_cancels_coroutines(self, wait_for: WaitFor) -> None:
        sleeper = Sleeper()
        with pytest.raises(TimeoutError, match="2 of 2"):
            await wait_for(sleeper.sleep("first"), sleeper.sleep("second"), timeout=0.01)
        await assert_no_task_is_left()
        # On a computer that stands still, the time may be over before their first steps.
        assert sleeper.ends in (["first", "second"], [])

    @BOTH
    async def test_of_an_awaitable_itself_is_passed_on(self, wait_for: WaitFor) -> None:
        with pytest.raises(TimeoutError, match=r"^of my own$"):
            await wait_for(fail(TimeoutError("of my own")), timeout=3600)


class TestBeingCancelled:
    @BOTH
    @pytest.mark.parametrize("count", range(4))
    async def test_at_any_turn_leaves_nothing_pending(self, wait_for: WaitFor, count: int) -> None:
        mach, sleeper = am.Machine(SCHEMA), Sleeper()

        async def wait() -> None:
            await wait_for(mach.when1("Foo"), sleeper.sleep(), timeout=3600)

        waiting = asyncio.create_task(wait())
        await turns(count)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert mach.statistics().waiters == 0
        await assert_no_task_is_left()

    @BOTH
    async def test_by_a_scope_of_anyio_leaves_nothing_pending(self, wait_for: WaitFor) -> None:
        mach, sleeper = am.Machine(SCHEMA), Sleeper()
        with anyio.CancelScope() as scope:
            soon(scope.cancel)
            await wait_for(mach.when1("Foo"), sleeper.sleep("slept"))
        assert scope.cancelled_caught
        assert mach.statistics().waiters == 0
        await assert_no_task_is_left()
        assert sleeper.ends == ["slept"]

    @BOTH
    async def test_at_the_end_of_the_wait_ends_the_caller_and_leaves_nothing(self, wait_for: WaitFor) -> None:
        mach = am.Machine(SCHEMA)
        waiting = asyncio.ensure_future(wait_for(mach.when1("Foo"), mach.when1("Bar")))
        await turns()
        mach.add(["Foo", "Bar"])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert mach.statistics().waiters == 0
        await assert_no_task_is_left()


async def test_an_error_in_the_end_of_a_cancelled_awaitable_is_heard_of_through_the_loop() -> None:
    loop, err = asyncio.get_running_loop(), ValueError("could not clean up")
    heard: list[Mapping[str, Any]] = []
    handler = loop.get_exception_handler()

    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise err

    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        assert await am.wait_any(fail_at_the_end(), give(1)) == 1
        await turns()
        gc.collect()
    finally:
        loop.set_exception_handler(handler)
    assert [context["exception"] for context in heard] == [err]


@BOTH
async def test_what_cannot_be_awaited_leaves_nothing_pending(wait_for: WaitFor) -> None:
    mach = am.Machine(SCHEMA)
    waiting = mach.when1("Foo")
    with pytest.raises(TypeError, match="awaitable"):
        await wait_for(waiting, 5)
    assert waiting.cancelled()
    assert mach.statistics().waiters == 0


@BOTH
async def test_waits_of_a_disposed_machine_fail(wait_for: WaitFor) -> None:
    mach = am.Machine(SCHEMA)
    waits = [mach.when1("Foo"), mach.when1("Bar")]
    soon(lambda: None, mach.dispose)
    with no_noise():
        with pytest.raises(am.MachineDisposedError):
            await wait_for(*waits, timeout=3600)
        waits.clear()


class TestExpect:
    async def test_is_the_method_of_the_machine(self) -> None:
        mach = am.Machine(SCHEMA)
        soon(lambda: mach.add(["Foo", "Bar"]))
        assert await am.expect(mach, "Foo", ["Bar"], timeout=3600) == am.Time([1, 1])
        with pytest.raises(TimeoutError, match=r"^Baz not active within 0 s; the machine is at \(Foo:1 Bar:1\)$"):
            await am.expect(mach, "Baz", timeout=0)

    async def test_raises_the_error_of_the_machine(self) -> None:
        mach = am.Machine(SCHEMA, handlers={"ExceptionState": lambda e: None})
        soon(lambda: mach.add_err(ValueError("no fuel")))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await am.expect(mach, "Foo")

    async def test_works_with_whatever_has_the_method(self) -> None:
        class Remote:
            async def expect(self, *states: Any, timeout: float | None = None) -> am.Time:
                return am.Time([len(states), int(timeout or 0)])

        assert await am.expect(Remote(), "Foo", "Bar", timeout=3) == am.Time([2, 3])
