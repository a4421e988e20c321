"""The end of a machine: in order, once, whoever asks for it and from wherever, and bounded in time."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from conftest import turns
from typing_extensions import override

import asyncmachine as am

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

SHORT = 0.02
"""Seconds of grace where what is waited for never comes."""


async def only_this_task() -> bool:
    """Tell, when the loop has turned, whether no other task is left than the test's own."""
    await turns()
    return asyncio.all_tasks() == {asyncio.current_task()}


class Goodbyes(am.Tracer):
    """Notes which machines have been disposed."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    @override
    def machine_dispose(self, machine: am.MachineApi) -> None:
        self.order.append(f"tracer: {machine.id}")


# The order of things.


async def test_everything_ends_in_order() -> None:
    order: list[str] = []
    machine = am.Machine(
        {"Start": {}, "Foo": {}, "Late": {}},
        id="parent",
        tracers=[Goodbyes(order)],
    )

    async def work(e: am.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
            order.append(f"work ends, {machine.is_disposed=}")

    def start_end(e: am.Event) -> None:
        order.append("StartEnd")
        e.machine.add1("Late")

    machine.bind_handlers(
        {"FooState": work, "StartEnd": start_end, "LateState": lambda e: order.append("the queue is drained")}
    )
    child = am.Machine({"Foo": {}}, id="child", parent=machine)
    child.on_dispose(lambda _: order.append("child"))
    machine.add(["Start", "Foo"])
    scope = machine.state_ctx("Foo")
    waiter, gone = machine.when_not1("Foo"), machine.when_disposed()
    await turns()

    def on_dispose(of: am.Machine) -> None:
        order.append(
            f"on_dispose, scope cancelled: {scope.cancel_called}, waiter failed: {waiter.done()}, told: {gone.done()}"
        )

    machine.on_dispose(on_dispose)
    machine.on_dispose(lambda _: order.append("on_dispose again"))
    await machine.dispose()
    assert gone.done()
    assert order == [
        "child",
        "StartEnd",
        "the queue is drained",
        "work ends, machine.is_disposed=True",
        "on_dispose, scope cancelled: True, waiter failed: True, told: False",
        "on_dispose again",
        "tracer: parent",
    ]
    assert isinstance(waiter.exception(), am.MachineDisposedError)
    assert await only_this_task()


def test_everything_ends_in_order_without_a_loop() -> None:
    order: list[str] = []
    machine = am.Machine({"Start": {}, "Late": {}}, id="parent", tracers=[Goodbyes(order)])
    child = am.Machine({"Foo": {}}, id="child", parent=machine)
    child.on_dispose(lambda _: order.append("child"))

    def start_end(e: am.Event) -> None:
        order.append("StartEnd")
        e.machine.add1("Late")

    machine.bind_handlers({"StartEnd": start_end, "LateState": lambda e: order.append("the queue is drained")})
    machine.on_dispose(lambda _: order.append("on_dispose"))
    machine.add1("Start")
    machine.dispose()
    assert machine.is_disposed
    assert order == ["child", "StartEnd", "the queue is drained", "on_dispose", "tracer: parent"]


async def test_waiters_fail_in_the_order_they_were_registered_and_without_noise() -> None:
    machine = am.Machine({"Foo": {}, "Bar": {}}, id="gone")
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    order: list[int] = []
    waiters: list[asyncio.Future[Any]] = [
        machine.when1("Bar"),
        machine.when_query(lambda clock: clock["Foo"] == 9),
        machine.when_queue(99),
        machine.when_args("Foo"),
        machine.when_err(),
        machine.when_time1("Foo", 5),
    ]
    for number, waiter in enumerate(waiters):
        waiter.add_done_callback(lambda _, number=number: order.append(number))
    await machine.dispose()
    await turns()
    assert order == [0, 1, 2, 3, 4, 5]
    with pytest.raises(am.MachineDisposedError, match="the machine gone was disposed"):
        await waiters[0]
    del waiters, waiter
    assert noise == []


@pytest.mark.usefixtures("impatient")
async def test_what_is_queued_when_the_machine_ends_runs_first() -> None:
    machine = am.Machine({"Log": {"multi": True}, "Foo": {}})
    entries: list[int] = []

    def log(e: am.Event) -> None:
        entries.append(e.args["n"])
        if e.args["n"] < 300:
            e.machine.add1("Log", {"n": e.args["n"] + 1})

    machine.bind_handlers({"LogState": log})
    machine.add1("Log", {"n": 0})
    assert not machine.is_idle
    queued = machine.add1("Foo")
    assert queued.queued
    await machine.dispose()
    assert entries == list(range(301))
    assert await queued == am.Result.EXECUTED


# Once, and from anywhere.


async def test_disposal_happens_once_however_often_it_is_asked_for() -> None:
    count: list[am.Machine] = []
    machine = am.Machine({"Foo": {}})
    machine.on_dispose(count.append)
    await asyncio.gather(machine.dispose(), machine.dispose())
    await machine.dispose()
    async with machine:
        pass
    machine.dispose()
    await turns()
    assert count == [machine]


def test_disposal_happens_once_without_a_loop() -> None:
    count: list[am.Machine] = []
    machine = am.Machine({"Foo": {}})
    machine.on_dispose(count.append)
    machine.dispose()
    machine.dispose()
    with machine:
        pass
    assert count == [machine]


HANDLERS = ["StartEnter", "StartState", "FooFoo", "FooBar", "FooExit", "FooEnd", "AnyEnter", "AnyState", "StartEnd"]


@pytest.mark.parametrize("name", [*HANDLERS, "StartExit"])
@pytest.mark.parametrize("times", [1, 2])
async def test_any_handler_may_dispose_its_machine(name: str, times: int) -> None:
    machine = am.Machine({"Start": {}, "Foo": {}, "Bar": {}})
    ends: list[str] = []
    machine.on_dispose(lambda _: ends.append(str(machine)))

    def handler(e: am.Event) -> None:
        for _ in range(times):
            e.machine.dispose()
        assert not e.machine.is_disposed

    machine.bind_handlers({name: handler, "ExceptionState": lambda e: pytest.fail(repr(machine.err))})
    machine.add(["Start", "Foo"])
    machine.add1("Bar")
    machine.add1("Foo")
    machine.remove1("Foo")
    if name in {"StartExit", "StartEnd"}:
        machine.dispose()
    await machine.when_disposed()
    # The transition ran to its end, and Start was removed after it.
    assert ends == ["(Bar:1)"]
    assert await only_this_task()


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("times", [1, 2])
def test_any_handler_may_dispose_its_machine_without_a_loop(
    name: str, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = am.Machine({"Start": {}, "Foo": {}, "Bar": {}})
    ends: list[str] = []
    machine.on_dispose(lambda _: ends.append(str(machine)))
    calls = 0

    def handler(e: am.Event) -> None:
        nonlocal calls
        calls += 1
        for _ in range(times):
            e.machine.dispose()
        assert not e.machine.is_disposed

    machine.bind_handlers({name: handler, "ExceptionState": lambda e: pytest.fail(repr(machine.err))})
    for step in (
        lambda: machine.add(["Start", "Foo"]),
        lambda: machine.add1("Bar"),
        lambda: machine.add1("Foo"),
        lambda: machine.remove1("Foo"),
        lambda: machine.remove1("Start"),
    ):
        if not machine.is_disposed:
            step()
    assert machine.is_disposed
    assert len(ends) == 1
    assert machine.tick("Start") % 2 == 0
    # In the transition that was asked for, and, at most, in the removal of Start.
    assert calls <= 2
    assert caplog.records == []


def test_a_handler_of_starts_removal_may_dispose_the_machine_that_is_being_disposed() -> None:
    machine = am.Machine({"Start": {}})
    count: list[am.Machine] = []
    machine.on_dispose(count.append)
    machine.bind_handlers({"StartEnd": lambda e: e.machine.dispose()})
    machine.add1("Start")
    machine.dispose()
    assert count == [machine]


async def test_the_machines_own_work_may_dispose_it_and_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}}, dispose_timeout=3600)
    order: list[str] = []
    machine.on_dispose(lambda _: order.append("disposed"))
    release = asyncio.Event()

    async def work(e: am.Event) -> None:
        e.machine.dispose()
        with anyio.CancelScope(shield=True):
            await release.wait()
        order.append("work ends")

    machine.bind_handlers({"FooState": work})
    machine.add1("Foo")
    await machine.when_disposed()
    assert order == ["disposed"]
    release.set()
    assert await only_this_task()
    assert order == ["disposed", "work ends"]
    assert caplog.records == []


@pytest.mark.parametrize("name", ["FooState", "FooEnd", "AnyState"])
async def test_work_that_waits_for_the_end_of_its_machine_is_cancelled_with_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine = am.Machine({"Foo": {}}, dispose_timeout=3600)
    ends: list[str] = []

    async def work(e: am.Event) -> None:
        try:
            await e.machine.dispose()
            ends.append("disposed")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    machine.bind_handlers({name: work})
    machine.add1("Foo")
    if name == "FooEnd":
        machine.remove1("Foo")
    await machine.when_disposed()
    assert await only_this_task()
    assert ends == ["cancelled"]
    assert caplog.records == []


async def test_work_that_shields_itself_may_wait_for_the_end_of_its_machine(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}}, dispose_timeout=3600)
    ends: list[str] = []

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await machine.dispose()
        ends.append(f"disposed: {machine.is_disposed}")

    machine.fork(work)
    await machine.when_disposed()
    assert await only_this_task()
    assert ends == ["disposed: True"]
    assert caplog.records == []


async def test_work_may_be_a_block_of_its_own_machine(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}}, dispose_timeout=3600)
    steps: list[str] = []

    async def work(e: am.Event) -> None:
        async with e.machine:
            steps.append("within")
        steps.append(f"disposed: {e.machine.is_disposed}")

    machine.bind_handlers({"FooState": work})
    machine.add1("Foo")
    await machine.when_disposed()
    assert await only_this_task()
    assert steps == ["within", "disposed: True"]
    assert caplog.records == []


async def test_work_of_a_child_may_dispose_the_family(caplog: pytest.LogCaptureFixture) -> None:
    parent = am.Machine({"Foo": {}}, id="parent", dispose_timeout=3600)
    child = am.Machine({"Foo": {}}, id="child", parent=parent, dispose_timeout=3600)
    order: list[str] = []
    for machine in (parent, child):
        machine.on_dispose(lambda gone: order.append(gone.id))

    async def work(e: am.Event) -> None:
        await parent.dispose()

    child.bind_handlers({"FooState": work})
    child.add1("Foo")
    await parent.when_disposed()
    assert order == ["child", "parent"]
    assert await only_this_task()
    assert caplog.records == []


async def dispose_on_change(machine: am.Machine) -> None:
    machine.on_change(lambda m, before, after: m.dispose() and None)
    machine.add1("Foo")


async def dispose_on_error(machine: am.Machine) -> None:
    machine.on_error(lambda m, err: m.dispose() and None)
    machine.bind_handlers({"ExceptionState": lambda e: None})
    machine.add_err(ValueError("the end"))


async def dispose_on_dispose(machine: am.Machine) -> None:
    machine.on_dispose(lambda m: m.dispose() and None)
    machine.dispose()


async def dispose_when_woken(machine: am.Machine) -> None:
    machine.when1("Foo").add_done_callback(lambda _: machine.dispose() and None)
    machine.add1("Foo")


class Disposer(am.Tracer):
    @override
    def queue_end(self, machine: am.MachineApi) -> None:
        machine.dispose()


async def dispose_in_tracer(machine: am.Machine) -> None:
    machine.bind_tracer(Disposer())
    machine.add1("Foo")


async def dispose_in_eval(machine: am.Machine) -> None:
    threadsafe = machine.threadsafe
    await asyncio.to_thread(lambda: threadsafe.eval(lambda: machine.dispose() and None).result(timeout=5))


async def dispose_in_a_child(machine: am.Machine) -> None:
    am.Machine({"Foo": {}}, parent=machine, handlers={"FooState": lambda e: machine.dispose()}).add1("Foo")


@pytest.mark.parametrize(
    "ask",
    [
        dispose_on_change,
        dispose_on_error,
        dispose_on_dispose,
        dispose_when_woken,
        dispose_in_tracer,
        dispose_in_eval,
        dispose_in_a_child,
    ],
)
async def test_any_callback_may_dispose_the_machine(
    ask: Callable[[am.Machine], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    machine = am.Machine({"Foo": {}})
    count: list[am.Machine] = []
    machine.on_dispose(count.append)
    await ask(machine)
    await machine.when_disposed()
    assert count == [machine]
    assert await only_this_task()
    assert caplog.records == []


async def test_disposal_is_never_eager_and_in_no_callers_context() -> None:
    machine = am.Machine({"Start": {}})
    seen: list[tuple[str, object]] = []
    machine.bind_handlers({"StartEnd": lambda e: seen.append((var.get(), asyncio.current_task()))})
    machine.on_dispose(lambda _: seen.append((var.get(), asyncio.current_task())))
    machine.add1("Start")
    var.set("the caller's")
    end = machine.dispose()
    assert seen == []
    assert machine.is1("Start")
    await end
    assert [value for value, _ in seen] == ["unset", "unset"]
    assert asyncio.current_task() not in [task for _, task in seen]


# Work at the end.


async def test_work_is_cancelled_and_waited_for() -> None:
    machine = am.Machine({"Foo": {}})
    ends: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
            ends.append(name)

    machine.bind_handlers({"FooState": lambda e: e.fork(work, "of a state")})
    machine.add1("Foo")
    machine.fork(work, "of the machine")
    await turns()
    await machine.dispose()
    assert sorted(ends) == ["of a state", "of the machine"]
    assert machine.statistics().work == 0


async def test_state_contexts_of_others_are_cancelled_before_work_is_waited_for() -> None:
    machine, steps, release = lingering()
    scope = machine.state_ctx("Foo")
    entered = machine.state_ctx("Foo")

    async def other() -> None:
        with entered:
            await asyncio.sleep(3600)
        steps.append("the context is left")

    task = asyncio.ensure_future(other())
    await turns()
    machine.dispose()
    await turns(10)
    assert steps == ["the context is left"]
    assert scope.cancel_called
    release.set()
    await machine.when_disposed()
    await task
    assert steps == ["the context is left", "work ends", "disposed"]


async def test_work_that_has_not_had_its_first_step_never_starts() -> None:
    machine = am.Machine({"Foo": {}})
    steps: list[str] = []

    async def work(e: am.Event) -> None:
        steps.append("first")
        await asyncio.sleep(0)
        steps.append("second")

    machine.bind_handlers({"FooState": work})
    end = machine.dispose()
    machine.add1("Foo")
    # An eager task has had it by now.
    begun = list(steps)
    await end
    assert steps == begun
    assert machine.tick("Foo") == 1
    assert await only_this_task()


@pytest.mark.parametrize("name", ["FooEnd", "StartEnd", "AnyState"])
async def test_async_end_handlers_run_to_the_end_within_the_grace_period(name: str) -> None:
    machine = am.Machine({"Start": {}, "Foo": {}})
    steps: list[str] = []

    async def work(e: am.Event) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        steps.append("end")

    if name == "AnyState":
        machine.add(["Start", "Foo"])
        machine.bind_handlers({name: work})
    else:
        machine.bind_handlers({name: work})
        machine.add(["Start", "Foo"])
        machine.remove1("Foo")
    machine.on_dispose(lambda _: steps.append("disposed"))
    await machine.dispose()
    assert steps == ["end", "disposed"]


async def test_end_handlers_that_outlast_the_grace_period_are_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}}, id="slow", dispose_timeout=SHORT)
    ends: list[str] = []

    async def work(e: am.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("cancelled")

    machine.bind_handlers({"FooEnd": work})
    machine.add1("Foo")
    machine.remove1("Foo")
    logger = logging.getLogger("asyncmachine.slow")

    def give_it_time(record: logging.LogRecord) -> bool:
        """Have the period that is left for its cancellation outlast any pause of the computer."""
        machine._core.dispose_timeout = 3600
        return True

    logger.addFilter(give_it_time)
    await machine.dispose()
    logger.removeFilter(give_it_time)
    assert ends == ["cancelled"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"disposed, but after {SHORT} s this work still runs: slow.FooEnd"
    assert await only_this_task()


async def test_work_that_ignores_its_cancellation_delays_disposal_no_longer_than_the_grace_period(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = am.Machine({"Foo": {}}, id="deaf", dispose_timeout=SHORT)
    release = asyncio.Event()

    async def deaf() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async def also_deaf(e: am.Event) -> None:
        await deaf()

    machine.bind_handlers({"FooState": also_deaf})
    machine.fork(deaf)
    machine.add1("Foo")
    await turns()
    await machine.dispose()
    assert machine.is_disposed
    name = f"{SHORT} s this work still runs: deaf.FooState, deaf.{deaf.__qualname__}"
    assert [record.getMessage() for record in caplog.records] == [f"disposed, but after {name}"]
    release.set()
    assert await only_this_task()


async def test_an_error_of_work_that_ends_after_its_machine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}})

    async def work(e: am.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("in cleaning up")

    machine.bind_handlers({"FooState": work})
    machine.add1("Foo")
    await turns()
    await machine.dispose()
    (record,) = caplog.records
    assert record.getMessage() == "FooState raised after the machine was disposed"
    assert record.exc_info
    assert str(record.exc_info[1]) == "in cleaning up"


# Bounded, whatever goes wrong.


@pytest.mark.usefixtures("impatient")
async def test_a_queue_that_never_ends_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Feed": {"multi": True}}, dispose_timeout=SHORT)
    last: list[am.Result] = []
    machine.bind_handlers({"FeedState": lambda e: last.append(e.machine.add1("Feed", {"again": True}))})
    machine.add1("Feed")
    ended = machine.when_queue_ends()
    await machine.dispose()
    assert (await last[-1]).reason == "disposed"
    assert machine.is_idle
    with pytest.raises(am.MachineDisposedError):
        await ended
    assert caplog.records == []
    assert await only_this_task()


@pytest.mark.usefixtures("impatient")
async def test_no_error_is_lost_with_a_queue_that_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Feed": {"multi": True}}, dispose_timeout=SHORT)
    added: list[BaseException] = []
    handled: list[BaseException] = []

    def feed(e: am.Event) -> None:
        added.append(ValueError(len(added)))
        e.machine.add1("Feed", {"again": True})
        e.machine.add_err(added[-1])

    machine.bind_handlers({"FeedState": feed, "ExceptionState": lambda e: handled.append(e.arg(am.ExceptionArgs).err)})
    machine.add1("Feed")
    await machine.dispose()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert logged
    assert [*handled, *logged] == added


async def test_what_raises_on_the_way_does_not_stop_the_end(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Start": {}})
    order: list[str] = []

    def failing(_: am.Machine) -> None:
        raise ValueError("in the callback")

    def start_end(e: am.Event) -> None:
        raise ValueError("in the handler")

    machine.bind_handlers({"StartEnd": start_end})
    machine.on_dispose(failing)
    machine.on_dispose(lambda _: order.append("the next callback"))
    machine.add1("Start")
    await machine.dispose()
    assert order == ["the next callback"]
    assert await machine.when_disposed() is None
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["[error] ValueError('in the handler') in StartEnd", "an on_dispose callback raised"]


@pytest.mark.parametrize("loop", [True, False])
def test_an_error_raised_by_starts_removal_is_logged(caplog: pytest.LogCaptureFixture, *, loop: bool) -> None:
    machine = am.Machine({"Start": {}}, raise_errors=True)

    def start_end(e: am.Event) -> None:
        raise ValueError("in the handler")

    machine.bind_handlers({"StartEnd": start_end})
    machine.add1("Start")

    async def main() -> None:
        await machine.dispose()

    if loop:
        asyncio.run(main())
    else:
        machine.dispose()
    assert machine.is_disposed
    (record,) = caplog.records
    assert record.getMessage() == "removing Start at the end of the machine failed"
    assert record.exc_info
    assert str(record.exc_info[1]) == "in the handler"


async def test_start_may_refuse_to_go_and_the_end_comes_all_the_same() -> None:
    machine = am.Machine({"Start": {}})
    machine.bind_handlers({"StartExit": lambda e: False})
    machine.add1("Start")
    await machine.dispose()
    assert machine.is_disposed
    assert str(machine) == "(Start:1)"


# Whoever waits for it may be cancelled.


def lingering() -> tuple[am.Machine, list[str], asyncio.Event]:
    """Give a machine with work that ends only when it is released."""
    machine = am.Machine({"Foo": {}}, dispose_timeout=3600)
    steps: list[str] = []
    release = asyncio.Event()

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()
        steps.append("work ends")

    machine.fork(work)
    machine.on_dispose(lambda _: steps.append("disposed"))
    return machine, steps, release


async def test_a_caller_cancelled_while_waiting_for_the_end_does_not_stop_it() -> None:
    machine, steps, release = lingering()

    async def waiting() -> None:
        await machine.dispose()

    task = asyncio.ensure_future(waiting())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert steps == []
    release.set()
    await machine.when_disposed()
    assert steps == ["work ends", "disposed"]


async def test_a_block_cancelled_while_it_is_left_waits_for_the_end_and_then_is_cancelled() -> None:
    machine, steps, release = lingering()

    async def block() -> None:
        try:
            async with machine:
                pass
        finally:
            steps.append("left")

    task = asyncio.ensure_future(block())
    for _ in range(3):
        await turns()
        task.cancel()
    await turns()
    assert steps == []
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert steps == ["work ends", "disposed", "left"]


async def test_a_block_cancelled_within_waits_for_the_end_and_then_is_cancelled() -> None:
    machine, steps, release = lingering()

    async def block() -> None:
        try:
            async with machine:
                await asyncio.sleep(3600)
        finally:
            steps.append("left")

    task = asyncio.ensure_future(block())
    await turns()
    task.cancel()
    await turns()
    assert steps == []
    assert not task.done()
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert steps == ["work ends", "disposed", "left"]


async def test_a_scope_cancelled_while_a_block_is_left_does_not_stop_the_end() -> None:
    machine, steps, release = lingering()

    async def releasing(scope: anyio.CancelScope) -> None:
        await turns()
        scope.cancel()
        await turns()
        assert steps == []
        release.set()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(releasing, scope)
            async with machine:
                pass
            steps.append("left")
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert steps == ["work ends", "disposed", "left"]


async def test_a_scope_may_give_up_waiting_for_the_end_which_still_comes() -> None:
    machine, steps, release = lingering()
    with pytest.raises(TimeoutError), anyio.fail_after(0):
        await machine.dispose()
    assert steps == []
    release.set()
    await machine.when_disposed()
    assert steps == ["work ends", "disposed"]


async def test_a_deadline_that_passes_in_a_block_lets_the_machine_end() -> None:
    machine = am.Machine({"Foo": {}})

    async def block() -> None:
        async with machine:
            await anyio.sleep(3600)

    with pytest.raises(TimeoutError), anyio.fail_after(0):
        await block()
    assert machine.is_disposed


@pytest.mark.parametrize("count", range(1, 8))
async def test_a_timeout_at_any_point_of_the_end_does_not_stop_it(count: int) -> None:
    machine = am.Machine({"Start": {}, "Foo": {}})
    ends: list[str] = []

    async def work(e: am.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
            ends.append("work")

    machine.bind_handlers({"FooState": work})
    machine.add(["Start", "Foo"])
    await turns()

    async def block() -> None:
        async with machine:
            pass

    task = asyncio.ensure_future(block())
    await turns(count)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, timeout=0)
    assert machine.is_disposed
    assert ends == ["work"]
    assert machine.not1("Start") is False
    assert machine.tick("Start") == 2


async def test_an_error_in_a_block_goes_on_once_the_machine_has_ended() -> None:
    machine, steps, release = lingering()
    release.set()
    with pytest.raises(ValueError, match="in the block"):
        async with machine:
            raise ValueError("in the block")
    assert steps == ["work ends", "disposed"]


async def cancel_all() -> None:
    """Cancel every other task, as the end of `asyncio.run` does."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.mark.parametrize("count", range(5))
