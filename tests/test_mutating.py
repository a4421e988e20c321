"""The mutations of a machine: what they take, what they ask for, and what they give back."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

EXECUTED, CANCELED = am.Result.EXECUTED, am.Result.CANCELED
NAMES = ("Foo", "Bar", "Baz")


@dataclass
class Conn:
    """Typed args."""

    addr: str


class Recorder(am.Tracer):
    """Notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[am.Mutation] = []

    def mutation_queued(self, machine: am.MachineApi, mutation: am.Mutation) -> None:
        self.asked.append(mutation)

    def all(self) -> list[tuple[str, tuple[str, ...], dict[str, Any]]]:
        return [(str(mutation.type), mutation.called, dict(mutation.args)) for mutation in self.asked]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def mach(recorder: Recorder) -> am.Machine:
    return am.Machine({"Foo": {}, "Bar": {}, "Baz": {}, "Err": {"require": ["Exception"]}}, tracers=[recorder])


# Names, in whichever way they come.


@pytest.mark.parametrize("kind", ["add", "remove", "set", "toggle", "can_add", "can_remove"])
@pytest.mark.parametrize(
    "names",
    [
        ("Foo", "Bar", "Baz"),
        (["Foo", "Bar", "Baz"],),
        (("Foo", "Bar", "Baz"),),
        ({"Foo": 1, "Bar": 2, "Baz": 3},),
        (["Foo"], "Bar", "Baz"),
        ("Foo", "Bar", "Foo", "Baz", "Bar"),
        (["Foo", "Foo", "Bar", "Baz", "Baz"],),
    ],
)
def test_names_come_one_by_one_or_as_any_iterable_and_count_once(
    mach: am.Machine, recorder: Recorder, kind: str, names: tuple[Any, ...]
) -> None:
    getattr(mach, kind)(*names)
    (mutation,) = recorder.asked
    assert mutation.called == ("Foo", "Bar", "Baz")
    assert mutation.args == {}
    assert mutation.is_check == kind.startswith("can_")


@pytest.mark.parametrize("kind", ["add", "remove", "set", "toggle", "can_add", "can_remove"])
def test_names_may_come_from_a_generator(mach: am.Machine, recorder: Recorder, kind: str) -> None:
    getattr(mach, kind)(name for name in ("Foo", "Bar"))
    getattr(mach, kind)((name for name in ("Baz",)), {"id": 1})
    assert [mutation.called for mutation in recorder.asked] == [("Foo", "Bar"), ("Baz",)]
    assert recorder.asked[1].args == {"id": 1}


@pytest.mark.parametrize("kind", ["add", "remove", "set", "toggle", "can_add", "can_remove"])
def test_one_name_needs_no_list_and_is_not_its_letters(mach: am.Machine, recorder: Recorder, kind: str) -> None:
    getattr(mach, kind)("Foo")
    getattr(mach, kind)("Foo", {"id": 1})
    assert [mutation.called for mutation in recorder.asked] == [("Foo",), ("Foo",)]


@pytest.mark.parametrize("kind", ["add1", "remove1", "toggle1", "can_add1", "can_remove1"])
def test_the_forms_for_one_state_take_one_name(mach: am.Machine, recorder: Recorder, kind: str) -> None:
    assert getattr(mach, kind)("Foo") == EXECUTED
    assert getattr(mach, kind)("Bar", {"id": 1}) == EXECUTED
    assert [(mutation.called, dict(mutation.args)) for mutation in recorder.asked] == [
        (("Foo",), {}),
        (("Bar",), {"id": 1}),
    ]


def test_no_names_at_all_are_a_mutation_of_nothing(mach: am.Machine) -> None:
    mach.add1("Foo")
    assert mach.add([]) == EXECUTED
    assert mach.remove(()) == EXECUTED
    assert mach.can_add([]) == EXECUTED
    assert str(mach) == "(Foo:1)"
    assert mach.set([]) == EXECUTED
    assert str(mach) == "()"


