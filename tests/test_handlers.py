"""Handlers: how they are found on any object and in a mapping, and what is refused when they are bound."""

# ruff: noqa: N815 - handlers behind a prefix are named as users name them

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
from conftest import turns
from noting import Noting, nothing
from typing_extensions import override

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {"Foo": {}, "Bar": {}, "Quux": {}}


# By name on an object.


def test_handlers_are_found_by_name_with_every_suffix_and_for_pairs() -> None:
    class Handlers(Noting):
        FooEnter = FooExit = FooState = FooEnd = BarFoo = BarBar = AnyEnter = AnyState = Noting.note

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    mach.add1("Bar")
    handlers.calls.clear()
    mach.add1("Foo")
    assert handlers.calls == ["FooEnter", "BarBar", "BarFoo", "AnyEnter", "FooState", "AnyState"]
    handlers.calls.clear()
    mach.remove1("Foo")
    assert handlers.calls == ["FooExit", "AnyEnter", "FooEnd", "AnyState"]


def test_inherited_methods_are_handlers_and_overridden_ones_are_called_once() -> None:
    class Base(Noting):
        def FooState(self, e: am.Event) -> None:
            self.calls.append("Base.FooState")

        def BarState(self, e: am.Event) -> None:
            self.calls.append("Base.BarState")

    class Mixin:
        calls: list[str]

        def QuuxState(self, e: am.Event) -> None:
            self.calls.append("Mixin.QuuxState")

    class Handlers(Base, Mixin):
        @override
        def FooState(self, e: am.Event) -> None:
            self.calls.append("FooState")
            super().FooState(e)

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    for state in SCHEMA:
        mach.add1(state)
    assert handlers.calls == ["FooState", "Base.FooState", "Base.BarState", "Mixin.QuuxState"]


def test_static_class_and_partial_methods_and_callable_objects_are_handlers() -> None:
    calls: list[str] = []

    class Caller:
        def __call__(self, e: am.Event) -> None:
            calls.append(e.name)

    class Handlers:
        @staticmethod
        def FooState(e: am.Event) -> None:
            calls.append(e.name)

        @classmethod
        def BarState(cls, e: am.Event) -> None:
            calls.append(f"{e.name} of {cls.__name__}")

        def count(self, number: int, e: am.Event) -> None:
            calls.append(f"{e.name} {number}")

        QuuxState = functools.partialmethod(count, 3)
        FooEnd = Caller()
        BarEnd = staticmethod(functools.partial(lambda word, e: calls.append(f"{e.name} {word}"), "partial"))

    mach = am.Machine(SCHEMA, handlers=Handlers())
    mach.add(["Foo", "Bar", "Quux"])
    assert sorted(calls) == ["BarState of Handlers", "FooState", "QuuxState 3"]
    calls.clear()
    mach.remove(["Foo", "Bar"])
    assert sorted(calls) == ["BarEnd partial", "FooEnd"]


def test_functions_set_on_an_instance_are_handlers() -> None:
    calls: list[str] = []
    handlers = types.SimpleNamespace(FooState=lambda e: calls.append(e.name), FooData="no function", BarState=None)
    mach = am.Machine(SCHEMA, handlers=handlers)
    mach.add(["Foo", "Bar"])
    assert calls == ["FooState"]
    assert mach.handlers == ("SimpleNamespace",)


def test_objects_with_slots_are_searched_too() -> None:
    class Slotted:
        __slots__ = ("calls",)

        def __init__(self) -> None:
            self.calls: list[str] = []

        def FooState(self, e: am.Event) -> None:
            self.calls.append(e.name)

    handlers = Slotted()
    am.Machine(SCHEMA, handlers=handlers).add1("Foo")
    assert handlers.calls == ["FooState"]


def test_the_functions_of_a_module_are_handlers_and_its_classes_are_not() -> None:
    calls: list[str] = []
    module = types.ModuleType("my_handlers")
    module.FooState = lambda e: calls.append(e.name)  # type: ignore[attr-defined]
    module.BarState = type("BarState", (), {})  # type: ignore[attr-defined]
    mach = am.Machine(SCHEMA, handlers=module)
    mach.add(["Foo", "Bar"])
    assert calls == ["FooState"]