async def test_disposal_itself_cancelled_at_any_point_still_ends_the_machine(count: int) -> None:
    machine, steps, release = lingering()
    waiter = machine.when1("Foo")
    machine.dispose()
    await turns(count)
    await cancel_all()
    await turns()
    assert steps == ["disposed"]
    assert machine.is_disposed
    assert isinstance(waiter.exception(), am.MachineDisposedError)
    await machine.dispose()
    release.set()


# Without a loop.


def test_a_plain_block_ends_the_machine() -> None:
    with am.Machine({"Foo": {}}) as machine:
        assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.is_disposed
    assert machine.add1("Foo").reason == "disposed"


def test_an_error_in_a_plain_block_goes_on_once_the_machine_has_ended() -> None:
    machine = am.Machine({"Foo": {}})
    with pytest.raises(ValueError, match="in the block"), machine:
        raise ValueError("in the block")
    assert machine.is_disposed


async def test_a_plain_block_is_refused_on_a_loop() -> None:
    machine = am.Machine({"Foo": {}})
    text = "a loop is running: write `async with`, so that the end can be waited for"
    with pytest.raises(am.MachineLoopError, match=text), machine:
        raise AssertionError("never entered")
    assert machine.add1("Foo") == am.Result.EXECUTED


def test_a_plain_block_may_run_loops_within() -> None:
    async def main() -> None:
        machine.fork(asyncio.sleep, 3600)
        machine.when1("Foo")
        await turns()

    with am.Machine({"Foo": {}}) as machine:
        asyncio.run(main())
    assert machine.is_disposed


