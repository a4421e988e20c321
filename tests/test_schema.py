from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am


def problems(schema: Any, groups: Any = None) -> tuple[str, ...]:
    """Make a schema that cannot work, and give its problems."""
    with pytest.raises(am.SchemaError) as caught:
        am.Schema(schema, groups)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return caught.value.problems


# State.


def test_a_state_holds_its_properties_and_relations() -> None:
    state = am.State(auto=True, multi=True, require=["A"], add=["B"], remove=["C"], after=["D"], tags=["ui"])
    assert (state.auto, state.multi) == (True, True)
    assert (state.require, state.add, state.remove, state.after) == (("A",), ("B",), ("C",), ("D",))
    assert state.tags == ("ui",)


def test_a_plain_state_has_nothing() -> None:
    state = am.State()
    assert state.to_dict() == {}
    assert repr(state) == "State()"


def test_names_are_kept_in_order_and_once() -> None:
    assert am.State(require=["B", "A", "B"]).require == ("B", "A")


def test_one_bare_name_is_a_list_of_one() -> None:
    assert am.State(require="Start", tags="ui").to_dict() == {"require": ["Start"], "tags": ["ui"]}


def test_names_may_come_from_any_iterable() -> None:
    assert am.State(add=(name for name in "AB")).add == ("A", "B")


def test_a_state_is_frozen_and_compared_by_value() -> None:
    state = am.State(require=["A"])
    with pytest.raises(AttributeError):
        state.require = ()  # type: ignore[misc]
    assert state == am.State(require=("A",))
    assert hash(state) == hash(am.State(require=("A",)))
    assert state != am.State(add=["A"])


def test_extending_a_state_joins_all_it_has() -> None:
    one = am.State(auto=True, require=["A"], add=["B"], remove=["C"], after=["D"], tags=["x"])
    other = am.State(multi=True, require=["A", "E"], add=["F"], remove=["G"], after=["H"], tags=["y"])
    assert one.extend(other) == am.State(
        auto=True,
        multi=True,
        require=["A", "E"],
        add=["B", "F"],
        remove=["C", "G"],
        after=["D", "H"],
        tags=["x", "y"],
    )


def test_extending_a_state_replaces_its_timeout_and_what_follows() -> None:
    timed = am.State(timeout=2.5, on_timeout="Slow")
    assert timed.extend(am.State(multi=True)) == am.State(multi=True, timeout=2.5, on_timeout="Slow")
    assert timed.extend(am.State(timeout=5)) == am.State(timeout=5, on_timeout="Slow")
    assert timed.extend(am.State(on_timeout="Late")) == am.State(timeout=2.5, on_timeout="Late")


def test_a_timeout_is_shown_and_comes_back_from_its_mapping() -> None:
    timed = am.State(tags=["net"], timeout=2.5, on_timeout="Slow")
    assert timed.to_dict() == {"tags": ["net"], "timeout": 2.5, "on_timeout": "Slow"}
    assert repr(timed) == "State(tags=['net'], timeout=2.5, on_timeout='Slow')"
    schema = am.Schema({"Foo": timed.to_dict(), "Slow": {"timeout": None, "on_timeout": None}})
    assert schema["Foo"] == timed
    assert schema["Slow"] == am.State()
    assert am.Schema.from_json(schema.to_json()) == schema
    assert am.Schema({"Slow": {}}).merge(schema)["Foo"] == timed


def test_a_state_shows_what_it_has() -> None:
    assert repr(am.State(multi=True, require=["A", "B"])) == "State(multi=True, require=['A', 'B'])"


# Schema.


@pytest.mark.parametrize("value", [{"require": ["B"], "multi": True}, am.State(require=["B"], multi=True)])
def test_states_are_given_as_mappings_or_as_values(value: Any) -> None:
    assert am.Schema({"A": value, "B": {}})["A"] == am.State(require=["B"], multi=True)


def test_a_schema_is_a_mapping_in_order() -> None:
    schema = am.Schema({"B": {}, "A": {"auto": True}})
    assert list(schema) == ["B", "A", "Exception"]
    assert schema.names == ("B", "A", "Exception")
    assert schema.index == {"B": 0, "A": 1, "Exception": 2}
    assert len(schema) == 3
    assert "A" in schema
    assert "C" not in schema
    assert dict(schema)["A"].auto
    with pytest.raises(KeyError):
        schema["C"]


def test_exception_is_added_last_and_multi() -> None:
    schema = am.Schema({"A": {}})
    assert schema.names[-1] == "Exception"
    assert schema["Exception"] == am.State(multi=True)


def test_a_declared_exception_is_left_as_it_is() -> None:
    schema = am.Schema({"Exception": {"multi": True, "remove": ["A"]}, "A": {}})
    assert schema.names == ("Exception", "A")
    assert schema["Exception"].remove == ("A",)