@pytest.mark.parametrize(
    "ask",
    [
        lambda mach: mach.add("Foo", "Barr"),
        lambda mach: mach.add1("Barr"),
        lambda mach: mach.remove(["Barr"]),
        lambda mach: mach.remove1("Barr"),
        lambda mach: mach.set(["Foo", "Barr"]),
        lambda mach: mach.toggle("Barr", "Foo"),
        lambda mach: mach.toggle1("Barr"),
        lambda mach: mach.add_err_state("Barr", ValueError()),
        lambda mach: mach.can_add(["Barr"]),
        lambda mach: mach.can_add1("Barr"),
        lambda mach: mach.can_remove("Foo", "Barr"),
        lambda mach: mach.can_remove1("Barr"),
    ],
)
def test_an_unknown_name_raises_with_the_closest_and_changes_nothing(
    mach: am.Machine, recorder: Recorder, ask: Callable[[am.Machine], object]
) -> None:
    with pytest.raises(am.UnknownStateError, match="'Barr' is no state of this machine; did you mean 'Bar'") as caught:
        ask(mach)
    assert caught.value.state == "Barr"
    assert recorder.asked == []
    assert (mach.time(), mach.queue_tick, mach.err) == ((0, 0, 0, 0, 0), 1, None)


# What is asked for.


def test_add_activates(mach: am.Machine) -> None:
    assert mach.add(["Foo", "Bar"]) == EXECUTED
    assert mach.add1("Baz") == EXECUTED
    assert str(mach) == "(Foo:1 Bar:1 Baz:1)"


def test_remove_deactivates(mach: am.Machine) -> None:
    mach.add(NAMES)
    assert mach.remove(["Foo", "Bar"]) == EXECUTED
    assert mach.remove1("Foo") == EXECUTED  # it is not active, which is what was asked for
    assert str(mach) == "(Baz:1)"


def test_set_makes_states_the_only_active_ones(mach: am.Machine) -> None:
    mach.add(["Foo", "Bar"])
    assert mach.set(["Bar", "Baz"]) == EXECUTED
    assert str(mach) == "(Bar:1 Baz:1)"


def test_toggle_removes_if_all_are_active_else_adds(mach: am.Machine, recorder: Recorder) -> None:
    mach.add1("Foo")
    assert mach.toggle("Foo", "Bar") == EXECUTED
    assert str(mach) == "(Foo:1 Bar:1)"
    assert mach.toggle(["Foo", "Bar"], {"id": 1}) == EXECUTED
    assert str(mach) == "()"
    assert recorder.all()[1:] == [("add", ("Foo", "Bar"), {}), ("remove", ("Foo", "Bar"), {"id": 1})]


def test_toggle1_goes_back_and_forth(mach: am.Machine, recorder: Recorder) -> None:
    for tick in (1, 2, 3):
        assert mach.toggle1("Foo", {"tick": tick}) == EXECUTED
        assert mach.tick("Foo") == tick
    assert recorder.all() == [
        ("add", ("Foo",), {"tick": 1}),
        ("remove", ("Foo",), {"tick": 2}),
        ("add", ("Foo",), {"tick": 3}),
    ]


def test_checks_ask_relations_and_handlers_and_change_nothing() -> None:
    calls: list[str] = []

    class Handlers:
        def FooEnter(self, e: am.Event) -> bool:
            calls.append(e.name)
            return bool(e.args.get("may"))

        def FooState(self, e: am.Event) -> None:
            calls.append(e.name)

        def BarExit(self, e: am.Event) -> bool:
            calls.append(e.name)
            return False

    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {"require": ["Foo"]}}, handlers=Handlers())
    mach.add1("Bar")
    time, tick = mach.time(), mach.queue_tick
    assert mach.can_add1("Foo", {"may": True}) == EXECUTED
    assert mach.can_add(["Foo"], {"may": True}) == EXECUTED
    assert mach.can_add1("Foo").reason == "vetoed by FooEnter of Handlers"
    assert mach.can_add("Foo", "Baz").reason == "vetoed by FooEnter of Handlers"
    assert mach.can_add1("Baz").reason == "Baz requires Foo"
    assert mach.can_remove1("Bar").reason == "vetoed by BarExit of Handlers"
    assert mach.can_remove(["Bar", "Foo"]).canceled
    assert mach.can_remove1("Foo") == EXECUTED
    assert calls == ["FooEnter"] * 4 + ["BarExit"] * 2
    assert (mach.time(), mach.queue_tick) == (time, tick)


# Args.


@pytest.mark.parametrize("args", [{"id": 1}, MappingProxyType({"id": 1}), OrderedDict(id=1)])
def test_args_may_be_any_mapping(mach: am.Machine, recorder: Recorder, args: Any) -> None:
    assert mach.add1("Foo", args) == EXECUTED
    assert mach.add(["Bar"], args) == EXECUTED
    assert [mutation.args for mutation in recorder.asked] == [{"id": 1}, {"id": 1}]


