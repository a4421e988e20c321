"""The watchdog: it says where a handler is stuck while it is, and the machine says how long it was when it is over."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest
from typing_extensions import override

import asyncmachine as am
from asyncmachine import watchdog

SHORT = 0.01
"""Seconds a handler may take where it takes longer."""


class Reports(logging.Handler):
    """Gathers what is logged, and says so at once, so that whoever is stuck can go on."""

    def __init__(self, wanted: int = 1) -> None:
        super().__init__()
        self.wanted = wanted
        self.records: list[logging.LogRecord] = []
        self.threads: list[str] = []
        self.come = threading.Event()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.threads.append(threading.current_thread().name)
        if len(self.records) >= self.wanted:
            self.come.set()

    def get_stuck(self) -> None:
        assert self.come.wait(60), "nothing was reported"


@contextlib.contextmanager
def watching(reports: Reports) -> Iterator[Reports]:
    # The last handler of all: when it has the record, the watchdog is done with it, and disturbs no later test.
    logger = logging.getLogger()
    logger.addHandler(reports)
    try:
        yield reports
    finally:
        logger.removeHandler(reports)


@pytest.fixture
def reports() -> Iterator[Reports]:
    with watching(Reports()) as reports:
        yield reports


class Clock:
    """Time that passes only when it is told to: no pause makes a handler late."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of watchdogs."""
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    return clock


def watchdogs() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "asyncmachine-watchdog"}


def test_a_handler_that_is_stuck_is_reported_with_its_stack_while_it_is(reports: Reports) -> None:
    def stuck_here(e: am.Event) -> None:
        reports.get_stuck()

    machine = am.Machine({"Foo": {}}, id="watched", tracers=[am.Watchdog(SHORT)], handler_timeout=None)
    machine.bind_handlers({"FooState": stuck_here}, id="Handlers")
    assert machine.add1("Foo") == am.Result.EXECUTED
    (record,) = reports.records
    assert record.name == "asyncmachine.watched"
    assert record.levelno == logging.WARNING
    first, _, stack = record.getMessage().partition("\n")
    assert first == "[handler:stuck] FooState of Handlers blocks the loop for more than 0.01 s:"
    assert "in stuck_here" in stack
    assert "in get_stuck" in stack
    assert "test_a_handler_that_is_stuck" in stack
    # The watchdog's own thread is not what is stuck.
    assert "in _watch" not in stack
    assert reports.threads == ["asyncmachine-watchdog"]


@pytest.mark.parametrize("name", ["FooEnter", "FooState", "AnyEnter", "AnyState"])
def test_handlers_of_every_kind_are_watched(reports: Reports, name: str) -> None:
    machine = am.Machine({"Foo": {}}, tracers=[am.Watchdog(SHORT)], handler_timeout=None)
    machine.bind_handlers({name: lambda e: reports.get_stuck()}, id="Handlers")
    machine.add1("Foo")
    assert reports.records[0].getMessage().startswith(f"[handler:stuck] {name} of Handlers")


def test_a_stuck_handler_is_reported_once() -> None:
    again = threading.Event()
    with watching(Reports()) as reports:

        def stuck(e: am.Event) -> None:
            assert reports.come.wait(60)
            # Long enough for it to overrun three times.
            assert not again.wait(3 * SHORT)

        machine = am.Machine({"Foo": {}}, tracers=[am.Watchdog(SHORT)], handler_timeout=None)
        machine.bind_handlers({"FooState": stuck})
        machine.add1("Foo")
        assert len(reports.records) == 1
        reports.come.clear()
        machine.remove1("Foo")
        machine.add1("Foo")
        assert len(reports.records) == 2


def test_nested_handlers_are_watched_each() -> None:
    with watching(Reports(wanted=2)) as reports:
        dog = am.Watchdog(SHORT)
        inner = am.Machine({"Foo": {}}, id="inner", tracers=[dog], handler_timeout=None)
        outer = am.Machine({"Foo": {}}, id="outer", tracers=[dog], handler_timeout=None)
        inner.bind_handlers({"FooState": lambda e: reports.get_stuck()}, id="Inner")
        outer.bind_handlers({"FooState": lambda e: inner.add1("Foo") and None}, id="Outer")
        outer.add1("Foo")
    assert [record.getMessage().partition(" blocks")[0] for record in reports.records] == [
        "[handler:stuck] FooState of Outer",
        "[handler:stuck] FooState of Inner",
    ]
    assert [record.name for record in reports.records] == ["asyncmachine.outer", "asyncmachine.inner"]


