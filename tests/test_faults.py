"""Errors as a state: where each one goes, what is told of it, and that none is lost on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from conftest import turns
from noting import Ends
from typing_extensions import override

import asyncmachine as am

Handlers = dict[str, Callable[[am.Event], object]]


class Boom(Exception):  # noqa: N818 - what a handler raises here
    """Raised by handlers on purpose."""


def acting(
    *names: str, veto: Iterable[str] = (), fail: Iterable[str] = (), err: type[BaseException] = Boom
) -> Handlers:
    """Give handlers that do nothing, some of which veto and some raise."""
    vetoing, failing = set(veto), set(fail)

    def handler(e: am.Event) -> object:
        if e.name in failing:
            raise err(f"boom {e.name}")
        return False if e.name in vetoing else None

    return dict.fromkeys([*names, *vetoing, *failing], handler)


def errors(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Give the errors that were logged: what was said, and the text of the error whose traceback went with it."""
    found = []
    for record in caplog.records:
        if record.levelno >= logging.ERROR:
            assert record.exc_info is not None
            found.append((record.getMessage(), str(record.exc_info[1])))
    return found


def in_old_and_stay(**options: Any) -> am.Machine:
    mach = am.Machine({"Old": {}, "Stay": {}, "New": {"remove": ["Old"]}}, handler_timeout=None, **options)
    mach.add(["Old", "Stay"])
    return mach


NEGOTIATION = ("OldExit", "NewEnter", "StayStay", "OldNew", "OldStay", "StayNew", "AnyEnter")


# The error a machine has.


def test_a_machine_without_an_error_has_none() -> None:
    mach = am.Machine({"Foo": {}})
    mach.add1("Foo")
    assert mach.err is None
    assert not mach.is_err
    assert mach.statistics().errors == 0


def test_the_last_error_is_kept_also_when_exception_is_gone() -> None:
    mach = am.Machine({"Foo": {}})
    first, second = Boom("first"), Boom("second")
    mach.add_err(first)
    assert mach.err is first
    mach.add_err(second)
    assert mach.err is second
    assert mach.tick("Exception") == 3
    mach.remove1("Exception")
    assert mach.err is second
    assert not mach.is_err
    assert mach.statistics().errors == 2


def test_the_error_is_set_at_once_though_exception_waits_its_turn() -> None:
    seen: list[tuple[str, bool]] = []
    mach = am.Machine({"Foo": {}})

    def foo_state(e: am.Event) -> None:
        assert e.machine.add_err(Boom("from within")).queued
        seen.append((str(e.machine.err), e.machine.is_err))

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    assert seen == [("from within", False)]
    assert mach.is_err


def test_an_error_added_by_hand_waits_for_what_was_asked_before_it() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Bar": {}}, tracers=[ends])

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        e.machine.add_err(Boom("appended"))

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    assert [t.called_states for t in ends.seen] == [("Foo",), ("Bar",), ("Exception",)]


# What a failing handler leads to.


def test_the_error_runs_next_with_its_source_and_its_args() -> None:
    ends = Ends()
    seen: list[am.ExceptionArgs] = []
    mach = am.Machine({"Old": {}, "Foo": {}, "Later": {}}, id="cause", tracers=[ends])
    mach.add1("Old")

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Later")
        raise Boom("boom")

    mach.bind_handlers({"FooState": foo_state, "ExceptionState": lambda e: seen.append(e.arg(am.ExceptionArgs))})
    mach.add(["Foo", "Old"])
    old, foo, exception, later = ends.seen
    assert (old.called_states, later.called_states) == (("Old",), ("Later",))
    assert exception.called_states == ("Exception",)
    assert exception.mutation.source == am.Source("cause", foo.id, 1)
    assert exception.mutation.queue_tick == 0
    (args,) = seen
    assert args.err is mach.err
    assert args.handler == "FooState"
    assert args.called == ("Foo", "Old")
    assert args.states_before == ("Old",)
    assert "raise Boom" in args.traceback


def test_a_failing_check_is_canceled_and_its_error_is_not_lost() -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting("FooEnter", fail=["FooEnter"]))
    assert mach.can_add1("Foo").reason == "FooEnter of dict raised Boom('boom FooEnter')"
    assert str(mach) == "(Exception:1)"
    assert str(mach.err) == "boom FooEnter"


def test_a_failing_error_state_is_rolled_back_without_exception() -> None:
    mach = am.Machine({"ErrNet": {"require": ["Exception"]}}, handlers=acting("ErrNetState", fail=["ErrNetState"]))
    assert mach.add_err_state("ErrNet", Boom("down")).canceled
    assert str(mach) == "(Exception:1)"
    assert mach.tick("ErrNet") == 2
    assert str(mach.err) == "boom ErrNetState"