def test_a_schema_of_nothing_has_exception() -> None:
    assert am.Schema({}).names == ("Exception",)


def test_a_state_is_dropped_from_its_own_remove_and_after() -> None:
    schema = am.Schema({"A": {"remove": ["B", "A"], "after": ["A", "B"]}, "B": {}})
    assert schema["A"] == am.State(remove=["B"], after=["B"])


def test_what_a_state_adds_it_does_not_remove() -> None:
    schema = am.Schema({"A": {"add": ["B"], "remove": ["B", "C"]}, "B": {}, "C": {}})
    assert schema["A"] == am.State(add=["B"], remove=["C"])


def test_a_removed_state_that_is_added_may_be_required_too() -> None:
    schema = am.Schema({"A": {"require": ["B"], "add": ["B"], "remove": ["B"]}, "B": {}})
    assert schema["A"] == am.State(require=["B"], add=["B"])


def test_schemas_are_equal_by_states_order_and_groups() -> None:
    schema = am.Schema({"A": {}, "B": {}}, {"G": ["A"]})
    assert schema == am.Schema({"A": am.State(), "B": {}}, {"G": ("A",)})
    assert hash(schema) == hash(am.Schema({"A": {}, "B": {}}, {"G": ["A"]}))
    assert schema != am.Schema({"B": {}, "A": {}}, {"G": ["A"]})
    assert schema != am.Schema({"A": {}, "B": {}})
    assert schema != am.Schema({"A": {}, "B": {"multi": True}}, {"G": ["A"]})
    assert schema != {"A": am.State(), "B": am.State(), "Exception": am.State(multi=True)}


def test_a_schema_shows_its_names() -> None:
    assert repr(am.Schema({"A": {}})) == "Schema(A, Exception)"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301
def test_schemas_survive_copies_and_processes(again: Any) -> None:
    schema = am.Schema({"A": {"require": ["B"]}, "B": {"tags": ["ui"]}}, {"G": ["A", "B"]})
    assert again(schema) == schema
    assert again(schema).index == schema.index


def test_a_schema_is_apart_from_what_it_was_made_from() -> None:
    source: dict[str, Any] = {"A": {"require": ["B"]}, "B": {}}
    groups = {"G": ["A"]}
    schema = am.Schema(source, groups)
    source["A"]["require"].append("C")
    source["C"] = {}
    groups["G"].append("B")
    assert schema.names == ("A", "B", "Exception")
    assert schema["A"].require == ("B",)
    assert schema.groups == {"G": ("A",)}


def test_states_are_found_by_tag() -> None:
    schema = am.Schema({"A": {"tags": ["ui", "x"]}, "B": {"tags": ["x"]}, "C": {}})
    assert schema.filter_by_tag("x") == ("A", "B")
    assert schema.filter_by_tag("ui") == ("A",)
    assert schema.filter_by_tag("z") == ()


def test_every_notation_of_a_schema_is_read() -> None:
    class Declared(am.States):
        A: str = am.state(auto=True)

    schema = am.Schema({"A": {"auto": True}})
    assert am.Schema.of(schema) is schema
    assert am.Schema.of({"A": {"auto": True}}) == schema
    assert am.Schema.of({"A": am.State(auto=True)}) == schema
    assert am.Schema.of(Declared) == schema


class NoSchema:
    pass


@pytest.mark.parametrize("wrong", [NoSchema, 5, None, ["A"]])
def test_what_is_no_schema_is_refused_by_name(wrong: Any) -> None:
    text = f"{wrong!r} is no schema; write a subclass of am.States, an am.Schema, or a mapping"
    with pytest.raises(am.SchemaError, match=f"^{re.escape(text)}$"):
        am.Machine(wrong)


# Merging.


def test_merging_adds_states_and_replaces_those_of_the_same_name() -> None:
    class Declared(am.States):
        C: str = am.state()
        D: str = am.state(require=[C])
        Both = am.group(C, D)

    schema = am.Schema({"A": {"auto": True}, "B": {}}, {"G": ["A"], "H": ["B"]})
    merged = schema.merge({"B": {"multi": True}}, Declared, am.Schema({"E": {}}, {"G": ["E"]}))
    assert merged.names == ("A", "B", "Exception", "C", "D", "E")
    assert merged["A"] == am.State(auto=True)
    assert merged["B"] == am.State(multi=True)
    assert merged["D"] == am.State(require=["C"])
    assert merged.groups == {"G": ("E",), "H": ("B",), "Both": ("C", "D")}
    assert schema.names == ("A", "B", "Exception")