def test_what_dispose_returns_may_be_awaited_when_all_is_done_without_a_loop() -> None:
    end = am.Machine({"Foo": {}}).dispose()

    async def main() -> None:
        assert await end is None

    asyncio.run(main())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_machine_whose_loop_stands_still_ends_at_once_and_its_work_when_the_loop_goes_on(
    loop: asyncio.AbstractEventLoop,
) -> None:
    machine = am.Machine({"Foo": {}})
    ends: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("work")

    async def start() -> None:
        machine.fork(work)
        await turns()

    loop.run_until_complete(start())
    machine.dispose()
    assert machine.is_disposed
    loop.run_until_complete(turns())
    assert ends == ["work"]
    assert machine.statistics().work == 0


@pytest.mark.parametrize("another", [False, True], ids=["without a loop", "on another loop"])
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "begun before"])
def test_a_machine_whose_loop_is_closed_ends_at_once(*, another: bool, begun: bool) -> None:
    loop = asyncio.new_event_loop()
    machine = am.Machine({"Start": {}, "Foo": {}})
    count: list[am.Machine] = []
    machine.on_dispose(count.append)

    async def start() -> tuple[asyncio.Future[int], asyncio.Future[None]]:
        machine.add1("Start")
        machine.fork(asyncio.sleep, 3600)
        if begun:
            machine.dispose()
        return machine.when1("Foo"), machine.when_disposed()

    waiter, gone = loop.run_until_complete(start())
    work = asyncio.all_tasks(loop)
    loop.close()

    async def dispose() -> None:
        await machine.dispose()

    if another:
        asyncio.run(dispose())
    else:
        machine.dispose()
    assert machine.is_disposed
    assert count == [machine]
    assert isinstance(waiter.exception(), am.MachineDisposedError)
    assert gone.done()
    assert machine.tick("Start") == 2
    for task in work:
        # Nobody can cancel it any more; this keeps its end quiet.
        task.get_coro().close()  # type: ignore[union-attr]
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_someone_waiting_on_a_closed_loop_does_not_stop_the_end(loop: asyncio.AbstractEventLoop) -> None:
    machine = am.Machine({"Foo": {}})
    count: list[am.Machine] = []
    machine.on_dispose(count.append)

    async def start() -> list[asyncio.Future[Any]]:
        return [machine.when1("Foo"), machine.when_err(), machine.when_disposed()]

    waiters = loop.run_until_complete(start())
    for waiter in waiters:
        waiter.add_done_callback(lambda _: None)
    loop.close()
    machine.dispose()
    assert count == [machine]
    assert all(waiter.done() for waiter in waiters)


