"""The record of a transition: what is known before, while and after it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noting import Ends
from strategies import Boom, behaving, behaviours, operations, schemas
from typing_extensions import override

import asyncmachine as am
from asyncmachine.plans import LONGEST

SCHEMA = {"Foo": {"add": ["Bar"], "remove": ["Old"]}, "Bar": {}, "Old": {}, "Stay": {}, "Multi": {"multi": True}}


def in_old_stay_and_multi(**options: Any) -> tuple[am.Machine, Ends]:
    ends = Ends()
    mach = am.Machine(SCHEMA, handler_timeout=None, **options)
    mach.add(["Old", "Stay", "Multi"])
    mach.bind_tracer(ends)
    return mach, ends


# The record.


def facts(transition: am.Transition[Any]) -> dict[str, object]:
    """Give what must not change while a transition that is accepted runs, nor after it."""
    return {
        "id": transition.id,
        "type": transition.type,
        "args": dict(transition.args),
        "called": transition.called_states,
        "before": transition.states_before,
        "target": transition.target_states,
        "enters": transition.enters,
        "exits": transition.exits,
        "time_before": transition.time_before,
        "time_after": transition.time_after,
        "is_auto": transition.is_auto,
        "is_accepted": transition.is_accepted,
    }


def test_the_record_tells_all_before_the_commit_and_the_same_after_it() -> None:
    seen: dict[str, tuple[dict[str, object], bool]] = {}
    mach, ends = in_old_stay_and_multi()

    def look(e: am.Event) -> None:
        seen[e.name] = (facts(e.transition), e.transition.is_completed)

    names = ["OldExit", "FooEnter", "AnyEnter", "OldEnd", "FooState", "AnyState"]
    mach.bind_handlers(dict.fromkeys(names, look))
    before = mach.active_states()
    mach.add(["Foo", "Multi"], {"id": 7})
    (record,) = ends.seen
    assert facts(record) == {
        "id": record.id,
        "type": am.MutationType.ADD,
        "args": {"id": 7},
        "called": ("Foo", "Multi"),
        "before": before,
        "target": mach.active_states(),
        "enters": tuple(name for name in mach.active_states() if name != "Stay"),
        "exits": ("Old",),
        "time_before": am.Time([0, 0, 1, 1, 1, 0]),
        "time_after": am.Time([1, 1, 2, 1, 3, 0]),
        "is_auto": False,
        "is_accepted": True,
    }
    assert set(mach.active_states()) == {"Foo", "Bar", "Stay", "Multi"}
    assert seen == dict.fromkeys(names, (facts(record), False))
    assert record.is_completed


def test_the_record_gives_times_by_name() -> None:
    mach, ends = in_old_stay_and_multi()
    mach.add(["Foo", "Multi"])
    (record,) = ends.seen
    assert record.time_index_before == am.TimeIndex(mach.state_names, (0, 0, 1, 1, 1, 0))
    assert record.time_index_after == am.TimeIndex(mach.state_names, (1, 1, 2, 1, 3, 0))
    assert record.time_index_called.active_states() == ("Foo", "Multi")
    assert record.time_index_time_diff.active_states() == ("Foo", "Bar", "Old", "Multi")
    added, removed = record.time_index_diff()
    assert added.active_states() == ("Foo", "Bar", "Multi")
    assert removed.active_states() == ("Old",)
    assert record.time_index_touched.active_states() == ("Foo", "Bar", "Old", "Multi")


@pytest.mark.parametrize("kind", ["add", "remove", "set"])
def test_the_record_knows_its_type(kind: str) -> None:
    mach, ends = in_old_stay_and_multi()
    getattr(mach, kind)(["Stay"])
    assert ends.seen[0].type == kind
    assert ends.seen[0].type is am.MutationType(kind)


def test_the_record_of_an_auto_mutation_says_so() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, tracers=[ends])
    mach.add1("Foo")
    assert [t.is_auto for t in ends.seen] == [False, True]
    assert ends.seen[1].called_states == ("Auto",)


def test_a_vetoed_record_has_the_plan_and_ends_at_the_time_it_began() -> None:
    planned: list[am.Time] = []
    mach, ends = in_old_stay_and_multi()
    mach.bind_handlers({"FooEnter": lambda e: bool(planned.append(e.transition.time_after))})
    mach.add1("Foo")
    (record,) = ends.seen
    assert planned == [(1, 1, 2, 1, 1, 0)]
    assert record.time_after == record.time_before == (0, 0, 1, 1, 1, 0)
    assert not record.is_accepted
    assert record.is_completed
    assert set(record.enters) == {"Foo", "Bar"}
    assert record.exits == ("Old",)
    assert record.time_index_time_diff.active_states() == ()
    assert [index.active_states() for index in record.time_index_diff()] == [(), ()]


def test_a_record_relations_refused_neither_enters_nor_exits() -> None:
    ends = Ends()
    mach = am.Machine({"Needy": {"require": ["Base"]}, "Base": {}, "Free": {"remove": ["Old"]}, "Old": {}})
    mach.add1("Old")
    mach.bind_tracer(ends)
    mach.add(["Needy", "Free"])
    (record,) = ends.seen
    assert (record.enters, record.exits) == ((), ())
    assert not record.is_accepted
    assert record.time_after == record.time_before


def test_the_record_of_a_check_ends_at_the_time_it_began() -> None:
    seen: list[am.Time] = []
    mach, ends = in_old_stay_and_multi(handlers={"FooEnter": lambda e: seen.append(e.transition.time_after)})
    mach.can_add1("Foo")
    (record,) = ends.seen
    assert record.mutation.is_check
    assert record.is_accepted
    assert seen == [record.time_before]
    assert record.time_after == record.time_before


def test_a_rolled_back_record_has_the_time_that_came_about() -> None:
    def fail(e: am.Event) -> None:
        raise Boom

    mach, ends = in_old_stay_and_multi(handlers={"FooState": fail})
    mach.add1("Foo")
    record = ends.seen[0]
    assert not record.is_accepted
    assert record.enters == ("Foo", "Bar")
    assert record.time_after == (2, 2, 2, 1, 1, 0)
    assert mach.time() == (2, 2, 2, 1, 1, 1)  # that is with the error
    added, removed = record.time_index_diff()
    assert added.active_states() == ()
    assert removed.active_states() == ("Old",)
    assert record.time_index_time_diff.active_states() == ("Foo", "Bar", "Old")


def test_ids_are_unique_and_name_the_start_of_the_machine() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {"multi": True}}, id="door", tracers=[ends])
    for _ in range(3):
        mach.add1("Foo")
    mach.can_add1("Foo")
    assert [t.id for t in ends.seen] == ["1.1", "1.2", "1.3", "1.4"]


def test_ids_stay_unique_and_the_same_when_the_machine_is_restored() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {"multi": True}}, id="door", tracers=[ends])
    mach.add1("Foo")
    known = ends.seen[0].id
    mach.restore(mach.export())
    mach.add1("Foo")
    assert ends.seen[0].id == known
    assert ends.seen[1].id == "2.2"


def test_a_record_keeps_the_names_it_was_made_with() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends])
    mach.add1("Foo")
    mach.set_schema({"Foo": {}, "Exception": {"multi": True}, "More": {}})
    assert ends.seen[0].time_index_after == am.TimeIndex(["Foo", "Exception"], [1, 0])
    mach.add1("More")
    assert ends.seen[1].time_index_after == am.TimeIndex(["Foo", "Exception", "More"], [1, 0, 1])


def test_the_repr_of_a_record_says_what_was_asked_and_whether_it_was_canceled() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Bar": {"require": ["Foo"]}}, tracers=[ends])
    mach.add(["Bar"])
    mach.add(["Foo", "Bar"])
    assert repr(ends.seen[0]) == "<Transition 1.1 [add] Bar canceled>"
    assert repr(ends.seen[1]) == "<Transition 1.2 [add] Foo Bar>"


async def test_the_time_before_is_there_for_whoever_looks_at_a_transition() -> None:
    # Nothing else watches the machine: only the predicate of a waiter comes to see the transition.
    seen: list[tuple[am.Time, am.Time]] = []
    mach = am.Machine({"Foo": {}})

    def look(clock: am.Clock) -> bool:
        if mach.transition is not None:
            seen.append((mach.transition.time_before, mach.transition.time_after))
        return False

    waiting = mach.when_query(look)
    mach.add1("Foo")
    assert seen == [(am.Time([0, 0]), am.Time([1, 0]))]
    waiting.cancel()


def test_the_time_before_is_there_for_a_negotiation_handler_alone() -> None:
    seen: list[am.Time] = []
    mach = am.Machine({"Foo": {}}, handlers={"FooEnter": lambda e: seen.append(e.transition.time_before)})
    mach.add1("Foo")
    assert seen == [am.Time([0, 0])]


# Steps.


def names_of(steps: Iterable[am.Step], *types: am.StepType) -> list[tuple[str, str]]:
    return [(step.state, step.handler) for step in steps if step.type in types]


def test_steps_tell_what_was_called_what_relations_did_and_which_handlers_were_called() -> None:
    mach, ends = in_old_stay_and_multi()
    mach.bind_handlers(dict.fromkeys(["OldExit", "StayStay", "StayFoo", "AnyEnter", "FooState"], lambda e: None))
    mach.add1("Foo")
    (record,) = ends.seen
    assert record.steps[0] == am.Step(am.StepType.CALLED, "Foo")
    relations = [step for step in record.steps if step.type is am.StepType.RELATION]
    assert relations == [
        am.Step(am.StepType.RELATION, "Bar", "Foo", "add"),
        am.Step(am.StepType.RELATION, "Old", "Foo", "remove"),
    ]
    assert sorted(names_of(record.steps, am.StepType.ACTIVATE)) == [("Bar", ""), ("Foo", "")]
    assert names_of(record.steps, am.StepType.DEACTIVATE) == [("Old", "")]
    assert names_of(record.steps, am.StepType.HANDLER) == [
        ("Old", "OldExit"),
        ("Stay", "StayStay"),
        ("Foo", "StayFoo"),
        ("Any", "AnyEnter"),
        ("Foo", "FooState"),
    ]
    assert names_of(record.steps, am.StepType.CANCEL) == []


def test_steps_grow_while_handlers_are_called() -> None:
    seen: list[list[tuple[str, str]]] = []
    mach = am.Machine({"Foo": {}})
    look = lambda e: seen.append(names_of(e.transition.steps, am.StepType.HANDLER))  # noqa: E731
    mach.bind_handlers(dict.fromkeys(["FooEnter", "AnyEnter", "FooState"], look))
    mach.add1("Foo")
    calls = [("Foo", "FooEnter"), ("Any", "AnyEnter"), ("Foo", "FooState")]
    assert seen == [calls[:1], calls[:2], calls]


def test_steps_name_no_handler_before_the_first_is_called() -> None:
    seen: list[list[am.Step]] = []

    class Early(am.Tracer):
        @override
        def transition_init(self, transition: am.Transition[Any]) -> None:
            seen.append(transition.steps)

    mach = am.Machine({"Foo": {}}, tracers=[Early()], handlers={"FooEnter": lambda e: None})
    mach.add1("Foo")
    assert seen == [[am.Step(am.StepType.CALLED, "Foo"), am.Step(am.StepType.ACTIVATE, "Foo")]]


def test_steps_end_with_the_veto() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends])
    mach.bind_handlers({"FooEnter": lambda e: False, "AnyEnter": lambda e: None, "FooState": lambda e: None})
    mach.add1("Foo")
    assert ends.seen[0].steps == [
        am.Step(am.StepType.CALLED, "Foo"),
        am.Step(am.StepType.ACTIVATE, "Foo"),
        am.Step(am.StepType.HANDLER, "Foo", handler="FooEnter"),
        am.Step(am.StepType.CANCEL, "Foo", handler="FooEnter"),
    ]


def test_steps_end_with_the_states_relations_refuse() -> None:
    ends = Ends()
    mach = am.Machine({"Needy": {"require": ["Base"]}, "Base": {}, "Free": {}}, tracers=[ends])
    mach.add(["Needy", "Free"])
    assert ends.seen[0].steps == [
        am.Step(am.StepType.CALLED, "Needy"),
        am.Step(am.StepType.CALLED, "Free"),
        am.Step(am.StepType.RELATION, "Needy", "Base", "require"),
        am.Step(am.StepType.CANCEL, "Needy"),
    ]
    assert ends.seen[0].time_index_touched.active_states() == ("Needy", "Base", "Free")


def test_steps_without_handlers_are_those_of_the_relations() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends])
    mach.add1("Foo")
    assert ends.seen[0].steps == [am.Step(am.StepType.CALLED, "Foo"), am.Step(am.StepType.ACTIVATE, "Foo")]


def test_steps_name_the_handler_that_dropped_an_auto_state() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "One": {"auto": True}, "Two": {"auto": True}}, tracers=[ends])
    mach.bind_handlers({"OneEnter": lambda e: False, "TwoState": lambda e: None})
    mach.add1("Foo")
    auto = ends.seen[1]
    assert auto.is_accepted
    assert auto.enters == ("Two",)
    assert names_of(auto.steps, am.StepType.HANDLER) == [("One", "OneEnter"), ("Two", "TwoState")]


# Laws.


class Lawful(am.Tracer):
    """Compares each record with the machine, at its beginning and its end."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.problems: list[str] = []
        self.before = am.Time()

    @override
    def transition_init(self, transition: am.Transition[Any]) -> None:
        self.before = transition.machine.time()
        self.ids.append(transition.id)

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        mach: am.Machine = transition.machine
        added, removed = transition.time_index_diff()
        was, now = set(transition.states_before), set(mach.active_states())
        laws = {
            "the time before": transition.time_before == self.before,
            "the time after": transition.time_after == mach.time(),
            "the states before": was == set(transition.time_index_before.active_states()),
            "what was added": now - was <= set(added.active_states()) <= now,
            "what was removed": set(removed.active_states()) == was - now,
            "the target": not transition.is_accepted
            or transition.mutation.is_check
            or transition.target_states == mach.active_states(),
            "the end": transition.is_completed,
            "what ticked": transition.time_index_time_diff.sum()
            == sum(a != b for a, b in zip(self.before, mach.time(), strict=True)),
            "what was touched": set(transition.called_states) <= set(transition.time_index_touched.active_states()),
        }
        self.problems += [f"{law} of {transition!r}" for law, holds in laws.items() if not holds]


