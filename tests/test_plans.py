"""Plans: what follows from a request and the active states, worked out once, never stale; and why not, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from noting import Ends
from strategies import Boom, behaving, behaviours, operations, schemas
from typing_extensions import override

import asyncmachine as am
from asyncmachine.plans import CallKind, HandlerTable, Planner
from asyncmachine.requests import Requests


class Counting(am.RelationsResolver):
    """Counts how often a target was worked out."""

    def __init__(self, schema: am.Schema) -> None:
        super().__init__(schema)
        self.count = 0

    @override
    def resolve(
        self,
        type_: am.MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        admitted: int | None = None,
        steps: list[am.RelationStep] | None = None,
    ) -> tuple[int, ...]:
        self.count += steps is None
        return super().resolve(type_, called, active, admitted=admitted, steps=steps)


def counted(schema: am.SchemaLike, **options: Any) -> tuple[am.Machine, Counting]:
    counting = Counting(am.Schema.of(schema))
    return am.Machine(schema, resolver=lambda of: counting, **options), counting


# Reasons.


@pytest.mark.parametrize(
    ("schema", "active", "called", "reason"),
    [
        ({"Foo": {"require": ["Bar"]}, "Bar": {}}, [], ["Foo"], "Foo requires Bar"),
        ({"Foo": {"require": ["Bar", "Baz"]}, "Bar": {}, "Baz": {}}, [], ["Foo"], "Foo requires Bar and Baz"),
        ({"Foo": {"require": ["Bar", "Baz"]}, "Bar": {}, "Baz": {}}, ["Bar"], ["Foo"], "Foo requires Baz"),
        ({"Foo": {}, "Bar": {"remove": ["Foo"]}}, ["Bar"], ["Foo"], "Foo is removed by Bar"),
        ({"Foo": {}, "Bar": {"remove": ["Foo"]}}, [], ["Bar", "Foo"], "Foo is removed by Bar"),
    ],
)
def test_the_reason_of_a_refused_mutation_names_the_relation(
    schema: Mapping[str, am.StateDict], active: list[str], called: list[str], reason: str
) -> None:
    mach = am.Machine(schema)
    mach.add(active)
    result = mach.add(called)
    assert result.reason == reason
    assert result.reason == reason  # also when asked again


class Odd(am.RelationsResolver):
    """Lets nothing enter and nothing leave, and may say why."""

    told: tuple[am.RelationStep, ...] = ()

    @override
    def resolve(
        self,
        type_: am.MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        admitted: int | None = None,
        steps: list[am.RelationStep] | None = None,
    ) -> tuple[int, ...]:
        if steps is not None:
            steps.extend(self.told)
        return tuple(called) if type_ == "set" else tuple(active)


class OddWithSteps(Odd):
    told = (am.RelationStep("add", 0, 1),)


@pytest.mark.parametrize(
    ("resolver", "reason"),
    [(Odd, "Foo stays active"), (OddWithSteps, "Foo stays active; it is added by Bar")],
)
def test_the_reason_of_a_resolver_of_ones_own_is_given_too(resolver: type[Odd], reason: str) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}}, resolver=resolver)
    assert mach.add1("Foo").reason == "Foo is left out by the resolver"
    mach.set(["Foo"])
    assert mach.remove1("Foo").reason == reason


# Auto mutations, once a state was vetoed out of them.


def test_what_a_dropped_auto_state_would_have_added_does_not_come_but_is_asked() -> None:
    calls: list[str] = []

    def note(e: am.Event) -> bool:
        calls.append(e.name)
        return e.name != "OneEnter"

    schema = {"Foo": {}, "One": {"auto": True, "add": ["Extra"]}, "Extra": {}, "Two": {"auto": True}}
    mach = am.Machine(schema)
    mach.bind_handlers(dict.fromkeys(["OneEnter", "ExtraEnter", "ExtraState", "TwoEnter", "TwoState"], note))
    mach.add1("Foo")
    assert sorted(calls) == ["ExtraEnter", "OneEnter", "TwoEnter", "TwoState"]
    assert str(mach) == "(Foo:1 Two:1)"


def test_the_target_is_worked_out_again_without_a_dropped_state() -> None:
    # One keeps Two out; without One, nobody does, but Two was not asked and stays out all the same.
    ends = Ends()
    schema = {"Foo": {}, "One": {"auto": True, "remove": ["Two"]}, "Two": {"auto": True}, "Three": {"auto": True}}
    mach = am.Machine(schema, handlers={"OneEnter": lambda e: False}, tracers=[ends])
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 Three:1)"
    assert ends.seen[1].target_states == mach.active_states()
    assert ends.seen[1].called_states == ("One", "Two", "Three")


def test_a_state_that_leaves_for_a_dropped_auto_state_stays() -> None:
    calls: list[str] = []
    schema = {"Foo": {}, "One": {"auto": True, "remove": ["Foo"]}, "Two": {"auto": True}}
    mach = am.Machine(schema, handlers={"OneEnter": lambda e: False, "FooEnd": lambda e: calls.append(e.name)})
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 Two:1)"
    assert calls == []


def test_dropping_the_same_state_again_and_again_works_each_time() -> None:
    mach = am.Machine({"Foo": {"multi": True}, "One": {"auto": True}, "Two": {"auto": True}})
    mach.bind_handlers({"OneEnter": lambda e: False})
    for count in range(1, 4):
        mach.add1("Foo")
        mach.remove1("Two")
        assert str(mach) == f"(Foo:{2 * count - 1} Two:{2 * count + 1})"


# Plans: worked out once, never stale.


def test_a_machine_that_goes_round_in_circles_resolves_nothing_twice() -> None:
    mach, counting = counted({"Foo": {}, "Auto": {"auto": True, "require": ["Foo"]}})
    mach.add1("Foo")
    mach.remove1("Foo")
    known = counting.count
    for _ in range(5):
        mach.add1("Foo")
        assert str(mach).startswith("(Foo:")
        assert mach.is1("Auto")
        mach.remove1("Foo")
        assert str(mach) == "()"
    assert counting.count == known


def test_a_vetoed_transition_leaves_its_plan_as_it_was() -> None:
    veto = [True, False, True, False]
    calls: list[str] = []
    mach = am.Machine({"Foo": {"remove": ["Old"]}, "Old": {}})
    mach.bind_handlers({"FooEnter": lambda e: not veto.pop(0), "FooState": lambda e: calls.append("FooState")})
    mach.add1("Old")
    for _ in range(2):
        assert mach.add1("Foo").canceled
        assert str(mach).startswith("(Old:")
        assert mach.add1("Foo").executed
        assert mach.active_states() == ("Foo",)
        mach.set(["Old"])
    assert calls == ["FooState", "FooState"]


def test_a_failed_transition_leaves_its_plan_as_it_was() -> None:
    fail = [True, False, True, False]
    mach = am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}}, raise_errors=True)

    def foo_state(e: am.Event) -> None:
        if fail.pop(0):
            raise Boom

    mach.bind_handlers({"FooState": foo_state})
    for round_ in range(2):
        with pytest.raises(Boom):
            mach.add(["Foo", "Bar"])
        assert str(mach) == "()"
        assert mach.add(["Foo", "Bar"]).executed
        assert mach.active_states() == ("Foo", "Bar")
        assert mach.time() == (4 * round_ + 3, 4 * round_ + 3, 0)
        assert mach.remove1("Foo").executed
        assert str(mach) == "()"


def test_handlers_bound_and_detached_between_transitions_count_at_once() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {"multi": True}})
    mach.add1("Foo")
    mach.add1("Foo")
    first = mach.bind_handlers({"FooState": lambda e: calls.append("first")})
    mach.add1("Foo")
    assert calls == ["first"]
    mach.bind_handlers({"FooState": lambda e: calls.append("second")})
    mach.add1("Foo")
    assert calls == ["first", "first", "second"]
    mach.detach_handlers(first)
    mach.add1("Foo")
    assert calls == ["first", "first", "second", "second"]


def test_handlers_bound_inside_a_handler_count_from_the_next_transition_on() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {"multi": True}, "Bar": {}})

    def bind(e: am.Event) -> None:
        mach.detach_handlers("binder")
        mach.bind_handlers({name: lambda e: calls.append(e.name) for name in ("FooState", "AnyState", "BarState")})
        mach.add1("Bar")

    mach.bind_handlers({"FooEnter": bind}, id="binder")
    mach.add1("Foo")
    assert calls == ["BarState", "AnyState"]
    calls.clear()
    mach.remove1("Bar")
    mach.add1("Foo")
    mach.add1("Bar")
    assert calls == ["AnyState", "FooState", "AnyState", "BarState", "AnyState"]
    mach.detach_handlers("dict")
    calls.clear()
    mach.remove1("Bar")
    mach.add1("Foo")
    mach.add1("Bar")
    assert calls == []


def test_handlers_detached_inside_a_handler_finish_the_transition() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {"multi": True}})

    def detach(e: am.Event) -> None:
        if "other" in mach.handlers:
            mach.detach_handlers("other")

    mach.bind_handlers({"FooEnter": detach})
    mach.bind_handlers({"FooState": lambda e: calls.append(e.name)}, id="other")
    mach.add1("Foo")
    assert calls == ["FooState"]
    mach.add1("Foo")
    assert calls == ["FooState"]


def test_end_handlers_of_fallen_states_bound_in_the_same_transition_count_from_the_next_on() -> None:
    calls: list[str] = []
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}})
    mach.add(["Base", "Top"])

    def bind_and_fail(e: am.Event) -> None:
        mach.bind_handlers({"TopEnd": lambda e: calls.append(e.name)})
        raise Boom

    mach.bind_handlers({"BaseState": bind_and_fail}, id="fails")
    mach.add1("Base")
    assert mach.not1("Top")
    assert calls == []
    mach.detach_handlers("fails")
    mach.add(["Base", "Top"])
    mach.remove1("Top")
    assert calls == ["TopEnd"]


def test_handlers_bound_while_an_auto_state_is_dropped_count_from_the_next_transition_on() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {}, "One": {"auto": True}, "Two": {"auto": True}})

    def bind_and_veto(e: am.Event) -> bool:
        if "late" not in mach.handlers:
            mach.bind_handlers({"TwoState": lambda e: calls.append(e.name)}, id="late")
        return False

    mach.bind_handlers({"OneEnter": bind_and_veto})
    mach.add1("Foo")
    assert mach.is1("Two")
    assert calls == []
    mach.remove1("Two")
    assert calls == ["TwoState"]


def test_a_machine_that_never_repeats_itself_keeps_working() -> None:
    # More different active sets than plans are kept: all are forgotten on the way, more than once.
    names = [f"S{i}" for i in range(13)]
    mach, counting = counted({name: {} for name in names}, handler_timeout=None)
    calls: list[str] = []
    mach.bind_handlers({"S0State": lambda e: calls.append(e.name)})
    mach.add1("S12")
    expected = {"S12"}
    for step in range(1, 2**12):
        flipped = names[(step & -step).bit_length() - 1]  # a Gray code visits each set of states once
        assert mach.toggle1(flipped).executed
        expected ^= {flipped}
        assert mach.is_(expected)
        assert len(mach.active_states()) == len(expected)
    worked_out = counting.count
    assert worked_out >= 2**12
    assert len(calls) == 2**10
    mach.set(["S12"])
    mach.toggle1("S0")
    assert counting.count == worked_out + 2  # known once, and forgotten


class Bound(NamedTuple):
    """A handler, as far as a plan looks at it."""

    fn: str


PLAIN, WORK = Bound("plain"), Bound("work")


def table(*names: str) -> HandlerTable:
    """Bind a plain handler and work to each of the names."""
    named = dict.fromkeys(names, ((PLAIN,), (WORK,)))
    return HandlerTable(named, {0: {1: "FooBar"}} if "FooBar" in names else {}, int("FooFoo" in names))


def planner(*handlers: str, bound: int = 4096) -> tuple[Planner, Counting]:
    schema = am.Schema({"Foo": {}, "Bar": {}, "Multi": {"multi": True}, "Auto": {"auto": True}})
    counting = Counting(schema)
    return Planner(schema, counting, table=table(*handlers), bound=bound), counting


def test_a_planner_keeps_no_more_plans_than_its_bound() -> None:
    plans, counting = planner(bound=2)
    empty = plans.active_set(())
    foo, bar, multi = (plans.requests.of(am.MutationType.ADD, name) for name in ("Foo", "Bar", "Multi"))
    for request in (foo, bar):
        plans.plan(empty, request)
    assert set(empty.plans) == {foo, bar}
    plans.plan(empty, multi)
    assert set(empty.plans) == {multi}
    assert counting.count == 3
    plans.plan(empty, foo)
    assert set(empty.plans) == {multi, foo}
    assert counting.count == 4


def test_plans_lead_from_one_active_set_to_another_that_is_the_only_one_of_its_states() -> None:
    plans, _ = planner()
    empty = plans.active_set(())
    add, remove = (plans.requests.of(type_, "Foo") for type_ in (am.MutationType.ADD, am.MutationType.REMOVE))
    there = plans.plan(empty, add)
    back = plans.plan(there.after, remove)
    assert back.after is empty
    assert there.after is plans.active_set((0,))
    assert plans.plan(empty, add) is there


def test_a_plan_holds_the_ticks_and_the_bound_calls_alone() -> None:
    plans, _ = planner("FooExit", "FooBar", "MultiState", "AnyEnter")
    before = plans.active_set((0, 2))
    plan = plans.plan(before, plans.requests.of(am.MutationType.ADD, ["Multi", "Bar"]))
    assert Counter(plan.changes) == {1: 1, 2: 2}
    assert plan.flips == (1,)
    assert [(call.kind, call.name, call.state) for call in plan.negotiation] == [
        (CallKind.PAIR, "FooBar", 1),
        (CallKind.ANY_ENTER, "AnyEnter", -1),
    ]
    (call,) = plan.finals
    assert (call.kind, call.handlers, call.works) == (CallKind.STATE, (PLAIN,), (WORK,))
    assert plan.has_tail
    assert plan.needs_loop
    assert [(fn, of.name) for fn, _, of in plan.asks] == [("plain", "FooBar"), ("plain", "AnyEnter")]
    assert [(fn, handler, of) for fn, handler, of in plan.deeds] == [("plain", PLAIN, call)]


def test_a_forgotten_plan_is_made_anew_for_an_active_set_still_in_use() -> None:
    plans, counting = planner()
    in_use = plans.active_set((0,))
    request = plans.requests.of(am.MutationType.ADD, "Bar")
    old = plans.plan(in_use, request)
    plans.forget()
    known = plans.active_set((0,))
    assert known is not in_use
    new = plans.plan(in_use, request)
    assert new is not old
    assert plans.plan(in_use, request) is new
    assert counting.count == 2
    # It is kept at the known set alone: the other would not be emptied when all is forgotten again.
    assert in_use.plans == {}
    assert known.plans == {request: new}


def test_the_auto_states_of_an_active_set_are_looked_for_once() -> None:
    plans, counting = planner()
    request = plans.active_set(()).auto
    assert request is not None
    assert request.names == ("Auto",)
    assert request is Requests.of(plans.requests, am.MutationType.ADD, "Auto")
    assert plans.active_set(()).auto is request
    assert plans.active_set((3,)).auto is None
    assert plans.active_set((3,)).auto is None
    assert counting.count == 0


# Laws.


@given(schemas, behaviours, operations)
def test_a_machine_with_plans_and_one_that_always_forgets_them_agree(
    schema: dict[str, am.State], behaviour: dict[str, str], ops: list[tuple[str, list[str]]]
) -> None:
    def run(*, forgetful: bool) -> list[object]:
        calls: list[str] = []
        mach = am.Machine(schema, handler_timeout=None)
        if behaviour:
            mach.bind_handlers(behaving(behaviour, calls))
        log: list[object] = []
        for kind, states in ops * 2:
            if forgetful:
                mach.detach_handlers(mach.bind_handlers({"AnyState": lambda e: None}, id="drops all plans"))
            result: am.Result = getattr(mach, kind)(states)
            log += [int(result), result.reason, mach.time(), mach.active_states(), str(mach.err)]
        return [*log, *calls]

    assert run(forgetful=False) == run(forgetful=True)


@pytest.mark.parametrize("handlers", [{}, {"FooState": lambda e: None, "BarState": lambda e: None}])
def test_handlers_bound_within_a_transition_are_called_from_the_next_one_on(handlers: dict[str, Any]) -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {"remove": ["Bar"]}, "Bar": {"remove": ["Foo"]}}, handlers=handlers or None)
    for _ in range(2):  # all plans are known
        mach.add1("Foo")
        mach.add1("Bar")

    class Binder(am.Tracer):
        @override
        def transition_start(self, transition: am.Transition[Any]) -> None:
            mach.detach_tracer(self)
            mach.bind_handlers({name: lambda e: calls.append(e.name) for name in ("FooState", "BarState")})

    mach.bind_tracer(Binder())
    mach.add1("Foo")
    assert calls == []
    mach.add1("Bar")
    mach.add1("Foo")
    assert calls == ["BarState", "FooState"]