def test_properties_are_not_evaluated() -> None:
    class Handlers(Noting):
        @property
        def BarState(self) -> object:
            raise AssertionError("evaluated")

        @functools.cached_property
        def FooEnter(self) -> object:
            raise AssertionError("evaluated")

        FooState = Noting.note

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    assert mach.add(["Foo", "Bar"]).executed
    assert handlers.calls == ["FooState"]


def test_what_is_no_handlers_name_is_let_be() -> None:
    class Helper:
        pass

    class Handlers(Noting):
        Foo: ClassVar[str] = "a constant named as a state"
        Enter = State = Noting.note  # suffixes alone
        FooState = Noting.note
        FoEnter: ClassVar[int] = 3
        BarHelper = Helper  # a class

        def Load(self, e: am.Event) -> None:
            self.calls.append("capitalised, but like no handler")

        def foo_state(self, e: am.Event) -> None:
            self.calls.append("lower case")

        def _FooEnter(self, e: am.Event) -> None:
            self.calls.append("private")

    handlers = Handlers()
    mach = am.Machine(SCHEMA, handlers=handlers)
    mach.add(["Foo", "Bar"])
    assert handlers.calls == ["FooState"]


def test_states_in_lower_case_have_handlers_by_suffix_but_not_for_pairs() -> None:
    calls: list[str] = []

    class Handlers:
        def setEnter(self, e: am.Event) -> None:
            calls.append("setEnter")

        def upState(self, e: am.Event) -> None:
            calls.append("upState")

        def setup(self) -> None:
            calls.append("setup")

    mach = am.Machine({"set": {}, "up": {}}, handlers=Handlers())
    mach.add1("set")
    mach.add1("up")
    assert calls == ["setEnter", "upState"]


def test_a_prefix_tells_handlers_of_several_machines_apart_on_one_object() -> None:
    class Handlers(Noting):
        door_FooState = light_FooState = light_BarState = FooState = door_FooEnter = Noting.note

        def door_opened(self, e: am.Event) -> None:
            raise AssertionError("no handler")

    handlers = Handlers()
    door, light = am.Machine(SCHEMA), am.Machine(SCHEMA)
    door.bind_handlers(handlers, prefix="door_")
    light.bind_handlers(handlers, prefix="light_")
    door.add(["Foo", "Bar"])
    assert handlers.calls == ["FooEnter", "FooState"]
    handlers.calls.clear()
    light.add(["Foo", "Bar"])
    assert sorted(handlers.calls) == ["BarState", "FooState"]


def test_a_misspelt_handler_behind_a_prefix_is_found_too() -> None:
    class Handlers:
        def on_FoState(self, e: am.Event) -> None: ...

    with pytest.raises(
        am.HandlerError,
        match=r"FoState of Handlers is no handler: it fits no state; rename it, .*; did you mean 'FooState'",
    ):
        am.Machine(SCHEMA).bind_handlers(Handlers(), prefix="on_")


# In a mapping.


def test_a_mapping_binds_functions_by_name() -> None:
    calls: list[str] = []
    handlers: Mapping[str, Callable[[am.Event], object]] = types.MappingProxyType(
        {"FooEnter": lambda e: calls.append(e.name), "FooState": lambda e: calls.append(e.name)}
    )
    mach = am.Machine(SCHEMA)
    assert mach.bind_handlers(handlers) == "mappingproxy"
    mach.add1("Foo")
    assert calls == ["FooEnter", "FooState"]


def test_a_mapping_takes_only_what_its_prefix_begins() -> None:
    calls: list[str] = []

    def note(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"door_FooState": note, "BarState": note, "light_QuuxState": note}, prefix="door_")
    mach.add(["Foo", "Bar", "Quux"])
    assert calls == ["FooState"]