def test_a_failing_exception_state_takes_the_error_states_after_it_along_but_stays() -> None:
    mach = am.Machine(
        {"ErrNet": {"require": ["Exception"]}}, handlers=acting("ExceptionState", fail=["ExceptionState"])
    )
    mach.add_err_state("ErrNet", Boom("down"))
    assert str(mach) == "(Exception:1)"
    assert mach.tick("ErrNet") == 2


def test_a_veto_of_exception_holds_and_the_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting("ExceptionEnter", "ExceptionState", veto=["ExceptionEnter"]))
    assert mach.add_err(Boom("unwelcome")).reason == "vetoed by ExceptionEnter of dict"
    assert str(mach) == "()"
    assert str(mach.err) == "unwelcome"
    assert "[error] Boom('unwelcome')" in caplog.text


@pytest.mark.parametrize(("name", "left"), [("ExceptionExit", "()"), ("ExceptionEnd", "()")])
def test_a_failure_while_exception_is_removed_is_logged_and_adds_no_second_one(
    name: str, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, handlers=acting(name, fail=[name]))
    mach.add_err(Boom("first"))
    mach.bind_tracer(ends)
    mach.remove1("Exception")
    assert str(mach) == left
    assert [t.called_states for t in ends.seen] == [("Exception",)]
    assert f"{name} raised in an error state" in caplog.text
    assert str(mach.err) == f"boom {name}"


@pytest.mark.parametrize("name", ["AnyEnter", "AnyState"])
def test_a_global_handler_that_always_fails_does_not_hang_the_machine(name: str) -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends], handlers=acting(name, fail=[name]))
    assert mach.add1("Foo").canceled
    assert mach.is1("Foo") == (name == "AnyState")
    assert mach.is_err
    assert [t.called_states for t in ends.seen] == [("Foo",), ("Exception",)]


# Who is told.


def test_on_error_is_told_of_each_error_before_exception_is_added() -> None:
    told: list[tuple[am.Machine, str, bool]] = []
    mach = am.Machine({"Foo": {}}, handlers=acting(fail=["FooState"]))
    mach.on_error(lambda machine, err: told.append((machine, str(err), machine.is_err)))
    mach.add1("Foo")
    mach.remove1("Exception")
    mach.add_err(Boom("by hand"))
    assert told == [(mach, "boom FooState", False), (mach, "by hand", False)]
    mach.on_error(None)
    mach.add_err(Boom("unheard"))
    assert len(told) == 2


async def test_on_error_is_told_of_errors_of_work() -> None:
    told: list[str] = []

    async def work(e: am.Event) -> None:
        raise Boom("in work")

    mach = am.Machine({"Foo": {}}, handlers={"FooState": work})
    mach.on_error(lambda machine, err: told.append(str(err)))
    mach.add1("Foo")
    await turns()
    assert told == ["in work"]


def raising(*args: object) -> None:
    raise Boom("callback")


def test_an_on_error_callback_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}})
    mach.on_error(raising)
    assert mach.add_err(Boom("the error")).executed
    assert str(mach.err) == "the error"
    assert mach.is_err
    assert errors(caplog) == [
        ("the on_error callback raised", "callback"),
        ("[error] Boom('the error')", "the error"),
    ]


def test_an_on_change_callback_that_raises_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, raise_errors=True)
    mach.on_change(raising)
    assert mach.add1("Foo").executed
    assert str(mach) == "(Foo:1 Auto:1)"
    assert mach.err is None
    assert errors(caplog) == [("the on_change callback raised", "callback")] * 2


def test_an_on_dispose_callback_that_raises_keeps_no_other_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[am.Machine] = []
    mach = am.Machine({"Foo": {}})
    mach.on_dispose(raising)
    mach.on_dispose(told.append)
    mach.dispose()
    assert told == [mach]
    assert errors(caplog) == [("an on_dispose callback raised", "callback")]


@pytest.mark.parametrize("callback", ["on_error", "on_change"])
def test_a_mutation_made_by_a_callback_is_carried_out(callback: str) -> None:
    mach = am.Machine({"Foo": {}, "Told": {}})
    getattr(mach, callback)(lambda machine, *rest: machine.add1("Told"))
    mach.add_err(Boom("tell"))
    assert mach.is1("Told")


# Errors nobody handles.


def test_an_error_without_a_handler_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting(fail=["FooState"]))
    mach.add1("Foo")
    assert errors(caplog) == [("[error] Boom('boom FooState') in FooState", "boom FooState")]
    assert "in handler" in caplog.text
    assert caplog.records[0].name == f"asyncmachine.{mach.id}"


