"""The actor: calls step the queue at once, and a task drains what they leave, and lives no longer than it must."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from conftest import turns
from typing_extensions import override

import asyncmachine as am
from asyncmachine import actor as module

T = TypeVar("T")

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Feeder:
    """Handlers of a machine that feeds itself until it is told to stop."""

    def __init__(self) -> None:
        self.stop = False
        self.count = 0
        self.last: am.Result | None = None
        self.seen: list[str] = []
        self.tasks: set[asyncio.Task[Any] | None] = set()

    def FeedState(self, e: am.Event) -> None:
        self.count += 1
        self.seen.append(var.get())
        self.tasks.add(asyncio.current_task())
        if not self.stop:
            self.last = e.machine.add1("Feed", {"number": self.count})


def feeding(**options: Any) -> tuple[am.Machine, Feeder]:
    """Give a machine that has outrun its budget: the rest of its queue is left to the actor.

    Ask for `impatient`, too, or it never does.
    """
    assert module.BUDGET < 0
    feeder = Feeder()
    schema = {"Feed": {"multi": True}, "Log": {"multi": True}, "Foo": {}, "Bar": {"require": ["Foo"]}}
    machine = am.Machine(schema, handlers=feeder, **options)
    assert machine.add1("Feed") == am.Result.EXECUTED
    assert not machine.is_idle
    return machine, feeder


def logged(machine: am.Machine) -> list[Any]:
    """Give a list that gets the args of each activation of `Log`, with the value of `var` there."""
    entries: list[Any] = []
    machine.bind_handlers({"LogState": lambda e: entries.append((e.args["entry"], var.get()))})
    return entries


def in_thread(fn: Callable[[], T]) -> T:
    """Call a function in a thread while this one, and its loop, stand still."""
    given: list[T] = []
    thread = threading.Thread(target=lambda: given.append(fn()))
    thread.start()
    thread.join()
    return given[0]


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds; a test that waits in vain runs into its timeout."""
    while not holds():  # noqa: ASYNC110 - turns of the loop are just what is waited for
        await asyncio.sleep(0)


async def only_this_task() -> bool:
    """Tell, when the loop has turned, whether no other task is left than the test's own."""
    await turns()
    return asyncio.all_tasks() == {asyncio.current_task()}


def actors() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().endswith(".actor")]


# The eager step.


def chain() -> tuple[am.Machine, list[str]]:
    calls: list[str] = []

    def enter(e: am.Event) -> None:
        calls.append("FooState")
        result = e.machine.add1("Bar")
        calls.append(f"{result.queued} {e.machine.is1('Bar')}")

    machine = am.Machine({"Foo": {}, "Bar": {}})
    machine.bind_handlers({"FooState": enter, "BarState": lambda e: calls.append("BarState")})
    return machine, calls


def test_a_call_is_carried_out_at_once_without_a_loop() -> None:
    machine, calls = chain()
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.is_("Foo", "Bar")
    assert calls == ["FooState", "True False", "BarState"]


async def test_a_call_is_carried_out_at_once_on_a_loop() -> None:
    machine, calls = chain()
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.is_("Foo", "Bar")
    assert calls == ["FooState", "True False", "BarState"]
    assert actors() == []


def test_a_call_that_is_refused_says_so_at_once() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}})
    result = machine.add1("Bar")
    assert result == am.Result.CANCELED
    assert result.reason == "Bar requires Foo"


def test_a_check_of_an_idle_machine_is_answered_at_once_and_takes_no_tick() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}})
    assert machine.can_add1("Foo") == am.Result.EXECUTED
    assert machine.can_add1("Bar").reason == "Bar requires Foo"
    assert machine.queue_tick == 1
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.queue_tick == 2


def test_mutations_made_while_one_runs_wait_their_turn_in_order() -> None:
    order: list[str] = []
    results: list[am.Result] = []

    def first(e: am.Event) -> None:
        results.extend(e.machine.add1(state) for state in ("B", "C"))
        order.append("A")

    def second(e: am.Event) -> None:
        results.append(e.machine.add1("D"))
        order.append("B")

    machine = am.Machine({name: {} for name in "ABCD"})
    machine.bind_handlers({"AState": first, "BState": second})
    machine.bind_handlers({f"{name}State": lambda e: order.append(e.state) for name in "CD"})
    machine.add1("A")
    assert order == ["A", "B", "C", "D"]
    assert [int(result) for result in results] == [3, 4, 5]
    assert machine.queue_tick == 5


async def test_the_end_of_the_queue_comes_within_the_call() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {"require": ["Baz"]}, "Baz": {}})
    waiters: list[asyncio.Future[None]] = []

    def enter(e: am.Event) -> None:
        waiters.append(e.machine.when_queue_ends())
        e.machine.add1("Bar")

    machine.bind_handlers({"FooState": enter})
    machine.add1("Foo")
    assert waiters[0].done()
    assert machine.statistics().canceled == 1


def test_a_call_gives_the_result_of_its_own_mutation_not_of_what_followed() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {"require": ["Baz"]}, "Baz": {}})
    nested: list[am.Result] = []
    machine.bind_handlers({"FooState": lambda e: nested.append(e.machine.add1("Bar"))})
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert nested[0].queued
    assert machine.not1("Bar")


