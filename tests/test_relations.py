"""Resolving relations: a table for each step, a plain reading of the rules to compare with, and the laws they keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

Schemas = Mapping[str, am.StateDict]
TYPES = ["add", "remove", "set"]


def resolve(
    schema: Schemas | am.Schema,
    type_: str,
    called: Iterable[str],
    active: Iterable[str] = (),
    *,
    admitted: Iterable[str] | None = None,
    steps: list[am.RelationStep] | None = None,
) -> list[str]:
    """Resolve by names."""
    read = am.Schema.of(schema)
    where = read.index
    target = am.RelationsResolver(read).resolve(
        am.MutationType(type_),
        [where[name] for name in called],
        [where[name] for name in active],
        admitted=None if admitted is None else sum({1 << where[name] for name in admitted}),
        steps=steps,
    )
    return [read.names[i] for i in target]


def full(schema: Schemas) -> Schemas:
    """Give the schema with the states it does not mention."""
    return {name: schema.get(name, {}) for name in "ABCDE"}


def check(schema: Schemas, type_: str, called: str, active: str, target: str) -> None:
    assert " ".join(resolve(full(schema), type_, called.split(), active.split())) == target


# What is to be set.


@pytest.mark.parametrize(
    ("type_", "called", "active", "target"),
    [
        ("add", "C", "A B", "C A B"),
        ("add", "B C", "A B", "B C A"),
        ("add", "A", "", "A"),
        ("add", "", "A B", "A B"),
        ("set", "C A", "A B", "C A"),
        ("set", "", "A B", ""),
        ("remove", "A", "B A C", "B C"),
        ("remove", "D", "B A", "B A"),
        ("remove", "A B", "A B", ""),
    ],
)
def test_the_called_states_are_joined_with_the_active_ones(type_: str, called: str, active: str, target: str) -> None:
    check({}, type_, called, active, target)


# Step 1: Add.


@pytest.mark.parametrize(
    ("schema", "type_", "called", "active", "target"),
    [
        ({"A": {"add": ["B", "C"]}}, "add", "A", "", "A B C"),
        ({"A": {"add": ["B"]}}, "add", "A D", "", "A D B"),
        ({"A": {"add": ["B"]}}, "set", "A", "C", "A B"),
        ({"A": {"add": ["B"]}}, "add", "A B", "", "A B"),
        # One that is active implies nothing anew, unless it can be activated again.
        ({"A": {"add": ["B"]}}, "add", "C", "A", "C A"),
        ({"A": {"add": ["B"]}}, "set", "A", "A", "A"),
        ({"A": {"add": ["B"], "multi": True}}, "add", "C", "A", "C A B"),
        ({"A": {"add": ["B"], "multi": True}}, "set", "A", "A", "A B"),
        # A removal brings nothing back that it removes.
        ({"A": {"add": ["B"], "multi": True}}, "remove", "B", "A B", "A"),
        ({"A": {"add": ["B"], "multi": True}}, "remove", "C", "A C", "A B"),
        ({"A": {"add": ["B"]}}, "remove", "C", "A C", "A"),
    ],
)
def test_add_brings_states_along(schema: Schemas, type_: str, called: str, active: str, target: str) -> None:
    check(schema, type_, called, active, target)


# Step 2: Require.


@pytest.mark.parametrize(
    ("schema", "type_", "called", "active", "target"),
    [
        ({"A": {"require": ["B"]}}, "add", "A", "", ""),
        ({"A": {"require": ["B"]}}, "add", "A", "B", "B A"),
        ({"A": {"require": ["B"]}}, "add", "A B", "", "B A"),
        ({"A": {"require": ["B"]}}, "set", "A", "B", ""),
        ({"A": {"require": ["B", "C"]}}, "add", "A B", "", "B"),
        ({"A": {"require": ["B"]}}, "remove", "B", "B A C", "C"),
        # Until nothing changes, however long the chain is and in whichever order it stands.
        ({"A": {"require": ["B"]}, "B": {"require": ["C"]}}, "add", "A B D", "", "D"),
        ({"A": {"require": ["B"]}, "B": {"require": ["C"]}}, "add", "B A D", "", "D"),
        ({"A": {"require": ["B"]}, "B": {"require": ["C"]}}, "remove", "C", "C B A", ""),
        # What is added along meets a Require; what requires itself, or one another, is fine together.
        ({"A": {"require": ["B"], "add": ["B"]}}, "add", "A", "", "B A"),
        ({"A": {"require": ["A"]}}, "add", "A", "", "A"),
        ({"A": {"require": ["B"]}, "B": {"require": ["A"]}}, "add", "A B", "", "A B"),
        ({"A": {"require": ["B"]}, "B": {"require": ["A"]}}, "add", "A", "", ""),
    ],
)
def test_states_leave_with_what_they_require(
    schema: Schemas, type_: str, called: str, active: str, target: str
) -> None:
    check(schema, type_, called, active, target)


# Step 3: Blocking.


@pytest.mark.parametrize(
    ("schema", "type_", "called", "active", "target"),
    [
        # Of two that remove each other, the later entry yields: active ones to called ones.
        ({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}}, "add", "B", "A", "B"),
        ({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}}, "add", "A B", "", "A"),
        ({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}}, "add", "B A", "", "B"),
        # A Remove on one side holds whichever comes first.
        ({"A": {"remove": ["B"]}}, "add", "A", "B", "A"),
        ({"A": {"remove": ["B"]}}, "add", "B", "A", "A"),
        ({"A": {"remove": ["B"]}}, "set", "B", "A", "B"),
        ({"A": {"remove": ["B"]}}, "add", "B A", "", "A"),
        # One that is blocked already blocks no more; one that is blocked later has blocked.
        ({"A": {"remove": ["B"]}, "B": {"remove": ["C"]}}, "add", "C B A", "", "C A"),
        ({"A": {"remove": ["B"]}, "B": {"remove": ["C"]}}, "add", "A B C", "", "A"),
        # A state that lacks a Require is gone before it could block.
        ({"A": {"remove": ["B"], "require": ["C"]}}, "add", "A", "B", "B"),
        # What is added along is blocked by what is active.
        ({"A": {"add": ["B"]}, "C": {"remove": ["B"]}}, "add", "A", "C", "A C"),
        # And blocks what is active.
        ({"A": {"add": ["B"]}, "B": {"remove": ["C"]}}, "add", "A", "C", "A B"),
    ],
)
def test_later_entries_yield_to_what_removes_them(
    schema: Schemas, type_: str, called: str, active: str, target: str
) -> None:
    check(schema, type_, called, active, target)


# Step 4: Second Add.


@pytest.mark.parametrize(
    ("schema", "type_", "called", "active", "target"),
    [
        # Of any depth; the list is kept in reversed order since step 3, hence the order.
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}}, "add", "A", "", "C A B"),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"add": ["D"]}}, "add", "A", "", "D C A B"),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"add": ["A"]}}, "add", "A", "", "C A B"),
        # Not through one that is active and cannot be activated again.
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}}, "add", "A", "B", "A B"),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"], "multi": True}}, "add", "A", "B", "A B C"),
        # Nothing that a state left by then removes.
        ({"A": {"add": ["B"], "remove": ["C"]}, "B": {"add": ["C"]}}, "add", "A", "", "A B"),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "D": {"remove": ["C"]}}, "add", "A", "D", "A D B"),
        # But what only a blocked one removes.
        (
            {"A": {"add": ["B"], "remove": ["D"]}, "B": {"add": ["C"]}, "D": {"remove": ["C"]}},
            "add",
            "A",
            "D",
            "C A B",
        ),
        # A removal brings nothing back that it removes, at any depth.
        ({"A": {"add": ["B"], "multi": True}, "B": {"add": ["C"]}}, "remove", "C", "A C", "A B"),
        # A blocked state that another one adds comes back, if what blocked it is gone.
        (
            {"A": {"remove": ["B"]}, "B": {"remove": ["C"]}, "D": {"add": ["C"]}},
            "add",
            "A B C D",
            "",
            "C A D",
        ),
    ],
)
def test_what_is_added_adds_in_turn(schema: Schemas, type_: str, called: str, active: str, target: str) -> None:
    check(schema, type_, called, active, target)


# Step 5: Require again, then consistency.


@pytest.mark.parametrize(
    ("schema", "type_", "called", "active", "target"),
    [
        # A blocked state takes along what requires it.
        ({"A": {"remove": ["B"]}, "C": {"require": ["B"]}}, "add", "A", "B C", "A"),
        # A called state stays, and every state that would remove it leaves ...
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"remove": ["A"]}}, "add", "A", "", "A B"),
        (
            {"A": {"add": ["B"]}, "B": {"add": ["C", "D"]}, "C": {"remove": ["A"]}, "D": {"remove": ["A"]}},
            "add",
            "A",
            "",
            "A B",
        ),
        # ... with what requires that one.
        (
            {"A": {"add": ["B"]}, "B": {"add": ["C", "D"]}, "C": {"remove": ["A"]}, "D": {"require": ["C"]}},
            "add",
            "A",
            "",
            "A B",
        ),
        # One that was not called leaves.
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"remove": ["B"]}}, "add", "A", "", "C A"),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"remove": ["D"]}}, "add", "A", "D", "C A B"),
        # Of two called ones it is the removed one that leaves.
        (
            {"A": {"add": ["D"]}, "B": {"require": ["C"], "remove": ["A"]}, "D": {"add": ["C", "B"]}},
            "add",
            "A B",
            "",
            "D C B",
        ),
        # The first conflict of the list is settled first, which may settle others.
        (
            {
                "A": {"add": ["B"]},
                "B": {"add": ["C", "D", "E"]},
                "C": {"remove": ["D"]},
                "D": {"remove": ["E"]},
                "E": {"remove": ["C"]},
            },
            "add",
            "A",
            "",
            "C A B",
        ),
        # In a removal nothing counts as called.
        (
            {"A": {"add": ["B"], "multi": True}, "B": {"add": ["C"]}, "C": {"remove": ["A"]}},
            "remove",
            "D",
            "A D",
            "C B",
        ),
    ],
)
def test_no_conflict_is_left(schema: Schemas, type_: str, called: str, active: str, target: str) -> None:
    check(schema, type_, called, active, target)


# Step 6: order.


@pytest.mark.parametrize(
    ("schema", "called", "target"),
    [
        # By Require; states that have none and are required by none come first, in the order they had.
        ({"B": {"require": ["C"]}}, "B C A", "A C B"),
        ({"B": {"require": ["C"]}}, "D B A C", "D A C B"),
        ({"A": {"require": ["B"]}, "B": {"require": ["C"]}}, "A B C", "C B A"),
        # Walks begin in the order of the schema.
        ({"A": {"require": ["C"]}, "B": {"require": ["D"]}}, "B D A C", "C A D B"),
        ({"A": {"require": ["C", "D"]}, "B": {"require": ["D"]}}, "A B C D", "C D A B"),
        ({"A": {"require": ["D", "C"]}, "B": {"require": ["D"]}}, "A B C D", "D C A B"),
        # With a cycle anywhere in the schema there is no sorting.
        ({"A": {"require": ["B"]}, "B": {"require": ["A"]}, "C": {"require": ["D"]}}, "C D", "C D"),
        ({"A": {"require": ["B"]}, "B": {"require": ["A"]}}, "B A", "B A"),
        ({"A": {"require": ["A"]}, "C": {"require": ["D"]}}, "C D A", "C D A"),
        (
            {"A": {"require": ["B"]}, "B": {"require": ["C"]}, "C": {"require": ["A"]}, "D": {"require": ["E"]}},
            "D E",
            "D E",
        ),
        # By After: the first that waits for nothing, again and again.
        ({"A": {"after": ["B"]}}, "A B", "B A"),
        ({"A": {"after": ["C"]}}, "A B C", "B C A"),
        ({"A": {"after": ["C"]}, "B": {"after": ["C"]}}, "A B C D", "C A B D"),
        ({"A": {"after": ["B"]}, "B": {"after": ["C"]}}, "A B C", "C B A"),
        # It is nothing to wait for what does not come.
        ({"A": {"after": ["B"]}}, "A C", "A C"),
        ({"A": {"after": ["B"]}, "B": {"after": ["C"]}}, "A C", "A C"),
        # In a cycle the first is taken.
        ({"A": {"after": ["B"]}, "B": {"after": ["A"]}}, "B A", "B A"),
        ({"A": {"after": ["B"]}, "B": {"after": ["A"]}}, "A B C", "C A B"),
        ({"A": {"after": ["B"]}, "B": {"after": ["C"]}, "C": {"after": ["A"]}}, "C B A", "C B A"),
        # After is honoured over Require.
        ({"A": {"require": ["B"]}, "B": {"after": ["A"]}}, "A B", "A B"),
        ({"A": {"require": ["B"]}, "C": {"after": ["A"]}}, "C A B", "B A C"),
    ],
)
def test_states_are_ordered_by_require_and_then_by_after(schema: Schemas, called: str, target: str) -> None:
    check(schema, "add", called, "", target)


def test_handlers_are_called_in_the_order_of_the_states() -> None:
    calls: list[str] = []

    schema: dict[str, am.StateDict] = {"A": {"require": ["B"]}, "B": {}, "C": {"after": ["A"]}}
    mach = am.Machine(schema)
    for name in schema:
        for suffix in ("Enter", "State", "Exit", "End"):
            mach.bind_handlers({name + suffix: lambda e: calls.append(e.name)})
    mach.add(["C", "A", "B"])
    assert calls == ["BEnter", "AEnter", "CEnter", "BState", "AState", "CState"]
    calls.clear()
    mach.remove(["C", "A", "B"])
    assert calls == ["BExit", "AExit", "CExit", "BEnd", "AEnd", "CEnd"]


# Auto states.


@pytest.mark.parametrize(
    ("active", "autos"),
    [("", "A C"), ("A", "C"), ("A C", ""), ("D", "A"), ("C D", "A"), ("E", "A C"), ("F", "C")],
)
def test_auto_states_are_the_inactive_ones_that_no_active_state_removes(active: str, autos: str) -> None:
    schema = am.Schema(
        {
            "F": {"remove": ["A", "B"]},
            "A": {"auto": True, "remove": ["E"]},
            "B": {},
            "C": {"auto": True, "require": ["B"]},
            "D": {"remove": ["C"]},
            "E": {},
        }
    )
    found = am.RelationsResolver(schema).auto([schema.index[name] for name in active.split()])
    assert " ".join(schema.names[i] for i in found) == autos


def test_without_auto_states_there_are_none() -> None:
    assert am.RelationsResolver(am.Schema({"A": {}})).auto([0]) == ()


def test_auto_states_come_with_what_their_relations_allow() -> None:
    mach = am.Machine(
        {
            "A": {},
            "Fine": {"auto": True},
            "Lacking": {"auto": True, "require": ["B"]},
            "Barred": {"auto": True},
            "B": {},
            "C": {"remove": ["Barred"]},
        }
    )
    mach.add1("C")
    assert set(mach.active_states()) == {"C", "Fine"}
    mach.set(["A"])
    assert set(mach.active_states()) == {"A", "Fine", "Barred"}


# States that were not asked may not enter.


@pytest.mark.parametrize(
    ("schema", "called", "active", "admitted", "target"),
    [
        ({}, "A B", "C", "A B", "A B C"),
        ({}, "A B", "C", "A", "A C"),
        ({}, "A B", "C", "", "C"),
        ({"A": {"add": ["B"]}}, "A", "", "A", "A"),
        ({"A": {"require": ["B"]}}, "A B", "", "A", ""),
        ({"A": {"require": ["B"]}}, "A B", "C", "A C", "C"),
    ],
)
def test_no_inactive_state_enters_that_is_not_admitted(
    schema: Schemas, called: str, active: str, admitted: str, target: str
) -> None:
    found = resolve(full(schema), "add", called.split(), active.split(), admitted=admitted.split())
    assert " ".join(found) == target


# Steps.


@pytest.mark.parametrize(
    ("schema", "called", "active", "steps"),
    [
        ({}, "A", "B", []),
        ({"A": {"add": ["B"]}, "B": {"add": ["C"]}}, "A", "", [("add", "B", "A"), ("add", "C", "B")]),
        ({"A": {"require": ["B", "C", "D"]}}, "A", "C", [("require", "A", "B"), ("require", "A", "D")]),
        (
            {"A": {"require": ["B"]}, "B": {"require": ["C"]}},
            "A B",
            "",
            [("require", "B", "C"), ("require", "A", "B")],
        ),
        ({"A": {"remove": ["B"]}, "C": {"remove": ["B"]}}, "A C", "B", [("remove", "B", "A"), ("remove", "B", "C")]),
        (
            {"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"remove": ["A"]}},
            "A",
            "",
            [("add", "B", "A"), ("add", "C", "B"), ("remove", "C", "A")],
        ),
        (
            {"A": {"add": ["B"]}, "B": {"add": ["C"]}, "C": {"remove": ["B"]}},
            "A",
            "",
            [("add", "B", "A"), ("add", "C", "B"), ("remove", "B", "C")],
        ),
    ],
)
def test_steps_tell_what_each_relation_did(
    schema: Schemas, called: str, active: str, steps: list[tuple[str, str, str]]
) -> None:
    names = am.Schema(full(schema)).names
    found: list[am.RelationStep] = []
    resolve(full(schema), "add", called.split(), active.split(), steps=found)
    assert [(step.relation, names[step.state], names[step.other]) for step in found] == steps


# Broken relations.


@pytest.mark.parametrize(
    ("active", "broken"),
    [
        ("", []),
        ("A B", []),
        ("C A", ["A requires B"]),
        ("C D B", ["C removes B", "C removes D"]),
        ("D A", ["A requires B", "D removes A"]),
        ("E", ["E requires A", "E requires B"]),
    ],
)
def test_broken_relations_are_told(active: str, broken: list[str]) -> None:
    schema = am.Schema(
        {
            "A": {"require": ["B"]},
            "B": {},
            "C": {"remove": ["B", "D"]},
            "D": {"remove": ["A"]},
            "E": {"require": ["A", "B"]},
        }
    )
    assert am.broken_relations(schema, active.split()) == broken
    assert am.broken_relations(schema, iter(active.split())) == broken


# Long chains.

MANY = 5000


def chain(relation: str) -> dict[str, Any]:
    """Give states each of which stands in a relation to the one before it."""
    return {f"S{i}": {relation: [f"S{i - 1}"] if i else []} for i in range(MANY)}


def test_a_long_chain_of_requires_is_ordered_and_falls_as_one() -> None:
    mach = am.Machine(chain("require"))
    names = list(mach.state_names[:MANY])
    assert mach.add(reversed(names)).executed
    assert list(mach.active_states()) == names
    assert mach.remove1("S0").executed
    assert mach.active_states() == ()
    last = f"S{MANY - 1}"
    assert mach.add1(last).reason == f"{last} requires S{MANY - 2}"


def test_a_long_chain_of_adds_is_followed_to_its_end() -> None:
    mach = am.Machine(chain("add"))
    assert mach.add1(f"S{MANY - 1}").executed
    assert len(mach.active_states()) == MANY


def test_a_long_cycle_of_requires_is_no_trouble() -> None:
    mach = am.Machine({**chain("require"), "S0": {"require": [f"S{MANY - 1}"]}})
    names = mach.state_names[:MANY]
    assert mach.add(names).executed
    assert mach.active_states() == names
    assert mach.remove1("S7").executed
    assert mach.active_states() == ()


# A plain reading of the rules, with nothing but lists, to compare with.


def reference(  # noqa: C901 - the rules, read from the first to the last
    schema: am.Schema, type_: str, called: list[str], active: list[str], admitted: set[str] | None = None
) -> list[str]:
    listed = {
        "add": [*called, *(name for name in active if name not in called)],
        "set": list(called),
        "remove": [name for name in active if name not in called],
    }[type_]
    removing = type_ == "remove"

    def added(by: list[str], to: list[str], without: set[str]) -> list[str]:
        grown = list(to)
        for owner in by:
            if owner not in active or schema[owner].multi:
                for name in schema[owner].add:
                    if name not in grown and name not in without and not (removing and name in called):
                        grown.append(name)
        return grown

    def required(names: list[str]) -> list[str]:
        kept = [name for name in names if set(schema[name].require) <= set(names)]
        return names if kept == names else required(kept)

    def consistent(names: list[str]) -> list[str]:
        for name in names:
            by = [other for other in names if name in schema[other].remove]
            if by:
                stays = not removing and name in called and not any(other in called for other in by)
                return consistent(required([n for n in names if n not in (by if stays else [name])]))
        return names

    # 1 and 2.
    listed = required(added(listed, listed, set()))
    # 3.
    left: list[str] = []
    blocked: set[str] = set()
    for name in reversed(listed):
        if any(name in schema[other].remove for other in listed if other not in blocked):
            blocked.add(name)
        else:
            left.append(name)
    # 4.
    removed = {name for owner in left for name in schema[owner].remove}
    while (grown := added(left, left, removed)) != left:
        left = grown
    # 5 and 6.
    target = ordered(schema, consistent(required(left[::-1])))
    if admitted is None:
        return target
    return consistent(required([name for name in target if name in active or name in admitted]))


def ordered(schema: am.Schema, names: list[str]) -> list[str]:
    places: dict[str, int] = {}
    cyclic = False

    def visit(name: str, path: tuple[str, ...]) -> None:
        nonlocal cyclic
        if name in path:
            cyclic = True
        elif name not in places:
            for other in schema[name].require:
                visit(other, (*path, name))
            places.setdefault(name, len(places))

    for name, value in schema.items():
        if value.require:
            visit(name, ())
    waiting = list(names) if cyclic else sorted(names, key=lambda name: places.get(name, -1))
    found: list[str] = []
    while waiting:
        free = [name for name in waiting if not set(schema[name].after) & set(waiting)]
        found.append((free or waiting)[0])
        waiting.remove(found[-1])
    return found


NAMES = ["A", "B", "C", "D", "E", "F"]


@st.composite
def schemas(draw: st.DrawFn) -> am.Schema:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    few = st.lists(st.sampled_from(names), unique=True, max_size=3)
    states: dict[str, am.State] = {}
    for name in names:
        require = draw(few)
        states[name] = am.State(
            auto=draw(st.booleans()),
            multi=draw(st.booleans()),
            require=require,
            add=draw(few),
            remove=[other for other in draw(few) if other not in require],
            after=draw(few),
        )
    return am.Schema(states)


@st.composite
def cases(draw: st.DrawFn) -> tuple[am.Schema, str, list[str], list[str]]:
    """Draw a schema, and a mutation of it from any active states."""
    schema = draw(schemas())
    some = st.lists(st.sampled_from(schema.names), unique=True)
    return schema, draw(st.sampled_from(TYPES)), draw(some), draw(some)


Case = tuple[am.Schema, str, list[str], list[str]]


def is_acyclic(graph: Mapping[str, Iterable[str]]) -> bool:
    left = {name: set(others) & set(graph) for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others]:
        left = {name: others - set(free) for name, others in left.items() if name not in free}
    return not left


@given(cases())
def test_resolution_does_as_the_rules_say(case: Case) -> None:
    assert resolve(*case) == reference(*case)


@given(cases(), st.data())
def test_resolution_of_admitted_states_does_as_the_rules_say(case: Case, data: st.DataObject) -> None:
    schema, _, called, active = case
    admitted = data.draw(st.sets(st.sampled_from(schema.names)))
    target = resolve(schema, "add", called, active, admitted=admitted)
    assert target == reference(schema, "add", called, active, admitted)
    assert {*active, *admitted}.issuperset(target)
    assert am.broken_relations(schema, target) == []


@given(cases())
def test_no_target_breaks_a_relation(case: Case) -> None:
    target = resolve(*case)
    assert am.broken_relations(case[0], target) == []
    assert len(set(target)) == len(target)


@given(cases())
def test_resolution_is_the_same_each_time_and_on_each_resolver(case: Case) -> None:
    schema, type_, called, active = case
    again = am.Schema.from_json(schema.to_json())
    assert resolve(again, type_, called, active) == resolve(*case)
    resolver = am.RelationsResolver(schema)
    where = schema.index
    asked = am.MutationType(type_), [where[name] for name in called], [where[name] for name in active]
    assert resolver.resolve(*asked) == resolver.resolve(*asked)


@given(cases())
def test_looking_at_the_steps_changes_nothing(case: Case) -> None:
    steps: list[am.RelationStep] = []
    schema, type_, called, active = case
    target = resolve(*case, steps=steps)
    assert target == resolve(*case)
    # Whoever is missing has a step that says why, and so has whoever came unasked.
    names = schema.names
    left = {names[step.state] for step in steps if step.relation in {"require", "remove"}}
    came = {names[step.state] for step in steps if step.relation == "add"}
    wanted = {"add": {*called, *active}, "set": {*called}, "remove": {*active} - {*called}}[type_]
    assert left >= wanted - set(target)
    assert came >= set(target) - wanted
    for step in steps:
        # Each step is an arrow of the schema. A state may leave because it would remove another, too.
        state, other = names[step.state], names[step.other]
        by_other = state in getattr(schema[other], step.relation)
        assert by_other if step.relation == "add" else by_other or other in getattr(schema[state], step.relation)
        assert step.relation != "require" or other in schema[state].require


@given(cases())
def test_a_removed_state_never_comes_back(case: Case) -> None:
    schema, _, called, active = case
    assert not set(resolve(schema, "remove", called, active)) & set(called)


@given(schemas(), st.data())
def test_order_is_kept_by_after_and_by_require(schema: am.Schema, data: st.DataObject) -> None:
    names = data.draw(st.permutations(schema.names))
    names = names[: data.draw(st.integers(0, len(names)))]
    found = [schema.names[i] for i in am.RelationsResolver(schema).order([schema.index[name] for name in names])]
    assert sorted(found) == sorted(names)
    assert found == ordered(schema, names)
    place = {name: i for i, name in enumerate(found)}
    after = {name: [other for other in schema[name].after if other in place] for name in names}
    if is_acyclic(after):
        assert all(place[other] < place[name] for name, others in after.items() for other in others)
    if not any(after.values()) and is_acyclic({name: schema[name].require for name in schema}):
        required = [(name, other) for name in names for other in schema[name].require if other in place]
        assert all(place[other] < place[name] for name, other in required)


@given(schemas(), st.data())
def test_auto_states_are_a_matter_of_the_active_ones_alone(schema: am.Schema, data: st.DataObject) -> None:
    active = data.draw(st.lists(st.sampled_from(schema.names), unique=True))
    found = am.RelationsResolver(schema).auto([schema.index[name] for name in active])
    assert [schema.names[i] for i in found] == [
        name
        for name, value in schema.items()
        if value.auto and name not in active and not any(name in schema[other].remove for other in active)
    ]


@given(schemas(), st.data())
def test_whatever_a_machine_is_asked_no_relation_is_broken_and_each_run_is_the_same(
    schema: am.Schema, data: st.DataObject
) -> None:
    some = st.lists(st.sampled_from(schema.names), min_size=1, max_size=3)
    mutations = data.draw(st.lists(st.tuples(st.sampled_from(TYPES), some), max_size=8))
    one, other = am.Machine(schema), am.Machine(schema)
    for method, states in mutations:
        result = getattr(one, method)(states)
        assert am.broken_relations(schema, one.active_states()) == []
        assert result.canceled == bool(result.reason)
        again = getattr(other, method)(states)
        assert (again, again.reason, other.time(), other.active_states()) == (
            result,
            result.reason,
            one.time(),
            one.active_states(),
        )


@given(schemas(), st.data())
def test_a_machine_goes_where_the_rules_lead(schema: am.Schema, data: st.DataObject) -> None:
    # Without auto states each transition stands for itself.
    schema = am.Schema({name: dataclasses.replace(value, auto=False) for name, value in schema.items()})
    some = st.lists(st.sampled_from(schema.names), min_size=1, max_size=3, unique=True)
    mach = am.Machine(schema)
    for method, states in data.draw(st.lists(st.tuples(st.sampled_from(TYPES), some), max_size=8)):
        before = list(mach.active_states())
        target = reference(schema, method, states, before)
        accepted = method == "remove" or set(states) <= set(target)
        assert getattr(mach, method)(states).executed == accepted
        assert list(mach.active_states()) == (target if accepted else before)


# Resolvers of one's own.


class Free:
    """Knows no relations: what is called comes about, in alphabetical order of the names."""

    def __init__(self, schema: am.Schema) -> None:
        self.schema = schema
        self.asked: list[tuple[str, list[str], list[str]]] = []

    def resolve(
        self,
        type_: am.MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        admitted: int | None = None,
        steps: list[am.RelationStep] | None = None,
    ) -> tuple[int, ...]:
        names = self.schema.names
        self.asked.append((str(type_), [names[i] for i in called], [names[i] for i in active]))
        if type_ is am.MutationType.REMOVE:
            return self.order([i for i in active if i not in called])
        return self.order({*called, *(active if type_ is am.MutationType.ADD else ())})

    def order(self, states: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(states, key=self.schema.names.__getitem__))

    def auto(self, active: Sequence[int]) -> tuple[int, ...]:
        # Whatever follows an active state in the schema.
        return tuple(i + 1 for i in active if self.schema.names[i].startswith("Chain") and i + 1 not in active)


def test_a_resolver_of_ones_own_decides_targets_and_order() -> None:
    mach = am.Machine({"C": {"require": ["B"]}, "B": {"remove": ["A"]}, "A": {}}, resolver=Free)
    calls: list[str] = []
    for name in "ABC":
        for suffix in ("State", "End"):
            mach.bind_handlers({name + suffix: lambda e: calls.append(e.name)})
    assert mach.add(["C", "A"]).executed
    assert mach.active_states() == ("A", "C")
    assert mach.add1("B").executed
    assert mach.active_states() == ("A", "B", "C")
    assert calls == ["AState", "CState", "BState"]
    calls.clear()
    assert mach.remove(["C", "A"]).executed
    assert calls == ["AEnd", "CEnd"]
    assert mach.set(["C"]).executed
    assert mach.active_states() == ("C",)


def test_a_resolver_of_ones_own_decides_what_is_added_by_itself() -> None:
    mach = am.Machine({"Chain1": {}, "Follower": {}, "Chain2": {}, "Other": {"auto": True}}, resolver=Free)
    mach.add1("Chain1")
    assert mach.active_states() == ("Chain1", "Follower")


def test_a_resolver_is_made_of_the_schema_and_anew_when_that_grows() -> None:
    made: list[Free] = []

    def make(schema: am.Schema) -> Free:
        made.append(Free(schema))
        return made[-1]

    mach = am.Machine({"A": {}}, resolver=make)
    mach.add1("A")
    mach.set_schema({"A": {}, "B": {}})
    mach.add1("B")
    assert [resolver.schema.names for resolver in made] == [("A", "Exception"), ("A", "Exception", "B")]
    assert made[0].asked == [("add", ["A"], [])]
    assert made[1].asked == [("add", ["B"], ["A"])]


def test_what_was_resolved_is_not_resolved_again() -> None:
    made: list[Free] = []

    def make(schema: am.Schema) -> Free:
        made.append(Free(schema))
        return made[-1]

    mach = am.Machine({"A": {}, "B": {}}, resolver=make)
    for _ in range(5):
        mach.add1("A")
        mach.remove1("A")
    assert made[0].asked == [("add", ["A"], []), ("remove", ["A"], ["A"])]


class Stubborn(am.RelationsResolver):
    """Lets nobody in or out."""

    def resolve(
        self, type_: am.MutationType, called: Sequence[int], active: Sequence[int], **_: Any
    ) -> tuple[int, ...]:
        return tuple(active)


def test_what_a_resolver_of_ones_own_leaves_out_has_a_reason() -> None:
    mach = am.Machine({"A": {}}, resolver=Stubborn)
    assert mach.add1("A").reason == "A is left out by the resolver"


class Keeping(Free):
    """Lets nobody out."""

    def resolve(
        self, type_: am.MutationType, called: Sequence[int], active: Sequence[int], **_: Any
    ) -> tuple[int, ...]:
        return self.order({*active, *(called if type_ is am.MutationType.ADD else ())})


def test_a_removal_that_a_resolver_of_ones_own_refuses_has_a_reason() -> None:
    mach = am.Machine({"A": {}}, resolver=Keeping)
    mach.add1("A")
    result = mach.remove1("A")
    assert result.canceled
    assert result.reason == "A stays active"