@given(schemas, behaviours, operations)
def test_every_record_is_true_of_its_machine(
    schema: dict[str, am.State], behaviour: dict[str, str], ops: list[tuple[str, list[str]]]
) -> None:
    lawful = Lawful()
    mach = am.Machine(schema, handler_timeout=None, tracers=[lawful])
    if behaviour:
        mach.bind_handlers(behaving(behaviour, []))
    for kind, states in ops:
        getattr(mach, kind)(states)
    assert lawful.problems == []
    assert len(set(lawful.ids)) == len(lawful.ids)


# Sources.


def test_mutations_made_by_handlers_carry_their_source_on_any_machine() -> None:
    here, there = Ends(), Ends()
    other = am.Machine({"Far": {}}, id="other", tracers=[there])
    mach = am.Machine({"Foo": {}, "Near": {}, "Checked": {}}, id="mach", tracers=[here])
    mach.add1("Checked")

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Near")
        other.add1("Far")

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    first, foo, near = here.seen
    (far,) = there.seen
    assert first.mutation.source is None
    assert foo.mutation.source is None
    assert near.mutation.source == far.mutation.source == am.Source("mach", foo.id, 1)
    other.add1("Exception")
    assert there.seen[-1].mutation.source is None  # it ended with the handler


def test_the_source_of_a_mutation_on_another_machine_is_the_inner_transition() -> None:
    here, there = Ends(), Ends()
    other = am.Machine({"Far": {}, "Further": {}}, id="other", tracers=[there])
    other.bind_handlers({"FarState": lambda e: mach.add1("Back")})
    mach = am.Machine({"Foo": {}, "Back": {}, "Last": {}}, id="mach", tracers=[here])

    def foo_state(e: am.Event) -> None:
        other.add1("Far")
        e.machine.add1("Last")

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    foo, back, last = here.seen
    assert back.mutation.source == am.Source("other", there.seen[0].id, 0)
    assert last.mutation.source == am.Source("mach", foo.id, 0)