def test_merging_checks_the_whole() -> None:
    class Mixin(am.States):
        Ready: str = am.state(require=["Start"])

    assert am.Schema({"Start": {}}).merge(Mixin)["Ready"].require == ("Start",)
    with pytest.raises(am.SchemaError, match="Ready requires 'Start', which is no state of the schema"):
        am.Schema({"Stop": {}}).merge(Mixin)


def test_the_exception_every_schema_has_replaces_no_declared_one() -> None:
    strict = am.Schema({"A": {}, "Exception": {"multi": True, "remove": ["A"]}})
    assert strict.merge(am.Schema({"B": {}}))["Exception"].remove == ("A",)
    assert am.Schema({"B": {}}).merge(strict)["Exception"].remove == ("A",)
    assert strict.merge({"Exception": {"multi": True}})["Exception"].remove == ()


# Problems.


@pytest.mark.parametrize(
    ("relation", "verb"),
    [("require", "requires"), ("add", "adds"), ("remove", "removes"), ("after", "comes after")],
)
def test_an_unknown_name_in_a_relation_is_a_problem_with_the_closest(relation: str, verb: str) -> None:
    assert problems({"Foo": {relation: ["Bra", "Nothing"]}, "Bar": {}}) == (
        f"Foo {verb} 'Bra', which is no state of the schema; did you mean 'Bar'?",
        f"Foo {verb} 'Nothing', which is no state of the schema",
    )


def test_a_name_in_a_relation_that_is_no_string_is_a_problem() -> None:
    assert problems({"Foo": {"require": [5]}}) == ("Foo requires 5, which is no state of the schema",)


def test_a_state_both_required_and_removed_is_a_problem() -> None:
    assert problems({"A": {"require": ["B"], "remove": ["B"]}, "B": {}}) == (
        "A both requires and removes B; it could never be active",
    )


@pytest.mark.parametrize("name", ["", "1st", "two words", "da-sh", "dot.ted", 5, None])
def test_a_name_that_is_no_identifier_is_a_problem(name: Any) -> None:
    assert problems({name: {}, "Foo": {"require": ["Fop"]}}) == (
        f"{name!r} is no name for a state; handlers are found by name, so it must be an identifier",
        "Foo requires 'Fop', which is no state of the schema; did you mean 'Foo'?",
    )


def test_the_name_of_the_global_handlers_is_reserved() -> None:
    assert problems({"Any": {}}) == ("the name 'Any' is reserved for the handlers AnyEnter and AnyState",)


@pytest.mark.parametrize("suffix", ["Enter", "Exit", "State", "End"])
@pytest.mark.parametrize("owner", ["Foo", "Any"])
def test_a_name_that_reads_as_a_handler_is_a_problem(owner: str, suffix: str) -> None:
    assert problems({"Foo": {}, owner + suffix: {}}) == (
        f"the state {owner}{suffix} reads as the {suffix} handler of {owner}; rename one of the two",
    )


def test_a_suffix_alone_or_of_no_state_is_no_problem() -> None:
    assert am.Schema({"End": {}, "WeekEnd": {}}).names == ("End", "WeekEnd", "Exception")


@pytest.mark.parametrize("value", [None, 5, ["Bar"], "Bar"])
def test_a_state_that_is_no_mapping_is_a_problem(value: Any) -> None:
    assert problems({"Foo": value}) == (
        f"Foo is {value!r}; write am.State(...) or a mapping such as {{'require': ['Foo']}}",
    )


def test_an_unknown_property_is_a_problem_with_the_closest() -> None:
    assert problems({"Foo": {"requires": ["Foo"], "colour": "red"}}) == (
        "Foo has the unknown property 'requires'; did you mean 'require'?",
        "Foo has the unknown property 'colour'",
    )


@pytest.mark.parametrize("key", ["require", "add", "remove", "after", "tags"])
@pytest.mark.parametrize("value", [5, None, [["Foo"]]])
def test_relations_that_are_no_lists_of_names_are_a_problem(key: str, value: Any) -> None:
    assert problems({"Foo": {key: value}}) == (f"{key!r} of Foo is {value!r}; write a list of names",)


@pytest.mark.parametrize("timeout", [-1, 0, 0.0, float("nan"), float("inf"), 10**400, "2", True, [1]])
def test_a_timeout_that_is_no_number_of_seconds_is_a_problem(timeout: Any) -> None:
    (problem,) = problems({"Foo": {"timeout": timeout}})
    mend = "write a finite number of seconds above 0, such as timeout=2.5"
    assert problem == f"the timeout of Foo is {timeout!r}; {mend}"


@pytest.mark.parametrize("timeout", [1, 0.001, 1e300, sys.float_info.max])
def test_any_finite_number_of_seconds_is_a_timeout(timeout: float) -> None:
    assert am.Schema({"Foo": {"timeout": timeout}})["Foo"].timeout == timeout