def test_an_outer_handler_is_still_watched_when_an_inner_one_is_over(reports: Reports, clock: Clock) -> None:
    dog = am.Watchdog(SHORT)
    inner = am.Machine({"Foo": {}}, tracers=[dog], handlers={"FooState": lambda e: None})
    outer = am.Machine({"Foo": {}}, tracers=[dog], handler_timeout=None)

    def enter(e: am.Event) -> None:
        inner.add1("Foo")
        clock.now += 1
        reports.get_stuck()

    outer.bind_handlers({"FooState": enter}, id="Outer")
    outer.add1("Foo")
    assert reports.records[0].getMessage().startswith("[handler:stuck] FooState of Outer")


def test_handlers_of_several_threads_are_watched_each() -> None:
    with watching(Reports(wanted=2)) as reports:
        dog = am.Watchdog(SHORT)

        def run(name: str) -> None:
            def stuck(e: am.Event) -> None:
                reports.get_stuck()

            machine = am.Machine({"Foo": {}}, id=name, tracers=[dog], handler_timeout=None)
            machine.bind_handlers({"FooState": stuck})
            machine.add1("Foo")

        threads = [threading.Thread(target=run, args=[name]) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {record.name for record in reports.records} == {"asyncmachine.one", "asyncmachine.two"}
    assert all("in stuck" in record.getMessage() for record in reports.records)


def test_a_handler_in_time_is_not_reported(reports: Reports) -> None:
    dog = am.Watchdog(3600)
    quick, stuck = (am.Machine({"Foo": {}}, id=id, handler_timeout=None) for id in ("quick", "stuck"))
    quick.bind_tracer(dog)
    stuck.bind_tracer(am.Watchdog(SHORT))
    quick.bind_handlers({"FooState": lambda e: stuck.add1("Foo") and None})
    stuck.bind_handlers({"FooState": lambda e: reports.get_stuck()})
    quick.add1("Foo")
    assert [record.name for record in reports.records] == ["asyncmachine.stuck"]


def test_a_handler_that_raises_is_watched_no_longer(reports: Reports, clock: Clock) -> None:
    def failing(e: am.Event) -> None:
        raise ValueError("in the handler")

    def stuck(e: am.Event) -> None:
        clock.now += 1
        reports.get_stuck()

    machine = am.Machine({"Foo": {}, "Bar": {}}, id="failing", tracers=[am.Watchdog(SHORT)], handler_timeout=None)
    machine.bind_handlers(
        {
            "FooState": failing,
            "ExceptionState": lambda e: None,
            "BarState": stuck,
        },
        id="Handlers",
    )
    machine.add1("Foo")
    machine.add1("Bar")
    assert [record.getMessage().partition(" blocks")[0] for record in reports.records] == [
        "[handler:stuck] BarState of Handlers"
    ]


def test_machines_built_with_a_watched_parent_are_watched(reports: Reports) -> None:
    parent = am.Machine({"Foo": {}}, tracers=[am.Watchdog(SHORT)])
    child = am.Machine({"Foo": {}}, id="child", parent=parent, handler_timeout=None)
    child.bind_handlers({"FooState": lambda e: reports.get_stuck()})
    child.add1("Foo")
    assert reports.records[0].name == "asyncmachine.child"


def test_without_handlers_there_is_no_thread() -> None:
    before = watchdogs()
    machine = am.Machine({"Foo": {}}, tracers=[am.Watchdog()])
    machine.add1("Foo")
    assert watchdogs() == before
    machine.bind_handlers({"FooEnd": lambda e: None})
    machine.remove1("Foo")
    (thread,) = watchdogs() - before
    assert thread.daemon
    for _ in range(3):
        machine.toggle1("Foo")
    assert watchdogs() == before | {thread}


@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match=rf"timeout is in seconds and above 0, not {timeout}"):
        am.Watchdog(timeout)


def test_a_handler_called_within_a_log_handler_does_not_wait_for_the_watchdog() -> None:
    """The log handler's lock is held here, and wanted by the watchdog, which must hold none that is wanted here."""
    wanted = threading.Event()

    class Calling(Reports):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            if threading.current_thread() is threading.main_thread():
                machine.add1("Foo")
            else:
                super().emit(record)

    class Wanted(logging.Filter):
        @override
        def filter(self, record: logging.LogRecord) -> bool:
            if "[handler:stuck]" in record.getMessage():
                wanted.set()
            return True

    machine = am.Machine({"Foo": {}, "Bar": {}}, id="locked", tracers=[am.Watchdog(SHORT)], handler_timeout=None)

    def stuck(e: am.Event) -> None:
        assert wanted.wait(60)

    machine.bind_handlers({"FooState": stuck})
    logger = logging.getLogger("asyncmachine.locked")
    wants = Wanted()
    logger.addFilter(wants)
    try:
        with watching(Calling()) as reports:
            logger.warning("called within a log handler")
            assert machine.is1("Foo")
            assert reports.come.wait(60)
    finally:
        logger.removeFilter(wants)