def test_an_error_with_a_handler_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting("ExceptionState", fail=["FooState"]))
    mach.add1("Foo")
    mach.add_err(Boom("by hand"))
    assert mach.is_err
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"Foo": {"remove": ["Exception"]}}, "Exception is removed by Foo"),
        ({"Foo": {}, "Exception": {"multi": True, "require": ["Bar"]}, "Bar": {}}, "Exception requires Bar"),
    ],
)
def test_an_error_that_relations_keep_out_is_logged_though_there_is_a_handler(
    schema: dict[str, am.StateDict], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    mach = am.Machine(schema, handlers=acting("ExceptionState"))
    mach.add1("Foo")
    assert mach.add_err(Boom("kept out")).reason == reason
    assert str(mach.err) == "kept out"
    assert errors(caplog) == [("[error] Boom('kept out')", "kept out")]


def test_an_error_a_full_queue_refuses_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    results: list[am.Result] = []
    mach = am.Machine({"Foo": {}, "Bar": {}}, queue_limit=1)

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        results.extend(e.machine.add_err(Boom(text)) for text in ("has room", "has none"))

    mach.bind_handlers({"FooState": foo_state, **acting("ExceptionState")})
    mach.add1("Foo")
    assert [result.reason for result in results] == [None, "queue full (1)"]
    assert errors(caplog) == [("[error] Boom('has none')", "has none")]


def test_an_error_of_a_handler_finds_room_in_a_full_queue() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}}, queue_limit=1)

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        raise Boom("no room needed")

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    assert str(mach) == "(Bar:1 Exception:1)"


def test_a_handler_that_blocks_and_raises_is_reported_for_both(caplog: pytest.LogCaptureFixture) -> None:
    def slow(e: am.Event) -> None:
        time.sleep(0.003)
        raise Boom("and late")

    mach = am.Machine({"Foo": {}}, handler_timeout=0.001, handlers={"FooState": slow})
    mach.add1("Foo")
    slow_one, failed = caplog.records
    assert slow_one.levelname == "WARNING"
    assert slow_one.getMessage().startswith("[handler:slow] FooState of dict blocked the loop for ")
    assert slow_one.getMessage().endswith(" s (handler_timeout is 0.001 s); do it in async work")
    assert failed.getMessage() == "[error] Boom('and late') in FooState"


# Errors of work.


async def test_work_that_raises_adds_exception_with_its_source_and_its_args() -> None:
    ends = Ends()
    seen: list[am.ExceptionArgs] = []

    async def work(e: am.Event) -> None:
        raise Boom("in work")

    mach = am.Machine({"Old": {}, "Foo": {}}, id="mach", tracers=[ends])
    mach.add1("Old")
    mach.bind_handlers({"FooState": work, "ExceptionState": lambda e: seen.append(e.arg(am.ExceptionArgs))})
    mach.add1("Foo")
    await turns()
    _, foo, exception = ends.seen
    assert exception.mutation.source == am.Source("mach", foo.id, 1)
    (args,) = seen
    assert (args.err, args.handler) == (mach.err, "FooState")
    assert "in work" in args.traceback
    assert mach.is1("Foo")  # its plain part was done: the state stays


async def test_forked_work_that_raises_adds_exception_without_a_source_if_nothing_caused_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = Ends()

    async def work() -> None:
        raise Boom("forked")

    mach = am.Machine({"Foo": {}}, tracers=[ends])
    mach.fork(work)
    await turns()
    (exception,) = ends.seen
    assert exception.mutation.source is None
    ((said, text),) = errors(caplog)
    assert text == "forked"
    assert said == f"[error] Boom('forked') in {work.__qualname__}"


async def test_an_error_of_work_is_not_lost_where_the_resolver_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(am.RelationsResolver):
        @override
        def resolve(self, *args: Any, **options: Any) -> tuple[int, ...]:
            raise Boom("resolver")

    async def work() -> None:
        raise Boom("in work")

    mach = am.Machine({"Foo": {}}, resolver=Broken)
    mach.fork(work)
    await turns()
    name = work.__qualname__
    assert errors(caplog) == [
        (f"[error] Boom('in work') in {name}", "in work"),
        (f"the error of {name} could not be handled", "resolver"),
    ]
    assert str(mach.err) == "in work"
    assert mach.is_idle


