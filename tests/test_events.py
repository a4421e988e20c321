"""The event: what a handler is given, what it knows, and the work it starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest
from conftest import turns

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {"Foo": {}, "Bar": {}, "Quux": {}}


@dataclass
class Conn:
    addr: str
    port: int = 80


def test_an_event_says_which_handler_where_and_why() -> None:
    events: list[am.Event] = []
    mach = am.Machine(SCHEMA)
    mach.add1("Bar")
    mach.bind_handlers(dict.fromkeys(["FooEnter", "BarFoo", "AnyEnter", "FooState"], events.append))
    mach.add1("Foo", {"id": 7})
    assert [event.name for event in events] == ["FooEnter", "BarFoo", "AnyEnter", "FooState"]
    assert [event.state for event in events] == ["Foo", "Foo", "Any", "Foo"]
    for event in events:
        assert isinstance(event, am.Event)
        assert event.machine is mach
        assert event.args == {"id": 7}
        assert event.transition.called_states == ("Foo",)
        assert event.mutation is event.transition.mutation
        assert event.mutation.called == ("Foo",)
    assert len({id(event.transition) for event in events}) == 1


def test_typed_args_come_back_as_their_class_and_as_a_mapping() -> None:
    seen: list[object] = []
    mach = am.Machine(SCHEMA, handlers={"FooState": lambda e: seen.extend([e.arg(Conn), dict(e.args)])})
    given = Conn(":5555")
    mach.add1("Foo", given)
    assert seen[0] is given
    assert seen[1] == {"addr": ":5555", "port": 80}


def test_typed_args_that_were_not_given_are_missed() -> None:
    mach = am.Machine(SCHEMA, handlers={"FooState": lambda e: e.arg(Conn)})
    mach.add1("Foo", {"addr": ":5555"})
    assert isinstance(mach.err, am.ArgsError)
    assert str(mach.err) == (
        "this mutation carries no Conn, but a mapping with ['addr']; pass it along: mach.add(['Foo'], Conn(...))"
    )


def test_args_are_an_empty_mapping_without_any() -> None:
    seen: list[object] = []
    mach = am.Machine(SCHEMA, handlers={"FooState": lambda e: seen.append(e.args)})
    mach.add1("Foo")
    assert seen == [{}]


def test_an_event_is_valid_while_its_own_transition_runs() -> None:
    events: list[am.Event] = []
    valid: list[tuple[str, bool]] = []
    mach = am.Machine(SCHEMA)

    def look(e: am.Event) -> None:
        events.append(e)
        valid.append((e.name, events[0].is_valid))
        if e.name == "FooState":
            mach.add1("Bar")

    mach.bind_handlers(dict.fromkeys(["FooEnter", "FooState", "BarState"], look))
    mach.add1("Foo")
    assert valid == [("FooEnter", True), ("FooState", True), ("BarState", False)]
    assert not any(event.is_valid for event in events)


def test_an_event_is_not_valid_once_its_transition_is_canceled() -> None:
    valid: dict[str, bool] = {}
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}})
    mach.add(["Base", "Top"])

    def fail(e: am.Event) -> None:
        valid[e.name] = e.is_valid
        raise ValueError("fails")

    def end(e: am.Event) -> None:
        valid[e.name] = e.is_valid

    mach.bind_handlers({"BaseState": fail, "TopEnd": end})
    mach.add1("Base")
    assert valid == {"BaseState": True, "TopEnd": False}


def test_the_repr_of_an_event_names_handler_and_transition() -> None:
    seen: list[str] = []
    mach = am.Machine(SCHEMA, handlers={"FooEnter": lambda e: seen.append(repr(e))})
    mach.add(["Foo", "Bar"])
    assert seen == ["<Event FooEnter of <Transition 1.1 [add] Foo Bar>>"]


async def test_an_event_forks_under_the_context_of_its_state() -> None:
    ended: list[str] = []
    forked: list[am.Work] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with am.Machine(SCHEMA) as mach:
        mach.bind_handlers(dict.fromkeys(["FooState", "AnyState"], lambda e: forked.append(e.fork(work, e.name))))
        mach.add1("Foo")
        await turns()
        assert [each.done() for each in forked] == [False, False]
        mach.detach_handlers("dict")
        mach.remove1("Foo")
        await turns()
        assert ended == ["FooState"]
        assert [each.done() for each in forked] == [True, False]
    assert ended == ["FooState", "AnyState"]


async def test_an_event_forks_with_a_delay_and_a_limit() -> None:
    started: list[int] = []
    release = asyncio.Event()

    async def work(number: int) -> None:
        started.append(number)
        await release.wait()

    def fork_three(e: am.Event) -> None:
        for number in range(3):
            e.fork(work, number, limit=1)
        e.fork(work, 99, delay=3600)

    async with am.Machine(SCHEMA, handlers={"FooState": fork_three}) as mach:
        mach.add1("Foo")
        await turns()
        assert started == [0]
        release.set()
        await turns(8)
        assert started == [0, 1, 2]


@pytest.mark.parametrize(("after", "lives"), [((), True), (("Foo",), False), (("Foo", "+Foo"), False)])
async def test_an_event_of_a_state_that_was_left_forks_no_more(after: tuple[str, ...], *, lives: bool) -> None:
    events: list[am.Event] = []
    async with am.Machine({"Foo": {}}, handlers={"FooState": events.append}) as mach:
        mach.add1("Foo")
        for name in after:
            mach.add1("Foo") if name.startswith("+") else mach.remove1(name)
        work = events[0].fork(anyio.sleep_forever)
        await turns()
        assert work.done() != lives
        assert len(mach._core.works) == int(lives)


async def test_an_event_of_a_multi_state_forks_until_it_is_left() -> None:
    events: list[am.Event] = []
    async with am.Machine({"Foo": {"multi": True}}, handlers={"FooState": events.append}) as mach:
        mach.add1("Foo")
        mach.add1("Foo")
        assert not events[0].fork(anyio.sleep_forever).done()
        mach.remove1("Foo")
        assert events[0].fork(anyio.sleep_forever).done()


async def test_an_event_of_a_states_end_forks_whatever_comes_after() -> None:
    events: list[am.Event] = []
    async with am.Machine({"Foo": {}}, handlers={"FooEnd": events.append}) as mach:
        mach.add1("Foo")
        mach.remove1("Foo")
        mach.add1("Foo")
        assert not events[0].fork(anyio.sleep_forever).done()


async def test_an_event_of_a_state_that_was_left_refuses_what_is_no_function_as_well() -> None:
    events: list[am.Event] = []
    async with am.Machine({"Foo": {}}, handlers={"FooState": events.append}) as mach:
        mach.add1("Foo")
        mach.remove1("Foo")
        with pytest.raises(am.HandlerError, match="fork takes a function"):
            events[0].fork(anyio.lowlevel.checkpoint())  # type: ignore[arg-type]