def test_what_an_interrupt_has_left_in_the_queue_does_not_keep_a_machine_from_its_end() -> None:
    calls: list[str] = []

    def interrupted(e: am.Event) -> None:
        e.machine.add1("Bar")
        raise KeyboardInterrupt

    machine = am.Machine({"Foo": {}, "Bar": {}}, handlers={"FooState": interrupted})
    machine.bind_handlers({"BarState": lambda e: calls.append(e.name)})
    machine.on_dispose(lambda _: calls.append("disposed"))
    with pytest.raises(KeyboardInterrupt), machine:
        machine.add1("Foo")
    assert calls == ["disposed"]
    assert machine.queue_len == 0


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("start", [False, True])
def test_a_machine_that_fed_itself_when_its_loop_ended_is_disposed_all_the_same(*, start: bool) -> None:
    machine = am.Machine({"Feed": {"multi": True}, **({"Start": {}} if start else {})})
    machine.bind_handlers({"FeedState": lambda e: results.append(e.machine.add1("Feed", {"again": True}))})
    results: list[am.Result] = []

    async def main() -> None:
        if start:
            machine.add1("Start")
        machine.add1("Feed")

    asyncio.run(main())
    assert not machine.is_idle
    machine.dispose()
    assert machine.is_disposed
    assert results[-1].mutation is not None
    assert results[-1].mutation.outcome == am.Result.CANCELED
    assert not start or machine.tick("Start") == 2