async def test_work_that_raises_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn(e: am.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Boom("on the way out")

    async with am.Machine({"Foo": {}}, handlers={"FooState": stubborn}) as mach:
        mach.add1("Foo")
        await turns()
    assert errors(caplog) == [("FooState raised after the machine was disposed", "on the way out")]
    assert mach.err is None


async def test_a_cancellation_that_reaches_the_top_of_work_ends_it_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(e: am.Event) -> None:
        raise asyncio.CancelledError

    mach = am.Machine({"Foo": {}}, handlers={"FooState": work})
    mach.add1("Foo")
    await turns()
    assert str(mach) == "(Foo:1)"
    assert mach.err is None
    assert mach.statistics().work == 0
    assert errors(caplog) == []


# Errors raised in the caller.


def test_raise_errors_raises_in_the_caller_and_adds_no_exception(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, raise_errors=True, handlers=acting("FooState", fail=["FooState"]))
    with pytest.raises(Boom, match="boom FooState"):
        mach.add1("Foo")
    assert str(mach) == "()"
    assert mach.tick("Foo") == 2
    assert mach.tick("Exception") == 0
    assert mach.is_idle
    assert caplog.records == []


@pytest.mark.parametrize("name", NEGOTIATION)
def test_raise_errors_raises_what_a_negotiation_handler_raised(name: str) -> None:
    mach = in_old_and_stay(raise_errors=True)
    mach.bind_handlers(acting(name, fail=[name]))
    with pytest.raises(Boom, match=f"boom {name}"):
        mach.add(["New", "Stay"])
    with pytest.raises(Boom, match=f"boom {name}"):
        mach.can_add(["New", "Stay"])
    assert str(mach) == "(Old:1 Stay:1)"


def test_raise_errors_raises_the_first_of_several_errors_and_logs_the_others(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}}, raise_errors=True)

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        e.machine.add1("Baz")
        raise Boom("first")

    mach.bind_handlers({"FooState": foo_state, **acting("BarState", "BazState", fail=["BarState"])})
    with pytest.raises(Boom, match="first"):
        mach.add1("Foo")
    assert str(mach) == "(Baz:1)"  # the rest of the queue ran before the caller was told
    (record,) = caplog.records
    assert record.getMessage() == "another error of the same call"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "boom BarState"


def test_raise_errors_raises_errors_of_nested_mutations_in_the_outermost_call() -> None:
    nested: list[am.Result] = []
    mach = am.Machine({"Foo": {}, "Bar": {}}, raise_errors=True)
    mach.bind_handlers({"FooState": lambda e: nested.append(e.machine.add1("Bar"))})
    mach.bind_handlers(acting("BarState", fail=["BarState"]))
    with pytest.raises(Boom, match="boom BarState"):
        mach.add1("Foo")
    assert nested[0].queued
    assert str(mach) == "(Foo:1)"


def test_raise_errors_raises_nothing_where_nothing_fails() -> None:
    mach = am.Machine({"Foo": {}}, raise_errors=True, handlers=acting("FooEnter", "FooState", fail=["FooState"]))
    assert mach.can_add1("Foo").executed
    mach.bind_handlers(acting("FooEnter", veto=["FooEnter"]))
    assert mach.add1("Foo").canceled


def test_raise_errors_raises_a_wrong_answer() -> None:
    mach = am.Machine({"Foo": {}}, raise_errors=True, handlers={"FooEnter": lambda e: 0})
    with pytest.raises(am.HandlerError, match="FooEnter of dict returned 0; a negotiation handler returns False"):
        mach.add1("Foo")


def test_raise_errors_reaches_the_handler_that_called_another_machine() -> None:
    inner = am.Machine({"Foo": {}}, raise_errors=True, handlers=acting("FooState", fail=["FooState"]))
    outer = am.Machine({"Go": {}}, handlers={"GoState": lambda e: inner.add1("Foo")})
    outer.add1("Go")
    assert str(outer.err) == "boom FooState"
    assert str(outer) == "(Exception:1)"


async def test_raise_errors_makes_errors_of_work_the_machines_as_ever() -> None:
    async def work(e: am.Event) -> None:
        raise Boom("in work")

    mach = am.Machine({"Foo": {}}, raise_errors=True, handlers={"FooState": work})
    mach.add1("Foo")
    await turns()
    assert str(mach.err) == "in work"
    assert mach.is_err


async def test_raise_errors_raises_in_work_which_makes_it_the_machines_error() -> None:
    async def work(e: am.Event) -> None:
        await asyncio.sleep(0)  # an eager task would still be within the call that started it
        e.machine.add1("Bar")

    mach = am.Machine({"Foo": {}, "Bar": {}}, raise_errors=True, handlers={"FooState": work})
    mach.bind_handlers(acting(fail=["BarState"]))
    mach.add1("Foo")
    await turns()
    assert str(mach.err) == "boom BarState"
    assert str(mach) == "(Foo:1 Exception:1)"


