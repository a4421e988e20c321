"""What can be read from a machine: checks and getters, of states, ticks and the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {
    "Foo": {},
    "Bar": {},
    "Baz": {"require": ["Foo"], "auto": True, "multi": True, "tags": ["ui", "late"]},
    "Gone": {"remove": ["Foo"]},
}
NAMES = ("Foo", "Bar", "Baz", "Gone", "Exception")


@pytest.fixture
def mach() -> am.Machine:
    """Foo and Bar are active."""
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}})
    mach.add(["Foo", "Bar"])
    return mach


@pytest.fixture
def gone() -> am.Machine:
    """Foo was active when the machine was disposed."""
    mach = am.Machine({"Foo": {}, "Bar": {}})
    mach.add1("Foo")
    mach.dispose()
    return mach


def within(fn: Callable[[am.Machine], None]) -> None:
    """Call a function within a transition, where mutations are queued."""
    mach = am.Machine({"Go": {}, "Foo": {}, "Bar": {}, "Baz": {}}, raise_errors=True)
    seen: list[am.Machine] = []

    def call(e: am.Event) -> None:
        fn(e.machine)
        seen.append(e.machine)

    mach.bind_handlers({"GoState": call})
    mach.add1("Go")
    assert seen == [mach]


# Names, in whichever way they come.


@pytest.mark.parametrize(
    "names",
    [
        ("Foo", "Bar"),
        (["Foo", "Bar"],),
        (("Foo", "Bar"),),
        (["Foo"], "Bar"),
        ("Foo", ("Bar",)),
        ({"Foo": 1, "Bar": 2},),
        ("Foo", "Bar", "Foo", "Foo"),
    ],
)
def test_names_come_one_by_one_or_as_any_iterable_or_mixed(mach: am.Machine, names: tuple[Any, ...]) -> None:
    assert mach.is_(*names)
    assert mach.has(*names)
    assert not mach.not_(*names)
    assert set(mach.index(*names)) == {0, 1}
    mach.remove1("Bar")
    assert not mach.is_(*names)
    assert not mach.not_(*names)
    mach.remove1("Foo")
    assert mach.not_(*names)


def test_names_may_come_from_a_generator(mach: am.Machine) -> None:
    assert mach.is_(name for name in ("Foo", "Bar"))
    assert not mach.is_(name for name in ("Foo", "Baz"))
    assert mach.not_(name for name in ("Baz",))
    assert mach.index(name for name in ("Baz", "Foo")) == (2, 0)
    assert mach.active_states(name for name in ("Baz", "Bar")) == ("Bar",)


def test_a_bare_name_is_one_name_and_not_its_letters(mach: am.Machine) -> None:
    assert mach.is_("Foo")
    assert mach.any("Foo")
    assert mach.switch("Foo") == "Foo"
    assert mach.active_states("Foo") == ("Foo",)
    assert mach.clock("Foo") == {"Foo": 1}
    assert mach.time("Foo") == (1,)
    assert mach.is_time([1], "Foo")
    assert mach.was_time([1], "Foo")
    assert mach.inspect("Foo").startswith("1 Foo\n")
    assert mach.is_queued("add", "Foo") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda mach: mach.is_("Foo", "Barr"),
        lambda mach: mach.is1("Barr"),
        lambda mach: mach.not_(["Barr"]),
        lambda mach: mach.not1("Barr"),
        lambda mach: mach.any(["Foo", "Barr"]),
        lambda mach: mach.any1("Barr"),
        lambda mach: mach.is_time([1], ["Barr"]),
        lambda mach: mach.was_time([1], ["Barr"]),
        lambda mach: mach.is_clock({"Barr": 1}),
        lambda mach: mach.was_clock({"Barr": 1}),
        lambda mach: mach.will_be("Barr"),
        lambda mach: mach.will_be1("Barr"),
        lambda mach: mach.will_be_removed("Barr"),
        lambda mach: mach.will_be_removed1("Barr"),
        lambda mach: mach.is_queued("add", "Barr"),
        lambda mach: mach.is_queued_above(0, "add", ["Barr"]),
        lambda mach: mach.active_states(["Barr"]),
        lambda mach: mach.tick("Barr"),
        lambda mach: mach.clock(["Barr"]),
        lambda mach: mach.time(["Barr"]),
        lambda mach: mach.switch(["Barr"]),
        lambda mach: mach.index("Barr"),
        lambda mach: mach.index1("Barr"),
        lambda mach: mach.inspect(["Barr"]),
    ],
)
def test_an_unknown_name_raises_with_the_closest(mach: am.Machine, read: Callable[[am.Machine], object]) -> None:
    with pytest.raises(am.UnknownStateError, match="'Barr' is no state of this machine; did you mean 'Bar'") as caught:
        read(mach)
    assert caught.value.state == "Barr"


def test_an_unknown_name_close_to_none_is_told_without_a_guess(mach: am.Machine) -> None:
    with pytest.raises(am.UnknownStateError, match=r"^'Xyzzy' is no state of this machine$"):
        mach.is1("Xyzzy")


# Checks.


def test_is_holds_if_all_are_active(mach: am.Machine) -> None:
    assert mach.is_("Foo", "Bar")
    assert not mach.is_("Foo", "Baz")
    assert mach.is1("Foo")
    assert not mach.is1("Baz")


def test_not_holds_if_none_is_active(mach: am.Machine) -> None:
    assert mach.not_("Baz", "Exception")
    assert not mach.not_("Baz", "Foo")
    assert mach.not1("Baz")
    assert not mach.not1("Foo")


def test_of_no_states_all_are_active_and_none_is(mach: am.Machine) -> None:
    assert mach.is_()
    assert mach.not_([])


def test_any_holds_if_all_of_one_group_are_active(mach: am.Machine) -> None:
    assert mach.any(["Foo", "Baz"], ["Foo", "Bar"])
    assert not mach.any(["Foo", "Baz"], ["Baz"])
    assert mach.any("Baz", "Foo")
    assert not mach.any()


def test_any1_holds_if_one_is_active(mach: am.Machine) -> None:
    assert mach.any1("Baz", "Foo")
    assert not mach.any1("Baz", "Exception")
    assert not mach.any1()


def test_has_tells_what_the_schema_has_active_or_not(mach: am.Machine) -> None:
    assert mach.has("Foo", "Baz", "Exception")
    assert not mach.has("Foo", "Nope")
    assert mach.has1("Baz")
    assert not mach.has1("Nope")


def test_is_err_holds_while_exception_is_active(mach: am.Machine) -> None:
    assert not mach.is_err
    mach.add_err(ValueError("no fuel"))
    assert mach.is_err
    mach.remove1("Exception")
    assert not mach.is_err


def test_is_time_holds_while_no_state_ticks(mach: am.Machine) -> None:
    then = mach.time()
    assert mach.is_time(then)
    assert mach.is_time([1, 0], ["Bar", "Baz"])
    assert not mach.is_time([1, 1], ["Bar", "Baz"])
    mach.add1("Baz")
    assert not mach.is_time(then)
    assert mach.is_time(then[:2], ["Foo", "Bar"])


def test_was_time_holds_once_all_ticks_are_reached(mach: am.Machine) -> None:
    assert mach.was_time([1, 1], ["Foo", "Bar"])
    assert mach.was_time([0, 1], ["Foo", "Bar"])
    assert not mach.was_time([1, 1], ["Foo", "Baz"])
    assert mach.was_time(mach.time())
    assert not mach.was_time(mach.time().increment(0))


def test_is_clock_and_was_clock_look_at_the_named_states_alone(mach: am.Machine) -> None:
    assert mach.is_clock({"Foo": 1, "Baz": 0})
    assert not mach.is_clock({"Foo": 1, "Baz": 1})
    assert mach.was_clock({"Foo": 1, "Bar": 0})
    assert not mach.was_clock({"Foo": 1, "Bar": 2})
    assert mach.is_clock(mach.clock())
    assert mach.was_clock({})


# The queue.


def test_will_be_looks_for_a_mutation_that_adds_or_sets_all_of_the_states() -> None:
    def look(mach: am.Machine) -> None:
        assert not mach.will_be("Foo")
        mach.add(["Foo", "Bar"])
        assert mach.will_be("Foo", "Bar")
        assert mach.will_be(["Bar"])
        assert mach.will_be1("Foo")
        assert not mach.will_be("Foo", "Baz")
        assert not mach.will_be_removed("Foo")
        mach.set(["Baz"])
        assert mach.will_be1("Baz")

    within(look)


def test_will_be_removed_looks_for_a_mutation_that_removes_all_of_the_states() -> None:
    def look(mach: am.Machine) -> None:
        mach.remove(["Go", "Bar"])
        assert mach.will_be_removed("Go", "Bar")
        assert mach.will_be_removed1("Bar")
        assert not mach.will_be_removed(["Go", "Foo"])
        assert not mach.will_be1("Bar")

    within(look)


def test_a_position_looks_at_the_first_or_the_last_alone() -> None:
    def look(mach: am.Machine) -> None:
        mach.add1("Foo")
        mach.remove1("Go")
        mach.add1("Bar")
        assert mach.will_be1("Foo", position="first")
        assert not mach.will_be1("Foo", position="last")
        assert mach.will_be1("Bar", position="last")
        assert not mach.will_be("Bar", position="first")
        assert not mach.will_be_removed1("Go", position="first")
        assert not mach.will_be_removed("Go", position="last")
        assert mach.is_queued("remove", "Go") is not None
        assert mach.is_queued("remove", "Go", position="last") is None

    within(look)


def test_is_queued_gives_the_first_mutation_that_fits() -> None:
    def look(mach: am.Machine) -> None:
        mach.add(["Foo", "Bar"], {"id": 1})
        second = mach.add1("Foo").mutation
        assert second is not None
        found = mach.is_queued("add", "Foo")
        assert found is not None
        assert (found.type, found.called, found.args) == ("add", ("Foo", "Bar"), {"id": 1})
        assert mach.is_queued(am.MutationType.ADD, ["Bar", "Foo"]) is found
        assert mach.is_queued("add", "Foo", strict=True) is second
        assert mach.is_queued("add", "Foo", without_args=True) is second
        assert mach.is_queued("add", "Foo", min_tick=second.queue_tick) is second
        assert mach.is_queued("add", "Foo", min_tick=second.queue_tick + 1) is None
        assert mach.is_queued("remove", "Foo") is None
        assert mach.is_queued("add", "Baz") is None

    within(look)


def test_is_queued_tells_checks_from_mutations() -> None:
    def look(mach: am.Machine) -> None:
        mach.can_add1("Foo")
        assert mach.is_queued("add", "Foo") is None
        found = mach.is_queued("add", "Foo", check=True)
        assert found is not None
        assert found.is_check

    within(look)


def test_an_error_counts_as_args_that_a_mutation_carries() -> None:
    def look(mach: am.Machine) -> None:
        mach.add_err(ValueError("no fuel"))
        found = mach.is_queued("add", "Exception")
        assert found is not None
        assert found.args["err"] is mach.err
        assert mach.is_queued("add", "Exception", without_args=True) is None
        assert not mach.is_queued_above(1, "add", "Exception", without_args=True)

    within(look)


def test_is_queued_refuses_a_type_that_is_none(mach: am.Machine) -> None:
    with pytest.raises(ValueError, match="'toggle' is not a valid MutationType"):
        mach.is_queued("toggle", "Foo")


def test_is_queued_above_counts_the_mutations_that_fit() -> None:
    def look(mach: am.Machine) -> None:
        mach.add1("Foo")
        mach.add1("Foo", {"id": 1})
        last = mach.add(["Foo", "Bar"], {"id": 2})
        assert mach.is_queued_above(3, "add", "Foo")
        assert not mach.is_queued_above(4, "add", "Foo")
        assert mach.is_queued_above(2, "add", "Foo", strict=True)
        assert not mach.is_queued_above(3, "add", "Foo", strict=True)
        assert mach.is_queued_above(1, "add", "Foo", without_args=True)
        assert not mach.is_queued_above(2, "add", "Foo", without_args=True)
        assert mach.is_queued_above(1, "add", "Foo", min_tick=last.tick)
        assert not mach.is_queued_above(2, "add", "Foo", min_tick=last.tick)
        assert mach.is_queued_above(0, "remove", "Foo")

    within(look)


def test_queue_len_and_queue_tick_count_what_waits_and_what_ran() -> None:
    mach = am.Machine({"Go": {}, "Foo": {}})
    seen: list[tuple[int, int]] = []

    @mach.on.state("Go", "Foo")
    def look(e: am.Event) -> None:
        mach.remove1(e.state)
        mach.can_remove1(e.state)
        seen.append((mach.queue_len, mach.queue_tick))

    assert (mach.queue_len, mach.queue_tick) == (0, 1)
    mach.add1("Go")
    mach.add1("Foo")
    assert seen == [(2, 2), (2, 4)]
    assert (mach.queue_len, mach.queue_tick) == (0, 5)


# Getters.


def test_the_schema_its_names_and_groups_are_the_ones_the_machine_was_built_with() -> None:
    class Doors(am.States):
        Open: str = am.state()
        Closed: str = am.state(remove=[Open])
        Any_ = am.group(Open, Closed)

    mach = am.Machine(Doors)
    assert mach.schema is Doors.schema()
    assert mach.state_names == ("Open", "Closed", "Exception")
    assert mach.groups == {"Any_": ("Open", "Closed")}


def test_active_states_are_in_the_order_of_the_machine_or_as_asked() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}})
    mach.add(["Baz", "Foo"])
    assert mach.active_states() == ("Baz", "Foo")
    assert mach.active_states(["Foo", "Bar", "Baz"]) == ("Foo", "Baz")
    assert mach.active_states([]) == ()


def test_ticks_come_one_by_one_by_name_and_in_order(mach: am.Machine) -> None:
    mach.remove1("Foo")
    assert (mach.tick("Foo"), mach.tick("Bar"), mach.tick("Baz")) == (2, 1, 0)
    assert mach.clock() == {"Foo": 2, "Bar": 1, "Baz": 0, "Exception": 0}
    assert list(mach.clock()) == list(mach.state_names)
    assert mach.clock(["Baz", "Foo"]) == {"Baz": 0, "Foo": 2}
    assert mach.time() == (2, 1, 0, 0)
    assert mach.time(["Bar", "Foo"]) == (1, 2)
    assert isinstance(mach.clock(), am.Clock)
    assert isinstance(mach.time(), am.Time)


def test_what_was_read_does_not_change_with_the_machine(mach: am.Machine) -> None:
    time, clock, active = mach.time(), mach.clock(), mach.active_states()
    mach.remove1("Foo")
    assert (time, clock["Foo"], active) == ((1, 1, 0, 0), 1, ("Foo", "Bar"))


def test_switch_gives_the_first_active_state(mach: am.Machine) -> None:
    assert mach.switch(["Baz", "Bar", "Foo"]) == "Bar"
    assert mach.switch(["Baz"], ["Foo"]) == "Foo"
    assert mach.switch("Baz", "Exception") is None
    match mach.switch(["Baz", "Bar"]):
        case "Bar":
            pass
        case _:
            pytest.fail("no case of the active state")


def test_index_gives_positions_in_the_schema(mach: am.Machine) -> None:
    assert mach.index("Baz", "Foo", "Baz") == (2, 0, 2)
    assert mach.index1("Exception") == 3
    assert mach.index() == ()


# Text.


def test_str_shows_what_is_active_and_string_all_everything(mach: am.Machine) -> None:
    mach.remove1("Foo")
    assert str(mach) == "(Bar:1)"
    assert mach.string_all() == "(Bar:1) [Foo:2 Baz:0 Exception:0]"
    mach.set([])
    assert str(mach) == "()"


def test_inspect_shows_ticks_properties_and_relations() -> None:
    mach = am.Machine(SCHEMA)
    mach.add1("Foo")
    assert mach.inspect() == (
        "1 Foo\n    |Tick     1\n"
        "0 Bar\n    |Tick     0\n"
        "1 Baz\n    |Tick     1\n    |Auto     true\n    |Multi    true\n    |Require  Foo\n    |Tags     ui late\n"
        "0 Gone\n    |Tick     0\n    |Remove   Foo\n"
        "0 Exception\n    |Tick     0\n    |Multi    true"
    )
    assert mach.inspect(["Gone", "Foo"]) == (
        "0 Gone\n    |Tick     0\n    |Remove   Foo\n1 Foo\n    |Tick     1"  # in the order asked for
    )


def test_inspect_shows_timeouts() -> None:
    mach = am.Machine({"Foo": {"timeout": 2.5, "on_timeout": "Slow"}, "Slow": {}})
    assert mach.inspect("Foo").splitlines() == [
        "0 Foo",
        "    |Tick     0",
        "    |Timeout  2.5",
        "    |On_timeout Slow",
    ]


# After the end.


def test_a_disposed_machine_answers_every_check_with_false(gone: am.Machine) -> None:
    assert not gone.is_("Foo")
    assert not gone.is_()
    assert not gone.is1("Foo")
    assert not gone.not_("Bar")
    assert not gone.not_()
    assert not gone.not1("Bar")
    assert not gone.any("Foo")
    assert not gone.any([])
    assert not gone.any1("Foo")
    assert not gone.has("Foo")
    assert not gone.has1("Foo")
    assert not gone.is_err
    assert not gone.is_time(gone.time())
    assert not gone.was_time([0], ["Foo"])
    assert not gone.is_clock({"Foo": 1})
    assert not gone.was_clock({"Foo": 0})
    assert not gone.will_be("Foo")
    assert not gone.will_be1("Foo")
    assert not gone.will_be_removed("Foo")
    assert not gone.will_be_removed1("Foo")
    assert gone.is_queued("add", "Foo") is None
    assert not gone.is_queued_above(1, "add", "Foo")


def test_a_disposed_machine_has_no_active_states_and_keeps_its_last_ticks(gone: am.Machine) -> None:
    assert gone.active_states() == ()
    assert gone.active_states(["Foo"]) == ()
    assert gone.switch(["Foo"]) is None
    assert gone.tick("Foo") == 1
    assert gone.time() == (1, 0, 0)
    assert gone.clock()["Foo"] == 1
    assert gone.state_names == ("Foo", "Bar", "Exception")
    assert (gone.queue_len, gone.queue_tick) == (0, 2)
    assert gone.index1("Bar") == 1
    assert gone.string_all() == "(Foo:1) [Bar:0 Exception:0]"


# Laws.


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "set"]), st.lists(st.sampled_from(NAMES), max_size=3))))
def test_all_ways_to_read_a_machine_agree(asked: Iterable[tuple[str, list[str]]]) -> None:
    mach = am.Machine(SCHEMA)
    for kind, states in asked:
        getattr(mach, kind)(states)
        active = mach.active_states()
        assert set(active) == {name for name in NAMES if mach.is1(name)}
        assert set(active) == {name for name, tick in mach.clock().items() if am.is_active_tick(tick)}
        assert set(active) == set(mach.time().to_index(mach.state_names).active_states())
        assert mach.is_(active)
        assert mach.not_(name for name in NAMES if name not in active)
        assert all(mach.is1(name) != mach.not1(name) for name in NAMES)
        assert mach.any1(*states) == bool(set(states) & set(active)) == mach.any(*states)
        assert mach.switch(states) == next((name for name in states if name in active), None)
        assert mach.time(states) == tuple(mach.clock()[name] for name in states) == tuple(map(mach.tick, states))
        assert mach.is_time(mach.time(states), states)
        assert mach.is_clock(mach.clock(states))
        assert [mach.state_names[i] for i in mach.index(states)] == states