def test_a_source_given_by_hand_wins() -> None:
    ends = Ends()
    given_source = am.Source("elsewhere", "7.7", 42)
    mach = am.Machine({"Foo": {}, "Bar": {}}, tracers=[ends])
    mach.bind_handlers({"FooState": lambda e: e.machine.add1("Bar", source=given_source)})
    mach.add1("Foo")
    assert ends.seen[1].mutation.source is given_source


def test_auto_states_carry_the_transition_that_called_for_them_as_source() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, id="mach", tracers=[ends])
    mach.add1("Foo")
    foo, auto = ends.seen
    assert auto.mutation.source == am.Source("mach", foo.id, 0)


def test_the_running_transition_is_seen_from_its_handlers_alone() -> None:
    seen: list[am.Transition[Any] | None] = []
    mach = am.Machine({"Foo": {}}, handlers={"FooState": lambda e: seen.append(e.machine.transition)})
    assert mach.transition is None
    mach.add1("Foo")
    assert seen[0] is not None
    assert seen[0].called_states == ("Foo",)
    assert mach.transition is None


def test_the_result_of_a_drain_is_that_of_its_first_mutation() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {"require": ["Baz"]}, "Baz": {}})
    mach.bind_handlers({"FooState": lambda e: e.machine.add1("Bar")})
    assert mach.add1("Foo").executed
    assert mach.not1("Bar")