@pytest.mark.usefixtures("impatient")
async def test_awaiting_a_queued_result_gives_the_final_one() -> None:
    machine, feeder = feeding()
    executed, canceled = machine.add1("Foo"), machine.add1("Bar", {"before": "Foo is gone"})
    removed = machine.remove1("Foo")
    assert executed.queued
    assert canceled.queued
    feeder.stop = True
    assert await executed == am.Result.EXECUTED
    assert await canceled == am.Result.EXECUTED
    assert await removed == am.Result.EXECUTED
    assert machine.not_("Foo")


@pytest.mark.usefixtures("impatient")
async def test_awaiting_a_queued_result_tells_why_it_was_canceled() -> None:
    machine, feeder = feeding()
    result = machine.add1("Bar")
    feeder.stop = True
    assert (await result).reason == "Bar requires Foo"


def test_awaiting_a_known_result_never_suspends() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}})
    kept: list[am.Result] = []
    machine.bind_handlers({"FooState": lambda e: kept.append(e.machine.add1("Bar"))})
    kept.append(machine.add1("Foo"))
    for result in kept:
        with pytest.raises(StopIteration) as given:
            result.__await__().__next__()
        assert given.value.value == am.Result.EXECUTED


@pytest.mark.usefixtures("impatient")
def test_without_a_loop_a_call_drains_everything_however_long_it_takes() -> None:
    def step(e: am.Event) -> None:
        number = e.args["number"]
        if number < 2000:
            e.machine.add1("Step", {"number": number + 1})

    machine = am.Machine({"Step": {"multi": True}})
    machine.bind_handlers({"StepState": step})
    machine.add1("Step", {"number": 1})
    assert machine.is_idle
    assert machine.tick("Step") == 2 * 2000 - 1


def test_an_interrupt_goes_to_the_caller_and_the_rest_runs_with_the_next_call() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}})
    order: list[str] = []

    def interrupted(e: am.Event) -> None:
        e.machine.add1("Bar")
        raise KeyboardInterrupt

    id = machine.bind_handlers({"FooState": interrupted})
    machine.bind_handlers({f"{name}State": lambda e: order.append(e.state) for name in ("Bar", "Baz")})
    with pytest.raises(KeyboardInterrupt):
        machine.add1("Foo")
    assert machine.not_("Foo", "Bar")
    assert machine.queue_len == 1
    machine.detach_handlers(id)
    assert machine.add1("Baz") == am.Result.EXECUTED
    assert order == ["Bar", "Baz"]


async def test_an_interrupt_with_no_rest_leaves_no_actor() -> None:
    def interrupted(e: am.Event) -> None:
        raise KeyboardInterrupt

    machine = am.Machine({"Foo": {}}, handlers={"FooState": interrupted})
    with pytest.raises(KeyboardInterrupt):
        machine.add1("Foo")
    assert actors() == []


@pytest.mark.usefixtures("impatient")
async def test_a_queue_that_is_empty_when_its_budget_is_spent_needs_no_actor() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}}, handlers={"FooState": lambda e: e.machine.add1("Bar")})
    assert machine.add1("Foo").executed
    assert machine.is_(["Foo", "Bar"])
    assert actors() == []


async def test_an_interrupt_leaves_the_rest_to_the_actor() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}})
    nested: list[am.Result] = []

    def interrupted(e: am.Event) -> None:
        nested.append(e.machine.add1("Bar"))
        raise KeyboardInterrupt

    machine.bind_handlers({"FooState": interrupted})
    with pytest.raises(KeyboardInterrupt):
        machine.add1("Foo")
    assert await nested[0] == am.Result.EXECUTED
    assert machine.active_states() == ("Bar",)


def test_an_interrupted_mutation_is_canceled_as_interrupted() -> None:
    outcomes: list[am.Result | None] = []

    def interrupted(e: am.Event) -> None:
        outcomes.append(e.mutation.outcome)
        raise KeyboardInterrupt

    machine = am.Machine({"Foo": {}})
    kept: list[am.Mutation] = []
    machine.bind_handlers({"FooEnter": lambda e: kept.append(e.mutation), "FooState": interrupted})
    with pytest.raises(KeyboardInterrupt):
        machine.add1("Foo")
    assert outcomes == [None]
    outcome = kept[0].outcome
    assert outcome is not None
    assert outcome.reason == "interrupted"


class Meddler(am.Tracer):
    """Changes the machine where a tracer must not."""

    @override
    def mutation_queued(self, machine: am.MachineApi, mutation: am.Mutation) -> None:
        if mutation.called == ("Foo",):
            machine.add1("Bar")


def test_a_tracer_that_meddles_with_the_queue_does_no_harm() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}}, tracers=[Meddler()])
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.active_states() == ("Bar", "Foo")
    assert machine.is_idle


def test_a_machine_disposed_in_a_handler_ends_once_the_queue_is_drained() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}})
    order: list[str] = []
    machine.on_dispose(lambda _: order.append("disposed"))

    def disposing(e: am.Event) -> None:
        e.machine.dispose()
        e.machine.add1("Bar")

    machine.bind_handlers({"FooState": disposing, "BarState": lambda e: order.append("BarState")})
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert order == ["BarState", "disposed"]
    assert machine.is_disposed


