"""The machines of a test, seen from outside of any test: how a bench watches them, and how it ends them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import anyio
import pytest

import asyncmachine as am
from asyncmachine.testbench import Bench

SCHEMA = {"Start": {}, "Ready": {"require": ["Start"]}}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def started(mach: am.Machine) -> am.Machine:
    mach.add("Start", "Ready")
    mach.fork(anyio.sleep_forever)
    await asyncio.sleep(0)
    return mach


def test_machines_are_disposed_last_one_first(bench: Bench) -> None:
    gone: list[str] = []
    for name in "abc":
        bench(SCHEMA, id=name).on_dispose(lambda mach: gone.append(mach.id))
    bench.close()
    assert gone == ["c", "b", "a"]
    assert bench.is_closed


def test_it_says_what_it_looks_after(bench: Bench) -> None:
    bench(SCHEMA, id="a")
    bench(SCHEMA, id="b")
    assert repr(bench) == "<Bench machine [a, b]>"


def test_one_that_cannot_be_disposed_does_not_keep_the_others(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    first, second = bench(SCHEMA), bench(SCHEMA)
    loop.run_until_complete(started(second))

    async def close_within_another_loop() -> None:
        bench.close()

    with pytest.raises(RuntimeError, match="Cannot run the event loop while another loop is running"):
        asyncio.run(close_within_another_loop())
    assert first.is_disposed
    assert not second.is_disposed
    bench.close()
    assert second.is_disposed


def test_a_loop_that_stands_still_is_run_for_its_machines(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    made = loop.run_until_complete(started(bench(SCHEMA)))
    found = bench.watch(loop.run_until_complete(started(am.Machine(SCHEMA))))
    bench.close()
    for mach in (made, found):
        assert mach.is_disposed
        assert mach.statistics().work == 0
    assert not asyncio.all_tasks(loop)


def test_nothing_is_left_on_a_loop_when_all_is_over(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    bench.watch(loop.run_until_complete(started(am.Machine(SCHEMA))))
    bench.close()  # Start is removed, on the loop, when the bench is closed already
    assert not bench._keepers


def test_a_machine_is_watched_for_any_length_of_time(bench: Bench) -> None:
    mach = bench(SCHEMA)
    for _ in range(500):
        mach.toggle1("Start")
    (watch,) = bench._watches
    assert len(watch.recorder.kept) < watch.recorder.count == 500


async def test_within_a_running_loop_the_end_begins_at_once(bench: Bench) -> None:
    mach = await started(bench(SCHEMA))
    gone = mach.when_disposed()
    bench.close()
    await gone


async def test_it_holds_no_task(bench: Bench) -> None:
    before = asyncio.all_tasks()
    bench(SCHEMA).add1("Start")
    assert asyncio.all_tasks() == before


def test_a_machine_that_is_at_work_already_is_disposed_with_its_loop(bench: Bench) -> None:
    async def main() -> am.Machine:
        return bench.watch(await started(am.Machine(SCHEMA)))

    assert asyncio.run(main()).is_disposed


def test_with_their_loop_machines_are_disposed_last_one_first_too(bench: Bench) -> None:
    gone: list[str] = []

    async def main() -> None:
        for name in "abc":
            (await started(bench(SCHEMA, id=name))).on_dispose(lambda mach: gone.append(mach.id))

    asyncio.run(main())
    assert gone == ["c", "b", "a"]


def test_it_outlives_no_run_of_a_loop(bench: Bench) -> None:
    """Whoever closes a loop properly disposes its machines, again and again."""
    for _ in range(3):
        mach = bench(SCHEMA)
        asyncio.run(started(mach))
        assert mach.is_disposed
    assert len(bench.machines) == 3


def test_a_machine_without_a_loop_may_be_used_on_one_after_the_other(bench: Bench) -> None:
    async def add() -> bool:
        return bool(mach.add1("Start"))

    mach = bench(SCHEMA)
    assert asyncio.run(add())
    assert asyncio.run(add())
    assert not mach.is_disposed


def test_nothing_holds_a_bench_and_its_machines_when_it_is_over() -> None:
    bench = Bench()
    mach = weakref.ref(bench(SCHEMA, handlers={"StartState": lambda e: None}))
    asyncio.run(started(bench.machines[0]))
    bench.close()
    del bench
    gc.collect()
    assert mach() is None


async def test_contexts_and_work_are_those_of_any_machine(bench: Bench) -> None:
    mach = bench(SCHEMA)
    with mach.state_ctx("Start") as scope:
        mach.add1("Start")
    assert scope.cancel_called
    assert mach.fork(asyncio.sleep, 0, delay=0, limit=1, state="Start").done() is False


def test_machines_built_on_the_way_out_are_none_of_its_business(bench: Bench) -> None:
    built: list[am.Machine] = []

    def start_end(e: am.Event) -> None:
        built.append(am.Machine(SCHEMA, parent=e.machine))

    bench(SCHEMA, handlers={"StartEnd": start_end}).add1("Start")
    bench.close()
    assert len(bench.machines) == len(built) == 1


def test_a_machine_that_two_watch_belongs_to_the_first(bench: Bench) -> None:
    other = Bench("other")
    mach = bench(SCHEMA)
    assert other.watch(mach) is mach
    assert other.machines == ()


def test_what_is_said_about_an_error_is_said_once(bench: Bench) -> None:
    mach = bench(SCHEMA, id="radio")
    mach.add_err(OSError("cable cut"))
    (text,) = bench.take_unseen()
    assert text.startswith("radio has an error nobody looked at: OSError('cable cut')\nLook at it in the test: ")
    assert bench.take_unseen() == []


def test_the_report_stays_as_it_was_before_the_end(bench: Bench) -> None:
    mach = bench(SCHEMA, id="radio")
    mach.add1("Start")
    before = bench.report()
    bench.close()
    assert bench.report() == before
    assert before.startswith("radio: (Start:1) [Ready:0 Exception:0]\n")


def test_the_report_says_if_a_machine_is_disposed(bench: Bench) -> None:
    bench(SCHEMA, id="radio").dispose()
    assert bench.report().startswith("radio: () [Start:0 Ready:0 Exception:0] disposed\n")
