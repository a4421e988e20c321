"""Work: `async` handlers and `fork`, under the contexts of states; how it starts, ends, fails, and leaves nothing."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, Any] = {"Foo": {}, "Bar": {}, "Multi": {"multi": True}}


def machine(**options: Any) -> am.Machine:
    return am.Machine(SCHEMA, **options)


def ignore_errors(mach: am.Machine) -> None:
    """Have a handler for errors, so that they are not logged."""
    mach.bind_handlers({"ExceptionState": lambda e: None}, id="errors")


def is_eager() -> bool:
    """Tell whether tasks have their first step within the call that makes them."""
    return asyncio.get_running_loop().get_task_factory() is not None


def task_of(mach: am.Machine, name: str) -> asyncio.Task[Any]:
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == f"{mach.id}.{name}")
    return task


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds; a test that waits in vain runs into its timeout."""
    while not holds():  # noqa: ASYNC110 - turns of the loop are just what is waited for
        await asyncio.sleep(0)


async def assert_nothing_is_left(mach: am.Machine) -> None:
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    statistics = mach.statistics()
    assert (statistics.waiters, statistics.contexts, statistics.work) == (0, 0, 0)


class Pieces:
    """Work that waits to be released, and notes what becomes of each piece of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.running: list[str] = []
        self.most = 0
        self.gates: dict[str, asyncio.Event] = {}

    async def run(self, name: str) -> None:
        self.log.append(f"{name} starts")
        self.running.append(name)
        self.most = max(self.most, len(self.running))
        self.gates[name] = asyncio.Event()
        try:
            await self.gates[name].wait()
        except asyncio.CancelledError:
            self.log.append(f"{name} is cancelled")
            raise
        else:
            self.log.append(f"{name} ends")
        finally:
            self.running.remove(name)

    async def handle(self, event: am.Event) -> None:
        await self.run(event.args.get("name", event.name))

    async def release(self, *names: str) -> None:
        for name in names:
            await until(lambda name=name: name in self.gates)
            self.gates[name].set()
        await turns()


class TestStart:
    async def test_work_starts_when_the_transition_is_over_and_is_not_waited_for(self) -> None:
        mach = machine()
        seen: list[tuple[str, bool]] = []

        async def work(event: am.Event) -> None:
            seen.append((event.name, event.is_valid))
            await asyncio.sleep(0)
            seen.append(("done", mach.is1("Foo")))

        mach.bind_handlers({"FooState": work, "AnyState": lambda e: seen.append((e.name, e.is_valid))})
        assert mach.add1("Foo").executed
        assert seen == [("AnyState", True), ("FooState", False)][: 2 if is_eager() else 1]
        await turns()
        assert seen == [("AnyState", True), ("FooState", False), ("done", True)]
        await assert_nothing_is_left(mach)

    async def test_the_event_tells_of_the_transition_the_work_comes_from(self) -> None:
        mach = machine()
        events: list[am.Event] = []

        async def work(event: am.Event) -> None:
            events.append(event)

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo", {"path": "README.md"})
        await turns()
        (event,) = events
        assert (event.name, event.state, event.machine) == ("FooState", "Foo", mach)
        assert event.args == {"path": "README.md"}
        assert event.transition.is_completed

    async def test_every_bound_handler_has_work_of_its_own(self) -> None:
        mach, pieces = machine(), Pieces()

        async def first(event: am.Event) -> None:
            await pieces.run("first")

        async def second(event: am.Event) -> None:
            await pieces.run("second")

        mach.bind_handlers({"FooState": first})
        mach.on.state("Foo", "Bar")(second)
        mach.add1("Foo")
        await turns()
        assert pieces.running == ["first", "second"]
        assert mach.statistics().work == 2
        assert mach.statistics().contexts == 2
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)

    async def test_a_task_of_work_has_the_name_of_the_machine_and_the_handler(self) -> None:
        mach, pieces = machine(id="door"), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        await turns()
        assert task_of(mach, "FooState").get_name() == "door.FooState"
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)

    async def test_work_runs_in_a_copy_of_the_context_of_whoever_made_the_mutation(self) -> None:
        mach = machine()
        user: ContextVar[str] = ContextVar("user", default="nobody")
        seen: list[str] = []

        async def work(event: am.Event) -> None:
            seen.append(user.get())
            user.set("work")

        mach.bind_handlers({"FooState": work})
        user.set("me")
        mach.add1("Foo")
        await turns()
        assert seen == ["me"]
        assert user.get() == "me"

    def test_without_a_running_loop_nothing_becomes_active_that_stands_for_work(self) -> None:
        mach = machine(id="door")

        async def work(event: am.Event) -> None:
            raise AssertionError

        mach.bind_handlers({"FooState": work})
        with pytest.raises(am.MachineLoopError, match=r"^the machine door needs a running event loop for this .*async"):
            mach.add1("Foo")
        assert mach.time() == am.Time([0, 0, 0, 0])
        assert mach.can_add1("Foo").executed
        assert mach.add1("Bar").executed


class TestFlip:
    async def test_work_whose_state_flips_before_its_first_step_never_starts(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        mach.remove1("Foo")
        await turns()
        # An eager task has its first step within the call.
        assert pieces.log == (["FooState starts", "FooState is cancelled"] if is_eager() else [])
        await assert_nothing_is_left(mach)

    async def test_within_one_drain_too(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": lambda e: e.machine.remove1("Foo") and None}, id="back")
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        assert mach.not1("Foo")
        await turns()
        assert pieces.log == (["FooState starts", "FooState is cancelled"] if is_eager() else [])
        await assert_nothing_is_left(mach)

    async def test_work_of_a_state_that_is_rolled_back_never_starts_eager_or_not(self) -> None:
        mach, pieces = machine(), Pieces()
        ignore_errors(mach)
        mach.bind_handlers({"FooState": pieces.handle})
        mach.bind_handlers({"FooState": lambda e: 1 / 0}, id="failing")
        assert mach.add1("Foo").canceled
        await turns()
        assert pieces.log == []
        await assert_nothing_is_left(mach)

    async def test_the_work_of_each_activation_ends_with_it(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo", {"name": "first"})
        mach.remove1("Foo")
        mach.add1("Foo", {"name": "second"})
        await turns()
        assert pieces.running == ["second"]
        mach.remove1("Foo")
        await turns()
        assert pieces.running == []
        mach.add1("Foo", {"name": "third"})
        await turns()
        assert pieces.running == ["third"]
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)

    async def test_work_of_a_state_that_stays_goes_on(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        mach.add1("Foo", {"id": 2})
        mach.add1("Bar")
        mach.set(["Foo"])
        await turns()
        assert pieces.log == ["FooState starts"]
        await pieces.release("FooState")
        assert pieces.log == ["FooState starts", "FooState ends"]
        assert mach.is1("Foo")
        await assert_nothing_is_left(mach)

    async def test_each_activation_of_a_multi_state_has_its_own_work_and_all_end_with_the_state(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"MultiState": pieces.handle})
        for name in "abc":
            mach.add1("Multi", {"name": name})
        await turns()
        assert pieces.running == ["a", "b", "c"]
        assert mach.statistics().work == 3
        await pieces.release("b")
        assert pieces.running == ["a", "c"]
        mach.remove1("Multi")
        await turns()
        assert sorted(pieces.log[-2:]) == ["a is cancelled", "c is cancelled"]
        await assert_nothing_is_left(mach)

    async def test_work_may_leave_its_own_state_and_goes_on_to_its_next_await(self) -> None:
        mach = machine()
        steps: list[str] = []

        async def work(event: am.Event) -> None:
            steps.append(str(mach.remove1("Foo")))
            steps.append("goes on")
            await asyncio.sleep(0)
            steps.append("not any more")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await until(lambda: mach.not1("Foo"))
        await turns()
        assert steps[1:] == ["goes on"]
        assert mach.err is None
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("asks", [False, True])
    async def test_a_result_of_the_turn_in_which_the_state_is_left_is_not_lost_unless_work_asks(
        self, *, asks: bool
    ) -> None:
        mach, results = machine(), []
        answer = asyncio.get_running_loop().create_future()

        async def wait(event: am.Event) -> None:
            result = await answer
            if asks:
                await anyio.lowlevel.checkpoint_if_cancelled()
            results.append(result)
            await anyio.sleep_forever()

        mach.bind_handlers({"FooState": wait})
        mach.add1("Foo")
        await turns()
        answer.set_result("late")
        mach.remove1("Foo")
        await turns()
        assert results == ([] if asks else ["late"])
        await assert_nothing_is_left(mach)

    async def test_work_that_swallows_its_cancellation_delays_only_itself(self) -> None:
        mach, pieces = machine(), Pieces()
        swallowed: list[int] = []

        async def stubborn(event: am.Event) -> None:
            while len(swallowed) < 3:
                try:
                    await anyio.sleep_forever()
                except asyncio.CancelledError:
                    swallowed.append(len(swallowed))
            with anyio.CancelScope(shield=True):
                await pieces.run("the rest")

        mach.bind_handlers({"FooState": stubborn})
        mach.bind_handlers({"FooState": pieces.handle, "MultiState": pieces.handle}, id="obedient")
        mach.add1("Foo")
        await turns()
        mach.remove1("Foo")
        assert mach.not1("Foo")
        await until(lambda: "the rest" in pieces.running)
        assert "FooState is cancelled" in pieces.log
        assert swallowed == [0, 1, 2]
        assert mach.statistics().work == 1
        assert mach.statistics().contexts == 0
        assert mach.add1("Bar").executed
        mach.add1("Multi")
        await turns()
        assert pieces.running == ["the rest", "MultiState"]
        await pieces.release("the rest", "MultiState")
        assert mach.err is None
        await assert_nothing_is_left(mach)

    async def test_work_that_cleans_up_behind_a_shield_is_let_finish(self) -> None:
        mach = machine()
        steps: list[str] = []

        async def work(event: am.Event) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await turns()
                    steps.append("cleaned up")
                await asyncio.sleep(0)
                steps.append("not any more")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        mach.remove1("Foo")
        await turns(20)
        assert steps == ["cleaned up"]
        await assert_nothing_is_left(mach)


# Every way to wait, in the order in which the work below goes through them.

Gate = asyncio.Event


async def wait_for_an_event(gate: Gate, mach: am.Machine) -> None:
    await gate.wait()


async def wait_with_a_timeout(gate: Gate, mach: am.Machine) -> None:
    await asyncio.wait_for(gate.wait(), 100)


async def wait_with_a_scope(gate: Gate, mach: am.Machine) -> None:
    with anyio.fail_after(100):
        await gate.wait()


async def wait_in_a_task_group_of_anyio(gate: Gate, mach: am.Machine) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.wait)
        tasks.start_soon(gate.wait)


async def wait_in_a_task_group_of_asyncio(gate: Gate, mach: am.Machine) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(gate.wait())
        tasks.create_task(gate.wait())


async def wait_with_gather(gate: Gate, mach: am.Machine) -> None:
    await asyncio.gather(gate.wait(), gate.wait())


async def wait_for_the_machine(gate: Gate, mach: am.Machine) -> None:
    opened = asyncio.ensure_future(gate.wait())
    try:
        await mach.wait_any(mach.when_not1("Foo"), opened, mach.when1("Exception"))
    finally:
        opened.cancel()


async def wait_under_another_context(gate: Gate, mach: am.Machine) -> None:
    with mach.state_ctx("Bar"):
        await gate.wait()


async def wait_for_a_thread(gate: Gate, mach: am.Machine) -> None:
    await asyncio.sleep(0)
    await anyio.to_thread.run_sync(lambda: None)
    await gate.wait()


STEPS = [
    wait_for_an_event,
    wait_with_a_timeout,
    wait_with_a_scope,
    wait_in_a_task_group_of_anyio,
    wait_in_a_task_group_of_asyncio,
    wait_with_gather,
    wait_under_another_context,
    wait_for_a_thread,
]

WAYS: dict[str, Callable[[am.Machine], object]] = {
    "the state flips": lambda mach: mach.remove1("Foo"),
    "the machine is disposed": lambda mach: mach.dispose(),
    "the task is cancelled": lambda mach: task_of(mach, "FooState").cancel(),
}


class TestCancellation:
    @pytest.mark.parametrize("at", range(len(STEPS)), ids=[step.__name__ for step in STEPS])
    @pytest.mark.parametrize("cancel", WAYS.values(), ids=WAYS.keys())
    async def test_work_ends_at_whichever_await_it_is(self, cancel: Callable[[am.Machine], object], at: int) -> None:
        mach = machine()
        reached: list[int] = []
        ends: list[str] = []
        gates = [Gate() for _ in STEPS]
        for gate in gates[:at]:
            gate.set()

        async def work(event: am.Event) -> None:
            try:
                for number, (step, gate) in enumerate(zip(STEPS, gates, strict=True)):
                    reached.append(number)
                    await step(gate, mach)
                ends.append("ended by itself")
            except asyncio.CancelledError:
                ends.append("was cancelled")
                raise

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await until(lambda: at in reached)
        await turns(10)
        cancel(mach)
        await until(lambda: ends)
        assert reached == list(range(at + 1))
        assert ends == ["was cancelled"]
        assert mach.err is None
        assert mach.tick("Exception") == 0
        await until(lambda: len(asyncio.all_tasks()) == 1)
        gc.collect()  # contexts it took itself are held weakly
        await assert_nothing_is_left(mach)

    async def test_work_that_comes_through_all_of_them_ends_by_itself(self) -> None:
        mach = machine()
        ends: list[str] = []

        async def work(event: am.Event) -> None:
            for step in STEPS:
                gate = Gate()
                asyncio.get_running_loop().call_soon(gate.set)
                await step(gate, mach)
            ends.append("ended by itself")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await until(lambda: ends)
        await assert_nothing_is_left(mach)

    async def test_a_task_that_is_cancelled_is_the_end_of_its_own_work_alone(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"MultiState": pieces.handle, "FooState": pieces.handle})
        mach.add1("Foo")
        mach.add1("Multi", {"name": "a"})
        await turns()
        task_of(mach, "MultiState").cancel()
        mach.add1("Multi", {"name": "b"})
        await turns()
        assert pieces.running == ["FooState", "b"]
        assert str(mach) == "(Foo:1 Multi:3)"
        assert mach.err is None
        mach.remove(["Foo", "Multi"])
        await assert_nothing_is_left(mach)

    async def test_a_task_that_is_cancelled_before_its_first_step_leaves_nothing(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        task_of(mach, "FooState").cancel()
        await turns()
        assert pieces.running == []
        assert mach.is1("Foo")
        assert mach.err is None
        await assert_nothing_is_left(mach)

    async def test_a_cancellation_that_work_raises_itself_is_no_error(self) -> None:
        mach, pieces = machine(), Pieces()

        async def work(event: am.Event) -> None:
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        mach.bind_handlers({"FooState": work})
        mach.bind_handlers({"FooState": pieces.handle}, id="other")
        mach.add1("Foo")
        await turns()
        assert mach.active_states() == ("Foo",)
        assert mach.err is None
        assert pieces.running == ["FooState"]
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)

    async def test_a_cancelled_future_that_work_awaits_is_no_error(self) -> None:
        mach = machine()
        future = asyncio.get_running_loop().create_future()

        async def work(event: am.Event) -> None:
            await future

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        future.cancel()
        await assert_nothing_is_left(mach)
        assert mach.active_states() == ("Foo",)
        assert mach.err is None

    def test_an_interrupt_in_work_is_not_kept_from_the_loop(self) -> None:
        seen: list[am.Machine] = []

        async def work() -> None:
            raise KeyboardInterrupt

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            seen.append(machine())
            seen[0].fork(work)
            await turns()

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert seen[0].err is None
        assert seen[0].statistics().work == 0


class TestErrors:
    async def test_an_error_of_work_becomes_the_state_exception_with_all_there_is_to_know(self) -> None:
        mach, err = machine(), ValueError("no fuel")
        seen: list[tuple[am.ExceptionArgs, am.Source | None]] = []
        ids: list[str] = []

        async def work(event: am.Event) -> None:
            ids.append(event.transition.id)
            await asyncio.sleep(0)
            raise err

        def note(event: am.Event) -> None:
            seen.append((event.arg(am.ExceptionArgs), event.mutation.source))

        mach.bind_handlers({"FooState": work, "ExceptionState": note})
        mach.add1("Bar")
        mach.add1("Foo")
        await turns()
        ((args, source),) = seen
        assert args.err is err
        assert args.handler == "FooState"
        assert "in work\n    raise err\nValueError: no fuel\n" in args.traceback
        assert source == am.Source(mach.id, ids[0], machine_time=1)
        assert mach.err is err
        assert str(mach) == "(Foo:1 Bar:1 Exception:1)"
        assert mach.statistics().errors == 1
        await assert_nothing_is_left(mach)

    async def test_an_error_that_nobody_handles_is_logged_with_its_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        mach = machine(id="door")

        async def work(event: am.Event) -> None:
            raise ValueError("no fuel")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("asyncmachine.door", logging.ERROR)
        assert record.getMessage() == "[error] ValueError('no fuel') in FooState"
        assert 'raise ValueError("no fuel")' in caplog.text

    async def test_an_error_ends_the_work_of_no_other_handler(self) -> None:
        mach, pieces = machine(), Pieces()
        ignore_errors(mach)

        async def work(event: am.Event) -> None:
            raise ValueError("no fuel")

        mach.bind_handlers({"FooState": work})
        mach.bind_handlers({"FooState": pieces.handle}, id="other")
        mach.add1("Foo")
        await turns()
        assert mach.is_err
        assert pieces.running == ["FooState"]
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)

    async def test_an_error_while_work_is_being_cancelled_is_one_all_the_same(self) -> None:
        mach = machine()
        ignore_errors(mach)

        async def work(event: am.Event) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("could not clean up")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        mach.remove1("Foo")
        await turns()
        assert str(mach.err) == "could not clean up"
        assert mach.is_err
        await assert_nothing_is_left(mach)

    async def test_an_error_group_of_work_is_one_error(self) -> None:
        mach = machine()
        ignore_errors(mach)

        async def child() -> None:
            raise ValueError("no fuel")

        async def work(event: am.Event) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child)

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await until(lambda: mach.is_err)
        assert isinstance(mach.err, ExceptionGroup)
        assert mach.statistics().errors == 1
        await assert_nothing_is_left(mach)

    async def test_where_errors_are_raised_in_the_caller_work_has_none(self) -> None:
        mach = machine(raise_errors=True)
        ignore_errors(mach)

        async def work(event: am.Event) -> None:
            raise ValueError("no fuel")

        mach.bind_handlers({"FooState": work})
        assert mach.add1("Foo").executed
        await turns()
        assert mach.is_err
        assert str(mach.err) == "no fuel"

    async def test_an_error_after_the_machine_was_disposed_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        mach = machine()

        async def work(event: am.Event) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("could not clean up")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        await mach.dispose()
        assert [record.getMessage() for record in caplog.records] == ["FooState raised after the machine was disposed"]
        assert "could not clean up" in caplog.text
        await assert_nothing_is_left(mach)


class TestSource:
    async def test_mutations_from_work_tell_the_transition_it_comes_from(self) -> None:
        mach, other = machine(), machine()
        seen: dict[str, am.Source | None] = {}
        expected: list[am.Source] = []

        async def work(event: am.Event) -> None:
            expected.append(am.Source(mach.id, event.transition.id, machine_time=1))
            mach.add1("Bar")
            await turns()
            other.add1("Foo")
            await asyncio.create_task(helper())

        async def helper() -> None:
            other.add1("Bar")

        def note(event: am.Event) -> None:
            seen[f"{event.name} {event.machine is mach}"] = event.mutation.source

        mach.bind_handlers({"FooState": work, "BarState": note, "MultiState": note})
        other.bind_handlers({"FooState": note, "BarState": note})
        mach.add1("Multi")
        mach.add1("Foo")
        await until(lambda: other.is1("Bar"))
        (source,) = expected
        assert seen == {
            "MultiState True": None,
            "BarState True": source,
            "FooState False": source,
            "BarState False": source,
        }

    @pytest.mark.parametrize("kind", ["coroutine", "thread"])
    async def test_mutations_from_forked_work_do_too(self, kind: str) -> None:
        mach = machine()
        seen: list[am.Source | None] = []
        threadsafe = mach.threadsafe

        async def work() -> None:
            mach.add1("Bar")

        def thread() -> None:
            threadsafe.add1("Bar").result()

        def fork(event: am.Event) -> None:
            event.fork(work if kind == "coroutine" else thread)

        mach.bind_handlers({"FooState": fork, "BarState": lambda e: seen.append(e.mutation.source)})
        mach.add1("Foo")
        await until(lambda: seen)
        assert seen == [am.Source(mach.id, "1.1", machine_time=0)]

    async def test_mutations_from_work_that_nobody_caused_have_no_source(self) -> None:
        mach = machine()
        seen: list[am.Source | None] = []

        async def work() -> None:
            mach.add1("Bar")

        mach.bind_handlers({"BarState": lambda e: seen.append(e.mutation.source)})
        mach.fork(work)
        await until(lambda: seen)
        assert seen == [None]


class TestToTheEnd:
    """Work of `End` handlers and of `AnyState` is under the machine's own context."""

    @pytest.mark.parametrize("name", ["FooEnd", "AnyState"])
    async def test_it_goes_on_whatever_the_states_do(self, name: str) -> None:
        mach, pieces = machine(), Pieces()
        mach.add1("Foo")
        mach.bind_handlers({name: pieces.handle})
        mach.remove1("Foo", {"name": "first"})
        mach.detach_handlers(mach.handlers[0])
        await turns()
        mach.add(["Foo", "Bar"])
        mach.set(["Multi"])
        await turns()
        assert pieces.running == ["first"]
        await pieces.release("first")
        assert pieces.log == ["first starts", "first ends"]
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("name", ["FooEnd", "AnyState"])
    async def test_disposal_gives_it_time_to_end_by_itself(self, name: str) -> None:
        mach, pieces = machine(), Pieces()
        mach.add1("Foo")
        mach.bind_handlers({name: pieces.handle})
        mach.remove1("Foo", {"name": "first"})
        await turns()
        disposal = mach.dispose()
        await turns()
        assert pieces.running == ["first"]
        await pieces.release("first")
        await disposal
        assert pieces.log == ["first starts", "first ends"]

    async def test_but_not_for_ever(self) -> None:
        mach, pieces = machine(dispose_timeout=0.01), Pieces()
        mach.add1("Foo")
        mach.bind_handlers({"FooEnd": pieces.handle})
        mach.remove1("Foo")
        await turns()
        await mach.dispose()
        await turns()
        assert pieces.log == ["FooEnd starts", "FooEnd is cancelled"]
        await assert_nothing_is_left(mach)

    async def test_its_error_is_the_error_of_the_machine(self) -> None:
        mach = machine()
        seen: list[str | None] = []

        async def work(event: am.Event) -> None:
            raise ValueError("no fuel")

        mach.add1("Foo")
        mach.bind_handlers({"FooEnd": work, "ExceptionState": lambda e: seen.append(e.args["handler"])})
        mach.remove1("Foo")
        await turns()
        assert seen == ["FooEnd"]
        assert str(mach.err) == "no fuel"

    async def test_work_of_any_state_runs_for_every_transition(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"AnyState": pieces.handle})
        for name in "abc":
            mach.add1("Multi", {"name": name})
        await turns()
        assert pieces.running == ["a", "b", "c"]
        await pieces.release("a", "b", "c")
        await assert_nothing_is_left(mach)


