"""Counts that stand for speed: they are the same on every computer and at every load, as times are not.

A bound that is broken says that a mutation does more than it did. If that is worth it, raise the bound, and run
`nox -s bench` to see what it costs.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from itertools import cycle
from types import FrameType
from typing import Any, TypeAlias

import pytest

import asyncmachine as am

Tracing: TypeAlias = Callable[[FrameType, str, Any], "Tracing | None"]

TOGGLED: dict[str, am.State] = {"A": am.State(remove=["B"]), "B": am.State(remove=["A"])}


class Handlers:
    """Two that may veto and two that act, for each toggle."""

    def AExit(self, e: am.Event) -> bool:
        return True

    def BExit(self, e: am.Event) -> bool:
        return True

    def AEnter(self, e: am.Event) -> bool:
        return True

    def BEnter(self, e: am.Event) -> bool:
        return True

    def AEnd(self, e: am.Event) -> None: ...

    def BEnd(self, e: am.Event) -> None: ...

    def AState(self, e: am.Event) -> None: ...

    def BState(self, e: am.Event) -> None: ...


def toggling(states: Mapping[str, am.State] = TOGGLED, handlers: object | None = None) -> Callable[[], None]:
    """Give what toggles a machine, which has seen each of its mutations before."""
    mach = am.Machine(states, handlers=handlers, handler_timeout=0.1)
    names = cycle("AB")

    def toggle() -> None:
        mach.add1(next(names))

    for _ in range(7):
        toggle()
    return toggle  # next is "B"


def calls_of(act: Callable[[], object]) -> int:
    """Count the functions called, of Python and of C, while something is done; that itself is not counted."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.collect()
    gc.disable()  # or what it finds would have its say
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count - 2  # `act`, and the call that ends this


def lines_of(act: Callable[[], object]) -> int:
    """Count the lines of Python that are run while something is done, each as often as it is."""
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> Tracing:
        nonlocal count
        count += event == "line"
        return note

    tracing = sys.gettrace()
    sys.settrace(note)
    try:
        act()
    finally:
        sys.settrace(tracing)
    return count


def bytes_of(act: Callable[[], object]) -> int:
    """Measure how much memory is taken, at most at one time, while something is done; the least of several times."""
    gc.collect()
    gc.disable()
    tracing = sys.gettrace()
    sys.settrace(None)  # whoever measures coverage takes memory for each call
    tracemalloc.start()
    taken: list[int] = []
    try:
        for _ in range(6):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            act()
            _, peak = tracemalloc.get_traced_memory()
            taken.append(peak - before)
    finally:
        tracemalloc.stop()
        sys.settrace(tracing)
        gc.enable()
    return min(taken)


def test_the_count_sees_calls_of_python_and_of_c() -> None:
    def inner() -> list[int]:
        return sorted([1])

    assert calls_of(lambda: None) == 0
    assert calls_of(lambda: (inner(), inner())) == 4


def test_a_toggle_without_handlers() -> None:
    assert calls_of(toggling()) <= 10


def test_a_toggle_with_four_handlers() -> None:
    assert calls_of(toggling(handlers=Handlers())) <= 25


def test_an_auto_state_that_follows() -> None:
    states = {**TOGGLED, "C": am.State(auto=True, require=["B"])}
    assert calls_of(toggling(states)) <= 18


def test_tracing_is_paid_for_by_those_who_trace() -> None:
    mach = am.Machine(TOGGLED)
    watcher = am.Tracer()
    counts: list[int] = []
    for act in (lambda: None, lambda: mach.bind_tracer(watcher), lambda: mach.detach_tracer(watcher)):
        act()
        for _ in range(3):
            mach.add1("A")
            mach.add1("B")
        mach.add1("A")
        counts.append(calls_of(lambda: mach.add1("B")))
    # The trail of the clock, once there is one, goes on to be written.
    assert counts[2] <= counts[0] + 2 < counts[1]


@pytest.mark.parametrize("handlers", [None, Handlers()])
def test_a_mutation_does_the_same_with_few_states_and_with_many(handlers: object | None) -> None:
    few = toggling(handlers=handlers)
    many = toggling({**TOGGLED, **{f"S{i}": am.State() for i in range(1000)}}, handlers)
    assert calls_of(few) == calls_of(many)
    assert abs(bytes_of(few) - bytes_of(many)) < 500


async def test_a_wait_that_is_woken_and_waits_that_are_not() -> None:
    mach = am.Machine({**TOGGLED, "Other": am.State()})
    for _ in range(3):
        mach.add1("B")
        mach.add1("A")
    alone = calls_of(lambda: mach.add1("B"))
    others = [mach.when1("Other") for _ in range(100)]
    mach.add1("A")
    assert calls_of(lambda: mach.add1("B")) == alone
    waits: list[asyncio.Future[int]] = []
    assert calls_of(lambda: waits.append(mach.when1("A"))) <= 9
    assert calls_of(lambda: mach.add1("A")) <= alone + 8
    assert await waits[0] % 2 == 1
    await mach.dispose()
    assert all(isinstance(other.exception(), am.MachineDisposedError) for other in others)


def test_a_mutation_leaves_nothing_behind() -> None:
    toggle = toggling(handlers=Handlers())
    mach = am.Machine(TOGGLED, handlers=Handlers())

    def many() -> None:
        for _ in range(1000):
            mach.add1("A")
            mach.add1("B")

    many()
    toggle()
    before = sys.getallocatedblocks()
    many()
    # The trail of the clock holds some moves, now more, now fewer.
    assert sys.getallocatedblocks() - before < 200


def test_the_memory_a_toggle_takes() -> None:
    assert bytes_of(toggling()) <= 600
    assert bytes_of(toggling(handlers=Handlers())) <= 1500


def test_the_memory_a_machine_takes() -> None:
    schema = am.Schema({f"S{i}": {} for i in range(8)})
    am.Machine(schema)
    kept: list[am.Machine] = []
    assert bytes_of(lambda: kept.extend([am.Machine(schema) for _ in range(100)])) <= 100 * 3000


def test_a_machine_of_a_known_schema_and_known_handlers_is_built_with_few_calls() -> None:
    schema = am.Schema(TOGGLED)
    am.Machine(schema, handlers=Handlers())
    assert calls_of(lambda: am.Machine(schema)) <= 30
    assert calls_of(lambda: am.Machine(schema, handlers=Handlers())) <= 380


def test_machines_of_a_schema_resolve_together(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[tuple[int, ...]] = []
    resolve = am.RelationsResolver.resolve

    def counting(self: am.RelationsResolver, type_: am.MutationType, called: tuple[int, ...], *rest: object) -> object:
        resolved.append(called)
        return resolve(self, type_, called, *rest)

    schema = am.Schema(TOGGLED)
    monkeypatch.setattr(am.RelationsResolver, "resolve", counting)
    for handlers in (None, None, Handlers(), Handlers()):
        mach = am.Machine(schema, handlers=handlers)
        mach.add1("A")
        mach.add1("B")
    assert resolved == [(0,), (1,)]


@pytest.mark.parametrize("circle", [False, True])
def test_the_work_of_ordering_states_by_after_grows_with_their_number_alone(*, circle: bool) -> None:
    def ordering(count: int) -> Callable[[], object]:
        names = [f"S{i}" for i in range(count)]
        after = {name: am.State(after=[names[(i + 1) % count]]) for i, name in enumerate(names)}
        if not circle:
            after[names[-1]] = am.State()
        resolver = am.RelationsResolver(am.Schema(after))
        return lambda: resolver.order(range(count))

    assert lines_of(ordering(800)) < 9 * lines_of(ordering(100))
