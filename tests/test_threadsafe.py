"""A machine's face for other threads: the same mutations, as concurrent futures, in order, and none lost."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
import pytest
from conftest import turns
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncmachine as am

T = TypeVar("T")

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def in_thread(fn: Callable[[], T]) -> T:
    """Give what a function gives, or raise what it raises, in a thread for which this one stands still."""
    done: Future[T] = Future()

    def call() -> None:
        try:
            done.set_result(fn())
        except BaseException as err:  # noqa: BLE001 - raised again below
            done.set_exception(err)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return done.result(timeout=0)


@pytest.fixture
async def machine() -> am.Machine:
    return am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}, "Log": {"multi": True}}, id="shared")


@pytest.fixture
async def threadsafe(machine: am.Machine) -> am.Threadsafe:
    return machine.threadsafe


# Each mutation.

CALLS: dict[str, tuple[Callable[[am.Threadsafe], Future[am.Result]], str]] = {
    "add": (lambda t: t.add(["Bar", "Foo"]), "(Foo:1 Bar:1)"),
    "add names": (lambda t: t.add("Bar", "Foo", "Log"), "(Foo:1 Bar:1 Log:1)"),
    "add a list and names": (lambda t: t.add(["Bar", "Foo"], "Log"), "(Foo:1 Bar:1 Log:1)"),
    "add a generator": (lambda t: t.add(name for name in ("Foo", "Bar")), "(Foo:1 Bar:1)"),
    "add one": (lambda t: t.add("Foo"), "(Foo:1)"),
    "add1": (lambda t: t.add1("Foo"), "(Foo:1)"),
    "set": (lambda t: t.set(["Log"]), "(Log:1)"),
    "set names": (lambda t: t.set("Log", "Foo"), "(Foo:1 Log:1)"),
    "toggle": (lambda t: t.toggle(["Foo"]), "(Foo:1)"),
    "toggle names": (lambda t: t.toggle("Foo", "Log"), "(Foo:1 Log:1)"),
    "toggle1": (lambda t: t.toggle1("Foo"), "(Foo:1)"),
    "can_add": (lambda t: t.can_add(["Foo", "Bar"]), "()"),
    "can_add names": (lambda t: t.can_add("Foo", "Bar"), "()"),
    "can_add1": (lambda t: t.can_add1("Foo"), "()"),
    "remove": (lambda t: t.remove(["Foo"]), "()"),
    "remove names": (lambda t: t.remove("Foo", "Bar"), "()"),
    "remove1": (lambda t: t.remove1("Foo"), "()"),
    "can_remove": (lambda t: t.can_remove(["Foo"]), "()"),
    "can_remove names": (lambda t: t.can_remove("Foo", "Bar"), "()"),
    "can_remove1": (lambda t: t.can_remove1("Foo"), "()"),
    "add_err": (lambda t: t.add_err(ValueError("added")), "(Exception:1)"),
    "add_err_state": (lambda t: t.add_err_state("Foo", ValueError("added")), "(Foo:1 Exception:1)"),
}


@pytest.mark.parametrize(("call", "after"), CALLS.values(), ids=CALLS.keys())
async def test_every_mutation_is_carried_out(
    machine: am.Machine, threadsafe: am.Threadsafe, call: Callable[[am.Threadsafe], Future[am.Result]], after: str
) -> None:
    machine.bind_handlers({"ExceptionState": lambda e: None})
    future = in_thread(lambda: call(threadsafe))
    # Nothing happens in the other thread.
    assert not future.done()
    assert str(machine) == "()"
    assert await asyncio.wrap_future(future) == am.Result.EXECUTED
    assert str(machine) == after


REMOVALS: dict[str, Callable[[am.Threadsafe], Future[am.Result]]] = {
    "remove": lambda t: t.remove(["Foo", "Bar"]),
    "remove names": lambda t: t.remove("Foo", "Bar"),
    "remove1": lambda t: t.remove1("Foo"),
    "toggle": lambda t: t.toggle(["Foo", "Bar"]),
    "toggle1": lambda t: t.toggle1("Foo"),
    "set": lambda t: t.set([]),
}


@pytest.mark.parametrize("call", REMOVALS.values(), ids=REMOVALS.keys())
async def test_active_states_are_removed(
    machine: am.Machine, threadsafe: am.Threadsafe, call: Callable[[am.Threadsafe], Future[am.Result]]
) -> None:
    machine.add(["Foo", "Bar"])
    assert await asyncio.wrap_future(in_thread(lambda: call(threadsafe))) == am.Result.EXECUTED
    assert str(machine) == "()"


NAMES = [
    name
    for name, method in inspect.getmembers(am.Threadsafe, inspect.isfunction)
    if not name.startswith("_") and name != "eval"
]


@pytest.mark.parametrize("name", NAMES)
async def test_args_and_source_are_handed_on(machine: am.Machine, threadsafe: am.Threadsafe, name: str) -> None:
    seen: list[tuple[Any, am.Source | None]] = []

    def note(e: am.Event) -> None:
        seen.append((e.args["key"], e.mutation.source))

    if "remove" in name:
        machine.add1("Foo")
    machine.bind_handlers({"AnyEnter": note, "ExceptionState": lambda e: None})
    given: tuple[Any, ...] = ("Foo",) if name.endswith("1") else (["Foo"],)
    if name.startswith("add_err"):
        given = (*(["Foo"] if name == "add_err_state" else []), ValueError("added"))
    source = am.Source("elsewhere", "1.1", 7)
    future = in_thread(lambda: getattr(threadsafe, name)(*given, {"key": "value"}, source=source))
    assert await asyncio.wrap_future(future) == am.Result.EXECUTED
    assert seen == [("value", source)]


@pytest.mark.parametrize("name", NAMES)
def test_the_signatures_are_those_of_the_machine(name: str) -> None:
    mine = inspect.signature(getattr(am.Threadsafe, name))
    theirs = inspect.signature(getattr(am.Machine, name))
    assert mine.parameters == theirs.parameters
    assert mine.return_annotation == "Future[Result]"


def test_every_mutation_of_a_machine_is_there() -> None:
    returning = {
        name
        for name, method in inspect.getmembers(am.MachineApi, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(method).return_annotation == "Result"
    }
    assert set(NAMES) == returning


async def test_futures_say_why_a_mutation_was_canceled(threadsafe: am.Threadsafe) -> None:
    result = await asyncio.wrap_future(in_thread(lambda: threadsafe.add1("Bar")))
    assert result == am.Result.CANCELED
    assert result.reason == "Bar requires Foo"


async def test_no_error_to_add_is_no_error(machine: am.Machine, threadsafe: am.Threadsafe) -> None:
    futures = in_thread(lambda: [threadsafe.add_err(None), threadsafe.add_err_state("Foo", asyncio.CancelledError())])
    for future in futures:
        assert (await asyncio.wrap_future(future)).reason == "no error was given"
    assert str(machine) == "()"


# What is wrong with a call.


@pytest.mark.parametrize("name", [name for name in NAMES if name != "add_err"])
async def test_unknown_states_are_refused_in_the_calling_thread(
    machine: am.Machine, threadsafe: am.Threadsafe, name: str
) -> None:
    rest = [ValueError("never added")] if name == "add_err_state" else []
    with pytest.raises(am.UnknownStateError, match=r"'Fooo' is no state of this machine; did you mean 'Foo'\?"):
        in_thread(lambda: getattr(threadsafe, name)("Fooo", *rest))
    await turns()
    assert machine.statistics().transitions == 0


PLURAL = ["add", "remove", "set", "toggle", "can_add", "can_remove"]


@pytest.mark.parametrize("name", PLURAL)
@pytest.mark.parametrize("given", [["Foo", "Nope"], [["Foo", "Nope"]], [["Foo"], "Nope"], ["Foo", "Log", "Nope"]])
async def test_unknown_states_among_several_are_refused_in_the_calling_thread(
    threadsafe: am.Threadsafe, name: str, given: list[Any]
) -> None:
    with pytest.raises(am.UnknownStateError, match="'Nope' is no state of this machine"):
        in_thread(lambda: getattr(threadsafe, name)(*given))


async def test_bad_args_are_told_by_the_future(threadsafe: am.Threadsafe) -> None:
    futures = in_thread(
        lambda: [
            threadsafe.add1("Foo", 5),
            threadsafe.add(["Foo"], {"key": 1}, "Bar"),
            threadsafe.add_err("no error"),  # type: ignore[arg-type]
            threadsafe.add_err_state("Foo", "no error"),  # type: ignore[arg-type]
        ]
    )
    texts = [
        "args are a mapping",
        "names after args mean nothing",
        "an error is an instance",
        "an error is an instance",
    ]
    for future, text in zip(futures, texts, strict=True):
        with pytest.raises(am.ArgsError, match=text):
            await asyncio.wrap_future(future)


async def test_errors_of_handlers_stay_with_the_machine(
    machine: am.Machine, threadsafe: am.Threadsafe, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(e: am.Event) -> None:
        raise ValueError("in the handler")

    machine.bind_handlers({"FooState": failing})
    result = await asyncio.wrap_future(in_thread(lambda: threadsafe.add1("Foo")))
    assert result.reason == "FooState of dict raised ValueError('in the handler')"
    await machine.when_err()
    assert str(machine.err) == "in the handler"
    assert "[error] ValueError('in the handler') in FooState" in caplog.text


# Order.


async def test_eval_gives_what_the_function_gives(machine: am.Machine, threadsafe: am.Threadsafe) -> None:
    future = in_thread(lambda: threadsafe.eval(lambda: (threading.get_ident(), machine.transition)))
    assert await asyncio.wrap_future(future) == (threading.get_ident(), None)


async def test_eval_tells_what_the_function_raises(threadsafe: am.Threadsafe) -> None:
    future = in_thread(lambda: threadsafe.eval(lambda: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        await asyncio.wrap_future(future)


async def test_a_mutation_given_by_eval_is_awaited(machine: am.Machine, threadsafe: am.Threadsafe) -> None:
    future = in_thread(lambda: threadsafe.eval(lambda: machine.add1("Foo")))
    result = await asyncio.wrap_future(future)
    assert result == am.Result.EXECUTED
    assert machine.is1("Foo")


async def test_eval_sees_what_was_posted_before_it_and_nothing_later(
    machine: am.Machine, threadsafe: am.Threadsafe
) -> None:
    def posting() -> list[Future[str]]:
        futures = []
        for n in range(20):
            threadsafe.add1("Log", {"n": n})
            futures.append(threadsafe.eval(lambda: str(machine)))
        return futures

    seen = [await asyncio.wrap_future(future) for future in in_thread(posting)]
    assert seen == [f"(Log:{2 * n + 1})" for n in range(20)]


async def test_checks_and_toggles_see_what_was_posted_before_them(
    machine: am.Machine, threadsafe: am.Threadsafe
) -> None:
    futures = in_thread(
        lambda: [
            threadsafe.can_add1("Bar"),
            threadsafe.toggle1("Foo"),
            threadsafe.can_add(["Bar"]),
            threadsafe.toggle(["Foo"]),
            threadsafe.can_add1("Bar"),
            threadsafe.toggle1("Foo"),
            threadsafe.can_remove1("Foo"),
            threadsafe.can_remove(["Foo"]),
        ]
    )
    results = [(await asyncio.wrap_future(future)).executed for future in futures]
    assert results == [False, True, True, True, False, True, True, True]
    assert str(machine) == "(Foo:3)"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("call", "executed", "ticks"),
    [
        (lambda t, m: t.toggle(["Foo"]), True, 2),
        (lambda t, m: t.toggle1("Foo"), True, 2),
        (lambda t, m: t.can_add(["Bar"]), True, 1),
        (lambda t, m: t.can_add1("Bar"), True, 1),
        (lambda t, m: t.can_remove(["Foo"]), False, 1),
        (lambda t, m: t.can_remove1("Foo"), False, 1),
        (lambda t, m: t.eval(lambda: am.Result.EXECUTED if m.is1("Foo") else am.Result.CANCELED), True, 1),
    ],
)
async def test_calls_that_act_at_once_wait_their_turn_on_a_busy_machine(
    call: Callable[[am.Threadsafe, am.Machine], Future[am.Result]], executed: object, ticks: int
) -> None:
    machine = am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}, "Feed": {"multi": True}})
    calls: list[str] = []

    def feed(e: am.Event) -> None:
        if len(calls) < 2:
            e.machine.add1("Feed", {"again": True})

    def leave(e: am.Event) -> bool:
        calls.append("FooExit")
        return e.mutation.is_check is False

    machine.bind_handlers({"FeedState": feed, "FooExit": leave, "FooState": lambda e: calls.append("FooState")})
    threadsafe = machine.threadsafe
    foo, result = in_thread(lambda: (threadsafe.add1("Feed"), threadsafe.add1("Foo"), call(threadsafe, machine)))[1:]
    assert (await asyncio.wrap_future(result)).executed is executed
    assert foo.result(timeout=0) == am.Result.EXECUTED
    assert calls[0] == "FooState"
    calls += ["enough", "of this"]
    await machine.when_queue_ends()
    assert machine.tick("Foo") == ticks


async def test_posted_calls_see_the_context_of_their_thread(machine: am.Machine, threadsafe: am.Threadsafe) -> None:
    seen: list[str] = []
    machine.bind_handlers({"LogState": lambda e: seen.append(var.get())})
    var.set("the loop's")

    def posting() -> list[Future[Any]]:
        futures: list[Future[Any]] = []
        for value in ("one", "two"):
            var.set(value)
            futures += [threadsafe.add1("Log", {"n": 1}), threadsafe.eval(lambda: seen.append(f"eval {var.get()}"))]
        var.set("later")
        return futures

    for future in in_thread(posting):
        await asyncio.wrap_future(future)
    assert seen == ["one", "eval one", "two", "eval two"]


async def test_a_thread_started_by_work_of_a_handler_records_its_source(threadsafe: am.Threadsafe) -> None:
    source: list[am.Source | None] = []
    threadsafe.eval(list)
    cause = am.Machine({"Foo": {}}, id="cause")
    machine = am.Machine({"Foo": {}}, handlers={"FooState": lambda e: source.append(e.mutation.source)})
    other = machine.threadsafe

    async def work(e: am.Event) -> None:
        await anyio.to_thread.run_sync(lambda: other.add1("Foo").result(timeout=60))

    cause.bind_handlers({"FooState": work})
    cause.add1("Foo")
    await machine.expect("Foo", timeout=60)
    assert source == [am.Source("cause", "1.1", 0)]


async def test_a_future_cancelled_in_time_is_skipped(machine: am.Machine, threadsafe: am.Threadsafe) -> None:
    first, second = in_thread(lambda: (threadsafe.add1("Foo"), threadsafe.add1("Bar")))
    assert first.cancel()
    assert (await asyncio.wrap_future(second)).reason == "Bar requires Foo"
    assert machine.tick("Foo") == 0


async def test_a_future_cannot_be_cancelled_once_its_call_was_made(machine: am.Machine) -> None:
    threadsafe = machine.threadsafe
    futures: list[Future[am.Result]] = []
    kept: list[bool] = []
    machine.bind_handlers({"LogState": lambda e: kept.append(futures[0].cancel())})
    futures.append(in_thread(lambda: threadsafe.add1("Log", {"n": 1})))
    assert await asyncio.wrap_future(futures[0]) == am.Result.EXECUTED
    assert kept == [False]


# Many threads at once.


@pytest.fixture(params=[None, 1e-6], ids=["patient", "restless"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have threads give way to one another as they do, and as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(request.param or interval)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_eight_threads_at_once_lose_nothing(limit: int) -> None:
    threads, count = 8, 300
    machine = am.Machine({"Log": {"multi": True}}, queue_limit=limit)
    entries: dict[int, list[int]] = defaultdict(list)
    machine.bind_handlers({"LogState": lambda e: entries[e.args["thread"]].append(e.args["n"])})
    threadsafe = machine.threadsafe
    barrier = threading.Barrier(threads)

    def adding(thread: int) -> list[am.Result]:
        barrier.wait(60)
        futures = [threadsafe.add1("Log", {"thread": thread, "n": n}) for n in range(count)]
        return [future.result(timeout=60) for future in futures]

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(threads) as pool:
        results = await asyncio.gather(*(loop.run_in_executor(pool, adding, n) for n in range(threads)))
    assert Counter(int(result) for given in results for result in given) == {0: threads * count}
    assert entries == {thread: list(range(count)) for thread in range(threads)}
    assert machine.tick("Log") == 2 * threads * count - 1
    assert machine.queue_tick == 1 + threads * count
    assert machine.is_idle
    await turns()
    assert not [task for task in asyncio.all_tasks() if task.get_name().endswith(".actor")]


async def test_threads_and_the_loop_add_at_once_and_lose_nothing() -> None:
    threads, count = 8, 200
    machine = am.Machine({"Log": {"multi": True}, "Nested": {"multi": True}})
    entries: Counter[str] = Counter()

    def log(e: am.Event) -> None:
        entries[e.args["by"]] += 1
        e.machine.add1("Nested", {"by": e.args["by"]})

    machine.bind_handlers({"LogState": log, "NestedState": lambda e: entries.update([f"nested {e.args['by']}"])})
    threadsafe = machine.threadsafe
    barrier = threading.Barrier(threads + 1)

    def adding() -> list[am.Result]:
        barrier.wait(60)
        return [threadsafe.add1("Log", {"by": "thread"}).result(timeout=60) for _ in range(count)]

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(threads) as pool:
        workers = [loop.run_in_executor(pool, adding) for _ in range(threads)]
        barrier.wait(60)
        for _ in range(count):
            assert await machine.add1("Log", {"by": "loop"}) == am.Result.EXECUTED
            await asyncio.sleep(0)
        await asyncio.gather(*workers)
    await machine.when_queue_ends()
    assert entries == {
        "thread": threads * count,
        "nested thread": threads * count,
        "loop": count,
        "nested loop": count,
    }


async def test_handlers_find_room_in_a_queue_that_threads_fill() -> None:
    machine = am.Machine({"Log": {"multi": True}, "Nested": {"multi": True}}, queue_limit=10)
    nested: list[am.Result] = []

    def log(e: am.Event) -> None:
        nested.extend(e.machine.add1("Nested", {"n": n}) for n in range(5))

    machine.bind_handlers({"LogState": log})
    threadsafe = machine.threadsafe
    futures = in_thread(lambda: [threadsafe.add1("Log", {"n": n}) for n in range(50)])
    for future in futures:
        assert await asyncio.wrap_future(future) == am.Result.EXECUTED
    await machine.when_queue_ends()
    assert {(await result).reason for result in nested} == {None}
    assert machine.tick("Nested") == 2 * 250 - 1


OPS = st.lists(
    st.sampled_from(["add1", "remove1", "toggle1", "can_add1", "can_remove1"]).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(["A", "B", "C", "D"]))
    ),
    max_size=12,
)
SCHEMA: dict[str, am.State] = {
    "A": am.State(remove=["B"]),
    "B": am.State(require=["C"]),
    "C": am.State(multi=True),
    "D": am.State(auto=True, require=["A"]),
}


@given(ops=OPS, limit=st.sampled_from([1, 2, 1000]))
@settings(max_examples=40)
def test_calls_of_one_thread_come_to_what_the_same_calls_on_the_loop_come_to(
    ops: list[tuple[str, str]], limit: int
) -> None:
    here = am.Machine(SCHEMA)
    expected = [getattr(here, name)(state, {"with": "args"}).executed for name, state in ops]

    async def main() -> None:
        machine = am.Machine(SCHEMA, queue_limit=limit)
        threadsafe = machine.threadsafe
        futures = in_thread(lambda: [getattr(threadsafe, name)(state, {"with": "args"}) for name, state in ops])
        got = [(await asyncio.wrap_future(future)).executed for future in futures]
        await machine.when_queue_ends()
        assert got == expected
        assert machine.string_all() == here.string_all()

    asyncio.run(main())