# Errors that have a caller, and those that have none.


def failing(message: str) -> Callable[[am.Event], None]:
    def handler(e: am.Event) -> None:
        raise ValueError(message)

    return handler


def test_raised_errors_reach_the_caller_once_all_is_drained(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}}, raise_errors=True)

    def first(e: am.Event) -> None:
        e.machine.add(["Bar"])
        e.machine.add(["Baz"])
        raise ValueError("first")

    machine.bind_handlers({"FooState": first, "BarState": failing("second")})
    with pytest.raises(ValueError, match="first"):
        machine.add1("Foo")
    assert machine.active_states() == ("Baz",)
    assert machine.is_idle
    (record,) = caplog.records
    assert record.getMessage() == "another error of the same call"
    assert record.exc_info
    assert str(record.exc_info[1]) == "second"


@pytest.mark.usefixtures("impatient")
async def test_raised_errors_become_a_state_where_there_is_no_caller(caplog: pytest.LogCaptureFixture) -> None:
    machine, feeder = feeding(raise_errors=True)
    machine.bind_handlers({"FooState": failing("late")})
    result = machine.add1("Foo")
    feeder.stop = True
    assert (await result).canceled
    await machine.when_queue_ends()
    assert machine.is_err
    assert str(machine.err) == "late"
    assert "[error] ValueError('late') in FooState" in caplog.text


def test_errors_of_a_call_that_is_interrupted_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}}, raise_errors=True)

    def first(e: am.Event) -> None:
        e.machine.add1("Bar")
        raise ValueError("first")

    def interrupted(e: am.Event) -> None:
        raise KeyboardInterrupt

    machine.bind_handlers({"FooState": first, "BarState": interrupted})
    with pytest.raises(KeyboardInterrupt):
        machine.add1("Foo")
    (record,) = caplog.records
    assert record.exc_info
    assert str(record.exc_info[1]) == "first"
    assert machine.add1("Exception") == am.Result.EXECUTED


class BrokenResolver(am.RelationsResolver):
    """Fails on requests for the second state."""

    @override
    def resolve(self, type_: am.MutationType, called: Any, active: Any, **options: Any) -> tuple[int, ...]:
        if 1 in called:
            raise LookupError("the resolver is broken")
        return super().resolve(type_, called, active, **options)


def test_what_goes_wrong_beside_handlers_is_raised_to_the_caller() -> None:
    machine = am.Machine({"Foo": {}, "Bad": {}}, resolver=BrokenResolver)
    with pytest.raises(LookupError, match="the resolver is broken"):
        machine.add1("Bad")
    assert machine.is_idle
    assert machine.add1("Foo") == am.Result.EXECUTED


async def test_what_goes_wrong_in_the_actor_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}, "Bad": {}}, resolver=BrokenResolver)
    threadsafe = machine.threadsafe
    future = in_thread(lambda: threadsafe.add1("Bad"))
    result = await asyncio.wrap_future(future)
    assert result.reason == "the resolver is broken"
    (record,) = caplog.records
    assert record.getMessage() == "an error that had no caller to be raised to"
    assert machine.add1("Foo") == am.Result.EXECUTED


# The actor's part.


@pytest.mark.parametrize("spent", [0.005, 0.0051])
async def test_a_call_drains_the_queue_for_five_milliseconds_and_then_leaves_it(
    monkeypatch: pytest.MonkeyPatch, spent: float
) -> None:
    now = 100.0
    monkeypatch.setattr(module, "perf_counter", lambda: now)
    monkeypatch.setattr(module, "BUDGET", 0.005)

    def step(e: am.Event) -> None:
        nonlocal now
        if e.args["number"] == 2:
            now = 100.0 + spent
        if e.args["number"] < 4:
            e.machine.add1("Step", {"number": e.args["number"] + 1})

    machine = am.Machine({"Step": {"multi": True}}, handlers={"StepState": step})
    machine.add1("Step", {"number": 1})
    assert machine.tick("Step") == (7 if spent == 0.005 else 3)
    await machine.when_queue_ends()
    assert machine.tick("Step") == 7


@pytest.mark.usefixtures("impatient")
async def test_a_machine_that_feeds_itself_leaves_the_loop_responsive() -> None:
    machine, feeder = feeding()
    count = 0

    async def counting() -> None:
        nonlocal count
        while count < 20:
            count += 1
            await asyncio.sleep(0)

    before = feeder.count
    await counting()
    assert count == 20
    assert feeder.count > before
    assert not machine.is_idle
    feeder.stop = True
    await machine.when_queue_ends()
    assert machine.is_idle
    assert await only_this_task()


@pytest.mark.usefixtures("impatient")
async def test_calls_return_queued_until_the_queue_is_empty() -> None:
    machine, feeder = feeding()
    for _ in range(3):
        assert machine.add1("Log", {"n": 1}).queued
        await asyncio.sleep(0)
    assert machine.can_add1("Foo").queued
    feeder.stop = True
    await machine.when_queue_ends()
    assert machine.add1("Log", {"n": 1}) == am.Result.EXECUTED


