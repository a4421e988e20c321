"""Where a machine lives: the thread that may use it, the one loop it is bound to, and what is said elsewhere."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import uvloop
from conftest import eager_loop, turns

import asyncmachine as am

T = TypeVar("T")


def elsewhere(fn: Callable[[], T]) -> T:
    """Give what a function gives, or raise what it raises, when it is called in another thread."""
    given: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            given.append(fn())
        except BaseException as err:  # noqa: BLE001 - raised again below
            raised.append(err)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return given[0]


@pytest.fixture
def machine() -> am.Machine:
    return am.Machine({"Foo": {}, "Bar": {}}, id="home")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def bind(machine: am.Machine) -> am.Threadsafe:
    async def wait() -> am.Threadsafe:
        machine.when1("Foo")
        return machine.threadsafe

    return await wait()


# The thread.

USES: dict[str, Callable[[am.Machine], object]] = {
    "add": lambda m: m.add(["Foo"]),
    "add1": lambda m: m.add1("Foo"),
    "remove": lambda m: m.remove(["Foo"]),
    "remove1": lambda m: m.remove1("Foo"),
    "set": lambda m: m.set(["Foo"]),
    "toggle": lambda m: m.toggle(["Foo"]),
    "toggle1": lambda m: m.toggle1("Foo"),
    "add_err": lambda m: m.add_err(ValueError("never added")),
    "add_err_state": lambda m: m.add_err_state("Foo", ValueError("never added")),
    "can_add": lambda m: m.can_add(["Foo"]),
    "can_add1": lambda m: m.can_add1("Foo"),
    "can_remove": lambda m: m.can_remove(["Foo"]),
    "can_remove1": lambda m: m.can_remove1("Foo"),
    "eval": lambda m: m.eval(lambda: None),
    "bind_handlers": lambda m: m.bind_handlers({"FooState": print}),
    "on.state": lambda m: m.on.state("Foo")(print),
    "detach_handlers": lambda m: m.detach_handlers("none"),
    "fork": lambda m: m.fork(asyncio.sleep, 0),
    "restore": lambda m: m.restore(m.export()),
    "set_schema": lambda m: m.set_schema({"Foo": {}, "Bar": {}}),
    "dispose": lambda m: m.dispose(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_another_thread_is_refused_and_told_what_to_use(machine: am.Machine, use: Callable[[Any], object]) -> None:
    text = (
        "the machine home belongs to another thread, and machines take no locks; from this thread use mach.threadsafe"
    )
    with pytest.raises(am.MachineThreadError, match=text):
        elsewhere(lambda: use(machine))
    assert machine.string_all() == "() [Foo:0 Bar:0 Exception:0]"
    assert machine.err is None
    assert machine.handlers == ()
    assert not machine.is_disposed


def test_who_comes_when_the_loop_is_closed_is_told_so_and_not_to_use_threadsafe(machine: am.Machine) -> None:
    async def wait() -> None:
        await machine.expect("Foo")

    machine.add1("Foo")
    asyncio.run(wait())
    mend = "and its loop is closed; build a machine for each loop, in a coroutine, and not one for a whole module$"
    with pytest.raises(am.MachineThreadError, match=f"^the machine home belongs to another thread, {mend}"):
        elsewhere(lambda: machine.add1("Bar"))
    with pytest.raises(am.MachineLoopError, match=f"^the machine home is bound to another event loop .*, {mend}"):
        asyncio.run(wait())


async def test_another_thread_is_refused_when_the_machine_is_bound_to_a_loop(machine: am.Machine) -> None:
    await bind(machine)
    with pytest.raises(am.MachineThreadError, match="belongs to another thread"):
        await asyncio.to_thread(machine.add1, "Foo")

    async def on_a_loop() -> None:
        machine.add1("Foo")

    with pytest.raises(am.MachineThreadError, match="belongs to another thread"):
        await asyncio.to_thread(asyncio.run, on_a_loop())
    assert machine.not1("Foo")


READS: dict[str, Callable[[am.Machine], object]] = {
    "is_": lambda m: m.is_("Foo", "Bar"),
    "is1": lambda m: m.is1("Foo"),
    "not_": lambda m: m.not_("Bar"),
    "not1": lambda m: m.not1("Foo"),
    "any": lambda m: m.any(["Foo", "Bar"], "Foo"),
    "any1": lambda m: m.any1("Foo", "Bar"),
    "has": lambda m: m.has("Foo", "Nope"),
    "has1": lambda m: m.has1("Foo"),
    "is_err": lambda m: m.is_err,
    "err": lambda m: m.err,
    "is_time": lambda m: m.is_time([1, 0, 0]),
    "was_time": lambda m: m.was_time([1, 0, 0]),
    "is_clock": lambda m: m.is_clock({"Foo": 1}),
    "was_clock": lambda m: m.was_clock({"Foo": 1}),
    "will_be": lambda m: m.will_be("Foo"),
    "will_be1": lambda m: m.will_be1("Foo"),
    "will_be_removed": lambda m: m.will_be_removed("Foo"),
    "will_be_removed1": lambda m: m.will_be_removed1("Foo"),
    "is_queued": lambda m: m.is_queued("add", "Foo"),
    "is_queued_above": lambda m: m.is_queued_above(0, "add", "Foo"),
    "state_names": lambda m: m.state_names,
    "active_states": lambda m: m.active_states(),
    "tick": lambda m: m.tick("Foo"),
    "clock": lambda m: m.clock(),
    "time": lambda m: m.time(),
    "queue_tick": lambda m: m.queue_tick,
    "machine_tick": lambda m: m.machine_tick,
    "queue_len": lambda m: m.queue_len,
    "schema": lambda m: m.schema,
    "switch": lambda m: m.switch(["Bar", "Foo"]),
    "groups": lambda m: m.groups,
    "index": lambda m: m.index("Foo", "Bar"),
    "index1": lambda m: m.index1("Bar"),
    "id": lambda m: m.id,
    "parent_id": lambda m: m.parent_id,
    "tags": lambda m: m.tags,
    "transition": lambda m: m.transition,
    "is_disposed": lambda m: m.is_disposed,
    "is_idle": lambda m: m.is_idle,
    "handlers": lambda m: m.handlers,
    "tracers": lambda m: m.tracers,
    "statistics": lambda m: m.statistics(),
    "str": str,
    "repr": repr,
    "string_all": lambda m: m.string_all(),
    "inspect": lambda m: m.inspect(),
    "export": lambda m: m.export(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
async def test_any_thread_may_read(machine: am.Machine, read: Callable[[Any], object]) -> None:
    await bind(machine)
    machine.add1("Foo")
    assert await asyncio.to_thread(read, machine) == read(machine)


def test_a_machine_built_in_one_thread_is_used_by_a_loop_in_another(machine: am.Machine) -> None:
    async def main() -> am.Time:
        assert machine.add1("Foo") == am.Result.EXECUTED
        async with machine:
            machine.add1("Bar")
            return await machine.expect("Foo", "Bar", timeout=60)

    assert elsewhere(lambda: asyncio.run(main())) == (1, 1)
    assert machine.is_disposed


def test_a_machine_that_another_threads_loop_took_is_no_longer_its_builders(machine: am.Machine) -> None:
    async def main() -> am.Result:
        return machine.add1("Foo")

    assert elsewhere(lambda: asyncio.run(main())) == am.Result.EXECUTED
    with pytest.raises(am.MachineThreadError, match="belongs to another thread"):
        machine.add1("Bar")
    assert machine.is1("Foo")


def test_a_loop_in_the_builders_thread_takes_nothing_until_it_is_needed(
    machine: am.Machine, loop: asyncio.AbstractEventLoop
) -> None:
    async def main() -> am.Result:
        return machine.add1("Foo")

    assert loop.run_until_complete(main()) == am.Result.EXECUTED
    asyncio.run(bind(machine))
    assert machine.add1("Bar") == am.Result.EXECUTED


# The loop.

NEEDS: dict[str, Callable[[am.Machine], object]] = {
    "when": lambda m: m.when("Foo"),
    "when1": lambda m: m.when1("Foo"),
    "when_not": lambda m: m.when_not("Foo"),
    "when_not1": lambda m: m.when_not1("Foo"),
    "when_args": lambda m: m.when_args("Foo"),
    "when_time": lambda m: m.when_time(["Foo"], [1]),
    "when_time1": lambda m: m.when_time1("Foo", 1),
    "when_ticks": lambda m: m.when_ticks("Foo", 1),
    "when_next_active": lambda m: m.when_next_active("Foo"),
    "when_query": lambda m: m.when_query(lambda clock: True),
    "when_err": lambda m: m.when_err(),
    "when_queue": lambda m: m.when_queue(9),
    "when_queue_ends": lambda m: m.when_queue_ends(),
    "when_disposed": lambda m: m.when_disposed(),
    "state_ctx": lambda m: m.state_ctx("Foo"),
    "fork": lambda m: m.fork(asyncio.sleep, 0),
}


@pytest.mark.parametrize("need", NEEDS.values(), ids=NEEDS.keys())
def test_what_needs_a_loop_says_so_where_none_runs(machine: am.Machine, need: Callable[[Any], object]) -> None:
    text = (
        r"the machine home needs a running event loop for this .*call it from a coroutine, such as .* am\.run\(main\)"
    )
    with pytest.raises(am.MachineLoopError, match=text):
        need(machine)
    statistics = machine.statistics()
    assert (statistics.waiters, statistics.contexts, statistics.work) == (0, 0, 0)
    assert machine.add1("Foo") == am.Result.EXECUTED


@pytest.mark.parametrize("need", [need for name, need in NEEDS.items() if name != "fork"])
async def test_what_needs_a_loop_refuses_a_second_one(
    machine: am.Machine, loop: asyncio.AbstractEventLoop, need: Callable[[Any], object]
) -> None:
    await asyncio.to_thread(loop.run_until_complete, bind(machine))
    text = "the machine home is bound to another event loop than the running one; build a machine for each loop"
    with pytest.raises(am.MachineLoopError, match=text):
        need(machine)


def test_async_work_refuses_to_start_without_a_loop_and_nothing_has_changed(machine: am.Machine) -> None:
    async def work(e: am.Event) -> None:
        raise AssertionError("never starts")

    machine.bind_handlers({"FooState": work})
    with pytest.raises(am.MachineLoopError, match="needs a running event loop"):
        machine.add1("Foo")
    assert machine.time().sum() == 0
    assert machine.can_add1("Foo") == am.Result.EXECUTED
    assert machine.add1("Bar") == am.Result.EXECUTED


def test_async_work_refuses_a_second_loop_and_nothing_has_changed(
    machine: am.Machine, loop: asyncio.AbstractEventLoop
) -> None:
    async def work(e: am.Event) -> None:
        raise AssertionError("never starts")

    machine.bind_handlers({"FooState": work})
    loop.run_until_complete(bind(machine))

    async def main() -> None:
        with pytest.raises(am.MachineLoopError, match="bound to another event loop"):
            machine.add1("Foo")

    asyncio.run(main())
    assert machine.time().sum() == 0


@pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
def test_a_second_loop_is_refused_however_the_first_is(
    machine: am.Machine, loop: asyncio.AbstractEventLoop, *, close: bool
) -> None:
    loop.run_until_complete(bind(machine))
    if close:
        loop.close()

    async def enter() -> None:
        async with machine:
            raise AssertionError("never entered")

    mend = "its loop is closed; build a" if close else "build a machine for each loop, or use mach.threadsafe to reach"
    with pytest.raises(am.MachineLoopError, match=f"than the running one.* {mend}"):
        asyncio.run(enter())
    assert not machine.is_disposed


def test_the_same_loop_may_be_run_again(machine: am.Machine, loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(bind(machine))
    machine.add1("Foo")

    async def main() -> int:
        return await machine.when1("Foo")

    assert loop.run_until_complete(main()) == 1


def test_a_machine_whose_loop_is_closed_still_takes_calls(machine: am.Machine) -> None:
    asyncio.run(bind(machine))
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert str(machine) == "(Foo:1)"


def test_a_machine_may_be_disposed_without_a_loop(machine: am.Machine) -> None:
    machine.dispose()
    assert machine.is_disposed


async def test_a_machine_is_disposed_on_the_loop_that_runs(machine: am.Machine) -> None:
    end = machine.dispose()
    assert not machine.is_disposed
    await end
    assert machine.is_disposed


async def test_disposal_refuses_another_thread(machine: am.Machine, loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.to_thread(loop.run_until_complete, bind(machine))
    with pytest.raises(am.MachineThreadError, match="belongs to another thread"):
        machine.dispose()


def test_disposal_refuses_a_second_loop_of_the_same_thread(
    machine: am.Machine, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(bind(machine))

    async def main() -> None:
        with pytest.raises(am.MachineLoopError, match="bound to another event loop"):
            machine.dispose()

    asyncio.run(main())
    assert not machine.is_disposed


def test_someone_waiting_on_a_closed_loop_does_not_stop_a_transition(machine: am.Machine) -> None:
    async def wait() -> list[asyncio.Future[Any]]:
        waiters = [machine.when1("Foo"), machine.when("Foo"), machine.when_queue(2), machine.when_queue_ends()]
        for waiter in waiters:
            waiter.add_done_callback(lambda _: None)
        return waiters

    waiters = asyncio.run(wait())
    assert machine.add1("Foo") == am.Result.EXECUTED
    assert all(waiter.done() for waiter in waiters)


def test_a_machine_whose_loop_is_closed_may_be_disposed_on_another(machine: am.Machine) -> None:
    asyncio.run(bind(machine))

    async def main() -> None:
        await machine.dispose()

    asyncio.run(main())
    assert machine.is_disposed


# Other threads' way in.


@pytest.mark.parametrize("thread", [False, True], ids=["here", "elsewhere"])
def test_threads_are_told_that_a_machine_has_no_loop_yet(machine: am.Machine, *, thread: bool) -> None:
    text = "the machine home has no event loop yet, so nobody would make the call; enter `async with mach`"

    def ask() -> object:
        return machine.threadsafe

    with pytest.raises(am.MachineLoopError, match=text):
        elsewhere(ask) if thread else ask()


def test_threads_are_told_that_a_machines_loop_is_closed(machine: am.Machine) -> None:
    asyncio.run(bind(machine))
    text = "the machine home was bound to a loop that is closed, so nobody would make the call"
    with pytest.raises(am.MachineLoopError, match=text):
        elsewhere(lambda: machine.threadsafe)
    with pytest.raises(am.MachineLoopError, match=text):
        assert machine.threadsafe


def test_a_loop_in_another_thread_is_not_bound_by_asking_for_its_way_in(machine: am.Machine) -> None:
    async def ask() -> object:
        return machine.threadsafe

    with pytest.raises(am.MachineLoopError, match="has no event loop yet"):
        elsewhere(lambda: asyncio.run(ask()))
    assert machine.add1("Foo") == am.Result.EXECUTED


async def test_the_way_in_for_threads_binds_the_loop_it_is_asked_for_on(machine: am.Machine) -> None:
    threadsafe = machine.threadsafe
    assert await asyncio.to_thread(lambda: threadsafe.add1("Foo").result(timeout=60)) == am.Result.EXECUTED
    # Any thread may ask for it now.
    assert await asyncio.to_thread(lambda: machine.threadsafe.add1("Bar").result(timeout=60)) == am.Result.EXECUTED


# The end of the loop.


async def leave_feeding() -> am.Machine:
    machine = am.Machine({"Feed": {"multi": True}})
    machine.bind_handlers({"FeedState": lambda e: e.machine.add1("Feed", {"again": True})})
    machine.add1("Feed")
    assert not machine.is_idle
    return machine


async def leave_waiting() -> am.Machine:
    machine = am.Machine({"Foo": {}})
    task = asyncio.ensure_future(machine.expect("Foo"))
    machine.when_disposed().add_done_callback(lambda _: task)
    await turns()
    return machine


async def leave_working() -> am.Machine:
    machine = am.Machine({"Foo": {}})
    machine.bind_handlers({"FooState": lambda e: e.fork(asyncio.sleep, 3600)})
    machine.add1("Foo")
    await turns()
    return machine


async def leave_disposing() -> am.Machine:
    machine = await leave_working()
    machine.dispose()
    return machine


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    **({"eager": eager_loop} if sys.version_info >= (3, 12) else {}),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("leave", [leave_feeding, leave_waiting, leave_working, leave_disposing])
@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS.keys())
def test_the_end_of_the_loop_makes_no_noise(
    leave: Callable[[], Any], new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    noise: list[dict[str, Any]] = []

    async def main() -> am.Machine:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
        machine: am.Machine = await leave()
        return machine

    with caplog.at_level(logging.DEBUG, logger="asyncmachine"), asyncio.Runner(loop_factory=new_loop) as runner:
        gone = weakref.ref(runner.run(main()))
    gc.collect()
    assert gone() is None
    assert noise == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
