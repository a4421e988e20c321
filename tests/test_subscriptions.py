"""The registry behind `when_…`: who is woken, by which transition, in which order, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import anyio
import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

Future = asyncio.Future[Any]
Ask = Callable[[am.Machine], Future]
Step = Callable[[am.Machine], am.Result]

SCHEMA: dict[str, Any] = {"Foo": {}, "Bar": {}, "Multi": {"multi": True}}
ERROR = ValueError("no fuel")


def nothing(event: am.Event) -> None:
    """Handles errors, so that they are not logged."""


def machine(schema: am.SchemaLike = SCHEMA, *, active: Sequence[str] = (), **options: Any) -> am.Machine:
    mach = am.Machine(schema, handlers={"ExceptionState": nothing}, **options)
    if active:
        mach.add(active)
    return mach


def keep_busy(mach: am.Machine) -> None:
    """Have checks follow checks, ahead of whatever is queued, until the machine is disposed."""
    if mach.is_idle:
        mach.bind_handlers({"AnyEnter": lambda e: e.machine.can_add1("Foo") and None})
        mach.can_add1("Foo")


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


@dataclass
class Kind:
    """A kind of wait: how it is asked for, and what makes it come true, step by step; the last one does."""

    ask: Ask
    steps: Sequence[Step]
    value: Any
    active: Sequence[str] = ()
    relative: bool = False
    """True if it counts from the call, or waits for an event, and so never holds at the call."""


def add(*states: str, **args: Any) -> Step:
    return lambda mach: mach.add(states, args)


def remove(*states: str) -> Step:
    return lambda mach: mach.remove(states)


KINDS = {
    "when": Kind(lambda m: m.when("Foo", "Bar"), [add("Foo"), remove("Foo"), add("Bar"), add("Foo")], am.Time([3, 1])),
    "when1": Kind(lambda m: m.when1("Foo"), [add("Bar"), add("Foo")], 1),
    "when_not": Kind(
        lambda m: m.when_not("Foo", "Bar"), [remove("Bar"), remove("Foo")], am.Time([2, 2]), active=["Foo", "Bar"]
    ),
    "when_not1": Kind(lambda m: m.when_not1("Foo"), [remove("Bar"), remove("Foo")], 2, active=["Foo", "Bar"]),
    "when_args": Kind(
        lambda m: m.when_args("Foo", {"id": 2}),
        [add("Foo", id=1), add("Bar", id=2), remove("Foo"), add("Foo", id=2, by="me")],
        {"id": 2, "by": "me"},
        relative=True,
    ),
    "when_args of a multi state": Kind(
        lambda m: m.when_args("Multi", lambda args: args.get("id", 0) > 1),
        [add("Multi", id=1), add("Multi", id=2)],
        {"id": 2},
        active=["Multi"],
        relative=True,
    ),
    "when_time": Kind(
        lambda m: m.when_time(["Foo", "Bar"], [2, 1]), [add("Bar"), add("Foo"), remove("Foo")], am.Time([2, 1])
    ),
    "when_time1": Kind(lambda m: m.when_time1("Foo", 3), [add("Foo"), remove("Foo"), add("Foo")], 3),
    "when_ticks": Kind(lambda m: m.when_ticks("Foo", 2), [remove("Foo"), add("Foo")], 3, active=["Foo"], relative=True),
    "when_next_active": Kind(
        lambda m: m.when_next_active("Foo"), [remove("Foo"), add("Foo")], 3, active=["Foo"], relative=True
    ),
    "when_next_active of a multi state": Kind(
        lambda m: m.when_next_active("Multi"), [add("Foo"), add("Multi")], 3, active=["Multi"], relative=True
    ),
    "when_query": Kind(
        lambda m: m.when_query(lambda clock: clock["Foo"] + clock["Bar"] >= 3),
        [add("Foo"), add("Bar"), remove("Foo")],
        am.Clock(Foo=2, Bar=1, Multi=0, Exception=0),
    ),
    "when_err": Kind(lambda m: m.when_err(), [add("Foo"), lambda m: m.add_err(ERROR)], ERROR),
    "when_queue": Kind(lambda m: m.when_queue(3), [add("Foo"), add("Bar")], 3),
}
BY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())

ASKS: dict[str, Ask] = {
    "when": lambda m: m.when("Foo", "Bar"),
    "when1": lambda m: m.when1("Foo"),
    "when_not": lambda m: m.when_not("Multi"),
    "when_not1": lambda m: m.when_not1("Multi"),
    "when_args": lambda m: m.when_args("Foo"),
    "when_time": lambda m: m.when_time(["Foo"], [1]),
    "when_time1": lambda m: m.when_time1("Foo", 1),
    "when_ticks": lambda m: m.when_ticks("Foo", 1),
    "when_next_active": lambda m: m.when_next_active("Foo"),
    "when_query": lambda m: m.when_query(lambda clock: clock["Foo"] > 0),
    "when_err": lambda m: m.when_err(),
    "when_queue": lambda m: m.when_queue(99),
    "when_queue of a result": lambda m: m.when_queue(m.add1("Bar", {"id": 1})),
    "when_queue_ends": lambda m: m.when_queue_ends(),
    "when_disposed": lambda m: m.when_disposed(),
}
BY_ASK = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())

PENDING = {name: ask for name, ask in ASKS.items() if name != "when_disposed"}
BY_PENDING = pytest.mark.parametrize("ask", PENDING.values(), ids=PENDING.keys())


def pending_machine() -> am.Machine:
    """Give a machine on which whatever is asked for by `ASKS` does not come true."""
    mach = machine(active=["Multi"], dispose_timeout=0.01)
    keep_busy(mach)
    return mach


class TestComingTrue:
    @BY_KIND
    async def test_a_wait_is_done_by_the_very_transition_that_makes_it_true(self, kind: Kind) -> None:
        mach = machine(active=kind.active)
        future = kind.ask(mach)
        assert not future.done()
        *steps, last = kind.steps
        for step in steps:
            assert step(mach).executed
            assert not future.done()
        assert last(mach).executed
        assert future.done()
        assert await future == kind.value

    @BY_KIND
    async def test_what_holds_already_is_done_at_the_call_unless_it_counts_from_there(self, kind: Kind) -> None:
        mach = machine(active=kind.active)
        for step in kind.steps:
            step(mach)
        future = kind.ask(mach)
        assert future.done() is not kind.relative
        assert mach.statistics().waiters == kind.relative
        if not kind.relative:
            assert future.result() == kind.value

    @BY_KIND
    async def test_a_wait_stays_true_whatever_follows(self, kind: Kind) -> None:
        mach = machine(active=kind.active)
        future = kind.ask(mach)
        for step in kind.steps:
            step(mach)
        mach.toggle(["Foo", "Bar"])
        mach.remove(["Multi", "Exception"])
        assert await future == kind.value

    @BY_KIND
    async def test_each_wait_is_a_future_of_its_own(self, kind: Kind) -> None:
        mach = machine(active=kind.active)
        first, second, third = (kind.ask(mach) for _ in range(3))
        assert isinstance(first, asyncio.Future)
        first.cancel()
        third.set_result("by hand")
        for step in kind.steps:
            step(mach)
        assert first.cancelled()
        assert second.result() == kind.value
        assert third.result() == "by hand"
        assert mach.statistics().waiters == 0

    @BY_KIND
    async def test_the_loop_of_a_wait_is_the_running_one(self, kind: Kind) -> None:
        assert kind.ask(machine(active=kind.active)).get_loop() is asyncio.get_running_loop()

    async def test_a_canceled_mutation_wakes_nobody(self) -> None:
        mach = machine()
        mach.bind_handlers({"FooEnter": lambda e: False})
        futures = [kind.ask(mach) for name, kind in KINDS.items() if not kind.active and name != "when_queue"]
        assert mach.add(["Foo", "Bar"]).canceled
        assert mach.can_add(["Bar"]).executed
        assert not any(future.done() for future in futures)

    async def test_a_mutation_that_changes_no_tick_wakes_nobody(self) -> None:
        mach = machine(active=["Foo"])
        asked: list[int] = []
        query = mach.when_query(lambda clock: bool(asked.append(clock["Foo"])))
        args = mach.when_args("Foo")
        assert mach.add1("Foo", {"id": 1}).executed
        assert asked == [1]
        assert not query.done()
        assert not args.done()

    async def test_an_auto_state_that_nobody_handles_wakes_its_waiters(self) -> None:
        mach = am.Machine({"Foo": {}, "Auto": {"auto": True, "require": ["Foo"]}})
        coming, going = mach.when1("Auto"), mach.when_ticks("Auto", 2)
        mach.add1("Foo")
        assert coming.done()
        assert not going.done()
        mach.remove1("Foo")
        assert going.done()
        assert (await coming, await going) == (1, 2)

    async def test_a_query_gets_a_clock_of_its_own(self) -> None:
        mach = machine()
        given: list[am.Clock] = []

        def spoil(clock: am.Clock) -> bool:
            given.append(clock)
            clock["Foo"] += 10
            return len(given) > 1

        future = mach.when_query(spoil)
        mach.add1("Foo")
        assert given == [{"Foo": 10, "Bar": 0, "Multi": 0, "Exception": 0}, await future]
        assert mach.tick("Foo") == 1

    async def test_an_exception_added_by_hand_has_an_error_to_give_all_the_same(self) -> None:
        mach = machine()
        future = mach.when_err()
        mach.add1("Exception")
        assert isinstance(await future, RuntimeError)
        assert "Exception was added without an error; use add_err" in str(await future)

    async def test_the_error_of_a_handler_is_given_as_it_was_raised(self) -> None:
        mach = machine()

        def fail(event: am.Event) -> None:
            raise ERROR

        mach.bind_handlers({"FooState": fail})
        future = mach.when_err()
        mach.add1("Foo")
        assert await future is ERROR

    async def test_a_restored_machine_wakes_those_whose_states_are_so_now(self) -> None:
        source = machine(id="door")
        source.add(["Foo", "Bar"], {"id": 1})
        source.remove1("Bar")
        mach = machine(id="door")
        woken = [mach.when1("Foo"), mach.when_time1("Bar", 2), mach.when_query(lambda clock: clock["Bar"] > 1)]
        args, active = mach.when_args("Foo"), mach.when1("Bar")
        mach.restore(source.export())
        assert [future.done() for future in woken] == [True] * 3
        assert not active.done()
        assert not args.done()  # nothing entered: the state was found active

    async def test_waits_go_on_when_the_schema_grows(self) -> None:
        mach = machine()
        active, query = mach.when("Foo", "Bar"), mach.when_query(lambda clock: clock.get("New", 0) == 1)
        mach.set_schema({**SCHEMA, "New": {}})
        mach.add(["Foo", "Bar"])
        assert await active == am.Time([1, 1])
        assert not query.done()
        mach.add1("New")
        assert (await query)["New"] == 1


class TestRolledBack:
    """A `State` handler fails: its state was active within the transition, and is not when it ends."""

    def machine(self) -> am.Machine:
        mach = machine({"Foo": {}, "Bar": {"require": ["Foo"]}})

        def fail(event: am.Event) -> None:
            if "fail" in event.args:
                raise ERROR

        mach.bind_handlers({"FooState": fail})
        return mach

    async def test_waits_for_ticks_are_woken(self) -> None:
        mach = self.machine()
        ticks, time, query = (
            mach.when_ticks("Foo", 1),
            mach.when_time(["Foo", "Bar"], [2, 0]),
            mach.when_query(lambda clock: clock["Foo"] == 2),
        )
        assert mach.add1("Foo", {"fail": True}).canceled
        assert await ticks == 2
        assert await time == am.Time([2, 0])
        assert (await query)["Foo"] == 2

    async def test_waits_for_activity_are_not(self) -> None:
        mach = self.machine()
        waits = mach.when1("Foo"), mach.when("Foo"), mach.when_args("Foo"), mach.when_next_active("Foo")
        assert mach.add1("Foo", {"fail": True}).canceled
        assert not any(wait.done() for wait in waits)
        assert mach.add1("Foo").executed
        assert [await wait for wait in waits] == [3, am.Time([3]), {}, 3]

    async def test_waits_for_inactivity_are(self) -> None:
        mach = self.machine()
        mach.add(["Foo", "Bar"])
        mach.bind_handlers({"FooEnd": lambda e: 1 / 0})
        foo, bar = mach.when_not1("Foo"), mach.when_not1("Bar")
        assert mach.remove1("Foo").canceled
        assert await foo == 2
        assert await bar == 2

    async def test_a_state_that_falls_with_its_require_wakes_its_waiters(self) -> None:
        mach = machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}}, active=["Base", "Top"])
        mach.bind_handlers({"BaseState": lambda e: 1 / 0})
        fallen, error = mach.when_not1("Top"), mach.when_err()
        assert mach.add1("Base").canceled
        assert await fallen == 2
        assert isinstance(await error, ZeroDivisionError)


AT_ONCE: Sequence[Ask] = [
    lambda m: m.when("Foo", "Bar"),
    lambda m: m.when1("Foo"),
    lambda m: m.when1("Bar"),
    lambda m: m.when_not1("Multi"),
    lambda m: m.when_not("Multi", "Gone"),
    lambda m: m.when_args("Bar", {"id": 1}),
    lambda m: m.when_args("Foo"),
    lambda m: m.when_time(["Multi", "Foo"], [2, 1]),
    lambda m: m.when_ticks("Bar", 1),
    lambda m: m.when_next_active("Foo"),
    lambda m: m.when_query(lambda clock: clock["Bar"] == 1),
    lambda m: m.when_query(lambda clock: clock["Foo"] == 1),
]
"""All come true by one transition, for states that enter and that leave."""


@given(st.permutations(range(len(AT_ONCE))))
async def test_waiters_of_every_kind_wake_in_the_order_they_were_registered(order: list[int]) -> None:
    mach = machine({"Foo": {"remove": ["Multi"]}, "Bar": {}, "Multi": {"multi": True}, "Gone": {}}, active=["Multi"])
    woken: list[int] = []
    futures = [AT_ONCE[i](mach) for i in order]
    for i, future in zip(order, futures, strict=True):
        future.add_done_callback(lambda _, i=i: woken.append(i))
    mach.add(["Foo", "Bar"], {"id": 1})
    assert all(future.done() for future in futures)
    await turns()
    assert woken == order


class TestOrder:
    async def test_those_who_wait_for_the_queue_come_after_those_who_wait_for_states(self) -> None:
        mach = machine()
        woken: list[str] = []
        waits: list[Future] = []

        def ask(event: am.Event) -> None:
            asks = {"end": mach.when_queue_ends(), "tick": mach.when_queue(mach.queue_tick), "Foo": mach.when1("Foo")}
            for name, future in asks.items():
                future.add_done_callback(lambda _, name=name: woken.append(name))
                waits.append(future)

        mach.bind_handlers({"FooEnter": ask})
        mach.add1("Foo")
        await asyncio.wait(waits)
        assert woken == ["Foo", "tick", "end"]

    @pytest.mark.usefixtures("impatient")
    async def test_disposal_fails_waiters_in_the_order_they_were_registered(self) -> None:
        mach = pending_machine()
        woken: list[int] = []
        futures = [ask(mach) for ask in PENDING.values() if ask is not PENDING["when_queue of a result"]]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: woken.append(i))
        await mach.dispose()
        await turns()
        assert woken == list(range(len(futures)))


class TestCancelling:
    @pytest.mark.usefixtures("impatient")
    @BY_ASK
    async def test_a_cancelled_wait_leaves_the_registry_within_the_call(self, ask: Ask) -> None:
        mach = pending_machine()
        kept, future = ask(mach), ask(mach)
        assert mach.statistics().waiters == 2
        assert future.cancel()
        assert mach.statistics().waiters == 1
        assert not future.cancel()
        assert not kept.done()
        await mach.dispose()

    @pytest.mark.usefixtures("impatient")
    @BY_ASK
    async def test_nothing_keeps_a_cancelled_wait(self, ask: Ask) -> None:
        mach = pending_machine()
        future = ask(mach)
        gone = weakref.ref(future)
        future.cancel()
        del future
        gc.collect()
        assert gone() is None
        await mach.dispose()

    async def test_ten_thousand_waits_that_timed_out_leave_nothing(self) -> None:
        mach = machine(active=["Multi"])
        asks = [ask for name, ask in ASKS.items() if name not in {"when_queue of a result", "when_queue_ends"}]
        for ask in islice(cycle(asks), 10_000):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(mach), 0)
        assert mach.statistics().waiters == 0

    async def test_a_cancelled_task_takes_its_wait_with_it(self) -> None:
        mach = machine()
        kept = mach.when1("Foo")

        async def wait() -> None:
            await mach.when1("Bar")

        waiting = asyncio.create_task(wait())
        await turns()
        assert mach.statistics().waiters == 2
        waiting.cancel()
        assert mach.statistics().waiters == 1
        assert not kept.done()

    async def test_a_scope_of_anyio_takes_its_wait_with_it(self) -> None:
        mach = machine()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0):
                await mach.when1("Foo")
        assert mach.statistics().waiters == 0
        with anyio.fail_after(3600):
            asyncio.get_running_loop().call_soon(mach.add1, "Foo")
            assert await mach.when1("Foo") == 1

    async def test_asyncio_wait_gives_the_one_that_came_first(self) -> None:
        mach = machine()
        foo, bar = mach.when1("Foo"), mach.when1("Bar")
        asyncio.get_running_loop().call_soon(mach.add1, "Bar")
        done, pending = await asyncio.wait({foo, bar}, return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({bar}, {foo})
        assert mach.statistics().waiters == 1
        foo.cancel()
        assert mach.statistics().waiters == 0

    async def test_a_wait_costs_no_task(self) -> None:
        mach = machine(active=["Multi"])
        futures = [ask(mach) for ask in ASKS.values()]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert len(futures) == len(ASKS)

    async def test_one_that_left_takes_no_other_along(self) -> None:
        mach = machine()
        foo, bar = mach.when1("Foo"), mach.when1("Bar")
        foo.cancel()
        mach.add1("Foo")
        mach.add1("Bar")
        assert bar.done()

    async def test_a_query_that_holds_already_waits_for_no_clock(self) -> None:
        mach = machine()
        assert mach.when_query(lambda clock: True).done()
        assert mach._waiters.waited == 0

    async def test_when_all_that_asked_for_any_clock_have_left_nobody_is_waited_for_by_them(self) -> None:
        mach = machine()
        bar, query = mach.when1("Bar"), mach.when_query(lambda clock: False)
        mach.add(["Foo", "Multi"])
        assert mach._waiters.waited == -1
        query.cancel()
        mach.remove(["Foo", "Multi"])
        assert not mach._waiters.waited & 0b101
        mach.add1("Bar")
        assert bar.done()


class TestPredicates:
    """What a predicate raises is the affair of whoever waits with it."""

    async def test_a_query_that_raises_at_the_call_fails_its_own_future(self) -> None:
        mach = machine()
        future = mach.when_query(lambda clock: clock["Fo"] > 0)
        with pytest.raises(KeyError, match="Fo"):
            await future
        assert mach.statistics().waiters == 0

    async def test_a_query_that_raises_later_fails_its_own_future_alone(self) -> None:
        mach = machine()
        before = mach.when1("Foo")
        failing = mach.when_query(lambda clock: 1 // (1 - clock["Foo"]) > 1)
        after = mach.when_query(lambda clock: clock["Foo"] == 1)
        assert mach.add1("Foo").executed
        with pytest.raises(ZeroDivisionError):
            await failing
        assert await before == 1
        assert (await after)["Foo"] == 1
        assert mach.err is None
        assert mach.statistics().waiters == 0

    async def test_an_args_predicate_that_raises_fails_its_own_future_alone(self) -> None:
        mach = machine()
        failing, other = mach.when_args("Foo", lambda args: args["id"] > 0), mach.when_args("Foo")
        assert mach.add1("Foo", {"name": "x"}).executed
        with pytest.raises(KeyError, match="id"):
            await failing
        assert await other == {"name": "x"}
        assert mach.err is None

    async def test_args_that_cannot_be_compared_fail_their_own_future_alone(self) -> None:
        class Picky:
            __hash__ = None  # type: ignore[assignment]

            def __eq__(self, other: object) -> bool:
                raise TypeError("not comparable")

        mach = machine()
        failing = mach.when_args("Foo", {"value": 1})
        assert mach.add1("Foo", {"value": Picky()}).executed
        with pytest.raises(TypeError, match="not comparable"):
            await failing

    async def test_a_predicate_that_runs_out_of_an_iterator_breaks_no_transition(self) -> None:
        mach = machine()
        answers = iter([False])
        failing, other = mach.when_query(lambda clock: next(answers)), mach.when1("Foo")
        assert mach.add1("Foo").executed
        with pytest.raises(RuntimeError, match="the predicate raised StopIteration") as caught:
            await failing
        assert isinstance(caught.value.__cause__, StopIteration)
        assert await other == 1

    async def test_a_predicate_may_cancel_a_wait_that_would_come_after_it(self) -> None:
        mach = machine()
        asked: list[int] = []
        second: list[Future] = []
        mach.when_query(lambda clock: bool(clock["Foo"]) and second[0].cancel())
        second.append(mach.when_query(lambda clock: bool(asked.append(clock["Foo"]))))
        assert mach.add1("Foo").executed
        assert asked == [0]
        assert second[0].cancelled()

    @pytest.mark.parametrize("answer", [lambda: True, lambda: 1 / 0], ids=["true", "raises"])
    async def test_a_predicate_may_cancel_its_own_wait(self, answer: Callable[[], Any]) -> None:
        mach = machine()
        own: list[Future] = []
        own.append(mach.when_query(lambda clock: bool(clock["Foo"]) and own[0].cancel() and answer()))
        assert mach.add1("Foo").executed
        assert own[0].cancelled()
        assert mach.statistics().waiters == 0

    async def test_a_predicate_may_ask_for_more_and_change_the_machine(self) -> None:
        mach = machine()
        more: list[Any] = []

        def go_on(clock: am.Clock) -> bool:
            if clock["Foo"] and not more:
                more.extend([mach.when1("Bar"), mach.add1("Bar")])
            return bool(clock["Bar"])

        query = mach.when_query(go_on)
        assert mach.add1("Foo").executed
        future, result = more
        assert result.queued
        assert await future == 1
        assert (await query)["Bar"] == 1

    async def test_a_predicate_may_change_the_machine_already_at_the_call(self) -> None:
        mach = machine()
        asked: list[int] = []

        def go_on(clock: am.Clock) -> bool:
            asked.append(clock["Foo"])
            if len(asked) == 1:
                mach.add1("Foo")
            return clock["Foo"] == 2

        query = mach.when_query(go_on)
        assert mach.remove1("Foo").executed
        assert asked == [0, 2]
        assert (await query)["Foo"] == 2


class TestQueue:
    async def test_a_result_that_is_known_is_not_waited_for(self) -> None:
        mach = machine()
        mach.bind_handlers({"BarEnter": lambda e: False})
        executed, canceled = mach.when_queue(mach.add1("Foo")), mach.when_queue(mach.add1("Bar"))
        assert executed.done()
        assert canceled.done()
        assert await executed == 2
        assert await canceled == 3

    async def test_a_queued_mutation_is_waited_for_until_it_has_run(self) -> None:
        mach = machine()
        waits: list[Future] = []
        seen: list[tuple[str, bool]] = []

        def queue(event: am.Event) -> None:
            waits.append(mach.when_queue(mach.add1("Bar")))
            mach.add1("Multi")
            assert mach.statistics().waiters == 1

        def note(event: am.Event) -> None:
            seen.append((event.name, waits[0].done()))

        mach.bind_handlers({"FooState": queue, "BarState": note, "MultiState": note})
        mach.add1("Foo")
        await mach.when_queue_ends()
        assert seen == [("BarState", False), ("MultiState", True)]
        assert await waits[0] == 3
        assert mach.statistics().waiters == 0

    async def test_a_queued_mutation_that_comes_to_be_canceled_is_done_too(self) -> None:
        mach = machine()
        waits: list[Future] = []
        mach.bind_handlers(
            {"FooState": lambda e: waits.append(mach.when_queue(mach.add1("Bar"))), "BarEnter": lambda e: False}
        )
        mach.add1("Foo")
        assert mach.not1("Bar")
        assert await waits[0] == 3

    async def test_a_result_is_known_when_the_wait_is_asked_for_late(self) -> None:
        mach = machine()
        results: list[am.Result] = []
        mach.bind_handlers({"FooState": lambda e: results.append(mach.add1("Bar"))})
        mach.add1("Foo")
        assert results[0].queued
        future = mach.when_queue(results[0])
        assert future.done()
        assert await future == mach.queue_tick == 3

    async def test_a_check_within_a_handler_is_waited_for_though_it_has_no_tick_of_its_own(self) -> None:
        mach = machine()
        waits: list[Future] = []
        seen: list[tuple[str, bool, int]] = []

        def ask(event: am.Event) -> None:
            if event.mutation.is_check:
                return
            mach.add1("Multi")
            check = mach.can_add1("Bar")
            assert check.queued
            assert check.tick == 3
            waits.append(mach.when_queue(check))

        def note(event: am.Event) -> None:
            seen.append((event.name, waits[0].done(), mach.queue_tick))

        mach.bind_handlers({"FooEnter": ask, "BarEnter": note, "MultiEnter": note})
        mach.add1("Foo")
        await mach.when_queue_ends()
        # The check runs before what was queued before it, and takes no tick.
        assert seen == [("BarEnter", False, 2), ("MultiEnter", True, 3)]
        assert await waits[0] == 2
        assert mach.not1("Bar")

    async def test_a_duplicate_is_known_at_once_whatever_becomes_of_the_first(self) -> None:
        mach = machine()
        waits: list[Future] = []
        seen: list[bool] = []

        def queue(event: am.Event) -> None:
            first, second = mach.add1("Bar"), mach.add1("Bar")
            assert first.queued
            assert second.executed
            waits.extend([mach.when_queue(first), mach.when_queue(second)])
            seen.extend(wait.done() for wait in waits)

        mach.bind_handlers({"FooState": queue})
        mach.add1("Foo")
        assert seen == [False, True]
        assert await waits[0] == 3
        assert await waits[1] == 2

    async def test_several_wait_for_one_result_and_one_may_give_up(self) -> None:
        mach = machine()
        waits: list[Future] = []

        def queue(event: am.Event) -> None:
            result = mach.add1("Bar")
            mach.when_queue(result).cancel()
            waits.extend(mach.when_queue(result) for _ in range(3))
            waits[0].cancel()
            assert mach.statistics().waiters == 2

        mach.bind_handlers({"FooState": queue})
        mach.add1("Foo")
        assert [wait.cancelled() for wait in waits] == [True, False, False]
        assert [wait.result() for wait in waits[1:]] == [3, 3]

    async def test_a_tick_is_over_when_its_mutation_has_run(self) -> None:
        mach = machine()
        mach.add1("Foo")
        past, now, next_ = mach.when_queue(1), mach.when_queue(2), mach.when_queue(3)
        assert await past == 2
        assert await now == 2
        seen: list[bool] = []
        mach.bind_handlers({"BarState": lambda e: seen.append(next_.done())})
        mach.add1("Bar")
        assert seen == [False]
        assert await next_ == 3

    async def test_the_tick_of_the_mutation_that_runs_is_not_over(self) -> None:
        mach = machine()
        waits: list[Future] = []
        mach.bind_handlers({"FooState": lambda e: waits.extend([mach.when_queue(1), mach.when_queue(2)])})
        mach.bind_handlers({"AnyState": lambda e: waits.append(mach.when_queue_ends())}, id="end")
        done: list[bool] = []
        mach.bind_handlers({"AnyState": lambda e: done.extend(wait.done() for wait in waits)}, id="later")
        mach.add1("Foo")
        assert done == [True, False, False]
        assert [await wait for wait in waits] == [2, 2, None]

    async def test_an_idle_queue_has_ended(self) -> None:
        mach = machine()
        future = mach.when_queue_ends()
        assert future.done()
        assert await future is None

    async def test_the_queue_ends_when_all_has_run_auto_states_and_errors_too(self) -> None:
        mach = machine({"Foo": {}, "Bar": {}, "Auto": {"auto": True, "require": ["Bar"]}})
        waits: list[Future] = []
        seen: list[tuple[str, bool]] = []

        def queue(event: am.Event) -> None:
            waits.append(mach.when_queue_ends())
            mach.add1("Bar")

        def note(event: am.Event) -> None:
            seen.append((event.name, waits[0].done()))
            if event.name == "AutoState":
                mach.add_err(ERROR)

        mach.bind_handlers({"FooState": queue, "BarState": note, "AutoState": note, "ExceptionState": note})
        mach.add1("Foo")
        assert await waits[0] is None
        assert seen == [("BarState", False), ("AutoState", False), ("ExceptionState", False)]

    @pytest.mark.usefixtures("impatient")
    async def test_the_queue_ends_when_the_actor_has_emptied_it(self) -> None:
        mach = pending_machine()
        future = mach.when_queue_ends()
        await turns()
        assert not future.done()
        mach.detach_handlers(mach.handlers[-1])
        assert await future is None
        assert mach.is_idle

    async def test_an_interrupt_ends_the_queue_too(self) -> None:
        mach = machine()
        waits: list[Future] = []

        def interrupt(event: am.Event) -> None:
            waits.append(mach.when_queue_ends())
            raise KeyboardInterrupt

        mach.bind_handlers({"FooState": interrupt})
        with pytest.raises(KeyboardInterrupt):
            mach.add1("Foo")
        assert mach.is_idle
        await turns()
        assert waits[0].done()

    async def test_a_restored_machine_is_at_the_tick_of_its_snapshot(self) -> None:
        source = machine(id="door")
        source.add1("Foo")
        source.add1("Bar")
        mach = machine(id="door")
        future = mach.when_queue(3)
        mach.restore(source.export())
        assert await future == 3


class TestDisposal:
    @pytest.mark.usefixtures("impatient")
    @BY_PENDING
    async def test_whoever_still_waits_is_told(self, ask: Ask) -> None:
        mach = pending_machine()
        future = ask(mach)
        with no_noise():
            await mach.dispose()
            with pytest.raises(am.MachineDisposedError, match=rf"^the machine {mach.id} was disposed$"):
                await future
        assert mach.statistics().waiters == 0

    @pytest.mark.usefixtures("impatient")
    @BY_ASK
    async def test_a_failed_wait_that_nobody_looks_at_makes_no_noise(self, ask: Ask) -> None:
        mach = pending_machine()
        with no_noise():
            ask(mach)
            await mach.dispose()
            ask(mach)
            del mach

    @pytest.mark.usefixtures("impatient")
    @BY_PENDING
    async def test_after_disposal_a_wait_has_failed_at_the_call(self, ask: Ask) -> None:
        mach = pending_machine()
        await mach.dispose()
        future = ask(mach)
        assert future.done()
        assert isinstance(future.exception(), am.MachineDisposedError)
        assert mach.statistics().waiters == 0

    async def test_a_state_that_was_active_is_not_waited_for_after_disposal(self) -> None:
        mach = machine(active=["Foo"])
        await mach.dispose()
        with pytest.raises(am.MachineDisposedError):
            await mach.when1("Foo")

    async def test_a_wait_that_was_done_keeps_its_value(self) -> None:
        mach = machine(active=["Foo"])
        future = mach.when1("Foo")
        await mach.dispose()
        assert await future == 1

    async def test_a_wait_resolved_by_someone_else_is_let_be(self) -> None:
        mach = machine()
        future = mach.when1("Foo")
        future.set_result("by hand")
        await mach.dispose()
        assert await future == "by hand"

    @pytest.mark.usefixtures("impatient")
    async def test_a_mutation_the_disposal_took_off_the_queue_has_not_run(self) -> None:
        mach = pending_machine()
        result = mach.add1("Bar")
        future = mach.when_queue(result)
        await mach.dispose()
        with pytest.raises(am.MachineDisposedError):
            await future
        assert (await result).reason == "disposed"

    async def test_disposal_is_announced_last(self) -> None:
        mach = machine()
        order: list[str] = []
        gone, active = mach.when_disposed(), mach.when1("Foo")
        gone.add_done_callback(lambda _: order.append("when_disposed"))
        active.add_done_callback(lambda _: order.append("when1"))
        mach.on_dispose(lambda _: order.append(f"on_dispose, {gone.done()=}, {active.done()=}"))
        await mach.dispose()
        assert await gone is None
        assert order == ["on_dispose, gone.done()=False, active.done()=True", "when1", "when_disposed"]

    async def test_disposal_is_not_announced_while_work_still_ends(self) -> None:
        mach = machine()
        waits: list[Future] = []

        async def work() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                assert mach.is_disposed
                waits.append(mach.when_disposed())
                assert not waits[0].done()

        mach.fork(work)
        await turns()
        mach.on_dispose(lambda _: waits.append(waits[0]) if not waits[0].done() else None)
        await mach.dispose()
        assert len(waits) == 2
        assert await waits[0] is None
        assert mach.err is None

    async def test_a_disposed_machine_has_been_disposed_at_the_call(self) -> None:
        mach = machine()
        await mach.dispose()
        assert mach.when_disposed().done()

    def test_a_machine_disposed_without_a_loop_fails_waits_on_any(self) -> None:
        with machine() as mach:
            pass

        async def wait() -> None:
            await mach.when_disposed()
            with pytest.raises(am.MachineDisposedError):
                await mach.when1("Foo")

        asyncio.run(wait())


class TestLoops:
    @BY_ASK
    def test_without_a_running_loop_a_wait_says_what_it_needs(self, ask: Ask) -> None:
        mach = am.Machine(SCHEMA, id="door")
        with pytest.raises(
            am.MachineLoopError,
            match=r"^the machine door needs a running event loop for this .* call it from a coroutine, such as one "
            r"given to am\.run\(main\)$",
        ):
            ask(mach)
        assert mach.statistics().waiters == 0

    @BY_ASK
    def test_on_another_loop_a_wait_says_where_it_belongs(self, ask: Ask) -> None:
        mach = am.Machine(SCHEMA, id="door")

        async def bind() -> None:
            mach.when1("Foo").cancel()

        async def misuse() -> None:
            with pytest.raises(am.MachineLoopError, match="door is bound to another event loop than the running one"):
                ask(mach)

        asyncio.run(bind())
        asyncio.run(misuse())
        assert mach.statistics().waiters == 0

    def test_a_wait_left_on_a_loop_that_is_closed_stops_neither_a_mutation_nor_the_end(self) -> None:
        mach = machine()

        async def ask() -> list[Future]:
            return [mach.when1("Foo"), mach.when_query(lambda clock: 1 // (1 - clock["Foo"]) > 1), mach.when1("Bar")]

        with asyncio.Runner() as runner:
            foo, query, bar = runner.run(ask())
        for future in (foo, query, bar):
            future.add_done_callback(nothing)
        assert mach.add1("Foo").executed
        assert foo.result() == 1
        assert isinstance(query.exception(), ZeroDivisionError)
        mach.dispose()
        assert isinstance(bar.exception(), am.MachineDisposedError)

    async def test_in_a_thread_without_a_loop_a_wait_says_what_it_needs(self) -> None:
        mach = machine(active=["Foo"])
        await mach.when1("Foo")
        with pytest.raises(am.MachineLoopError, match="needs a running event loop"):
            await asyncio.to_thread(mach.when1, "Bar")

    async def test_an_abandoned_machine_takes_its_waits_with_it(self) -> None:
        mach = machine()
        future = mach.when1("Foo")
        gone = weakref.ref(mach)
        with no_noise():
            del mach, future
            gc.collect()
            assert gone() is None


# A random walk: mutations, vetoes, failures and cancellations, with waiters asked for at any time, also by a handler.

WALK: dict[str, Any] = {
    "A": {"remove": ["B"]},
    "B": {},
    "C": {"multi": True, "add": ["A"]},
    "D": {"auto": True, "require": ["B"]},
    "E": {"require": ["A"]},
}
NAMES = [*WALK, "Exception"]
Ticks = Mapping[str, int]


@dataclass
class Wait:
    """What is waited for, and the model of it: whether it holds, and what it gives, by the clock alone."""

    method: str
    states: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    def ask(self, mach: am.Machine) -> Future:
        match self.method:
            case "when" | "when_not":
                return getattr(mach, self.method)(*self.states)
            case "when_time":
                return mach.when_time(self.states, self.numbers)
            case "when_ticks":
                return mach.when_ticks(self.states[0], self.numbers[0])
            case "when_next_active":
                return mach.when_next_active(self.states[0])
            case "when_args":
                return mach.when_args(self.states[0], {"id": self.numbers[0]})
            case "when_query":
                return mach.when_query(lambda clock: sum(clock.values()) % self.numbers[0] == 0)
        return mach.when_err()

    def holds(self, now: Ticks, asked: Ticks, entered: frozenset[str], args: Mapping[str, Any]) -> bool:
        match self.method:
            case "when":
                return all(now[state] % 2 for state in self.states)
            case "when_not":
                return not any(now[state] % 2 for state in self.states)
            case "when_time":
                return all(now[state] >= tick for state, tick in zip(self.states, self.numbers, strict=True))
            case "when_ticks":
                return now[self.states[0]] - asked[self.states[0]] >= self.numbers[0]
            case "when_next_active":
                return now[self.states[0]] % 2 == 1 and now[self.states[0]] > asked[self.states[0]]
            case "when_args":
                return self.states[0] in entered and args.get("id") == self.numbers[0]
            case "when_query":
                return sum(now.values()) % self.numbers[0] == 0
        return now["Exception"] % 2 == 1

    def value(self, now: Ticks, args: Mapping[str, Any]) -> Any:
        match self.method:
            case "when" | "when_not" | "when_time":
                return am.Time(now[state] for state in self.states)
            case "when_ticks" | "when_next_active":
                return now[self.states[0]]
            case "when_args":
                return args
            case "when_query":
                return now
        return ERROR


@dataclass
class Asked:
    wait: Wait
    future: Future
    at: Ticks
    is_done: bool = False
    value: Any = None


class Walker(am.Tracer):
    """Walks, and compares what is done with what the model says, at the end of each transition."""

    def __init__(self) -> None:
        self.mach = am.Machine(WALK, tracers=[self], handlers=self, handler_timeout=None)
        final = [f"{state}{suffix}" for state in WALK for suffix in ("State", "End")]
        self.mach.bind_handlers(dict.fromkeys([*final, "AnyState"], self.final), id="final")
        self.asked: list[Asked] = []
        self.last: Ticks = self.mach.clock()
        self.expected_order: list[int] = []
        self.order: list[int] = []
        self.wrong: list[str] = []

    def AnyEnter(self, event: am.Event) -> bool:
        return "veto" not in event.args

    def ExceptionState(self, event: am.Event) -> None:
        pass

    def final(self, event: am.Event) -> None:
        if event.name == "AnyState" and "wait" in event.args:
            self.ask(event.args["wait"])
        if event.args.get("fail") == event.name:
            raise ERROR

    def ask(self, wait: Wait) -> None:
        now = self.mach.clock()
        asked, number = Asked(wait, wait.ask(self.mach), now), len(self.asked)
        self.asked.append(asked)
        asked.future.add_done_callback(lambda future: None if future.cancelled() else self.order.append(number))
        self.settle(number, now, frozenset(), {})

    def cancel(self, number: int) -> None:
        if number < len(self.asked) and self.asked[number].future.cancel():
            self.asked[number].is_done = True

    def settle(self, number: int, now: Ticks, entered: frozenset[str], args: Mapping[str, Any]) -> None:
        asked = self.asked[number]
        if not asked.is_done and asked.wait.holds(now, asked.at, entered, args):
            asked.is_done, asked.value = True, asked.wait.value(now, args)
            self.expected_order.append(number)
        if asked.future.done() != asked.is_done:
            self.wrong.append(f"{asked.wait} is done: {asked.future.done()}, by the model: {asked.is_done} ({now})")

    def transition_end(self, transition: am.Transition[Any]) -> None:
        now = self.mach.clock()
        entered = frozenset(state for state in NAMES if now[state] > self.last[state] and now[state] % 2)
        for number in range(len(self.asked)):
            self.settle(number, now, entered, transition.args)
        self.last = now


subsets = st.lists(st.sampled_from(NAMES[:-1]), min_size=1, max_size=3, unique=True).map(tuple)
singles = st.sampled_from(NAMES).map(lambda state: (state,))
small = st.integers(1, 4)
waits_of_any_time = st.one_of(
    st.builds(Wait, st.sampled_from(["when", "when_not"]), subsets),
    subsets.flatmap(
        lambda states: st.builds(
            Wait, st.just("when_time"), st.just(states), st.tuples(*[st.integers(0, 6) for _ in states])
        )
    ),
    st.builds(Wait, st.just("when_ticks"), singles, st.tuples(st.integers(0, 4))),
    st.builds(Wait, st.just("when_next_active"), singles),
    st.builds(Wait, st.just("when_query"), st.just(()), st.tuples(st.integers(1, 7))),
    st.builds(Wait, st.just("when_err")),
)
waits = waits_of_any_time | st.builds(Wait, st.just("when_args"), singles, st.tuples(small))
failures = st.sampled_from([f"{state}{suffix}" for state in WALK for suffix in ("State", "End")] + ["AnyState"])
all_args = st.one_of(
    st.fixed_dictionaries({"id": small}),
    st.fixed_dictionaries({"id": small, "fail": failures}),
    st.fixed_dictionaries({"id": small, "wait": waits_of_any_time}),
    st.just({"veto": True}),
)
walk_steps = st.lists(
    st.one_of(
        waits,
        st.integers(0, 5),
        st.tuples(st.sampled_from(["add", "add", "remove", "set", "toggle"]), subsets, all_args),
        st.just("error"),
        st.just("recover"),
    ),
    max_size=25,
)


@given(walk_steps)
async def test_on_any_walk_each_wait_is_done_after_the_very_transition_in_which_it_first_holds(
    steps: list[Any],
) -> None:
    walker = Walker()
    for step in steps:
        match step:
            case Wait():
                walker.ask(step)
            case int():
                walker.cancel(step)
            case "error":
                walker.mach.add_err(ERROR)
            case "recover":
                walker.mach.remove1("Exception")
            case method, states, args:
                getattr(walker.mach, method)(states, args)
        assert walker.wrong == []
        assert walker.mach.statistics().waiters == sum(not asked.is_done for asked in walker.asked)
    assert walker.mach.tracers == (walker,)  # none of its own errors had it detached
    await walker.mach.when_queue_ends()
    done = [asked for asked in walker.asked if asked.future.done() and not asked.future.cancelled()]
    assert [asked.future.result() for asked in done] == [asked.value for asked in done]
    await turns()
    assert walker.order == walker.expected_order


class Twins(am.Tracer):
    """Takes each step of a walk on a machine that nobody watches, and on a watched one that nobody waits on.

    Most ways past the waiters are taken only on a machine without tracers.
    """

    def __init__(self, handler: str) -> None:
        self.mach, self.twin = (
            am.Machine(WALK, handlers={handler: lambda e: None}, tracers=tracers, handler_timeout=None)
            for tracers in ([], [self])
        )
        self.asked: list[Asked] = []
        self.order: list[int] = []
        self.expected_order: list[int] = []
        self.last: Ticks = self.mach.clock()
        self.seen: list[tuple[Ticks, Mapping[str, Any]]] = []
        """The clock after each transition, and its args."""

    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.seen.append((transition.machine.clock(), transition.args))

    def ask(self, wait: Wait) -> None:
        asked, number = Asked(wait, wait.ask(self.mach), self.last), len(self.asked)
        self.asked.append(asked)
        asked.future.add_done_callback(lambda future: None if future.cancelled() else self.order.append(number))
        self.seen.append((self.last, {}))

    def cancel(self, number: int) -> None:
        if number < len(self.asked) and self.asked[number].future.cancel():
            self.asked[number].is_done = True

    def mutate(self, method: str, states: Any, args: Any) -> None:
        for machine in (self.twin, self.mach):
            getattr(machine, method)(states, args)
        assert self.mach.clock() == self.twin.clock()

    def settle(self) -> None:
        for now, args in self.seen:
            entered = frozenset(state for state in NAMES if now[state] > self.last[state] and now[state] % 2)
            for number, asked in enumerate(self.asked):
                if not asked.is_done and asked.wait.holds(now, asked.at, entered, args):
                    asked.is_done, asked.value = True, asked.wait.value(now, args)
                    self.expected_order.append(number)
            self.last = now
        self.seen.clear()


twin_args = st.fixed_dictionaries({"id": small}) | st.just({})
twin_steps = st.lists(
    st.one_of(
        waits,
        st.integers(0, 5),
        st.tuples(st.sampled_from(["add", "add", "remove", "set", "toggle"]), subsets, twin_args),
        st.just(("add_err", ERROR, {})),
    ),
    max_size=25,
)


@given(twin_steps, st.sampled_from(["ExceptionState", "AnyState", "AEnter", "DState"]))
async def test_on_any_walk_that_nobody_watches_each_wait_is_done_just_as_if_somebody_did(
    steps: list[Any], handler: str
) -> None:
    twins = Twins(handler)
    for step in steps:
        match step:
            case Wait():
                twins.ask(step)
            case int():
                twins.cancel(step)
            case method, states, args:
                twins.mutate(method, states, args)
        twins.settle()
        assert [asked.future.done() for asked in twins.asked] == [asked.is_done for asked in twins.asked]
        assert twins.mach.statistics().waiters == sum(not asked.is_done for asked in twins.asked)
    await turns()
    assert twins.order == twins.expected_order
    done = [asked for asked in twins.asked if asked.future.done() and not asked.future.cancelled()]
    assert [asked.future.result() for asked in done] == [asked.value for asked in done]