class Limited:
    """Handlers whose work is limited."""

    def __init__(self) -> None:
        self.pieces = Pieces()

    @am.on.state("Multi", limit=2)
    async def handle(self, event: am.Event) -> None:
        await self.pieces.handle(event)


class TestLimit:
    def machine(self) -> tuple[am.Machine, Pieces]:
        mach, limited = machine(), Limited()
        mach.bind_handlers(limited)
        return mach, limited.pieces

    async def test_so_many_run_at_once_and_the_rest_wait_their_turn_first_come_first_served(self) -> None:
        mach, pieces = self.machine()
        for name in "abcdef":
            mach.add1("Multi", {"name": name})
        await turns()
        assert mach.statistics().work == 6
        assert pieces.running == ["a", "b"]
        await pieces.release("b")
        assert pieces.running == ["a", "c"]
        await pieces.release("a", "c")
        assert pieces.running == ["d", "e"]
        await pieces.release("d", "e", "f")
        assert [line for line in pieces.log if "starts" in line] == [f"{name} starts" for name in "abcdef"]
        assert pieces.most == 2
        await assert_nothing_is_left(mach)

    async def test_those_that_wait_end_with_the_state_without_having_started(self) -> None:
        mach, pieces = self.machine()
        for name in "abcd":
            mach.add1("Multi", {"name": name})
        await turns()
        mach.remove1("Multi")
        await turns()
        assert sorted(pieces.log) == ["a is cancelled", "a starts", "b is cancelled", "b starts"]
        await assert_nothing_is_left(mach)
        for name in "efg":
            mach.add1("Multi", {"name": name})
        await turns()
        assert pieces.running == ["e", "f"]
        mach.remove1("Multi")
        await assert_nothing_is_left(mach)

    async def test_one_that_fails_gives_its_turn_to_the_next(self) -> None:
        mach = machine()
        ignore_errors(mach)
        ran: list[int] = []

        @mach.on.state("Multi", limit=1)
        async def work(event: am.Event) -> None:
            await asyncio.sleep(0)
            ran.append(event.args["id"])
            raise ValueError(event.args["id"])

        for id in range(4):
            mach.add1("Multi", {"id": id})
        await until(lambda: len(ran) == 4)
        assert ran == [0, 1, 2, 3]
        await assert_nothing_is_left(mach)

    async def test_one_that_is_cancelled_while_it_waits_costs_the_others_nothing(self) -> None:
        mach, pieces = machine(), Pieces()
        handles = [mach.fork(pieces.run, name, limit=1) for name in "abc"]
        await turns()
        assert pieces.running == ["a"]
        handles[1].cancel()
        await turns()
        assert handles[1].done()
        await pieces.release("a")
        assert pieces.running == ["c"]
        await pieces.release("c")
        await assert_nothing_is_left(mach)

    async def test_one_whose_task_is_cancelled_while_it_waits_costs_the_others_nothing(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.fork(pieces.run, "a", limit=1)
        await turns()
        before = asyncio.all_tasks()
        mach.fork(pieces.run, "b", limit=1)
        await turns()
        (waiting,) = asyncio.all_tasks() - before
        mach.fork(pieces.run, "c", limit=1)
        await turns()
        waiting.cancel()
        await turns()
        assert pieces.running == ["a"]
        await pieces.release("a")
        assert pieces.running == ["c"]
        await pieces.release("c")
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("end", ["released", "cancelled", "cancelled before the first step", "never started"])
    async def test_the_limit_is_forgotten_with_its_last_work(self, end: str) -> None:
        mach, handlers = machine(), Limited()
        pieces, gone = handlers.pieces, weakref.ref(handlers)
        bound = mach.bind_handlers(handlers)
        mach.add1("Multi", {"name": "a"})
        if end == "cancelled before the first step":
            task_of(mach, "MultiState").cancel()
        elif end == "never started":
            mach.remove1("Multi")
        await turns()
        if end == "released":
            await pieces.release("a")
        mach.remove1("Multi")
        mach.detach_handlers(bound)
        del handlers
        await assert_nothing_is_left(mach)
        gc.collect()
        assert gone() is None

    async def test_the_limit_holds_on_while_other_handlers_come_and_go(self) -> None:
        mach, pieces = self.machine()
        mach.add1("Multi", {"name": "a"})
        mach.add1("Multi", {"name": "b"})
        await turns()
        mach.bind_handlers({"FooState": lambda e: None}, id="other")
        mach.add1("Multi", {"name": "c"})
        mach.detach_handlers("other")
        mach.add1("Multi", {"name": "d"})
        await turns()
        assert pieces.running == ["a", "b"]
        mach.remove1("Multi")
        await assert_nothing_is_left(mach)

    async def test_different_handlers_of_a_state_are_limited_apart(self) -> None:
        mach, pieces = machine(), Pieces()

        @mach.on.state("Multi", limit=1)
        async def one(event: am.Event) -> None:
            await pieces.run(f"one {event.args['id']}")

        @mach.on.state("Multi", limit=2)
        async def two(event: am.Event) -> None:
            await pieces.run(f"two {event.args['id']}")

        for id in range(3):
            mach.add1("Multi", {"id": id})
        await turns()
        assert pieces.running == ["one 0", "two 0", "two 1"]
        mach.remove1("Multi")
        await assert_nothing_is_left(mach)

    async def test_forks_of_a_function_are_limited_together_for_each_state(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.add(["Foo", "Bar"])

        def closure(name: str) -> Callable[[], Coroutine[Any, Any, None]]:
            async def work() -> None:
                await pieces.run(name)

            return work

        for state in ("Foo", "Bar", None):
            for number in range(2):
                name = f"{state} {number}"
                mach.fork(functools.partial(closure(name)), state=state, limit=1)
        await turns()
        assert pieces.running == ["Foo 0", "Bar 0", "None 0"]
        await mach.dispose()
        await assert_nothing_is_left(mach)

    async def test_a_callable_object_is_limited_as_itself(self) -> None:
        pieces, mach = Pieces(), machine()

        class Worker:
            async def __call__(self, name: str) -> None:
                await pieces.run(name)

        first, second = Worker(), Worker()
        for name, fn in {"a": first, "b": first, "c": second}.items():
            mach.fork(fn, name, limit=1)
        await turns()
        assert pieces.running == ["a", "c"]
        await mach.dispose()

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_a_limit_is_one_or_more(self, limit: int) -> None:
        mach = machine()
        text = f"^limit is how many may run at once, 1 or more, not {limit}$"
        with pytest.raises(am.HandlerError, match=text):
            mach.fork(anyio.sleep_forever, limit=limit)
        with pytest.raises(am.HandlerError, match=text):
            am.on.state("Foo", limit=limit)
        await assert_nothing_is_left(mach)


class AsyncCallable:
    """An object that is called like a coroutine function."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def __call__(self, *args: Any) -> None:
        await asyncio.sleep(0)
        self.calls.append(args)

    async def method(self, *args: Any) -> None:
        await self(*args)


class TestFork:
    async def test_a_coroutine_function_is_called_with_its_args(self) -> None:
        mach = machine()
        seen: list[tuple[Any, ...]] = []

        async def work(*args: Any) -> None:
            seen.append(args)

        handle = mach.fork(work, 1, "two")
        assert isinstance(handle, am.Work)
        await turns()
        assert seen == [(1, "two")]
        assert handle.done()
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("given", ["object", "partial", "partial of partial", "method", "partial of an object"])
    async def test_whatever_makes_a_coroutine_will_do(self, given: str) -> None:
        mach, target = machine(), AsyncCallable()
        ignore_errors(mach)
        forms: dict[str, tuple[Callable[..., Awaitable[None]], tuple[int, ...]]] = {
            "object": (target, ()),
            "partial": (functools.partial(target.method, 1), (1,)),
            "partial of partial": (functools.partial(functools.partial(target.method, 1), 2), (1, 2)),
            "method": (target.method, ()),
            "partial of an object": (functools.partial(target, 1), (1,)),
        }
        form, args = forms[given]
        handle = mach.fork(form, 3)
        await until(handle.done)
        assert target.calls == [(*args, 3)]
        assert mach.err is None
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("form", ["function", "partial", "object"])
    async def test_a_plain_function_runs_in_a_worker_thread(self, form: str) -> None:
        mach = machine()
        seen: list[tuple[Any, ...]] = []

        class Plain:
            def __call__(self, *args: Any) -> str:
                seen.append((*args, threading.get_ident()))
                return "ignored"

        forms = {"function": Plain().__call__, "partial": functools.partial(Plain(), 1), "object": Plain()}
        handle = mach.fork(forms[form], 2)
        await until(handle.done)
        ((*args, thread),) = seen
        assert args == ([1, 2] if form == "partial" else [2])
        assert thread != threading.get_ident()
        await assert_nothing_is_left(mach)

    async def test_an_error_in_a_thread_is_the_error_of_the_machine(self) -> None:
        mach = machine()
        seen: list[str | None] = []

        def work() -> None:
            raise ValueError("no fuel")

        mach.bind_handlers({"ExceptionState": lambda e: seen.append(e.arg(am.ExceptionArgs).handler)})
        handle = mach.fork(work)
        await until(handle.done)
        assert str(mach.err) == "no fuel"
        assert seen == [work.__qualname__]
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("is_disposed", [False, True])
    async def test_a_coroutine_in_place_of_the_function_is_refused_at_once(self, *, is_disposed: bool) -> None:
        mach = machine()
        if is_disposed:
            await mach.dispose()
        # The coroutine is closed, or there would be a warning that it was never awaited.
        for called in (anyio.sleep_forever(), None):
            with pytest.raises(am.HandlerError, match=r"what it is called with, fork\(fn, \*args\), not "):
                mach.fork(called)  # type: ignore[arg-type]
        assert mach.err is None
        await assert_nothing_is_left(mach)

    async def test_a_function_that_only_makes_a_coroutine_is_an_error_that_tells_the_mend(self) -> None:
        mach = machine()
        ignore_errors(mach)
        handle = mach.fork(lambda: anyio.sleep_forever())  # noqa: PLW0108 - the mistake
        await until(handle.done)
        assert isinstance(mach.err, am.HandlerError)
        assert "returned a coroutine, which would never run; fork the `async def` itself" in str(mach.err)
        await assert_nothing_is_left(mach)

    async def test_a_thread_is_waited_for_though_its_state_has_flipped(self) -> None:
        mach = machine()
        mach.add1("Foo")
        started, release = threading.Event(), threading.Event()
        ends: list[str] = []

        def work() -> None:
            started.set()
            release.wait()
            ends.append("returned")

        handle = mach.fork(work, state="Foo")
        await until(started.is_set)
        mach.remove1("Foo")
        await turns()
        assert not handle.done()
        assert mach.statistics().contexts == 0
        release.set()
        await until(handle.done)
        assert ends == ["returned"]
        assert mach.err is None
        await assert_nothing_is_left(mach)

    async def test_threads_are_limited_too(self) -> None:
        mach = machine()
        log: list[str] = []
        release = threading.Semaphore(0)

        def work(number: int) -> None:
            log.append(f"{number} starts")
            release.acquire()
            log.append(f"{number} ends")

        handles = [mach.fork(work, number, limit=1) for number in range(3)]
        for number in range(3):
            await until(lambda number=number: f"{number} starts" in log)
            await turns(20)
            release.release()
        await until(lambda: all(handle.done() for handle in handles))
        assert log == ["0 starts", "0 ends", "1 starts", "1 ends", "2 starts", "2 ends"]
        await assert_nothing_is_left(mach)

    async def test_under_a_state_it_ends_with_the_state(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.add1("Foo")
        foo, bar = mach.fork(pieces.run, "Foo", state="Foo"), mach.fork(pieces.run, "Bar", state="Bar")
        await turns()
        mach.remove1("Foo")
        await turns()
        assert foo.done()
        assert not bar.done()
        mach.add1("Bar")  # it was inactive: that flips, too
        await turns()
        assert bar.done()
        assert pieces.running == []
        await assert_nothing_is_left(mach)

    async def test_whose_state_flips_before_its_first_step_never_starts(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work", state="Foo")
        mach.add1("Foo")
        await turns()
        assert handle.done()
        assert pieces.log == (["work starts", "work is cancelled"] if is_eager() else [])
        await assert_nothing_is_left(mach)

    async def test_under_no_state_it_ends_with_the_machine(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work")
        await turns()
        mach.set(["Foo", "Bar"])
        mach.set([])
        await turns()
        assert not handle.done()
        assert mach.statistics().work == 1
        await mach.dispose()
        assert handle.done()
        assert pieces.log == ["work starts", "work is cancelled"]
        await assert_nothing_is_left(mach)

    async def test_disposal_does_not_start_what_has_not_started(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work", delay=100)
        await mach.dispose()
        assert handle.done()
        assert pieces.log == []
        await assert_nothing_is_left(mach)

    async def test_work_may_dispose_its_machine(self) -> None:
        mach, pieces = machine(dispose_timeout=100), Pieces()

        async def work() -> None:
            await mach.dispose()

        other = mach.fork(pieces.run, "other")
        await turns()
        handle = mach.fork(work)
        await mach.when_disposed()  # long before the timeout: the work that waits for this is not waited for
        assert other.done()
        await until(handle.done)
        await assert_nothing_is_left(mach)

    async def test_work_may_start_more_work(self) -> None:
        mach, pieces = machine(), Pieces()

        async def work() -> None:
            mach.fork(pieces.run, "more")

        first = mach.fork(work)
        await turns()
        assert first.done()
        assert pieces.running == ["more"]
        await mach.dispose()
        assert pieces.running == []
        await assert_nothing_is_left(mach)

    async def test_a_delay_comes_before(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.fork(pieces.run, "late", delay=0.01)
        mach.fork(pieces.run, "soon")
        await pieces.release("late", "soon")
        assert pieces.log == ["soon starts", "late starts", "late ends", "soon ends"]
        await assert_nothing_is_left(mach)

    @pytest.mark.parametrize("way", ["handle", "state", "machine"])
    async def test_what_is_cancelled_during_its_delay_never_starts(self, way: str) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "late", delay=100, state="Foo" if way == "state" else None)
        await turns()
        if way == "handle":
            handle.cancel()
        elif way == "state":
            mach.add1("Foo")
        else:
            await mach.dispose()
        await turns()
        assert handle.done()
        assert pieces.log == []
        await assert_nothing_is_left(mach)

    async def test_the_delay_takes_no_turn_of_a_limit(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.fork(pieces.run, "late", delay=100, limit=1)
        await turns()
        mach.fork(pieces.run, "soon", limit=1)
        await turns()
        assert pieces.running == ["soon"]
        await mach.dispose()

    async def test_a_handle_tells_whether_the_work_is_done(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work")
        assert not handle.done()
        await turns()
        assert not handle.done()
        await pieces.release("work")
        assert handle.done()
        handle.cancel()
        assert pieces.log == ["work starts", "work ends"]
        await assert_nothing_is_left(mach)

    async def test_a_handle_cancels_the_work_before_its_first_step(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work")
        handle.cancel()
        handle.cancel()
        await turns()
        assert handle.done()
        assert pieces.log == (["work starts", "work is cancelled"] if is_eager() else [])
        assert mach.err is None
        await assert_nothing_is_left(mach)

    async def test_a_handle_cancels_the_work_while_it_runs_and_no_other(self) -> None:
        mach, pieces = machine(), Pieces()
        handle, other = mach.fork(pieces.run, "work"), mach.fork(pieces.run, "other")
        await turns()
        handle.cancel()
        await turns()
        assert handle.done()
        assert not other.done()
        assert pieces.running == ["other"]
        assert mach.err is None
        other.cancel()
        await assert_nothing_is_left(mach)

    async def test_work_may_cancel_itself_by_its_handle(self) -> None:
        mach = machine()
        steps: list[str] = []
        handles: list[am.Work] = []

        async def work() -> None:
            await asyncio.sleep(0)
            handles[0].cancel()
            steps.append("goes on")
            await asyncio.sleep(0)
            steps.append("not any more")

        handles.append(mach.fork(work))
        await turns()
        assert steps == ["goes on"]
        assert handles[0].done()
        await assert_nothing_is_left(mach)

    async def test_a_handle_shows_what_it_is(self) -> None:
        mach, pieces = machine(), Pieces()
        handle = mach.fork(pieces.run, "work")
        other = mach.fork(functools.partial(pieces.run, "other"))
        assert repr(handle) == "<Work Pieces.run>"
        assert repr(other) == "<Work partial>"
        await mach.dispose()
        assert repr(handle) == "<Work Pieces.run done>"

    @pytest.mark.parametrize("state", [None, "Foo"])
    async def test_on_a_disposed_machine_it_is_done_without_having_started(self, state: str | None) -> None:
        mach, pieces = machine(), Pieces()
        mach.add1("Foo")
        await mach.dispose()
        handle = mach.fork(pieces.run, "work", state=state, delay=0.01, limit=1)
        assert handle.done()
        assert handle.scope.cancel_called
        handle.cancel()
        await turns()
        assert pieces.log == []
        await assert_nothing_is_left(mach)

    async def test_a_misspelt_state_is_found_at_the_call(self) -> None:
        mach = machine()
        with pytest.raises(am.UnknownStateError, match=r"^'Fooo' is no state of this machine; did you mean 'Foo'"):
            mach.fork(anyio.sleep_forever, state="Fooo")
        await assert_nothing_is_left(mach)

    def test_without_a_running_loop_it_says_what_it_needs(self) -> None:
        mach = machine(id="door")
        with pytest.raises(am.MachineLoopError, match=r"^the machine door needs a running event loop for this"):
            mach.fork(anyio.sleep_forever)
        assert mach.statistics().work == 0

    async def test_from_another_thread_it_is_refused(self) -> None:
        mach = machine()
        mach.when1("Foo").cancel()
        with pytest.raises(am.MachineThreadError, match=r"use mach\.threadsafe"):
            await asyncio.to_thread(mach.fork, anyio.sleep_forever)
        await assert_nothing_is_left(mach)


class TestEventFork:
    @pytest.mark.parametrize(
        ("name", "flip"),
        [
            ("FooState", lambda mach: mach.remove1("Foo")),
            ("FooEnd", lambda mach: mach.add1("Foo")),
            ("BarExit", lambda mach: mach.remove1("Bar")),
        ],
    )
    async def test_work_runs_under_the_handler_s_own_state(
        self, name: str, flip: Callable[[am.Machine], object]
    ) -> None:
        mach, pieces = machine(), Pieces()
        mach.add(["Foo", "Bar"] if name != "FooState" else ["Bar"])
        handles: list[am.Work] = []
        mach.bind_handlers({name: lambda e: handles.append(e.fork(pieces.run, "work"))})
        if name == "BarExit":
            mach.can_remove1("Bar")
        else:
            mach.toggle1("Foo")
        await turns()
        assert pieces.running == ["work"]
        mach.add1("Multi")
        await turns()
        assert pieces.running == ["work"]
        flip(mach)
        await turns()
        assert handles[0].done()
        assert "work is cancelled" in pieces.log
        await mach.dispose()
        await assert_nothing_is_left(mach)

    async def test_work_of_any_state_runs_until_the_machine_ends(self) -> None:
        mach, pieces = machine(), Pieces()
        handles: list[am.Work] = []
        bound = mach.bind_handlers({"AnyState": lambda e: handles.append(e.fork(pieces.run, "work"))})
        mach.add1("Foo")
        mach.detach_handlers(bound)
        mach.set(["Bar"])
        await turns()
        assert pieces.running == ["work"]
        await mach.dispose()
        assert handles[0].done()
        await assert_nothing_is_left(mach)

    async def test_a_delay_is_passed_on(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": lambda e: e.fork(pieces.run, "late", delay=100) and None})
        mach.add1("Foo")
        await turns()
        assert mach.statistics().work == 1
        mach.remove1("Foo")
        await assert_nothing_is_left(mach)
        assert pieces.log == []

    async def test_a_limit_and_args_are_passed_on(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"MultiState": lambda e: e.fork(pieces.run, e.args["name"], limit=1) and None})
        for name in "ab":
            mach.add1("Multi", {"name": name})
        await turns()
        assert pieces.running == ["a"]
        await pieces.release("a")
        assert pieces.running == ["b"]
        mach.remove1("Multi")
        await assert_nothing_is_left(mach)

    async def test_work_may_fork_under_the_state_it_came_from(self) -> None:
        mach, pieces = machine(), Pieces()

        async def work(event: am.Event) -> None:
            event.fork(pieces.run, "more")

        mach.bind_handlers({"FooState": work})
        mach.add1("Foo")
        await turns()
        assert pieces.running == ["more"]
        mach.remove1("Foo")
        await turns()
        assert pieces.running == []
        await assert_nothing_is_left(mach)


class Payload:
    """Something in the args, which lives as long as the event that has them does."""


ENDS = ["by itself", "state", "machine", "task", "before its first step", "behind a limit"]


class TestNothingIsKept:
    @pytest.mark.parametrize("end", ENDS)
    async def test_of_finished_work_of_a_handler(self, end: str) -> None:
        mach, gate = machine(), asyncio.Event()
        inner: list[weakref.ref[Payload]] = []

        @mach.on.state("Multi", limit=1)
        async def work(event: am.Event) -> None:
            local = Payload()
            inner.append(weakref.ref(local))
            await gate.wait()

        payload = Payload()
        outer = weakref.ref(payload)
        if end == "behind a limit":
            mach.add1("Multi")
        mach.add1("Multi", {"payload": payload})
        del payload
        if end != "before its first step":
            await turns()
        assert outer() is not None
        if end == "by itself":
            gate.set()
        elif end == "machine":
            await mach.dispose()
        elif end == "task":
            task_of(mach, "MultiState").cancel()
        else:
            mach.remove1("Multi")
        await turns()
        await assert_nothing_is_left(mach)
        gc.collect()
        assert outer() is None
        assert [local() for local in inner] == [None] * len(inner)

    @pytest.mark.parametrize("end", ENDS)
    async def test_of_finished_work_that_was_forked(self, end: str) -> None:
        mach, gate = machine(), asyncio.Event()

        async def work(payload: Payload | None) -> None:
            await gate.wait()

        payload = Payload()
        if end == "behind a limit":
            mach.fork(work, None, state="Foo", limit=1)
        handle = mach.fork(work, payload, state="Foo", limit=1)
        gone = [weakref.ref(payload), weakref.ref(handle.scope)]
        del payload
        if end != "before its first step":
            await turns()
        assert gone[0]() is not None
        if end == "by itself":
            gate.set()
        elif end == "machine":
            await mach.dispose()
        elif end == "task":
            task_of(mach, handle.name).cancel()
        else:
            mach.add1("Foo")
        await turns()
        assert handle.done()
        gc.collect()
        assert gone[0]() is None  # also while the handle is kept
        del handle
        await assert_nothing_is_left(mach)
        gc.collect()
        assert [ref() for ref in gone] == [None, None]

    async def test_of_work_that_failed_once_its_error_is_forgotten(self) -> None:
        mach = machine()
        ignore_errors(mach)

        async def work(payload: Payload) -> None:
            raise ValueError("no fuel")

        payload = Payload()
        gone = weakref.ref(payload)
        mach.fork(work, payload)
        del payload
        await turns()
        assert gone() is not None  # the traceback of the last error shows it
        mach.add_err(ValueError("another"))
        await assert_nothing_is_left(mach)
        gc.collect()
        assert gone() is None

    async def test_of_a_machine_whose_work_has_ended(self) -> None:
        mach, pieces = machine(), Pieces()
        mach.bind_handlers({"FooState": pieces.handle})
        mach.add1("Foo")
        await pieces.release("FooState")
        gone = weakref.ref(mach)
        del mach
        await turns()
        gc.collect()
        assert gone() is None

    async def test_of_ten_thousand_pieces_of_work(self) -> None:
        mach = machine()
        done: list[int] = []

        async def work(event: am.Event) -> None:
            done.append(event.args["id"])

        mach.bind_handlers({"MultiState": work})
        for id in range(10_000):
            mach.add1("Multi", {"id": id})
        await until(lambda: len(done) == 10_000)
        assert done == list(range(10_000))
        await assert_nothing_is_left(mach)