async def test_raise_errors_makes_errors_without_a_caller_the_machines(caplog: pytest.LogCaptureFixture) -> None:
    async with am.Machine({"Foo": {}}, raise_errors=True, handlers=acting(fail=["FooState"])) as mach:
        result = await asyncio.wrap_future(await asyncio.to_thread(lambda: mach.threadsafe.add1("Foo")))
        assert result.canceled
        assert str(mach.err) == "boom FooState"
        assert str(mach) == "(Exception:1)"
    assert errors(caplog) == [("[error] Boom('boom FooState') in FooState", "boom FooState")]


async def test_raise_errors_makes_what_fails_after_an_error_of_work_the_machines_too() -> None:
    failed: list[am.Event] = []

    def fail_once(e: am.Event) -> None:
        failed.append(e)
        if len(failed) == 1:
            raise Boom("auto state")

    async def work() -> None:
        raise Boom("in work")

    mach = am.Machine({"Auto": {"auto": True}}, raise_errors=True, handlers={"AutoState": fail_once})
    mach.fork(work)
    await turns()
    assert str(mach.err) == "auto state"
    assert str(mach) == "(Auto:3 Exception:3)"


def test_raise_errors_leaves_errors_added_by_hand_to_the_machine() -> None:
    mach = am.Machine({"Foo": {}}, raise_errors=True)
    assert mach.add_err(Boom("by hand")).executed
    assert mach.is_err


async def test_an_error_of_work_tells_which_mutation_started_it() -> None:
    seen: list[am.ExceptionArgs] = []

    async def fail(e: am.Event) -> None:
        raise Boom("boom")

    mach = am.Machine({"Foo": {}, "Bar": {}}, handlers={"FooState": fail})
    mach.bind_handlers({"ExceptionState": lambda e: seen.append(e.arg(am.ExceptionArgs))})
    mach.add1("Bar")
    mach.add1("Foo")
    await turns()
    assert [(error.handler, error.called, error.states_before) for error in seen] == [("FooState", ("Foo",), ("Bar",))]


def test_an_interrupt_while_the_error_of_work_is_handled_is_not_held_back() -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting("ExceptionState", fail=["ExceptionState"], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mach._core.faults.work_failed(Boom("boom"), "work")
    assert str(mach.err) == "boom"
    assert mach.is_idle


def test_an_error_whose_callback_disposes_the_machine_changes_nothing_any_more_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mach = am.Machine({"Foo": {}})
    mach.on_error(lambda machine, err: machine.dispose())
    assert mach.add_err(Boom("the last straw")).reason == "disposed"
    assert mach.is_disposed
    assert mach.time() == (0, 0)
    assert errors(caplog) == [("[error] Boom('the last straw')", "the last straw")]


# Interrupts: no errors of the program, but nothing is lost by them either.


def test_an_interrupt_loses_nothing_of_the_queue_without_a_loop() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}})

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        raise KeyboardInterrupt

    mach.bind_handlers({"FooState": foo_state})
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert mach.will_be1("Bar")
    mach.add1("Baz")
    assert str(mach) == "(Bar:1 Baz:1)"


async def test_an_interrupt_loses_nothing_of_the_queue_on_a_loop() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}})
    results: list[am.Result] = []

    def foo_state(e: am.Event) -> None:
        results.append(e.machine.add1("Bar"))
        raise KeyboardInterrupt

    mach.bind_handlers({"FooState": foo_state})
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert await results[0] == am.Result.EXECUTED
    assert str(mach) == "(Bar:1)"


async def test_an_interrupt_wakes_those_who_wait_for_the_end_of_the_queue() -> None:
    mach = am.Machine({"Foo": {}})
    waits: list[asyncio.Future[None]] = []

    def foo_state(e: am.Event) -> None:
        waits.append(e.machine.when_queue_ends())
        raise KeyboardInterrupt

    mach.bind_handlers({"FooState": foo_state})
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    await turns()
    assert mach.is_idle
    assert waits[0].done()


def test_the_result_of_an_interrupted_mutation_says_so() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends])
    mach.bind_handlers(acting("FooState", fail=["FooState"], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    outcome = ends.seen[0].mutation.outcome
    assert outcome is not None
    assert outcome.reason == "interrupted"


def test_an_interrupt_while_exception_is_added_loses_no_error(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers=acting("ExceptionState", fail=["ExceptionState"], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mach.add_err(Boom("on its way"))
    assert "[error] Boom('on its way')" in caplog.text
    assert str(mach.err) == "on its way"
    assert mach.is_err