def test_a_mapping_bound_without_strict_leaves_out_what_fits_no_state() -> None:
    calls: list[str] = []

    def note(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": note, "FoState": note, "Elsewhere": note}, strict=False)
    mach.add1("Foo")
    assert calls == ["FooState"]


def test_several_handlers_may_be_given_to_the_machine() -> None:
    calls: list[str] = []
    both = [{"FooState": lambda e: calls.append("first")}, {"FooState": lambda e: calls.append("second")}]
    assert am.Machine(SCHEMA, handlers=both).handlers == ("dict", "dict#2")
    am.Machine(SCHEMA, handlers=tuple(both)).add1("Foo")
    assert calls == ["first", "second"]


# Ids and detaching.


def test_ids_are_made_of_the_class_and_stay_unique() -> None:
    class Handlers(Noting):
        FooState = Noting.note

    mach = am.Machine(SCHEMA)
    handlers = [Handlers() for _ in range(4)]
    assert [mach.bind_handlers(each) for each in handlers[:3]] == ["Handlers", "Handlers#2", "Handlers#3"]
    mach.detach_handlers("Handlers")
    assert mach.bind_handlers(handlers[3]) == "Handlers"
    assert mach.handlers == ("Handlers#2", "Handlers#3", "Handlers")
    mach.detach_handlers("Handlers#2")
    mach.add1("Foo")
    assert [each.calls for each in handlers] == [[], [], ["FooState"], ["FooState"]]


def test_an_id_of_ones_own_is_used_in_reasons_and_to_detach() -> None:
    mach = am.Machine(SCHEMA)
    assert mach.bind_handlers({"FooEnter": lambda e: False}, id="guard") == "guard"
    assert mach.add1("Foo").reason == "vetoed by FooEnter of guard"
    mach.detach_handlers("guard")
    assert mach.handlers == ()
    assert mach.add1("Foo").executed


def test_detached_handlers_leave_the_others_in_their_order() -> None:
    calls: list[str] = []
    mach = am.Machine(SCHEMA)
    for name in ("first", "second", "third"):
        mach.bind_handlers({"FooState": lambda e, name=name: calls.append(name)}, id=name)
    mach.detach_handlers("second")
    mach.add1("Foo")
    assert calls == ["first", "third"]


def test_pairs_are_forgotten_when_detached() -> None:
    mach = am.Machine(SCHEMA)
    mach.add1("Foo")
    mach.bind_handlers({"FooBar": lambda e: False}, id="apart")
    assert mach.add1("Bar").canceled
    mach.detach_handlers("apart")
    assert mach.add1("Bar").executed


def test_handlers_for_states_to_come_are_found_when_the_schema_grows() -> None:
    handlers: dict[str, Callable[[am.Event], object]] = {"FooState": nothing, "MoreEnter": lambda e: False}
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers(handlers, id="early", strict=False)
    mach.set_schema({"Foo": {}, "Exception": {"multi": True}, "More": {}})
    assert mach.add1("More").reason == "vetoed by MoreEnter of early"


# What is refused.


class Typo:
    def FoEnter(self, e: am.Event) -> None: ...


class NoState:
    def FooBra(self, e: am.Event) -> None: ...


class AnyExit:
    def AnyExit(self, e: am.Event) -> None: ...


class AsyncEnter:
    async def FooEnter(self, e: am.Event) -> bool:
        return True


class AsyncPair:
    async def FooBar(self, e: am.Event) -> bool:
        return True


class Generator:
    def FooState(self, e: am.Event) -> Iterator[None]:
        yield


class AsyncGenerator:
    async def FooState(self, e: am.Event) -> AsyncIterator[None]:
        yield


class NoEvent:
    def FooState(self) -> None: ...


class TooMuch:
    def FooState(self, e: am.Event, more: int) -> None: ...


class KeywordOnly:
    def FooState(self, *, e: am.Event) -> None: ...


class Empty:
    def something(self) -> None: ...


class AsyncCaller:
    async def __call__(self, e: am.Event) -> bool:
        return True


class MarkedUnknown:
    @am.on.state("Fooo")
    def marked(self, e: am.Event) -> None: ...


class MarkedPair:
    @am.on.both("Foo", "Nope")
    def marked(self, e: am.Event) -> None: ...


class MarkedAsync:
    @am.on.exit("Foo")
    async def marked(self, e: am.Event) -> None: ...


LENIENT = "; rename it, or bind with strict=False"
ASYNC = "is async, but a negotiation handler must answer at once; make it"
WRONG_SIGNATURE = "must take the event and nothing else, `def FooState(self, e)`:"
NO_GENERATOR = "is a generator and would never run; let it return instead of yield"

REFUSED: dict[str, tuple[object, str, str]] = {
    "typo": (Typo(), f"FoEnter of Typo is no handler: it fits no state{LENIENT}; did you mean 'FooEnter'", "?"),
    "no such pair": (
        NoState(),
        f"FooBra of NoState is no handler: it fits no state{LENIENT}",
        "; did you mean 'FooBar'?",
    ),
    "no global handler": (AnyExit(), f"AnyExit of AnyExit is no handler: it fits no state{LENIENT}", "?"),
    "async enter": (
        AsyncEnter(),
        f"FooEnter of AsyncEnter {ASYNC} `def FooEnter(self, e)`",
        ", and do the work in `async def FooState`",
    ),
    "async pair": (
        AsyncPair(),
        f"FooBar of AsyncPair {ASYNC} `def FooBar(self, e)`",
        ", and do the work in `async def BarState`",
    ),
    "generator": (Generator(), "FooState of Generator ", NO_GENERATOR),
    "async generator": (AsyncGenerator(), "FooState of AsyncGenerator ", NO_GENERATOR),
    "no event": (NoEvent(), f"FooState of NoEvent {WRONG_SIGNATURE}", "too many positional arguments"),
    "more arguments": (TooMuch(), f"FooState of TooMuch {WRONG_SIGNATURE}", "missing a required argument: 'more'"),
    "keyword": (KeywordOnly(), f"FooState of KeywordOnly {WRONG_SIGNATURE}", "too many positional arguments"),
    "nothing": (Empty(), "Empty has no handler for any of the states; ", "a method such as FooState(self, e)"),
    "a function": (nothing, "function has no handler for any of the states; ", "a method such as FooState(self, e)"),
    "empty mapping": ({}, "dict has no handler for any of the states; ", "a method such as FooState(self, e)"),
    "class": (Empty, "Empty is a class; bind an instance: Empty()", ""),
    "no function": ({"FooState": 5}, "FooState of dict must be a function that takes the event, not 5", ""),
    "async object": ({"FooEnter": AsyncCaller()}, f"FooEnter of dict {ASYNC}", "`async def FooState`"),
    "async partial": (
        {"FooEnter": functools.partial(AsyncEnter.FooEnter, None)},
        f"FooEnter of dict {ASYNC}",
        "`async def FooState`",
    ),
    "nonsense": ({"Nonsense": nothing}, f"Nonsense of dict is no handler: it fits no state{LENIENT}", ""),
    "no name": ({5: nothing}, "5 of dict is no name; name handlers as in {'FooState': function}", ""),
    "marked typo": (
        MarkedUnknown(),
        "FoooState of MarkedUnknown is no handler: it fits no state; mark it with names of states; did you mean 'FooS",
        "?",
    ),
    "marked pair": (
        MarkedPair(),
        "FooNope of MarkedPair is no handler: it fits no state; mark it with names of states",
        "; did you mean 'FooFoo'?",
    ),
    "marked async": (MarkedAsync(), f"FooExit of MarkedAsync {ASYNC}", "`async def FooState`"),
}


@pytest.mark.parametrize(("handlers", "start", "end"), REFUSED.values(), ids=REFUSED)
def test_what_could_never_be_called_as_meant_is_refused_when_bound(handlers: object, start: str, end: str) -> None:
    mach = am.Machine(SCHEMA)
    with pytest.raises(am.HandlerError) as caught:
        mach.bind_handlers(handlers)
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)
    assert mach.handlers == ()


