"""Calling handlers: what their answers mean, what becomes of those that fail, and which of them is reported as slow."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noting import Boom, Ends, noting
from typing_extensions import override

import asyncmachine as am

AUTOS = {"Foo": {}, "One": {"auto": True}, "Two": {"auto": True}, "Three": {"auto": True, "require": ["Two"]}}


# What an answer means.


def test_none_and_true_let_pass() -> None:
    mach = am.Machine({"Foo": {}}, handlers=[{"FooEnter": lambda e: None}, {"FooEnter": lambda e: True}])
    assert mach.add1("Foo").executed


def test_the_answers_of_final_handlers_mean_nothing() -> None:
    mach = am.Machine({"Foo": {}}, handlers={name: lambda e: False for name in ("FooState", "FooEnd", "AnyState")})
    assert mach.add1("Foo").executed
    assert mach.remove1("Foo").executed
    assert mach.tick("Foo") == 2


@pytest.mark.parametrize("answer", [0, "", 1, (), "yes"])
def test_a_negotiation_handler_that_answers_anything_else_is_an_error(answer: object) -> None:
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers({"FooEnter": lambda e: answer}, id="odd")
    result = mach.add1("Foo")
    assert result.canceled
    assert isinstance(mach.err, am.HandlerError)
    text = f"FooEnter of odd returned {answer!r}; a negotiation handler returns False to veto, True or None to pass"
    assert str(mach.err) == text
    assert str(mach) == "(Exception:1)"


async def _pointless() -> None:
    raise AssertionError("never runs")


@pytest.mark.parametrize("name", ["FooEnter", "FooState", "AnyState"])
def test_a_plain_handler_that_returns_a_coroutine_is_an_error_and_the_coroutine_is_closed(name: str) -> None:
    made: list[Coroutine[Any, Any, None]] = []

    def handler(e: am.Event) -> object:
        if "Foo" in e.transition.called_states:
            made.append(_pointless())
            return made[-1]
        return None

    mach = am.Machine({"Foo": {}})
    mach.bind_handlers({name: handler}, id="odd")
    result = mach.add1("Foo")
    text = f"{name} of odd returned a coroutine; make it `async def`, if it is a final handler"
    assert str(mach.err) == text
    assert result.reason == f"{name} of odd raised {mach.err!r}"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        made[0].send(None)


class Unsayable:
    """What raises when it is asked how it looks."""

    @override
    def __repr__(self) -> str:
        raise Boom("unsayable")


def test_a_negotiation_handler_whose_answer_cannot_even_be_told_is_an_error() -> None:
    mach = am.Machine({"Foo": {}}, handlers={"FooEnter": lambda e: Unsayable()})
    assert mach.add1("Foo").reason == "FooEnter of dict raised Boom('unsayable')"
    assert str(mach.err) == "unsayable"
    assert str(mach) == "(Exception:1)"


@types.coroutine
def _forever() -> Generator[None]:
    while True:
        yield


async def _stubborn(err: BaseException) -> None:
    try:
        await _forever()
    finally:
        raise err


@pytest.mark.parametrize("name", ["FooEnter", "FooState"])
def test_a_coroutine_that_will_not_be_closed_is_an_error_too(name: str) -> None:
    begun = _stubborn(Boom("stubborn"))
    begun.send(None)
    mach = am.Machine({"Foo": {}}, handlers={name: lambda e: begun})
    assert mach.add1("Foo").reason == f"{name} of dict raised Boom('stubborn')"
    assert str(mach.err) == "stubborn"
    assert str(mach) == "(Exception:1)"


def test_an_interrupt_on_closing_a_coroutine_goes_to_the_caller() -> None:
    begun = _stubborn(KeyboardInterrupt())
    begun.send(None)
    mach = am.Machine({"Foo": {}}, handlers={"FooState": lambda e: begun})
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert str(mach) == "()"
    assert mach.err is None


# An auto state that is vetoed is left out.


@pytest.mark.parametrize("name", ["TwoEnter", "FooTwo"])
def test_a_vetoed_auto_state_is_dropped_alone_and_asked_no_more(name: str) -> None:
    calls: list[str] = []
    mach = am.Machine({**AUTOS, "Three": {"auto": True}})
    names = ["TwoEnter", "FooTwo", "ThreeEnter", "FooThree", "OneState", "TwoState", "ThreeState", "AnyEnter"]
    mach.bind_handlers(noting(calls, *names, veto=[name]))
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 One:1 Three:1)"
    auto = calls[calls.index("AnyEnter") + 1 :]
    assert auto.count("TwoEnter") == 1
    assert auto.count("FooTwo") == (name == "FooTwo")
    assert "TwoState" not in auto
    assert {"ThreeEnter", "FooThree", "OneState", "ThreeState"} <= set(auto)


def test_a_dropped_auto_state_takes_those_along_that_require_it() -> None:
    calls: list[str] = []
    mach = am.Machine(AUTOS)
    mach.bind_handlers(noting(calls, "TwoEnter", "ThreeEnter", "ThreeState", veto=["TwoEnter"]))
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 One:1)"
    assert "ThreeState" not in calls


def test_nothing_enters_unasked_in_place_of_a_dropped_auto_state() -> None:
    calls: list[str] = []
    schema = {
        "Foo": {},
        "One": {"auto": True},
        "Blocker": {"auto": True, "remove": ["Hidden"]},
        "Source": {"auto": True, "add": ["Hidden"]},
        "Hidden": {},
    }
    mach = am.Machine(schema)
    mach.bind_handlers(noting(calls, "BlockerEnter", "HiddenEnter", "HiddenState", veto=["BlockerEnter"]))
    mach.add1("Foo")
    assert calls == ["BlockerEnter"]
    assert str(mach) == "(Foo:1 One:1 Source:1)"


def test_the_record_tells_who_dropped_an_auto_state_and_not_who_was_asked_no_more() -> None:
    ends = Ends()
    mach = am.Machine(AUTOS, tracers=[ends], handlers=noting([], "TwoEnter", "FooTwo", "AnyEnter", veto=["TwoEnter"]))
    mach.bind_handlers(noting([], "TwoEnter"), id="asked no more")
    mach.add1("Foo")
    record = ends.seen[-1]
    assert record.is_auto
    assert [step.handler for step in record.steps if step.handler] == ["TwoEnter", "AnyEnter"]


def test_an_auto_mutation_is_canceled_if_every_called_state_is_dropped() -> None:
    changes: list[object] = []
    mach = am.Machine({"Foo": {}, "One": {"auto": True, "add": ["Extra"]}, "Extra": {}})
    mach.bind_handlers(noting([], "OneEnter", veto=["OneEnter"]))
    mach.on_change(lambda *change: changes.append(change))
    mach.add1("Foo")
    assert str(mach) == "(Foo:1)"
    assert len(changes) == 1
    assert mach.statistics().canceled == 1


def test_the_reason_of_an_auto_mutation_without_any_state_left_is_given() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "One": {"auto": True}}, handlers={"OneEnter": lambda e: False}, tracers=[ends])
    mach.add1("Foo")
    outcome = ends.seen[-1].mutation.outcome
    assert outcome is not None
    assert outcome.reason == "every auto state was vetoed"


def test_an_auto_mutation_is_canceled_if_a_state_would_leave_that_was_not_asked_to() -> None:
    # Without Shield, Smith would bring Blade in, and Foo would have to leave: nobody asked either of them.
    calls: list[str] = []
    schema = {
        "Foo": {},
        "Shield": {"auto": True, "remove": ["Blade"]},
        "Smith": {"auto": True, "add": ["Blade"]},
        "Blade": {"remove": ["Foo"]},
    }
    mach = am.Machine(schema)
    mach.bind_handlers(noting(calls, "SmithEnter", "ShieldEnter", "BladeEnter", "FooExit", veto=["ShieldEnter"]))
    mach.add1("Foo")
    assert sorted(calls) == ["ShieldEnter", "SmithEnter"]
    assert str(mach) == "(Foo:1)"
    mach.detach_handlers("dict")
    mach.add_err(Boom("moves the clock"))
    assert str(mach) == "(Foo:1 Shield:1 Smith:1 Exception:1)"  # without the veto there is room for both


def test_a_vetoed_auto_state_that_was_called_by_hand_cancels() -> None:
    mach = am.Machine({"Foo": {}, "One": {"auto": True}}, handlers=noting([], "OneEnter", veto=["OneEnter"]))
    assert mach.add(["Foo", "One"]).reason == "vetoed by OneEnter of dict"
    assert str(mach) == "()"


def test_a_vetoed_exit_of_an_auto_state_cancels_an_auto_mutation() -> None:
    allow: list[bool] = []
    schema = {"Foo": {}, "Leaver": {"auto": True}, "One": {"auto": True, "remove": ["Leaver"]}}
    mach = am.Machine(schema)
    mach.bind_handlers({"OneEnter": lambda e: bool(allow), "LeaverExit": lambda e: False})
    mach.add1("Leaver")
    allow.append(True)
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 Leaver:1)"
    mach.detach_handlers("dict")
    mach.add_err(Boom("moves the clock"))
    assert str(mach) == "(Foo:1 One:1 Exception:1)"  # without the veto, Leaver leaves


@pytest.mark.parametrize("name", ["LeaverExit", "AnyEnter"])
def test_a_veto_of_an_exit_or_of_any_enter_cancels_an_auto_mutation(name: str) -> None:
    calls: list[str] = []
    schema = {"Foo": {}, "Leaver": {}, "One": {"auto": True}, "Two": {"auto": True, "remove": ["Leaver"]}}
    mach = am.Machine(schema)

    def veto(e: am.Event) -> bool:
        calls.append(e.name)
        return not e.transition.is_auto

    mach.bind_handlers({name: veto})
    mach.add(["Foo", "Leaver"])
    assert name in calls
    assert str(mach) == "(Foo:1 Leaver:1)"


def test_a_veto_of_a_state_that_is_not_auto_cancels_an_auto_mutation() -> None:
    schema = {"Foo": {}, "One": {"auto": True}, "Two": {"auto": True, "add": ["Extra"]}, "Extra": {}}
    mach = am.Machine(schema, handlers=noting([], "ExtraEnter", veto=["ExtraEnter"]))
    mach.add1("Foo")
    assert str(mach) == "(Foo:1)"


def test_a_veto_to_stay_leaves_an_active_auto_state_as_it_is() -> None:
    allow: list[bool] = []
    mach = am.Machine({"Foo": {}, "Active": {"auto": True}, "One": {"auto": True}})
    mach.bind_handlers({"OneEnter": lambda e: bool(allow), "ActiveActive": lambda e: not e.transition.is_auto})
    mach.add1("Active")
    assert str(mach) == "(Active:1)"
    allow.append(True)
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 Active:1 One:1)"


# Handlers that fail.


def test_a_failing_negotiation_handler_of_an_auto_state_drops_it_and_is_an_error() -> None:
    mach = am.Machine({"Foo": {}, "One": {"auto": True}, "Two": {"auto": True}})

    def fail_once(e: am.Event) -> None:
        if not e.machine.err:
            raise Boom("boom")

    mach.bind_handlers({"OneEnter": fail_once})
    mach.add1("Foo")
    assert str(mach.err) == "boom"
    assert str(mach) == "(Foo:1 One:1 Two:1 Exception:1)"  # One came with the auto states after Exception


@pytest.mark.parametrize("name", ["ExceptionEnter", "FooException", "ExceptionException", "FooFoo", "AnyEnter"])
def test_a_failing_negotiation_handler_lets_exception_pass(name: str, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    ends = Ends()
    mach = am.Machine({"Foo": {}})
    mach.add1("Foo")
    mach.add_err(Boom("before"))
    caplog.clear()
    mach.bind_tracer(ends)
    mach.bind_handlers(noting(calls, name, fail=[name]))
    mach.bind_handlers(noting(calls, name), id="second")
    result = mach.add_err(Boom("first"))
    assert result.executed
    assert calls == [name, name]  # it passes: the next binding is asked, too
    assert mach.tick("Exception") == 3
    assert str(mach.err) == f"boom {name}"
    assert ends.accepted() == [(("Exception",), True)]
    (nested, first) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert nested.getMessage().startswith(f"{name} raised while this was handled:\n")
    assert "Boom: first" in nested.getMessage()
    assert nested.exc_info is not None
    assert str(nested.exc_info[1]) == f"boom {name}"
    assert first.getMessage() == "[error] Boom('first')"


# Slow handlers.


@pytest.mark.parametrize("name", ["FooEnter", "FooState"])
def test_a_handler_that_blocks_the_loop_is_reported_and_nothing_else(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mach = am.Machine({"Foo": {}}, handler_timeout=0.001)
    mach.bind_handlers({name: lambda e: time.sleep(0.003)}, id="sleepy")
    assert mach.add1("Foo").executed
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"[handler:slow] {name} of sleepy blocked the loop for ")
    assert record.getMessage().endswith("(handler_timeout is 0.001 s); do it in async work")


def test_no_handler_is_timed_without_a_timeout(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handler_timeout=None, handlers={"FooState": lambda e: time.sleep(0.003)})
    assert mach.add1("Foo").executed
    assert caplog.records == []


@pytest.mark.parametrize("handler", ["FooEnter", "FooState"])
def test_a_handler_within_its_time_is_not_reported(handler: str, caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handler_timeout=3600)
    mach.bind_handlers({handler: lambda e: None})
    assert mach.add1("Foo").executed
    assert caplog.records == []


class Stopwatch:
    """A clock that only moves when it is told to. It can be held as work, which takes five seconds to cancel."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float, then: object = None) -> Callable[[am.Event], object]:
        """Give a handler that takes its time, and then raises an error or answers."""

        def handler(e: am.Event) -> object:
            self.now += seconds
            if isinstance(then, BaseException):
                raise then
            return then

        return handler

    def cancel(self) -> None:
        self.now += 5.0


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    for module in ("calling", "executor"):
        monkeypatch.setattr(f"asyncmachine.{module}.perf_counter", watch)
    return watch