@pytest.mark.usefixtures("impatient")
async def test_what_is_left_runs_in_the_order_it_was_asked_for() -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    results = [machine.add1("Log", {"entry": n}) for n in range(50)]
    assert entries == []
    feeder.stop = True
    for result in results:
        assert await result == am.Result.EXECUTED
    assert [entry for entry, _ in entries] == list(range(50))


@pytest.mark.usefixtures("impatient")
async def test_a_tick_of_the_queue_may_be_waited_for() -> None:
    machine, feeder = feeding()
    tick = machine.queue_tick
    waiter = machine.when_queue(tick + 10)
    assert not waiter.done()
    assert await waiter == tick + 10
    feeder.stop = True
    await machine.when_queue_ends()


@pytest.mark.usefixtures("impatient")
async def test_a_check_jumps_the_queue() -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    machine.add1("Foo")
    check = machine.can_add1("Bar")
    assert check.tick == machine.queue_tick + 1
    feeder.stop = True
    # Foo is not active when the check runs, though it was asked for before.
    assert (await check).reason == "Bar requires Foo"
    await machine.when_queue_ends()
    assert machine.is1("Foo")
    assert entries == []


@pytest.mark.usefixtures("impatient")
async def test_the_actor_is_never_eager() -> None:
    machine, feeder = feeding()
    assert feeder.tasks == {asyncio.current_task()}
    (actor,) = actors()
    feeder.stop = True
    await machine.when_queue_ends()
    assert feeder.tasks == {asyncio.current_task(), actor}