# Families.


async def test_children_are_disposed_with_their_parent_and_theirs_with_them() -> None:
    order: list[str] = []
    parent = am.Machine({"Foo": {}}, id="parent")
    child = am.Machine({"Foo": {}}, id="child", parent=parent)
    grandchild = am.Machine({"Foo": {}}, id="grandchild", parent=child)
    other = am.Machine({"Foo": {}}, id="other", parent=parent)
    for machine in (parent, child, grandchild, other):
        machine.on_dispose(lambda gone: order.append(gone.id))
    await parent.dispose()
    assert set(order) == {"grandchild", "child", "other", "parent"}
    assert order.index("grandchild") < order.index("child")
    assert order[-1] == "parent"
    assert parent.children == ()


async def test_children_are_disposed_side_by_side_in_the_order_in_which_they_were_built() -> None:
    began: list[str] = []
    go = asyncio.Event()

    async def take_time(e: am.Event) -> None:
        began.append(e.machine.id)
        await go.wait()

    parent = am.Machine({"Start": {}})
    for number in range(3):
        child = am.Machine({"Start": {}}, id=f"child{number}", parent=parent, handlers={"StartEnd": take_time})
        child.add1("Start")
    end = parent.dispose()
    await turns()
    assert began == ["child0", "child1", "child2"]
    assert not parent.is_disposed
    go.set()
    await end
    assert parent.children == ()