def test_args_may_be_one_typed_instance(mach: am.Machine, recorder: Recorder) -> None:
    for ask in (mach.add, mach.remove, mach.set, mach.toggle, mach.can_add, mach.can_remove):
        assert ask(["Foo"], Conn(":5555")) == EXECUTED
    for ask1 in (mach.add1, mach.remove1, mach.toggle1, mach.can_add1, mach.can_remove1):
        assert ask1("Foo", Conn(":5555")) == EXECUTED
    assert len(recorder.asked) == 11
    assert all(mutation.arg(Conn) == Conn(":5555") for mutation in recorder.asked)


def test_args_may_be_named(mach: am.Machine, recorder: Recorder) -> None:
    mach.add("Foo", args={"id": 1})
    mach.toggle1("Foo", args={"id": 2})
    assert [mutation.args for mutation in recorder.asked] == [{"id": 1}, {"id": 2}]


WRONG = r"args are a mapping or one instance of a dataclass, attrs, msgspec or pydantic class, not .*; write "


@pytest.mark.parametrize("args", [5, ["Bar"], object(), Conn, ("Bar", 1)])
def test_args_of_another_kind_are_refused(mach: am.Machine, recorder: Recorder, args: Any) -> None:
    for ask in (mach.add, mach.remove, mach.set, mach.toggle, mach.can_add, mach.can_remove):
        with pytest.raises(am.ArgsError, match=WRONG):
            ask(["Foo"], args)
    for ask1 in (mach.add1, mach.remove1, mach.toggle1, mach.can_add1, mach.can_remove1):
        with pytest.raises(am.ArgsError, match=WRONG):
            ask1("Foo", args)
    with pytest.raises(am.ArgsError, match=WRONG):
        mach.add_err(ValueError(), args)
    assert recorder.asked == []


def test_a_form_for_one_state_takes_a_second_name_for_wrong_args(mach: am.Machine, recorder: Recorder) -> None:
    for ask1 in (mach.add1, mach.remove1, mach.toggle1, mach.can_add1, mach.can_remove1):
        with pytest.raises(am.ArgsError, match="not 'Bar'"):
            ask1("Foo", "Bar")
    assert recorder.asked == []


@pytest.mark.parametrize("kind", ["add", "remove", "set", "toggle", "can_add", "can_remove"])
def test_names_one_by_one_do_not_go_with_args(mach: am.Machine, recorder: Recorder, kind: str) -> None:
    with pytest.raises(am.ArgsError, match=r"names after args mean nothing; write \['Foo', 'Bar'\] as one list"):
        getattr(mach, kind)("Foo", {"id": 1}, "Bar")
    with pytest.raises(am.ArgsError, match=r"write \['Foo', 'Bar', 'Baz'\] as one list, and then the args"):
        getattr(mach, kind)(["Foo", "Bar"], None, "Baz")
    with pytest.raises(am.ArgsError, match=r"write \['Foo', 'Bar'\], and then {'id': 1}"):
        getattr(mach, kind)("Foo", "Bar", {"id": 1})
    assert recorder.asked == []


# Errors.


def test_add_err_adds_exception_with_the_error() -> None:
    seen: list[am.ExceptionArgs] = []
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers({"ExceptionState": lambda e: seen.append(e.arg(am.ExceptionArgs))})
    err = ValueError("no fuel")
    assert mach.add_err(err, {"id": 1}) == EXECUTED
    assert mach.is_err
    assert mach.err is err
    assert [(args.err, args.handler) for args in seen] == [(err, None)]


def test_add_err_state_adds_both(mach: am.Machine, recorder: Recorder) -> None:
    err = OSError("unreachable")
    mach.bind_handlers({"ExceptionState": lambda e: None})
    assert mach.add_err_state("Err", err, {"id": 1}) == EXECUTED
    assert str(mach) == "(Err:1 Exception:1)"
    (mutation,) = recorder.asked
    assert mutation.called == ("Err", "Exception")
    assert mutation.args["id"] == 1
    assert mutation.arg(am.ExceptionArgs).err is err


def test_add_err_state_of_exception_itself_calls_it_once(mach: am.Machine, recorder: Recorder) -> None:
    mach.bind_handlers({"ExceptionState": lambda e: None})
    mach.add_err_state("Exception", ValueError())
    assert [mutation.called for mutation in recorder.asked] == [("Exception",)]
    assert mach.tick("Exception") == 1


