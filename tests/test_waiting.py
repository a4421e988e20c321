"""The `when_…` methods and what is built of them, as a user of one machine sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, Any] = {"Foo": {}, "Bar": {}, "Multi": {"multi": True}}

WAITS: dict[str, Callable[..., asyncio.Future[Any]]] = {
    "when": am.Machine.when,
    "when1": am.Machine.when1,
    "when_not": am.Machine.when_not,
    "when_not1": am.Machine.when_not1,
    "when_args": am.Machine.when_args,
    "when_time": lambda mach, state: mach.when_time([state], [1]),
    "when_time1": lambda mach, state: mach.when_time1(state, 1),
    "when_ticks": lambda mach, state: mach.when_ticks(state, 1),
    "when_next_active": am.Machine.when_next_active,
}


def machine(**options: Any) -> am.Machine:
    """Give a machine whose errors are handled, so that they are not logged."""
    return am.Machine(SCHEMA, handlers={"ExceptionState": lambda e: None}, **options)


def soon(*calls: Callable[[], object]) -> None:
    """Have calls made in one turn of the loop, one after the other, once the test waits."""

    def make_calls() -> None:
        for call in calls:
            call()

    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, make_calls)


class TestWhen:
    @pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
    async def test_a_misspelt_state_is_found_at_the_call(self, wait: Callable[..., Any]) -> None:
        mach = machine()
        with pytest.raises(am.UnknownStateError, match=r"^'Fooo' is no state of this machine; did you mean 'Foo'"):
            wait(mach, "Fooo")
        assert mach.statistics().waiters == 0

    @pytest.mark.parametrize("ask", [am.Machine.when, am.Machine.when_not], ids=["when", "when_not"])
    async def test_several_names_and_one_list_are_the_same(self, ask: Callable[..., asyncio.Future[am.Time]]) -> None:
        mach = machine()
        futures = [ask(mach, "Foo", "Bar"), ask(mach, ["Foo", "Bar"]), ask(mach, ["Foo"], "Bar")]
        mach.add(["Foo", "Bar"])
        assert {await future for future in futures} <= {am.Time([1, 1]), am.Time([0, 0])}
        assert len({future.result() for future in futures}) == 1

    async def test_ticks_come_in_the_order_asked_for(self) -> None:
        mach = machine()
        mach.add1("Bar")
        mach.remove1("Bar")
        mach.add(["Foo", "Bar"])
        assert await mach.when("Bar", "Foo") == am.Time([3, 1])
        assert await mach.when("Foo", "Bar") == am.Time([1, 3])

    async def test_a_state_named_twice_is_one_state(self) -> None:
        mach = machine()
        future = mach.when("Foo", "Foo")
        mach.add1("Foo")
        assert await future == am.Time([1, 1])

    async def test_no_states_at_all_hold(self) -> None:
        mach = machine()
        assert await mach.when() == am.Time()
        assert await mach.when_not([]) == am.Time()

    async def test_all_states_must_be_active_at_once(self) -> None:
        mach = machine()
        future = mach.when("Foo", "Bar")
        mach.add1("Foo")
        mach.set(["Bar"])
        assert not future.done()
        mach.add1("Foo")
        assert await future == am.Time([3, 1])

    async def test_the_type_of_the_value_is_that_of_the_method(self) -> None:
        mach = machine()
        mach.add1("Foo")
        assert type(await mach.when1("Foo")) is int
        assert type(await mach.when("Foo")) is am.Time
        assert type(await mach.when_not1("Bar")) is int
        assert type(await mach.when_not("Bar")) is am.Time
        assert type(await mach.when_time1("Foo", 1)) is int
        assert type(await mach.when_time(["Foo"], [1])) is am.Time
        assert type(await mach.when_query(lambda clock: True)) is am.Clock


class TestWhenArgs:
    async def test_without_a_match_any_args_will_do_also_none(self) -> None:
        mach = machine()
        future = mach.when_args("Foo")
        mach.add1("Foo")
        assert await future == {}

    async def test_all_of_the_subset_must_be_equal(self) -> None:
        mach = machine()
        future = mach.when_args("Multi", {"id": 1, "by": "me"})
        for args in ({"id": 1}, {"id": 1, "by": "you"}, {"by": "me"}, None):
            mach.add1("Multi", args)
            assert not future.done()
        mach.add1("Multi", {"id": 1, "by": "me", "at": 5})
        assert await future == {"id": 1, "by": "me", "at": 5}

    async def test_an_absent_name_is_not_the_same_as_none(self) -> None:
        mach = machine()
        future = mach.when_args("Multi", {"id": None})
        mach.add1("Multi", {"by": "me"})
        assert not future.done()
        mach.add1("Multi", {"id": None})
        assert await future == {"id": None}

    async def test_a_match_of_another_kind_is_refused_at_once(self) -> None:
        mach = machine()
        for match in (5, "by me", [("id", 1)]):
            with pytest.raises(am.ArgsError, match=r'^args are matched with a mapping, {"name": value}, or a function'):
                mach.when_args("Multi", match)  # type: ignore[arg-type]
        assert mach.statistics().waiters == 0

    async def test_an_empty_predicate_answer_is_no_match(self) -> None:
        mach = machine()
        future = mach.when_args("Multi", lambda args: args.get("ids", []))
        mach.add1("Multi", {"ids": []})
        assert not future.done()
        mach.add1("Multi", {"ids": [1]})
        assert await future == {"ids": [1]}

    async def test_a_state_that_is_added_along_enters_with_the_args_too(self) -> None:
        mach = am.Machine({"Foo": {"add": ["Bar"]}, "Bar": {}})
        future = mach.when_args("Bar", {"id": 1})
        mach.add1("Foo", {"id": 1})
        assert await future == {"id": 1}

    async def test_a_state_that_leaves_does_not_enter(self) -> None:
        mach = machine()
        mach.add1("Foo")
        future = mach.when_args("Foo", {"id": 1})
        mach.remove1("Foo", {"id": 1})
        assert not future.done()

    async def test_the_args_of_an_error_hold_the_error(self) -> None:
        mach, err = machine(), ValueError("no fuel")
        future = mach.when_args("Exception", lambda args: isinstance(args["err"], ValueError))
        mach.add_err(err)
        assert (await future)["err"] is err


class TestWhenTime:
    @pytest.mark.parametrize(("states", "ticks"), [(["Foo"], []), (["Foo"], [1, 2]), ([], [1])])
    async def test_needs_a_tick_for_each_state(self, states: list[str], ticks: list[int]) -> None:
        mach = machine()
        with pytest.raises(ValueError, match=rf"^{len(states)} states need as many ticks, not {len(ticks)}$"):
            mach.when_time(states, ticks)
        assert mach.statistics().waiters == 0

    async def test_takes_iterators(self) -> None:
        mach = machine()
        mach.add(["Foo", "Bar"])
        assert await mach.when_time(iter(["Foo", "Bar"]), iter([1, 1])) == am.Time([1, 1])

    async def test_a_tick_that_was_jumped_over_has_been_reached(self) -> None:
        mach = machine()
        mach.add1("Multi")
        future = mach.when_time1("Multi", 2)
        mach.add1("Multi")
        assert await future == 3

    async def test_no_ticks_from_now_are_over_at_once(self) -> None:
        mach = machine()
        mach.add1("Foo")
        assert await mach.when_ticks("Foo", 0) == 1

    async def test_ticks_do_not_go_back(self) -> None:
        mach = machine()
        with pytest.raises(ValueError, match=r"^a clock never goes back: wait for 0 ticks or more, not -1$"):
            mach.when_ticks("Foo", -1)
        assert mach.statistics().waiters == 0

    async def test_the_next_activation_of_an_inactive_state_is_its_first(self) -> None:
        mach = machine()
        future = mach.when_next_active("Foo")
        mach.add1("Foo")
        assert await future == 1


class TestWhenTheRest:
    async def test_an_error_is_given_as_it_was_added(self) -> None:
        mach, first, last = machine(), ValueError("no fuel"), OSError("disk full")
        future = mach.when_err()
        mach.add_err(first)
        assert await future is first
        mach.add_err(last)
        assert await mach.when_err() is last

    async def test_an_error_state_of_one_s_own_brings_its_error(self) -> None:
        mach, err = am.Machine({"ErrNetwork": {}}, handlers={"ExceptionState": lambda e: None}), OSError("unreachable")
        future = mach.when_err()
        mach.add_err_state("ErrNetwork", err)
        assert await future is err

    async def test_an_error_that_is_over_is_not_given_again(self) -> None:
        mach = machine()
        mach.add_err(ValueError("no fuel"))
        mach.remove1("Exception")
        assert not mach.when_err().done()

    async def test_the_queue_is_waited_for_by_a_result_or_by_a_tick(self) -> None:
        mach = machine()
        assert await mach.when_queue(mach.add1("Foo")) == 2
        assert await mach.when_queue(2) == 2
        by_tick = mach.when_queue(3)
        assert not by_tick.done()
        mach.add1("Bar")
        assert await by_tick == 3

    async def test_the_end_of_the_queue_gives_nothing(self) -> None:
        assert await machine().when_queue_ends() is None

    async def test_the_end_of_the_machine_gives_nothing(self) -> None:
        mach = machine()
        future = mach.when_disposed()
        assert not future.done()
        await mach.dispose()
        assert await future is None


class TestExpect:
    async def test_what_holds_is_given_at_once(self) -> None:
        mach = machine()
        mach.add(["Foo", "Bar"])
        assert await mach.expect("Bar", "Foo") == am.Time([1, 1])

    async def test_waits_for_all_states(self) -> None:
        mach = machine()
        soon(lambda: mach.add1("Foo"))
        waiting = asyncio.ensure_future(mach.expect(["Foo", "Bar"]))
        await turns()
        assert not waiting.done()
        mach.add1("Bar")
        assert await waiting == am.Time([1, 1])
        assert mach.statistics().waiters == 0

    async def test_no_states_at_all_hold(self) -> None:
        assert await machine().expect() == am.Time()

    async def test_a_misspelt_state_is_found_before_anything_is_waited_for(self) -> None:
        mach = machine()
        with pytest.raises(am.UnknownStateError, match="'Fo'"):
            await mach.expect("Foo", "Fo")
        assert mach.statistics().waiters == 0

    async def test_an_error_that_comes_first_is_raised(self) -> None:
        mach, err = machine(), ValueError("no fuel")
        soon(lambda: mach.add_err(err))
        with pytest.raises(ValueError, match=r"^no fuel$") as caught:
            await mach.expect("Foo", timeout=3600)
        assert caught.value is err
        assert mach.statistics().waiters == 0

    async def test_an_error_that_comes_first_is_raised_though_the_states_follow_within_the_turn(self) -> None:
        mach = machine()
        soon(lambda: mach.add_err(ValueError("no fuel")), lambda: mach.add1("Foo"))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await mach.expect("Foo", timeout=3600)

    async def test_states_that_come_first_count_though_an_error_follows_within_the_turn(self) -> None:
        mach = machine()
        soon(lambda: mach.add1("Foo"), lambda: mach.add_err(ValueError("no fuel")))
        assert await mach.expect("Foo", timeout=3600) == am.Time([1])

    async def test_an_error_the_machine_is_in_counts(self) -> None:
        mach = machine()
        mach.add_err(ValueError("no fuel"))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await mach.expect("Foo", timeout=3600)

    async def test_states_that_hold_win_over_an_error_the_machine_is_in(self) -> None:
        mach = machine()
        mach.add1("Foo")
        mach.add_err(ValueError("no fuel"))
        assert await mach.expect("Foo", timeout=3600) == am.Time([1])

    async def test_an_error_that_is_over_does_not_count(self) -> None:
        mach = machine()
        mach.add_err(ValueError("no fuel"))
        mach.remove1("Exception")
        soon(lambda: mach.add1("Foo"))
        assert await mach.expect("Foo", timeout=3600) == am.Time([1])

    async def test_the_error_of_a_handler_is_raised_as_it_was(self) -> None:
        mach, err = machine(), LookupError("not found")

        def fail(event: am.Event) -> None:
            raise err

        mach.bind_handlers({"FooState": fail})
        soon(lambda: mach.add1("Foo"))
        with pytest.raises(LookupError) as caught:
            await mach.expect("Foo", timeout=3600)
        assert caught.value is err

    async def test_an_error_that_is_expected_is_not_raised(self) -> None:
        mach = machine()
        soon(lambda: mach.add_err(ValueError("no fuel")))
        assert await mach.expect("Exception", timeout=3600) == am.Time([1])
        soon(lambda: mach.add1("Foo"))
        assert await mach.expect(["Foo", "Exception"], timeout=3600) == am.Time([1, 1])

    async def test_the_timeout_says_what_is_missing_and_what_is_active(self) -> None:
        mach = machine()
        mach.add1("Bar")
        with pytest.raises(
            TimeoutError, match=r"^Foo Multi not active within 0\.01 s; the machine is at \(Bar:1\)$"
        ) as caught:
            await mach.expect("Foo", "Bar", "Multi", timeout=0.01)
        assert caught.value.__suppress_context__
        assert mach.statistics().waiters == 0

    async def test_a_timeout_that_is_the_error_of_the_machine_is_raised_as_it_is(self) -> None:
        mach, err = machine(), TimeoutError("the database is slow")
        soon(lambda: mach.add_err(err))
        with pytest.raises(TimeoutError) as caught:
            await mach.expect("Foo", timeout=3600)
        assert caught.value is err

    async def test_a_thousand_timeouts_leave_nothing(self) -> None:
        mach = machine()
        for _ in range(1_000):
            with pytest.raises(TimeoutError):
                await mach.expect("Foo", timeout=0)
        assert mach.statistics().waiters == 0

    async def test_the_end_of_the_machine_is_raised(self) -> None:
        mach = machine()
        soon(mach.dispose)
        with pytest.raises(am.MachineDisposedError, match="was disposed"):
            await mach.expect("Foo", timeout=3600)
        with pytest.raises(am.MachineDisposedError, match="was disposed"):
            await mach.expect("Foo", timeout=3600)

    @pytest.mark.parametrize("count", range(4))
    async def test_being_cancelled_at_any_turn_leaves_nothing(self, count: int) -> None:
        mach = machine()
        waiting = asyncio.ensure_future(mach.expect("Foo", timeout=3600))
        await turns(count)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert mach.statistics().waiters == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_a_scope_of_anyio_ends_it(self) -> None:
        mach = machine()
        with pytest.raises(TimeoutError, match=r"^$"):
            with anyio.fail_after(0.01):
                await mach.expect("Foo")
        assert mach.statistics().waiters == 0


BOTH = pytest.mark.parametrize("name", ["wait_all", "wait_any"])


class TestWaitAllAndAny:
    async def test_wait_all_gives_what_all_gave_in_their_order(self) -> None:
        mach = machine()
        soon(lambda: mach.add1("Bar"), lambda: mach.add1("Foo", {"id": 1}))
        assert await mach.wait_all(mach.when_args("Foo"), mach.when1("Bar"), timeout=3600) == [{"id": 1}, 1]
        assert mach.statistics().waiters == 0

    async def test_wait_any_gives_the_position_of_the_first_and_cancels_the_rest(self) -> None:
        mach = machine()
        foo, bar = mach.when1("Foo"), mach.when1("Bar")
        soon(lambda: mach.add1("Bar"), lambda: mach.add1("Foo"))
        assert await mach.wait_any(foo, bar, mach.when1("Multi"), timeout=3600) == 1
        assert mach.statistics().waiters == 0

    async def test_wait_all_has_nothing_to_wait_for_without_awaitables(self) -> None:
        assert await machine().wait_all(timeout=0) == []

    async def test_wait_any_refuses_to_wait_for_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"^wait_any needs at least one awaitable, or it would wait for ever$"):
            await machine().wait_any()

    @BOTH
    async def test_an_error_of_the_machine_that_comes_first_is_raised(self, name: str) -> None:
        mach = machine()
        mine = mach.when1("Foo"), mach.when1("Bar")
        soon(lambda: mach.add_err(ValueError("no fuel")), lambda: mach.add(["Foo", "Bar"]))
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await getattr(mach, name)(*mine, timeout=3600)
        assert mach.statistics().waiters == 0

    @BOTH
    async def test_an_error_the_machine_is_in_is_raised_unless_all_is_done(self, name: str) -> None:
        mach = machine()
        mach.add1("Foo")
        mach.add_err(ValueError("no fuel"))
        assert await getattr(mach, name)(mach.when1("Foo"), timeout=3600) in ([1], 0)
        waiting = mach.when1("Bar")
        with pytest.raises(ValueError, match=r"^no fuel$"):
            await getattr(mach, name)(waiting, timeout=3600)
        assert waiting.cancelled()

    @BOTH
    async def test_an_error_that_comes_after_does_not_count(self, name: str) -> None:
        mach = machine()
        waits = mach.when1("Foo"), mach.when1("Bar")
        soon(lambda: mach.add(["Foo", "Bar"]), lambda: mach.add_err(ValueError("no fuel")))
        assert await getattr(mach, name)(*waits, timeout=3600) in ([1, 1], 0)

    @BOTH
    async def test_an_error_of_an_awaitable_is_raised_and_the_rest_cancelled(self, name: str) -> None:
        mach = machine()
        waits = mach.when1("Foo"), mach.when_query(lambda clock: 1 // (1 - clock["Bar"]) > 1), mach.when1("Multi")
        soon(lambda: mach.add1("Bar"))
        with pytest.raises(ZeroDivisionError):
            await getattr(mach, name)(*waits, timeout=3600)
        assert waits[0].cancelled()
        assert waits[2].cancelled()
        assert mach.statistics().waiters == 0
        assert mach.err is None

    @BOTH
    async def test_the_timeout_counts_what_was_asked_for(self, name: str) -> None:
        mach = machine()
        with pytest.raises(TimeoutError, match=r"^2 of 2 waits were not done within 0\.01 s$"):
            await getattr(mach, name)(mach.when1("Foo"), mach.when1("Bar"), timeout=0.01)
        assert mach.statistics().waiters == 0

    @BOTH
    async def test_a_timeout_that_is_the_error_of_the_machine_is_raised_as_it_is(self, name: str) -> None:
        mach, err = machine(), TimeoutError("the database is slow")
        soon(lambda: mach.add_err(err))
        with pytest.raises(TimeoutError) as caught:
            await getattr(mach, name)(mach.when1("Foo"), timeout=3600)
        assert caught.value is err

    @BOTH
    async def test_the_end_of_the_machine_is_raised(self, name: str) -> None:
        mach = machine()
        elsewhere = asyncio.get_running_loop().create_future()
        soon(mach.dispose)
        with pytest.raises(am.MachineDisposedError, match="was disposed"):
            await getattr(mach, name)(elsewhere, timeout=3600)
        assert elsewhere.cancelled()

    @BOTH
    async def test_what_a_disposed_machine_has_nothing_to_do_with_is_still_given(self, name: str) -> None:
        mach = machine()
        await mach.dispose()
        elsewhere = asyncio.get_running_loop().create_future()
        elsewhere.set_result("given")
        assert await getattr(mach, name)(elsewhere, timeout=3600) in (["given"], 0)

    @BOTH
    @pytest.mark.parametrize("count", range(4))
    async def test_being_cancelled_at_any_turn_leaves_nothing(self, name: str, count: int) -> None:
        mach = machine()

        async def wait() -> Awaitable[Any]:
            return await getattr(mach, name)(mach.when1("Foo"), anyio.sleep_forever())  # type: ignore[no-any-return]

        waiting = asyncio.create_task(wait())
        await turns(count)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await turns()
        assert mach.statistics().waiters == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
