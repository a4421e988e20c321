"""Declarations: states as typed names in the body of a class, inherited, replaced, extended and mixed."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

import asyncmachine as am


class Base(am.States):
    Start: str = am.state(tags=["base"])
    Ready: str = am.state(require=[Start], tags=["base"])
    Both = am.group(Start, Ready)


def test_attributes_are_plain_strings() -> None:
    assert type(Base.Start) is str
    assert Base.Start == "Start"
    mach = am.Machine(Base)
    assert mach.add([Base.Start, Base.Ready]).executed
    assert mach.is_(Base.Both)


def test_relations_name_states_above_by_the_name_itself_or_by_string() -> None:
    class Mixed(am.States):
        A: str = am.state()
        B: str = am.state(require=A, add=[A, "C"], remove=("D",), after=[A])
        C: str = am.state()
        D: str = am.state()

    assert Mixed.schema()["B"] == am.State(require=["A"], add=["A", "C"], remove=["D"], after=["A"])
    assert all(type(name) is str for name in Mixed.schema()["B"].require)


def test_an_on_timeout_names_a_state_above_by_the_name_itself_or_any_by_string() -> None:
    class Net(am.States):
        Slow: str = am.state()
        Connecting: str = am.state(timeout=2.5, on_timeout=Slow)
        Reading: str = am.state(timeout=5, on_timeout="Late")
        Late: str = am.state()

    class Slower(Net):
        Connecting: str = am.state(extend=True, timeout=5)

    assert Net.schema()["Connecting"] == am.State(timeout=2.5, on_timeout="Slow")
    assert Net.schema()["Reading"] == am.State(timeout=5, on_timeout="Late")
    assert Slower.schema()["Connecting"] == am.State(timeout=5, on_timeout="Slow")


def test_relations_take_a_whole_group_by_its_name() -> None:
    class Grouped(am.States):
        A: str = am.state()
        B: str = am.state()
        Pair = am.group(A, "B")
        C: str = am.state(remove=Pair)
        All = am.group(*Pair, C)

    assert Grouped.schema()["C"].remove == ("A", "B")
    assert Grouped.All == ("A", "B", "C")


def test_annotations_are_not_needed() -> None:
    class Bare(am.States):
        A = am.state(auto=True)

    assert Bare.schema()["A"].auto


def test_states_come_in_the_order_they_are_declared() -> None:
    assert list(Base.states()) == ["Start", "Ready"]
    assert Base.schema().names == ("Start", "Ready", "Exception")


def test_the_schema_of_a_class_is_made_once_and_not_shared_with_subclasses() -> None:
    class Child(Base):
        More: str = am.state()

    assert Base.schema() is Base.schema()
    assert Child.schema() is Child.schema()
    assert Child.schema().names == ("Start", "Ready", "More", "Exception")
    assert Base.schema().names == ("Start", "Ready", "Exception")


def test_a_subclass_replaces_a_state_in_its_place() -> None:
    class Child(Base):
        More: str = am.state()
        Start: str = am.state(multi=True)

    assert Child.schema().names == ("Start", "Ready", "More", "Exception")
    assert Child.schema()["Start"] == am.State(multi=True)
    assert Base.schema()["Start"] == am.State(tags=["base"])


def test_a_subclass_extends_a_state() -> None:
    class Child(Base):
        More: str = am.state()
        Ready: str = am.state(extend=True, multi=True, require=[More], tags=["child"])

    assert Child.schema()["Ready"] == am.State(multi=True, require=["Start", "More"], tags=["base", "child"])


def test_states_of_several_bases_come_in_the_order_of_the_bases() -> None:
    class Left(am.States):
        L: str = am.state()

    class Right(am.States):
        R: str = am.state()

    class Child(Right, Left):
        C: str = am.state()

    assert Child.schema().names == ("R", "L", "C", "Exception")


def test_the_first_base_wins_over_the_second() -> None:
    class Left(am.States):
        A: str = am.state(tags=["left"])

    class Right(am.States):
        A: str = am.state(tags=["right"])

    class Child(Left, Right):
        pass

    assert Child.schema()["A"].tags == ("left",)


def test_a_mixin_extends_what_a_later_base_declares() -> None:
    class Mixin(am.States):
        Ready: str = am.state(extend=True, require=["Connected"])
        Connected: str = am.state()

    class Child(Mixin, Base):
        pass

    assert Child.schema()["Ready"].require == ("Start", "Connected")


def test_a_diamond_has_each_state_once_and_each_extension_in_turn() -> None:
    class Left(Base):
        L: str = am.state()
        Ready: str = am.state(extend=True, require=[L])

    class Right(Base):
        R: str = am.state()
        Ready: str = am.state(extend=True, require=[R])

    class Child(Left, Right):
        C: str = am.state()
        Ready: str = am.state(extend=True, require=[C])

    assert Child.schema().names == ("Start", "Ready", "L", "R", "C", "Exception")
    # As methods resolve: Child, Left, Right, Base; what is extended comes first.
    assert Child.schema()["Ready"].require == ("Start", "R", "L", "C")


def test_a_plain_class_may_stand_among_the_bases() -> None:
    class Plain:
        Extra = "no state"

    class Child(Plain, Base):
        More: str = am.state()

    assert Child.schema().names == ("Start", "Ready", "More", "Exception")


def test_other_bases_hear_of_subclasses_too() -> None:
    heard: list[str] = []

    class Plain:
        def __init_subclass__(cls) -> None:
            heard.append(cls.__name__)

    class Child(Base, Plain):
        pass

    assert heard == ["Child"]
    assert Child.schema() == Base.schema()


def test_a_mixin_may_name_states_it_lacks() -> None:
    class Mixin(am.States):
        Paused: str = am.state(require=["Start"], remove=["Ready"])

    class Child(Base, Mixin):
        pass

    assert Child.schema()["Paused"] == am.State(require=["Start"], remove=["Ready"])
    assert Mixin.states() == {"Paused": am.State(require=["Start"], remove=["Ready"])}
    with pytest.raises(am.SchemaError) as caught:
        Mixin.schema()
    assert len(caught.value.problems) == 2


def test_groups_are_tuples_of_names() -> None:
    assert Base.Both == ("Start", "Ready")
    assert Base.groups() == {"Both": ("Start", "Ready")}
    assert Base.schema().groups == {"Both": ("Start", "Ready")}
    assert am.Machine(Base).groups == {"Both": ("Start", "Ready")}


def test_groups_are_inherited_and_replaced() -> None:
    class Other(am.States):
        A: str = am.state()
        Ones = am.group(A)

    class Child(Base, Other):
        B: str = am.state()
        Both = am.group(Base.Start, B)

    assert Child.groups() == {"Both": ("Start", "B"), "Ones": ("A",)}
    assert Child.schema().groups == Child.groups()
    assert Base.groups() == {"Both": ("Start", "Ready")}


def test_a_group_with_an_unknown_state_is_a_problem() -> None:
    class Typo(am.States):
        Foo: str = am.state()
        G = am.group(Foo, "Fop")

    with pytest.raises(am.SchemaError, match=r"the group G has 'Fop', which is no state .* did you mean 'Foo'\?"):
        Typo.schema()


def test_all_problems_of_a_class_are_reported_at_once() -> None:
    class Bad(am.States):
        Foo: str = am.state(extend=True, require=["Bra"])
        Bar: str = am.state(extend=True)
        Any: str = am.state()

    with pytest.raises(am.SchemaError) as caught:
        Bad.schema()
    assert caught.value.problems == (
        "Bad.Foo extends a parent's state, but no parent declares Foo",
        "Bad.Bar extends a parent's state, but no parent declares Bar",
        "Foo requires 'Bra', which is no state of the schema; did you mean 'Bar'?",
        "the name 'Any' is reserved for the handlers AnyEnter and AnyState",
    )


def test_extending_nothing_is_the_only_problem_there_is() -> None:
    class Bad(am.States):
        Foo: str = am.state(extend=True)

    text = "^Bad.Foo extends a parent's state, but no parent declares Foo$"
    with pytest.raises(am.SchemaError, match=text):
        Bad.schema()
    with pytest.raises(am.SchemaError, match=text):
        Bad.states()


def test_an_annotation_without_a_declaration_is_a_problem() -> None:
    with pytest.raises(am.SchemaError) as caught:

        class Bad(am.States):
            Foo: str
            Bar: str
            Baz: str = am.state()

    assert caught.value.problems == tuple(
        f"Bad.{name} is annotated but declares nothing; write `{name}: str = am.state()`" for name in ("Foo", "Bar")
    )


def test_an_annotation_that_is_no_string_is_a_problem_too() -> None:
    # As in a module whose annotations are evaluated.
    with pytest.raises(am.SchemaError, match=r"Bad\.Foo is annotated but declares nothing"):
        type("Bad", (am.States,), {"__annotations__": {"Foo": str}})


def test_other_annotations_are_left_alone() -> None:
    class Fine(am.States):
        A: str = am.state()
        version: int
        flags: ClassVar[str]
        _private: str

    assert Fine.schema().names == ("A", "Exception")


def test_hiding_a_method_is_a_problem() -> None:
    with pytest.raises(am.SchemaError) as caught:

        class Bad(am.States):
            A: str = am.state()
            states: str = am.state()  # type: ignore[assignment]
            schema = am.group(A)  # type: ignore[assignment]

    assert caught.value.problems == tuple(
        f"Bad.{name} hides the method of that name of am.States; call it something else"
        for name in ("states", "schema")
    )


def test_a_states_class_makes_no_instances() -> None:
    text = "Base only declares states; pass the class itself: am.Machine(Base)"
    with pytest.raises(TypeError, match=re.escape(text)):
        Base()


def test_an_empty_class_is_a_schema_too() -> None:
    class Empty(am.States):
        pass

    assert Empty.schema().names == ("Exception",)
    assert Empty.groups() == {}