def test_without_strict_names_that_fit_no_state_are_let_be() -> None:
    class Handlers(Noting):
        FoEnter = FooBra = FooState = Noting.note

    handlers = Handlers()
    mach = am.Machine(SCHEMA)
    mach.bind_handlers(handlers, strict=False)
    mach.add(["Foo", "Bar"])
    assert handlers.calls == ["FooState"]
    assert mach.bind_handlers(Empty(), strict=False) == "Empty"


@pytest.mark.parametrize("handlers", [AsyncEnter(), Generator(), TooMuch(), MarkedUnknown(), {"FooState": 5}])
def test_without_strict_what_could_never_be_called_is_still_refused(handlers: object) -> None:
    with pytest.raises(am.HandlerError, match=r"is async|is a generator|must take|fits no state|must be a function"):
        am.Machine(SCHEMA).bind_handlers(handlers, strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_a_name_that_two_pairs_of_states_could_mean_is_refused(*, strict: bool) -> None:
    mach = am.Machine({"A": {}, "BC": {}, "AB": {}, "C": {}})
    text = "ABC of dict reads as A+BC and as AB+C; rename a state so that only one is left"
    with pytest.raises(am.HandlerError) as caught:
        mach.bind_handlers({"ABC": nothing}, strict=strict)
    assert str(caught.value) == text


def test_a_name_that_a_state_and_a_pair_could_mean_is_refused() -> None:
    mach = am.Machine({"Foo": {}, "State": {}})
    text = (
        "FooState of dict reads as the State handler of Foo and as Foo+State; rename a state so that only one is left"
    )
    with pytest.raises(am.HandlerError) as caught:
        mach.bind_handlers({"FooState": nothing})
    assert str(caught.value) == text


def test_one_bad_handler_binds_none_and_leaves_the_others() -> None:
    calls: list[str] = []
    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": lambda e: calls.append("good")})
    with pytest.raises(am.HandlerError, match="BarState of dict#2 must be a function"):
        mach.bind_handlers({"FooState": lambda e: calls.append("bad"), "BarState": 5})
    mach.add1("Foo")
    assert calls == ["good"]
    assert mach.handlers == ("dict",)


def test_an_id_is_taken_once() -> None:
    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": nothing}, id="mine")
    with pytest.raises(am.HandlerError, match="handlers are bound under the id 'mine' already; detach them first"):
        mach.bind_handlers({"BarState": nothing}, id="mine")


def test_an_unknown_id_cannot_be_detached() -> None:
    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": nothing}, id="guard")
    with pytest.raises(am.HandlerError, match=r"no handlers are bound under the id 'gard'; did you mean 'guard'\?"):
        mach.detach_handlers("gard")
    assert mach.handlers == ("guard",)


def test_a_machine_refuses_bad_handlers_when_it_is_built() -> None:
    with pytest.raises(am.HandlerError, match="FoEnter of Typo is no handler"):
        am.Machine(SCHEMA, handlers=[{"FooState": nothing}, Typo()])


def test_a_callable_whose_signature_cannot_be_known_is_tried_when_called() -> None:
    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": max})
    assert mach.add1("Foo").canceled
    assert isinstance(mach.err, TypeError)


def test_handlers_with_defaults_and_variable_arguments_are_taken() -> None:
    calls: list[object] = []
    mach = am.Machine(SCHEMA)
    mach.bind_handlers(
        {"FooState": lambda e, more=3: calls.append(more), "BarState": lambda *args, **options: calls.append(len(args))}
    )
    mach.add1("Foo")
    mach.add1("Bar")
    assert calls == [3, 1]


async def test_async_callables_of_every_kind_are_work() -> None:
    calls: list[str] = []

    class Caller:
        async def __call__(self, e: am.Event) -> None:
            calls.append(f"{e.name} object")

    async def with_word(word: str, e: am.Event) -> None:
        calls.append(f"{e.name} {word}")

    class Handlers:
        async def QuuxState(self, e: am.Event) -> None:
            calls.append(f"{e.name} method")

    mach = am.Machine(SCHEMA, handlers=Handlers())
    mach.bind_handlers({"FooState": Caller(), "BarState": functools.partial(with_word, "partial")})
    mach.bind_handlers({"FooEnd": functools.partial(Caller())})
    mach.add(["Foo", "Bar", "Quux"])
    await turns()
    assert sorted(calls) == ["BarState partial", "FooState object", "QuuxState method"]
    mach.remove1("Foo")
    await turns()
    assert calls[-1] == "FooEnd object"


# Between machines and threads.


def test_a_handler_of_one_machine_may_be_bound_to_another() -> None:
    seen: list[am.Machine] = []
    handlers: dict[str, Callable[[am.Event], object]] = {"FooState": lambda e: seen.append(e.machine)}
    first, second = am.Machine(SCHEMA, handlers=handlers), am.Machine(SCHEMA, handlers=handlers)
    second.add1("Foo")
    first.add1("Foo")
    assert seen == [second, first]


def test_handlers_may_not_be_bound_from_another_thread() -> None:
    mach = am.Machine(SCHEMA)
    mach.bind_handlers({"FooState": nothing}, id="mine")

    def elsewhere() -> list[Any]:
        raised: list[Any] = []
        for call in (lambda: mach.bind_handlers({"FooState": nothing}), lambda: mach.detach_handlers("mine")):
            try:
                call()
            except am.MachineThreadError as err:
                raised.append(err)
        return raised

    async def main() -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(None, elsewhere)

    assert len(asyncio.run(main())) == 2
    assert mach.handlers == ("mine",)