@pytest.mark.parametrize("err", [None, asyncio.CancelledError()])
def test_no_error_and_a_cancellation_do_nothing(mach: am.Machine, recorder: Recorder, err: Any) -> None:
    for result in (mach.add_err(err), mach.add_err_state("Err", err)):
        assert result == CANCELED
        assert result.reason == "no error was given"
    assert recorder.asked == []
    assert mach.err is None


@pytest.mark.parametrize(
    ("err", "right"), [("no fuel", "ValueError('no fuel')"), (5, "ValueError(5)"), (OSError, "OSError(...)")]
)
def test_what_is_no_error_cannot_be_added(mach: am.Machine, recorder: Recorder, err: Any, right: str) -> None:
    text = f"an error is an instance of an exception class, not {err!r}; write {right}"
    with pytest.raises(am.ArgsError, match=re.escape(text)):
        mach.add_err(err)
    with pytest.raises(am.ArgsError, match="an error is an instance of an exception class"):
        mach.add_err_state("Err", err)
    assert recorder.asked == []


def test_an_error_may_be_no_exception_of_a_program(mach: am.Machine) -> None:
    mach.bind_handlers({"ExceptionState": lambda e: None})
    err = KeyboardInterrupt()
    assert mach.add_err(err) == EXECUTED
    assert mach.err is err


def test_an_error_nobody_handles_is_logged(mach: am.Machine, caplog: pytest.LogCaptureFixture) -> None:
    mach.add_err(ValueError("no fuel"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "no fuel" in record.getMessage()


# Where they come from.


def test_a_source_may_be_given(mach: am.Machine, recorder: Recorder) -> None:
    source = am.Source("other", "1.7", 42)
    mach.bind_handlers({"ExceptionState": lambda e: None})
    asked: list[Callable[..., am.Result]] = [
        mach.add,
        mach.remove,
        mach.set,
        mach.toggle,
        mach.can_add,
        mach.can_remove,
    ]
    asked += [mach.add1, mach.remove1, mach.toggle1, mach.can_add1, mach.can_remove1]
    for ask in asked:
        ask("Foo", source=source)
    mach.add_err(ValueError(), source=source)
    mach.add_err_state("Err", ValueError(), source=source)
    assert len(recorder.asked) == 13
    assert all(mutation.source is source for mutation in recorder.asked)


def test_a_mutation_from_outside_has_no_source(mach: am.Machine, recorder: Recorder) -> None:
    mach.add1("Foo")
    assert recorder.asked[0].source is None


def test_a_mutation_of_a_handler_finds_its_source_by_itself(mach: am.Machine, recorder: Recorder) -> None:
    sources: list[am.Source] = []

    @mach.on.state("Foo")
    def more(e: am.Event) -> None:
        mach.add1("Bar")
        sources.append(am.Source(mach.id, e.transition.id, e.transition.time_before.sum()))

    mach.add1("Baz")
    mach.add1("Foo")
    assert recorder.asked[-1].called == ("Bar",)
    assert [recorder.asked[-1].source] == sources


# After the end.


def test_a_disposed_machine_cancels_every_mutation(mach: am.Machine, recorder: Recorder) -> None:
    mach.dispose()
    results = [
        ask("Foo", "Bar") for ask in (mach.add, mach.remove, mach.set, mach.toggle, mach.can_add, mach.can_remove)
    ]
    results += [ask1("Foo") for ask1 in (mach.add1, mach.remove1, mach.toggle1, mach.can_add1, mach.can_remove1)]
    results += [mach.add_err(ValueError()), mach.add_err_state("Err", ValueError())]
    assert len(results) == 13
    assert all(result == CANCELED and result.reason == "disposed" for result in results)
    assert recorder.asked == []
    assert mach.err is None


# Laws.


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "set", "toggle"]),
            st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
            st.sampled_from(["one by one", "list", "tuple", "generator", "one list and more"]),
        )
    )
)
def test_how_names_are_given_makes_no_difference(asked: list[tuple[str, list[str], str]]) -> None:
    plain, other = am.Machine({name: {} for name in NAMES}), am.Machine({name: {} for name in NAMES})
    for kind, names, way in asked:
        given_as: dict[str, tuple[Any, ...]] = {
            "one by one": tuple(names),
            "list": (names,),
            "tuple": (tuple(names),),
            "generator": ((name for name in names),),
            "one list and more": (names[:1], *names[1:]),
        }
        assert getattr(plain, kind)(list(dict.fromkeys(names))) == getattr(other, kind)(*given_as[way])
        assert (plain.time(), plain.active_states()) == (other.time(), other.active_states())