async def test_a_child_that_ends_first_is_let_go() -> None:
    parent = am.Machine({"Foo": {}})
    child = am.Machine({"Foo": {}}, parent=parent)
    assert parent.children == (child,)
    await child.dispose()
    assert parent.children == ()
    assert not parent.is_disposed


@pytest.mark.parametrize("loop", [True, False])
def test_a_child_in_another_thread_is_reported_and_does_not_stop_the_end(
    caplog: pytest.LogCaptureFixture, *, loop: bool
) -> None:
    parent = am.Machine({"Foo": {}}, id="parent")
    child = am.Machine({"Foo": {}}, id="child", parent=parent)
    ready, go = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with child:
            ready.set()
            await asyncio.to_thread(go.wait, 60)

    async def here() -> None:
        await parent.dispose()

    thread = threading.Thread(target=asyncio.run, args=[elsewhere()])
    thread.start()
    assert ready.wait(60)
    try:
        if loop:
            asyncio.run(here())
        else:
            parent.dispose()
        assert parent.is_disposed
        assert not child.is_disposed
        (record,) = caplog.records
        assert record.getMessage() == "the submachine child could not be disposed"
        assert record.exc_info
        assert isinstance(record.exc_info[1], am.MachineThreadError)
    finally:
        go.set()
        thread.join()
    assert child.is_disposed