def slow(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the names of the handlers that were reported as slow."""
    return [text.split()[1] for text in caplog.messages if text.startswith("[handler:slow]")]


def test_a_slow_handler_is_reported_with_its_own_time_and_the_limit(
    caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch
) -> None:
    stopwatch.now = 100.0
    mach = am.Machine({"Foo": {}}, handler_timeout=1.0)
    mach.bind_handlers({"FooEnter": stopwatch.takes(1.0), "FooState": stopwatch.takes(2.5)})
    mach.add1("Foo")
    (text,) = caplog.messages
    assert "FooState of dict blocked the loop for 2.500 s (handler_timeout is 1.0 s)" in text


def test_time_that_cancelling_work_takes_is_no_handlers(caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch) -> None:
    mach = am.Machine({"Foo": {}}, handler_timeout=1.0, handlers={"FooExit": lambda e: None, "FooEnd": lambda e: None})
    mach.add1("Foo")
    mach._core.contexts.hold(mach.index1("Foo"), stopwatch)
    mach.remove1("Foo")
    assert stopwatch.now == 5.0
    assert caplog.messages == []


def test_time_that_cancelling_the_work_of_a_fallen_state_takes_is_no_handlers(
    caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch
) -> None:
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}}, handler_timeout=1.0)
    mach.add(["Base", "Top"])
    mach.bind_handlers({"BaseState": stopwatch.takes(0, Boom("boom")), "TopEnd": lambda e: None})
    mach._core.contexts.hold(mach.index1("Top"), stopwatch)
    mach.add1("Base")
    assert stopwatch.now == 5.0
    assert str(mach) == "(Exception:1)"
    assert slow(caplog) == []


@pytest.mark.parametrize(("err", "told"), [(Boom, ["BaseState"]), (KeyboardInterrupt, [])])
def test_the_time_of_a_handler_that_failed_is_not_that_of_the_ends_that_follow(
    err: type[BaseException], told: list[str], caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch
) -> None:
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}}, handler_timeout=1.0)
    mach.add(["Base", "Top"])
    mach.bind_handlers({"BaseState": stopwatch.takes(2.0, err()), "TopEnd": lambda e: None})
    with contextlib.suppress(KeyboardInterrupt):
        mach.add1("Base")
    assert not mach.any("Base", "Top")
    assert slow(caplog) == told


def test_time_that_reporting_a_slow_handler_takes_is_no_handlers(
    caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch
) -> None:
    class Sluggish(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            stopwatch.now += 5.0

    mach = am.Machine({"Foo": {}}, handler_timeout=1.0)
    mach.bind_handlers({"FooEnter": stopwatch.takes(2.0), "AnyEnter": lambda e: None, "FooState": lambda e: None})
    sluggish = Sluggish()
    mach.logger.addHandler(sluggish)
    mach.add1("Foo")
    mach.logger.removeHandler(sluggish)
    assert stopwatch.now == 7.0
    assert slow(caplog) == ["FooEnter"]


TIMED = {
    "Foo": {"remove": ["Bar"]},
    "Bar": {},
    "Base": {"multi": True},
    "Top": {"require": ["Base"]},
    "One": {"auto": True, "require": ["Foo"]},
}
TIMED_NAMES = [f"{state}{suffix}" for state in TIMED for suffix in ("Enter", "Exit", "State", "End")]
TIMED_NAMES += ["AnyEnter", "AnyState", "FooFoo", "BarFoo", "ExceptionState"]
seconds = st.sampled_from([0.0, 0.5, 1.5])
answers = st.sampled_from([None, None, None, True, False, "odd", Boom, KeyboardInterrupt])


class Ticking(am.Tracer):
    """Takes its time where no handler runs."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def take_time(self, transition: am.Transition[Any]) -> None:
        self.stopwatch.now += 2.0

    transition_init = transition_start = transition_finals = transition_end = take_time


@given(data=st.data(), is_traced=st.booleans())
def test_just_the_handlers_are_reported_that_took_too_long_themselves(data: st.DataObject, *, is_traced: bool) -> None:
    stopwatch, expected, told = Stopwatch(), [], []

    def handler(e: am.Event) -> object:
        took, answer = data.draw(seconds), data.draw(answers)
        stopwatch.now += took
        if answer is KeyboardInterrupt:
            raise KeyboardInterrupt
        if took > 1.0:
            expected.append(e.name)
        if answer is Boom:
            raise Boom(e.name)
        return answer

    class Slowly(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            stopwatch.now += 3.0
            if record.getMessage().startswith("[handler:slow]"):
                told.append(record.getMessage().split()[1])

    mach = am.Machine(TIMED, handler_timeout=1.0, handlers=dict.fromkeys(TIMED_NAMES, handler))
    if is_traced:
        mach.bind_tracer(Ticking(stopwatch))
    listener = Slowly()
    mach.logger.addHandler(listener)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("calling", "executor"):
            patch.setattr(f"asyncmachine.{module}.perf_counter", stopwatch)
        for _ in range(6):
            work = data.draw(st.sampled_from(list(TIMED)))
            mach._core.contexts.hold(mach.index1(work), stopwatch)
            states = data.draw(st.lists(st.sampled_from(list(TIMED)), min_size=1, max_size=3))
            with contextlib.suppress(KeyboardInterrupt):
                getattr(mach, data.draw(st.sampled_from(["add", "remove", "set"])))(states)
            stopwatch.now += 2.0
    mach.logger.removeHandler(listener)
    assert told == expected


def test_a_slow_handler_is_reported_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine({"Foo": {}}, id="slow", handler_timeout=0.001)
    machine.bind_handlers({"FooEnter": lambda e: time.sleep(0.002), "FooState": lambda e: None}, id="Handlers")
    machine.add1("Foo")
    record = caplog.records[0]
    assert record.name == "asyncmachine.slow"
    assert record.levelno == logging.WARNING
    said = re.fullmatch(
        r"\[handler:slow\] FooEnter of Handlers blocked the loop for (\d+\.\d+) s "
        r"\(handler_timeout is 0\.001 s\); do it in async work",
        record.getMessage(),
    )
    assert said is not None
    assert float(said[1]) >= 0.002


def test_a_slow_handler_that_raises_is_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    def slow(e: am.Event) -> None:
        time.sleep(0.002)
        raise ValueError("and it fails")

    machine = am.Machine({"Foo": {}}, handler_timeout=0.001)
    machine.bind_handlers({"FooState": slow}, id="Handlers")
    machine.add1("Foo")
    assert caplog.messages[0].startswith("[handler:slow] FooState of Handlers blocked the loop")
    assert machine.is_err


@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_slow_handler_is_not_reported_where_that_is_fine(
    caplog: pytest.LogCaptureFixture, timeout: float | None
) -> None:
    machine = am.Machine({"Foo": {}}, handler_timeout=timeout, handlers={"FooState": lambda e: time.sleep(0.002)})
    machine.add1("Foo")
    assert caplog.records == []