@pytest.mark.parametrize(
    ("on_timeout", "problem"),
    [
        ("Slov", "Foo has on_timeout='Slov', which is no state of the schema; did you mean 'Slow'?"),
        ("", "Foo has on_timeout='', which is no state of the schema"),
        ("Foo", "Foo names itself as its on_timeout; name another state, or leave it out to have Foo removed"),
        (["Slow"], "on_timeout of Foo is ['Slow']; write the name of one state"),
    ],
)
def test_an_on_timeout_that_names_no_other_state_is_a_problem(on_timeout: Any, problem: str) -> None:
    assert problems({"Foo": {"timeout": 2.5, "on_timeout": on_timeout}, "Slow": {}}) == (problem,)


def test_an_on_timeout_without_a_timeout_is_a_problem() -> None:
    text = "Foo has on_timeout='Slow', but no timeout; write after how many seconds: timeout=2.5"
    assert problems({"Foo": {"on_timeout": "Slow"}, "Slow": {}}) == (text,)


def test_a_group_of_unknown_states_is_a_problem_with_the_closest() -> None:
    assert problems({"Foo": {}}, {"G": ["Foo", "Fop", 5], "H": 5}) == (
        "the group H is 5; write a list of names",
        "the group G has 'Fop', which is no state of the schema; did you mean 'Foo'?",
        "the group G has 5, which is no state of the schema",
    )


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {
            "Foo": {"require": ["Bra", "Bar"], "remove": ["Bar"], "sad": 1},
            "Bar": None,
            "FooEnd": {},
            "no name": {},
            "Any": {},
        },
        {"G": ["Baz"]},
    )
    assert len(found) == 8
    for text in ("Bra", "both requires", "'sad'", "Bar is None", "FooEnd reads as", "'no name'", "'Any'", "group G"):
        assert sum(text in problem for problem in found) == 1, text


def test_a_machine_cannot_be_built_on_problems() -> None:
    with pytest.raises(am.SchemaError, match="Foo requires 'Bra'"):
        am.Machine({"Foo": {"require": ["Bra"]}})


# JSON.

NAMES = [f"S{i}" for i in range(6)]


@st.composite
def schemas(draw: st.DrawFn) -> am.Schema:
    names = draw(st.lists(st.sampled_from([*NAMES, "Exception"]), unique=True, max_size=6))
    some = st.lists(st.sampled_from(names), max_size=3) if names else st.just([])
    states: dict[str, am.State | am.StateDict] = {}
    for name in names:
        require = draw(some)
        states[name] = am.State(
            auto=draw(st.booleans()),
            multi=draw(st.booleans()),
            require=require,
            add=draw(some),
            remove=[other for other in draw(some) if other not in require],
            after=draw(some),
            tags=draw(st.lists(st.text(max_size=3), max_size=2)),
        )
    return am.Schema(states, draw(st.dictionaries(st.text(max_size=3), some, max_size=3)))


@given(schemas())
def test_a_schema_comes_back_from_json(schema: am.Schema) -> None:
    again = am.Schema.from_json(schema.to_json())
    assert again == schema
    assert again.to_json() == schema.to_json()
    assert am.Schema.from_json(schema.to_json().encode()) == schema


@given(schemas())
def test_a_schema_is_normal_once_and_for_all(schema: am.Schema) -> None:
    assert am.Schema(dict(schema), schema.groups) == schema
    assert schema.merge(schema) == schema
    for name, value in schema.items():
        assert name not in (*value.remove, *value.after)
        assert not set(value.remove) & {*value.add, *value.require}


KEYS = st.sampled_from(["A", "B", "states", "groups", "require", "multi", "tags"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["A", "B", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(st.fixed_dictionaries({"states": JSON}, optional={"groups": JSON}) | JSON)
def test_any_json_is_a_schema_or_has_problems(data: Any) -> None:
    try:
        schema = am.Schema.from_json(json.dumps(data))
    except am.SchemaError:
        return
    assert set(schema.names) == {*data["states"], "Exception"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the text is not JSON: "),
        (b"\xff", "the text is not JSON: "),
        ("[]", 'the JSON has no "states" object; write schemas with Schema.to_json()'),
        ('{"states": []}', 'the JSON has no "states" object; write schemas with Schema.to_json()'),
        ('{"states": {}, "groups": ["A"]}', "\"groups\" in the JSON is ['A']; write an object of names and lists of"),
    ],
)
def test_what_is_no_schema_in_json_is_said(text: str | bytes, problem: str) -> None:
    with pytest.raises(am.SchemaError, match=re.escape(problem)):
        am.Schema.from_json(text)


def test_json_without_groups_is_enough() -> None:
    assert am.Schema.from_json('{"states": {"A": {}}}') == am.Schema({"A": {}})