class Ends(am.Tracer):
    """Notes what `var` is at the end of the queue."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @override
    def queue_end(self, machine: am.MachineApi) -> None:
        self.seen.append(var.get())


@pytest.mark.usefixtures("impatient")
async def test_the_actor_is_in_no_callers_context() -> None:
    ends = Ends()
    var.set("the caller's")
    machine, feeder = feeding(tracers=[ends])
    machine.add1("Log", {"entry": 1})
    feeder.stop = True
    await machine.when_queue_ends()
    machine.add1("Foo")
    assert ends.seen == ["unset", "the caller's"]


async def test_handlers_run_in_the_callers_context() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}})
    seen: list[str] = []

    def enter(e: am.Event) -> None:
        seen.append(var.get())
        var.set("the handler's")
        e.machine.add1("Bar")

    machine.bind_handlers({"FooState": enter, "BarState": lambda e: seen.append(var.get())})
    var.set("the caller's")
    machine.add1("Foo")
    assert seen == ["the caller's", "the handler's"]
    assert var.get() == "the handler's"


@pytest.mark.usefixtures("impatient")
async def test_mutations_left_to_the_actor_see_the_context_they_were_asked_for_in() -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    for name in ("one", "two"):
        contextvars.copy_context().run(lambda name=name: (var.set(name), machine.add1("Log", {"entry": name})))
    var.set("three")
    machine.add1("Log", {"entry": "three"})
    var.set("later")
    feeder.stop = True
    await machine.when_queue_ends()
    assert entries == [("one", "one"), ("two", "two"), ("three", "three")]


@pytest.mark.usefixtures("impatient")
async def test_what_a_drain_hands_over_goes_on_in_its_callers_context() -> None:
    var.set("the caller's")
    machine, feeder = feeding()
    var.set("later")
    before = feeder.count
    await turns()
    feeder.stop = True
    await machine.when_queue_ends()
    assert feeder.count > before
    assert set(feeder.seen) == {"the caller's"}


@pytest.mark.usefixtures("impatient")
async def test_mutations_of_handlers_in_the_actor_see_their_handlers_context() -> None:
    machine, feeder = feeding()
    entries = logged(machine)

    def enter(e: am.Event) -> None:
        var.set("the handler's")
        e.machine.add1("Log", {"entry": "nested"})

    machine.bind_handlers({"FooState": enter})
    machine.add1("Foo")
    machine.add1("Log", {"entry": "beside"})
    feeder.stop = True
    await machine.when_queue_ends()
    assert entries == [("beside", "unset"), ("nested", "the handler's")]
    assert var.get() == "unset"


@pytest.mark.usefixtures("impatient")
async def test_a_mutation_in_the_actor_records_its_source() -> None:
    machine, feeder = feeding(id="feeding")
    other = am.Machine({"Foo": {}})
    sources: list[am.Source | None] = []
    other.bind_handlers({"FooState": lambda e: sources.append(e.mutation.source)})
    machine.bind_handlers(
        {"FooState": lambda e: sources.extend([e.transition.as_source(), other.add1("Foo") and None])}
    )
    machine.add1("Foo")
    feeder.stop = True
    await machine.when_queue_ends()
    assert sources[0] is not None
    assert sources[0].machine_id == "feeding"
    assert sources[0] == sources[1]
    assert sources[2] is None


@pytest.mark.usefixtures("impatient")
async def test_calls_of_an_idle_machine_are_eager_while_its_actor_ends() -> None:
    machine, feeder = feeding()
    feeder.stop = True
    # Resumes in the turn in which the actor drains the queue, before the one in which it ends.
    await machine.when_queue_ends()
    assert len(actors()) == 1
    assert machine.add1("Foo") == am.Result.EXECUTED
    feeder.stop = False
    assert machine.add1("Feed") == am.Result.EXECUTED
    result = machine.remove1("Foo")
    assert result.queued
    feeder.stop = True
    assert await result == am.Result.EXECUTED
    assert await only_this_task()


@pytest.mark.usefixtures("impatient")
async def test_an_idle_machine_holds_no_task() -> None:
    before = asyncio.all_tasks()
    machine, feeder = feeding()
    assert len(asyncio.all_tasks()) == len(before) + 1
    feeder.stop = True
    await machine.when_queue_ends()
    await turns()
    assert asyncio.all_tasks() == before
    machine.add1("Foo")
    assert asyncio.all_tasks() == before


async def use_feeding() -> am.Machine:
    machine, feeder = feeding()
    feeder.stop = True
    await machine.when_queue_ends()
    return machine


async def use_waits() -> am.Machine:
    machine = am.Machine({"Foo": {}, "Bar": {}})
    machine.when1("Foo")
    machine.when_disposed()
    machine.when_err()
    return machine


async def use_work() -> am.Machine:
    machine = am.Machine({"Foo": {}})
    done: list[None] = []

    async def work(e: am.Event) -> None:
        await asyncio.sleep(0)
        done.append(None)

    machine.bind_handlers({"FooState": work})
    machine.add1("Foo")
    await turns()
    assert done
    with machine.state_ctx("Foo"):
        await asyncio.sleep(0)
    return machine


async def use_threads() -> am.Machine:
    machine = am.Machine({"Foo": {}})
    threadsafe = machine.threadsafe
    await asyncio.wrap_future(in_thread(lambda: threadsafe.add1("Foo")))
    return machine


async def use_error() -> am.Machine:
    machine = am.Machine({"Foo": {}})
    machine.bind_handlers({"ExceptionState": lambda e: None})
    machine.add_err(ValueError("handled"))
    return machine


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("use", [use_feeding, use_waits, use_work, use_threads, use_error])
async def test_an_abandoned_idle_machine_is_collected_without_a_word(
    use: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    gone = weakref.ref(await use())
    await turns()
    gc.collect()
    assert gone() is None
    assert noise == []
    assert caplog.records == []


# A cancelled actor.


@pytest.fixture(params=[False, True], ids=["before its first step", "at work"])
def started(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def cancel_actor(*, started: bool) -> None:
    """Cancel the actor before its first step, or when it has worked."""
    if started:
        await turns(2)
    (actor,) = actors()
    actor.cancel()
    await turns()
    assert actors() == []


@pytest.mark.usefixtures("impatient")
async def test_a_cancelled_actor_loses_nothing_of_the_queue(monkeypatch: pytest.MonkeyPatch, *, started: bool) -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    for name in ("one", "two"):
        contextvars.copy_context().run(lambda name=name: (var.set(name), machine.add1("Log", {"entry": name})))
    if started:
        # Have it run what was asked for, and something wait again.
        await until(lambda: len(entries) == 2)
        entries.clear()
        feeder.stop = True
        for name in ("one", "two"):
            contextvars.copy_context().run(lambda name=name: (var.set(name), machine.add1("Log", {"entry": name})))
    await cancel_actor(started=False)
    feeder.stop = True
    assert not machine.is_idle
    monkeypatch.setattr(module, "BUDGET", math.inf)
    var.set("three")
    assert machine.add1("Log", {"entry": "three"}) == am.Result.EXECUTED
    assert entries == [("one", "one"), ("two", "two"), ("three", "three")]
    assert machine.is_idle


@pytest.mark.usefixtures("impatient")
async def test_the_next_call_after_a_cancelled_actor_may_need_another(*, started: bool) -> None:
    machine, feeder = feeding()
    await cancel_actor(started=started)
    assert machine.add1("Foo") == am.Result.EXECUTED
    result = machine.add1("Bar")
    assert result.queued
    assert len(actors()) == 1
    feeder.stop = True
    assert await result == am.Result.EXECUTED


@pytest.mark.usefixtures("impatient")
async def test_disposal_drains_what_a_cancelled_actor_has_left(*, started: bool) -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    await cancel_actor(started=started)
    feeder.stop = True
    assert not machine.is_idle
    machine.on_dispose(lambda _: entries.append(feeder.count))
    before = feeder.count
    await machine.dispose()
    assert entries == [before + 1]


@pytest.mark.usefixtures("impatient")
async def test_what_is_handed_over_twice_keeps_its_context() -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    names = ["one", "two", "three", "four"]
    for name in names:
        contextvars.copy_context().run(lambda name=name: (var.set(name), machine.add1("Log", {"entry": name})))
    feeder.stop = True
    await cancel_actor(started=False)
    assert machine.add1("Foo").queued
    await machine.when_queue_ends()
    assert entries == [(name, name) for name in names]
    assert machine.is1("Foo")


@pytest.mark.usefixtures("impatient")
async def test_a_cancelled_actor_tells_posted_calls(*, started: bool) -> None:
    # The queue is always full, so that posted calls are held back.
    machine, _ = feeding(id="stopped", queue_limit=1)
    threadsafe = machine.threadsafe
    dropped, *futures = in_thread(lambda: [threadsafe.add1("Foo"), threadsafe.add1("Bar"), threadsafe.eval(list)])
    dropped.cancel()
    await cancel_actor(started=started)
    text = "of the machine stopped was stopped before the call was made; have threads end before the loop does"
    for future in futures:
        with pytest.raises(am.MachineLoopError, match=text):
            future.result(timeout=0)


@pytest.mark.usefixtures("impatient")
async def test_calls_posted_as_the_actor_is_cancelled_get_another() -> None:
    machine, feeder = feeding()
    threadsafe = machine.threadsafe
    await turns(2)
    (actor,) = actors()
    actor.cancel()
    future = in_thread(lambda: threadsafe.add1("Foo"))
    assert await asyncio.wrap_future(future) == am.Result.EXECUTED
    feeder.stop = True
    await machine.when_queue_ends()
    assert actor.cancelled()


@pytest.mark.usefixtures("impatient")
async def test_what_waits_when_the_machine_is_disposed_is_canceled() -> None:
    machine, feeder = feeding(dispose_timeout=0.01)
    before = feeder.count
    await machine.dispose()
    assert feeder.count > before
    assert feeder.last is not None
    assert (await feeder.last).reason == "disposed"
    assert machine.is_idle
    assert await only_this_task()


class Stop(BaseException):
    """Something that is no error of the program, nor one that stops the loop."""


@pytest.mark.usefixtures("impatient")
async def test_what_stops_the_actor_is_logged_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    machine, feeder = feeding()

    def stopping(e: am.Event) -> None:
        raise Stop

    id = machine.bind_handlers({"FooState": stopping})
    result = machine.add1("Foo")
    entries = logged(machine)
    machine.add1("Log", {"entry": 1})
    threadsafe = machine.threadsafe
    feeder.stop = True
    await turns()
    (record,) = caplog.records
    assert record.getMessage() == "the actor was stopped"
    assert record.exc_info
    assert isinstance(record.exc_info[1], Stop)
    assert (await result).reason == "interrupted"
    machine.detach_handlers(id)
    machine.add1("Log", {"entry": 2})
    assert [entry for entry, _ in entries] == [1, 2]
    assert await asyncio.wrap_future(in_thread(lambda: threadsafe.add1("Foo"))) == am.Result.EXECUTED


# Calls posted by threads.


async def test_posted_calls_are_made_in_order_and_in_their_callers_context() -> None:
    machine = am.Machine({"Log": {"multi": True}})
    entries = logged(machine)
    threadsafe = machine.threadsafe

    def posting() -> list[concurrent.futures.Future[Any]]:
        var.set("the thread's")
        return [
            threadsafe.add1("Log", {"entry": 1}),
            threadsafe.eval(lambda: entries.append(("eval", var.get()))),
            threadsafe.add1("Log", {"entry": 2}),
        ]

    futures = in_thread(posting)
    assert entries == []
    assert [await asyncio.wrap_future(future) for future in futures] == [
        am.Result.EXECUTED,
        None,
        am.Result.EXECUTED,
    ]
    assert entries == [(1, "the thread's"), ("eval", "the thread's"), (2, "the thread's")]


@pytest.mark.usefixtures("impatient")
async def test_posted_calls_join_the_queue_of_an_actor_at_work() -> None:
    machine, feeder = feeding()
    entries = logged(machine)
    threadsafe = machine.threadsafe
    machine.add1("Log", {"entry": 1})
    future = in_thread(lambda: threadsafe.add1("Log", {"entry": 2}))
    machine.add1("Log", {"entry": 3})
    feeder.stop = True
    await asyncio.wrap_future(future)
    await machine.when_queue_ends()
    assert sorted(entry for entry, _ in entries) == [1, 2, 3]
    assert entries[0][0] == 1


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_acts_at_once_waits_for_those_posted_before_it_and_what_they_lead_to() -> None:
    machine = am.Machine({"Foo": {}, "Auto": {"auto": True, "require": ["Foo"]}})
    # The loop gets its turn before the auto state.
    threadsafe = machine.threadsafe
    foo, auto, off = in_thread(
        lambda: (
            threadsafe.add1("Foo"),
            threadsafe.eval(lambda: machine.is1("Auto")),
            threadsafe.toggle1("Foo"),
        )
    )
    assert await asyncio.wrap_future(foo) == am.Result.EXECUTED
    assert await asyncio.wrap_future(auto) is True
    assert await asyncio.wrap_future(off) == am.Result.EXECUTED
    assert machine.not_("Foo")


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_acts_at_once_waits_for_those_posted_before_it_that_are_queued_still() -> None:
    machine, feeder = feeding()
    threadsafe = machine.threadsafe
    foo, seen = in_thread(lambda: (threadsafe.add1("Foo"), threadsafe.eval(lambda: machine.is1("Foo"))))
    assert await asyncio.wrap_future(seen) is True
    assert foo.result(timeout=0) == am.Result.EXECUTED
    feeder.stop = True
    await machine.when_queue_ends()


@pytest.mark.usefixtures("impatient")
async def test_a_call_that_acts_at_once_waits_for_no_later_ones() -> None:
    machine, feeder = feeding()
    threadsafe = machine.threadsafe
    future = in_thread(lambda: threadsafe.eval(lambda: machine.is_idle))
    # The machine never comes to rest, and the call is made all the same.
    assert await asyncio.wrap_future(future) is False
    assert not machine.is_idle
    feeder.stop = True
    await machine.when_queue_ends()


async def test_a_posted_call_cancelled_in_time_is_skipped() -> None:
    machine = am.Machine({"Log": {"multi": True}})
    entries = logged(machine)
    threadsafe = machine.threadsafe
    futures = in_thread(lambda: [threadsafe.add1("Log", {"entry": n}) for n in range(3)])
    assert futures[1].cancel()
    await asyncio.wrap_future(futures[2])
    assert [entry for entry, _ in entries] == [0, 2]
    assert futures[1].cancelled()


async def test_a_posted_call_that_raises_tells_its_caller_alone(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}})
    threadsafe = machine.threadsafe

    def broken() -> None:
        raise KeyboardInterrupt

    failed, fine = in_thread(lambda: (threadsafe.eval(broken), threadsafe.add1("Foo")))
    assert await asyncio.wrap_future(fine) == am.Result.EXECUTED
    assert isinstance(failed.exception(), KeyboardInterrupt)
    assert caplog.records == []


async def test_posted_calls_are_told_of_a_queue_without_any_room() -> None:
    machine = am.Machine({"Foo": {}}, queue_limit=0)
    threadsafe = machine.threadsafe
    future = in_thread(lambda: threadsafe.add1("Foo"))
    assert (await asyncio.wrap_future(future)).reason == "queue full (0)"


@pytest.mark.parametrize("limit", [1, 2])
async def test_posted_calls_wait_for_room_in_the_queue(limit: int) -> None:
    machine = am.Machine({"Log": {"multi": True}}, queue_limit=limit)
    entries = logged(machine)
    threadsafe = machine.threadsafe
    futures = in_thread(lambda: [threadsafe.add1("Log", {"entry": n}) for n in range(50)])
    for future in futures:
        assert await asyncio.wrap_future(future) == am.Result.EXECUTED
    assert [entry for entry, _ in entries] == list(range(50))


@pytest.fixture
def closed() -> Iterator[tuple[am.Machine, am.Threadsafe, asyncio.AbstractEventLoop]]:
    """A machine whose loop stands still, and can be closed."""
    machine = am.Machine({"Foo": {}}, id="closed")
    loop = asyncio.new_event_loop()

    async def bind() -> am.Threadsafe:
        return machine.threadsafe

    yield machine, loop.run_until_complete(bind()), loop
    loop.close()


def test_a_call_posted_to_a_closed_loop_fails(
    closed: tuple[am.Machine, am.Threadsafe, asyncio.AbstractEventLoop],
) -> None:
    machine, threadsafe, loop = closed
    loop.close()
    for _ in range(2):
        with pytest.raises(am.MachineLoopError, match="the loop of the machine closed was stopped before the call"):
            threadsafe.add1("Foo").result(timeout=0)
    assert machine.not1("Foo")


def test_a_call_posted_just_before_the_loop_is_closed_is_told_with_the_next(
    closed: tuple[am.Machine, am.Threadsafe, asyncio.AbstractEventLoop],
) -> None:
    _, threadsafe, loop = closed
    lost = threadsafe.add1("Foo")
    loop.close()
    threadsafe.add1("Foo")
    assert isinstance(lost.exception(timeout=0), am.MachineLoopError)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Have threads give way to one another as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless_threads")
def test_no_posted_call_is_refused_because_the_actor_is_just_ending(
    closed: tuple[am.Machine, am.Threadsafe, asyncio.AbstractEventLoop],
) -> None:
    machine, threadsafe, loop = closed
    failed: list[BaseException] = []

    def posting() -> None:
        try:
            for _ in range(500):
                threadsafe.eval(list).result(timeout=60)
        except BaseException as err:  # noqa: BLE001 - looked at below
            failed.append(err)

    threads = [threading.Thread(target=posting) for _ in range(8)]

    async def main() -> None:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):  # noqa: ASYNC110 - keeps the loop turning
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert failed == []
    assert machine.is_idle


# Chains of machines.


class Passing:
    """Adds the same state to the next machine of a chain."""

    def __init__(self, next: am.Machine | None, seen: list[am.Result], order: list[am.Machine]) -> None:
        self.next = next
        self.seen = seen
        self.order = order

    def FooState(self, e: am.Event) -> None:
        self.order.append(e.machine)
        if self.next is not None:
            self.seen.append(self.next.add1("Foo"))


def chained(length: int) -> tuple[list[am.Machine], list[am.Result], list[am.Machine]]:
    """Build a chain of machines; give it with the results of their mutations, and the order they ran in."""
    machines: list[am.Machine] = []
    seen: list[am.Result] = []
    order: list[am.Machine] = []
    for _ in range(length):
        following = machines[0] if machines else None
        machines.insert(0, am.Machine({"Foo": {}, "Bar": {}}, handlers=Passing(following, seen, order)))
    return machines, seen, order


def test_a_chain_of_machines_may_be_longer_than_the_stack_is_high() -> None:
    machines, seen, order = chained(1500)
    assert machines[0].add1("Foo") is am.Result.EXECUTED
    assert order == machines
    assert all(machine.is1("Foo") and machine.is_idle and not machine.is_err for machine in machines)
    assert {result.queued for result in seen} == {False, True}


def test_what_waits_for_the_stack_may_have_been_drained_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEPTH", 0)
    order: list[str] = []
    other = am.Machine({"Foo": {}, "Bar": {}})
    other.bind_handlers({name: lambda e: order.append(e.state) for name in ("FooState", "BarState")})

    def both(e: am.Event) -> None:
        assert other.add1("Foo").queued
        assert other.add1("Bar")
        order.append("both")

    mach = am.Machine({"Foo": {}}, handlers={"FooState": both})
    assert mach.add1("Foo").executed
    assert order == ["Foo", "Bar", "both"]
    assert other.is_(["Foo", "Bar"])


def test_a_machine_that_has_waited_for_the_stack_has_others_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEPTH", 0)
    last = am.Machine({"Foo": {}})
    middle = am.Machine({"Foo": {}, "Bar": {}}, handlers={"BarState": lambda e: last.add1("Foo")})
    first = am.Machine({"Foo": {}}, handlers={"FooState": lambda e: middle.add1("Foo")})
    first.add1("Foo")
    assert middle.is1("Foo")
    middle.add1("Bar")
    assert last.is1("Foo")


async def test_what_waits_for_the_stack_can_be_awaited_and_knows_its_source() -> None:
    machines, seen, _ = chained(module.DEPTH + 5)
    traced: list[am.Mutation] = []

    class Sources(am.Tracer):
        @override
        def mutation_queued(self, machine: Any, mutation: am.Mutation) -> None:
            traced.append(mutation)

    machines[-1].bind_tracer(Sources())
    machines[0].add1("Foo")
    queued = [result for result in seen if result.queued]
    assert len(queued) == 4
    assert [await result for result in queued] == [am.Result.EXECUTED] * 4
    assert [mutation.source.machine_id for mutation in traced if mutation.source] == [machines[-2].id]


def test_a_check_is_answered_at_any_depth() -> None:
    machines, _, _ = chained(module.DEPTH + 3)
    answers: list[am.Result] = []
    machines[-2].bind_handlers({"FooState": lambda e: answers.append(machines[-1].can_add1("Bar"))})
    machines[0].add1("Foo")
    assert answers == [am.Result.EXECUTED]
    assert machines[-1].not1("Bar")


def test_a_machine_may_be_drained_by_somebody_else_before_its_turn_comes() -> None:
    machines, seen, order = chained(module.DEPTH + 3)
    last = machines[-1]
    # The machine before it asks it for more, in the same handler; that comes behind what waits.
    machines[-2].bind_handlers({"FooState": lambda e: seen.append(last.add1("Bar"))})
    machines[0].add1("Foo")
    assert order == machines
    assert last.is_("Foo", "Bar")


async def test_work_of_a_deep_machine_starts_with_a_stack_of_its_own() -> None:
    machines, seen, _ = chained(module.DEPTH + 2)
    extra = am.Machine({"Foo": {}})
    results: list[am.Result] = []

    async def ask() -> None:
        # An eager task has its first step within the handler, and so in the deep.
        results.append(await extra.add1("Foo"))

    machines[-1].bind_handlers({"FooState": lambda e: e.fork(ask)})
    machines[0].add1("Foo")
    await turns()
    assert results == [am.Result.EXECUTED]
    assert any(result.queued for result in seen)
    for machine in machines:
        await machine.dispose()


def test_a_machine_that_feeds_itself_is_not_nested_in_itself() -> None:
    other = am.Machine({"Foo": {}})
    results: list[am.Result] = []

    def feed(e: am.Event) -> None:
        results.append(other.toggle1("Foo"))
        if len(results) < 3 * module.DEPTH:
            e.machine.add1("Feed")

    am.Machine({"Feed": {"multi": True}}, handlers={"FeedState": feed}).add1("Feed")
    assert results == [am.Result.EXECUTED] * (3 * module.DEPTH)


def test_an_error_from_the_deep_is_raised_to_the_caller_and_holds_up_nobody() -> None:
    machines, _, order = chained(module.DEPTH + 6)
    for machine in machines:
        machine._core.raise_errors = True
    deep = machines[module.DEPTH + 2]

    def fail(e: am.Event) -> None:
        raise ValueError(e.machine.id)

    deep.bind_handlers({"AnyState": fail})
    with pytest.raises(ValueError, match=deep.id):
        machines[0].add1("Foo")
    assert order == machines
    assert all(machine.is_idle for machine in machines)
    # Those between the caller and the deep have failed in the handler that called on.
    assert [machine.is1("Foo") for machine in machines] == [False] * module.DEPTH + [True] * 6