# Times of records, long after.


@given(st.lists(st.sampled_from(["Seen", "Unseen", "Failing"]), min_size=1, max_size=200))
def test_a_record_tells_its_times_whatever_came_after(names: list[str]) -> None:
    records: list[tuple[am.Transition[Any], am.Time, am.Time]] = []
    mach = am.Machine({"Seen": {"multi": True}, "Unseen": {}, "Failing": {"multi": True}}, handler_timeout=None)
    before = mach.time()

    def keep(e: am.Event) -> None:
        records.append((e.transition, before, e.transition.time_after))

    def fail(e: am.Event) -> None:
        keep(e)
        raise ValueError("no fuel")

    mach.bind_handlers({"SeenState": keep, "FailingState": fail, "ExceptionState": lambda e: None})
    for name in names:
        before = mach.time()
        mach.toggle1(name) if name == "Unseen" else mach.add1(name)
    for transition, then, planned in records:
        assert transition.time_before == then
        undone = len(transition.rolled_back)
        assert transition.time_after.sum() == planned.sum() + undone
        assert transition.as_source().machine_time == then.sum()


def test_a_record_keeps_no_more_than_a_piece_of_the_way_alive() -> None:
    records: list[am.Transition[Any]] = []
    mach = am.Machine({"Foo": {"multi": True}}, handlers={"FooState": lambda e: records.append(e.transition)})
    for _ in range(5 * LONGEST):
        mach.add1("Foo")
    assert {len(record.trail) for record in records} == {LONGEST}
    assert len({id(record.trail) for record in records}) == 5
    assert [record.time_before[0] for record in records] == [0, *range(1, 10 * LONGEST - 1, 2)]