# After it.


@pytest.fixture
async def gone() -> am.Machine:
    machine = am.Machine({"Foo": {}, "Bar": {}, "MachineRestored": {}}, id="gone")
    machine.add1("Foo")
    machine.remove1("Foo")
    machine.add(["Bar", "Foo"])
    await machine.dispose()
    return machine


MUTATIONS: dict[str, Callable[[am.Machine], am.Result]] = {
    "add": lambda m: m.add(["Foo"]),
    "add1": lambda m: m.add1("Foo"),
    "remove": lambda m: m.remove("Foo", "Bar"),
    "remove1": lambda m: m.remove1("Foo"),
    "set": lambda m: m.set(["Foo"]),
    "toggle": lambda m: m.toggle(["Foo"]),
    "toggle1": lambda m: m.toggle1("Foo"),
    "add_err": lambda m: m.add_err(ValueError("too late")),
    "add_err_state": lambda m: m.add_err_state("Foo", ValueError("too late")),
    "can_add": lambda m: m.can_add(["Foo"]),
    "can_add1": lambda m: m.can_add1("Foo"),
    "can_remove": lambda m: m.can_remove(["Foo"]),
    "can_remove1": lambda m: m.can_remove1("Foo"),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
async def test_every_mutation_of_a_disposed_machine_is_canceled(
    gone: am.Machine, mutate: Callable[[am.Machine], am.Result]
) -> None:
    before = gone.time()
    result = mutate(gone)
    assert result == am.Result.CANCELED
    assert result.reason == "disposed"
    assert await result == am.Result.CANCELED
    assert gone.time() == before


async def test_an_error_added_to_a_disposed_machine_is_logged(
    gone: am.Machine, caplog: pytest.LogCaptureFixture
) -> None:
    gone.add_err(ValueError("too late"))
    (record,) = caplog.records
    assert record.getMessage() == "an error was added after the machine was disposed"
    assert record.exc_info
    assert str(record.exc_info[1]) == "too late"


async def test_threads_are_told_that_the_machine_is_disposed(gone: am.Machine) -> None:
    threadsafe = gone.threadsafe
    result = await asyncio.to_thread(lambda: threadsafe.add1("Foo").result(timeout=5))
    assert result.reason == "disposed"


CHECKS: dict[str, Callable[[am.Machine], bool]] = {
    "is_": lambda m: m.is_("Foo"),
    "is_ of none": lambda m: m.is_(),
    "is1": lambda m: m.is1("Foo"),
    "not_": lambda m: m.not_("MachineRestored"),
    "not_ of none": lambda m: m.not_(),
    "not1": lambda m: m.not1("MachineRestored"),
    "any": lambda m: m.any("Foo", ["Bar"]),
    "any1": lambda m: m.any1("Foo"),
    "has": lambda m: m.has("Foo"),
    "has1": lambda m: m.has1("Foo"),
    "is_err": lambda m: m.is_err,
    "is_time": lambda m: m.is_time(m.time()),
    "was_time": lambda m: m.was_time(m.time()),
    "is_clock": lambda m: m.is_clock(m.clock()),
    "was_clock": lambda m: m.was_clock(m.clock()),
    "will_be": lambda m: m.will_be("Foo"),
    "will_be_removed": lambda m: m.will_be_removed("Foo"),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
async def test_every_check_of_a_disposed_machine_is_false(
    gone: am.Machine, check: Callable[[am.Machine], bool]
) -> None:
    assert check(gone) is False


async def test_a_disposed_machine_keeps_its_ticks(gone: am.Machine) -> None:
    assert gone.time() == (3, 1, 0, 0)
    assert gone.tick("Foo") == 3
    assert gone.string_all() == "(Foo:3 Bar:1) [MachineRestored:0 Exception:0]"
    assert repr(gone) == "<Machine gone (Foo:3 Bar:1) disposed>"
    assert gone.active_states() == ()


async def test_a_disposed_machine_may_be_exported_and_restored_elsewhere(gone: am.Machine) -> None:
    snapshot = gone.export()
    assert snapshot.active == ("Bar", "Foo")
    machine = am.Machine(gone.schema, id="gone")
    machine.restore(snapshot)
    assert machine.active_states() == ("MachineRestored", "Bar", "Foo")


async def test_a_disposed_machine_is_not_restored(gone: am.Machine) -> None:
    fresh = am.Machine(gone.schema, id="gone").export()
    gone.restore(fresh)
    assert gone.time() == (3, 1, 0, 0)
    assert gone.machine_tick == 1


WAITS: dict[str, Callable[[am.Machine], asyncio.Future[Any]]] = {
    "when": lambda m: m.when("Foo"),
    "when1": lambda m: m.when1("Foo"),
    "when_not": lambda m: m.when_not("Foo"),
    "when_not1": lambda m: m.when_not1("MachineRestored"),
    "when_args": lambda m: m.when_args("Foo"),
    "when_time": lambda m: m.when_time(["Foo"], [1]),
    "when_time1": lambda m: m.when_time1("Foo", 1),
    "when_ticks": lambda m: m.when_ticks("Foo", 0),
    "when_next_active": lambda m: m.when_next_active("Foo"),
    "when_query": lambda m: m.when_query(lambda clock: True),
    "when_err": lambda m: m.when_err(),
    "when_queue": lambda m: m.when_queue(1),
    "when_queue of a result": lambda m: m.when_queue(m.add1("Foo")),
    "when_queue_ends": lambda m: m.when_queue_ends(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
async def test_every_wait_on_a_disposed_machine_has_failed(
    gone: am.Machine, wait: Callable[[am.Machine], asyncio.Future[Any]]
) -> None:
    waiter = wait(gone)
    assert waiter.done()
    with pytest.raises(am.MachineDisposedError, match="the machine gone was disposed"):
        await waiter


async def test_waiting_for_the_end_of_a_disposed_machine_is_done(gone: am.Machine) -> None:
    assert gone.when_disposed().done()
    assert await gone.when_disposed() is None
    assert await gone.dispose() is None


async def test_a_state_context_of_a_disposed_machine_is_cancelled(gone: am.Machine) -> None:
    with gone.state_ctx("Foo") as scope:
        await anyio.sleep(3600)
    assert scope.cancelled_caught


@pytest.mark.parametrize("state", [None, "Foo"])
async def test_work_forked_on_a_disposed_machine_is_done(gone: am.Machine, state: str | None) -> None:
    async def never() -> None:
        raise AssertionError("never starts")

    work = gone.fork(never, state=state)
    assert work.done()
    work.cancel()
    assert await only_this_task()


async def test_a_disposed_machine_still_takes_what_does_nothing(gone: am.Machine) -> None:
    gone.bind_handlers({"FooState": lambda e: pytest.fail("never called")}, id="late")
    gone.detach_handlers("late")
    gone.bind_tracer(am.Tracer())
    gone.add_breakpoint(["Foo"])
    gone.log("nothing")
    gone.log_level = am.LogLevel.EVERYTHING
    gone.on_dispose(lambda _: pytest.fail("never called"))
    assert gone.eval(lambda: 1) == 1
    assert gone.inspect(["Foo"]) == "1 Foo\n    |Tick     3"
    assert gone.statistics().waiters == 0


async def test_a_child_that_is_built_while_its_parent_ends_is_disposed_with_it() -> None:
    children: list[am.Machine] = []

    def build(e: am.Event) -> None:
        children.append(am.Machine({"Foo": {}}, parent=e.machine))

    parent = am.Machine({"Start": {}}, handlers={"StartEnd": build})
    parent.add1("Start")
    await parent.dispose()
    assert [child.is_disposed for child in children] == [True]
    assert parent.children == ()


def test_a_child_that_is_built_while_its_parent_ends_without_a_loop_is_disposed_with_it() -> None:
    children: list[am.Machine] = []

    def build(e: am.Event) -> None:
        children.append(am.Machine({"Foo": {}}, parent=e.machine))

    with am.Machine({"Start": {}}, handlers={"StartEnd": build}) as parent:
        parent.add1("Start")
    assert [child.is_disposed for child in children] == [True]
    assert parent.children == ()


async def test_a_child_that_is_built_while_those_before_it_end_is_disposed_too() -> None:
    children: list[am.Machine] = []

    def build(machine: am.Machine) -> None:
        child = am.Machine({"Foo": {}}, id=f"child {len(children)}", parent=machine)
        if len(children) < 2:
            child.on_dispose(lambda _: build(machine))
        children.append(child)

    parent = am.Machine({"Start": {}}, handlers={"StartEnd": lambda e: build(e.machine)})
    build(parent)
    parent.add1("Start")
    await parent.dispose()
    assert len(children) == 4
    assert all(child.is_disposed for child in children)
    assert parent.children == ()


def test_a_disposed_machine_can_be_no_parent() -> None:
    parent = am.Machine({"Foo": {}}, id="gone")
    parent.dispose()
    with pytest.raises(am.MachineDisposedError, match="the machine gone was disposed, and can be no parent"):
        am.Machine({"Foo": {}}, parent=parent)
    assert parent.children == ()
