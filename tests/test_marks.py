"""Marks: `am.on` on methods and `mach.on` on functions, beside names."""

from __future__ import annotations

import asyncio

import pytest
from conftest import turns
from noting import Noting, nothing

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {"Foo": {}, "Bar": {}, "Quux": {}}


def test_marks_make_handlers_of_methods_of_any_name() -> None:
    class Handlers(Noting):
        @am.on.enter("Foo", "Bar")
        def may_enter(self, e: am.Event) -> bool:
            self.calls.append(f"may_enter as {e.name}")
            return True

        @am.on.exit("Foo")
        def may_leave(self, e: am.Event) -> bool:
            self.calls.append(f"may_leave as {e.name}")
            return True

        @am.on.state("Foo")
        @am.on.end("Foo", "Bar")
        def changed(self, e: am.Event) -> None:
            self.calls.append(f"changed as {e.name}")

        @am.on.both("Foo", "Bar")
        def together(self, e: am.Event) -> bool:
            self.calls.append(f"together as {e.name}")
            return True

        @am.on.both("Foo", "Foo")
        def stay(self, e: am.Event) -> bool:
            self.calls.append(f"stay as {e.name}")
            return True

        @am.on.enter("Any")
        @am.on.state("Any")
        def always(self, e: am.Event) -> None:
            self.calls.append(f"always as {e.name}")

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    mach.add1("Foo")
    assert handlers.calls == [
        "may_enter as FooEnter",
        "always as AnyEnter",
        "changed as FooState",
        "always as AnyState",
    ]
    handlers.calls.clear()
    mach.add1("Bar")
    assert handlers.calls == [
        "may_enter as BarEnter",
        "stay as FooFoo",
        "together as FooBar",
        "always as AnyEnter",
        "always as AnyState",
    ]
    handlers.calls.clear()
    mach.remove(["Bar", "Foo"])
    ended = ["changed as BarEnd", "changed as FooEnd"]
    assert handlers.calls[:2] == ["may_leave as FooExit", "always as AnyEnter"]
    assert sorted(handlers.calls[2:4]) == ended


def test_a_method_both_marked_and_named_is_called_once() -> None:
    class Handlers(Noting):
        @am.on.state("Foo", "Foo")
        @am.on.state("Foo", "Bar")
        def FooState(self, e: am.Event) -> None:
            self.calls.append(e.name)

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    mach.add1("Foo")
    mach.add1("Bar")
    assert handlers.calls == ["FooState", "BarState"]


def test_marks_may_stand_above_and_below_staticmethod_and_classmethod() -> None:
    calls: list[str] = []

    class Handlers:
        @am.on.state("Foo")
        @staticmethod
        def above_static(e: am.Event) -> None:
            calls.append("above_static")

        @staticmethod
        @am.on.state("Foo")
        def below_static(e: am.Event) -> None:
            calls.append("below_static")

        @am.on.state("Foo")
        @classmethod
        def above_class(cls, e: am.Event) -> None:
            calls.append("above_class")

        @classmethod
        @am.on.state("Foo")
        def below_class(cls, e: am.Event) -> None:
            calls.append("below_class")

    am.Machine(SCHEMA, handlers=Handlers()).add1("Foo")
    assert calls == ["above_static", "below_static", "above_class", "below_class"]


def test_marked_methods_are_inherited() -> None:
    class Base(Noting):
        @am.on.state("Foo")
        def inherited(self, e: am.Event) -> None:
            self.calls.append("inherited")

    class Handlers(Base):
        pass

    handlers = Handlers()
    am.Machine(SCHEMA, handlers=handlers).add1("Foo")
    assert handlers.calls == ["inherited"]


def test_marks_hold_whatever_the_prefix_and_without_strict() -> None:
    class Handlers(Noting):
        @am.on.state("Foo")
        def marked(self, e: am.Event) -> None:
            self.calls.append("marked")

    handlers = Handlers()
    mach = am.Machine(SCHEMA)
    mach.bind_handlers(handlers, prefix="door_", strict=False)
    mach.add1("Foo")
    assert handlers.calls == ["marked"]


def test_a_mark_leaves_the_function_as_it_is() -> None:
    def plain(e: am.Event) -> str:
        return "as ever"

    assert am.on.state("Foo")(plain) is plain
    mach = am.Machine(SCHEMA)
    assert mach.on.state("Foo")(plain) is plain


async def test_a_limit_bounds_how_many_runs_of_an_async_handler_are_at_work() -> None:
    running: list[object] = []
    release = asyncio.Event()

    class Handlers:
        @am.on.state("Multi", limit=2)
        async def MultiState(self, e: am.Event) -> None:
            running.append(e.args["number"])
            await release.wait()
            running.remove(e.args["number"])

    async with am.Machine({"Multi": {"multi": True}}, handlers=Handlers()) as mach:
        for number in range(4):
            mach.add1("Multi", {"number": number})
        await turns()
        assert running == [0, 1]
        release.set()
        await turns()
        assert running == []


async def test_a_limit_holds_on_while_handlers_are_bound_and_detached_and_the_schema_grows() -> None:
    running: list[object] = []

    class Handlers:
        @am.on.state("Multi", limit=1)
        async def work(self, e: am.Event) -> None:
            running.append(e.args["number"])
            await asyncio.Event().wait()

    async with am.Machine({"Multi": {"multi": True}}, handlers=Handlers()) as mach:
        mach.add1("Multi", {"number": 0})
        bound = mach.bind_handlers({"MultiEnd": nothing})
        mach.add1("Multi", {"number": 1})
        mach.detach_handlers(bound)
        mach.add1("Multi", {"number": 2})
        mach.set_schema({"Multi": {"multi": True}, "Exception": {"multi": True}, "More": {}})
        mach.add1("Multi", {"number": 3})
        await turns()
        assert running == [0]


def test_a_machine_binds_plain_functions_by_marks() -> None:
    calls: list[str] = []
    mach = am.Machine(SCHEMA)

    @mach.on.enter("Foo", "Bar", "Foo")
    def may_enter(e: am.Event) -> bool:
        calls.append(f"may_enter as {e.name}")
        return e.name == "FooEnter"

    @mach.on.state("Foo")
    def entered(e: am.Event) -> None:
        calls.append(f"entered as {e.name}")

    assert mach.add1("Foo").executed
    assert mach.add1("Bar").canceled
    assert calls == ["may_enter as FooEnter", "entered as FooState", "may_enter as BarEnter"]
    assert mach.handlers == ("may_enter", "entered")
    mach.detach_handlers("may_enter")
    assert mach.add1("Bar").executed


@pytest.mark.parametrize("mark", ["enter", "exit", "state", "end"])
def test_a_mark_without_states_is_refused(mark: str) -> None:
    text = 'name the states of the handler: @am.on.enter\\("Foo"\\)'
    with pytest.raises(am.HandlerError, match=text):
        getattr(am.on, mark)()
    with pytest.raises(am.HandlerError, match=text):
        getattr(am.on, mark)(nothing)  # the parentheses were forgotten


def test_a_mark_on_a_machine_names_its_states() -> None:
    mach = am.Machine(SCHEMA)
    with pytest.raises(am.HandlerError, match=r"FoooEnter of nothing is no handler.*; mark it with names.* 'FooEnter'"):
        mach.on.enter("Fooo")(nothing)
    assert mach.handlers == ()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(am.HandlerError, match=f"limit is how many may run at once, 1 or more, not {limit}"):
        am.on.state("Foo", limit=limit)
