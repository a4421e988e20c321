from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

TICKS = st.integers(0, 50)
TIMES = st.lists(TICKS, max_size=8).map(am.Time)
POSITIONS = st.lists(st.integers(-2, 10), max_size=6)
NAMES = ["A", "B", "C", "D", "E"]
INDEXES = st.lists(TICKS, min_size=len(NAMES), max_size=len(NAMES)).map(lambda ticks: am.TimeIndex(NAMES, ticks))
SOME_NAMES = st.lists(st.sampled_from([*NAMES, "Unknown"]), max_size=6)


# Parity.


@given(TICKS)
def test_odd_ticks_are_active(tick: int) -> None:
    assert am.is_active_tick(tick) == bool(tick & 1)


@given(TICKS)
def test_the_next_active_tick_is_the_first_odd_one_to_come(tick: int) -> None:
    later = am.next_active(tick)
    assert later == min(t for t in range(tick + 1, tick + 4) if am.is_active_tick(t))
    assert later - tick == am.next_active_in(tick)


@given(TICKS)
def test_the_next_inactive_tick_is_the_first_even_one_to_come(tick: int) -> None:
    later = am.next_inactive(tick)
    assert later == min(t for t in range(tick + 1, tick + 4) if not am.is_active_tick(t))
    assert later - tick == am.next_inactive_in(tick)


def test_parity_helpers_answer_as_a_machine_goes_on() -> None:
    mach = am.Machine({"Foo": {"multi": True}})
    expected = am.next_active(mach.tick("Foo"))
    mach.add1("Foo")
    assert mach.tick("Foo") == expected
    expected = am.next_active(mach.tick("Foo"))
    mach.add1("Foo")
    assert mach.tick("Foo") == expected
    expected = am.next_inactive(mach.tick("Foo"))
    mach.remove1("Foo")
    assert mach.tick("Foo") == expected


# Clock.


def test_a_clock_is_the_ticks_by_name() -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}})
    mach.add1("Bar")
    assert mach.clock() == {"Foo": 0, "Bar": 1, "Exception": 0}
    assert repr(mach.clock(["Bar", "Foo"])) == "Clock({'Bar': 1, 'Foo': 0})"


def test_a_clock_is_apart_from_its_machine() -> None:
    mach = am.Machine({"Foo": {}})
    clock = mach.clock()
    mach.add1("Foo")
    assert clock["Foo"] == 0


# Time.


@given(TIMES)
def test_a_time_is_a_tuple_of_its_ticks(time: am.Time) -> None:
    assert time == tuple(time)
    assert hash(time) == hash(tuple(time))
    assert repr(time) == f"Time({', '.join(str(tick) for tick in time)})"
    assert str(time) == " ".join(str(tick) for tick in time)
    assert pickle.loads(pickle.dumps(time)) == time  # noqa: S301 - our own


@given(TIMES, POSITIONS)
def test_ticks_outside_of_a_time_are_0(time: am.Time, positions: list[int]) -> None:
    by_position = dict(enumerate(time))
    assert [time.tick(i) for i in positions] == [by_position.get(i, 0) for i in positions]


@given(TIMES, POSITIONS)
def test_filter_gives_the_ticks_of_positions_in_their_order(time: am.Time, positions: list[int]) -> None:
    assert time.filter(positions) == tuple(time.tick(i) for i in positions)
    assert isinstance(time.filter(positions), am.Time)
    assert time.filter(range(len(time))) == time


@given(TIMES, POSITIONS)
def test_sum_adds_up_all_ticks_or_those_of_positions(time: am.Time, positions: list[int]) -> None:
    assert time.sum() == sum(tuple(time))
    assert time.sum(positions) == sum(time.tick(i) for i in positions)
    assert time.sum([]) == 0


@given(TIMES, st.data())
def test_increment_moves_one_tick_on(time: am.Time, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, max(len(time) - 1, 0)))
    later = time.increment(position)
    assert later.diff_since(time) == tuple(int(i == position) for i in range(len(time)))
    assert later.sum() == time.sum() + bool(time)


@given(TIMES, TIMES)
def test_add_and_diff_undo_each_other(one: am.Time, other: am.Time) -> None:
    assert one.add(other).diff_since(other) == one
    assert one.diff_since(other).add(other) == one
    assert isinstance(one.add(other), am.Time)
    assert isinstance(one.diff_since(other), am.Time)


@given(TIMES, TIMES)
def test_add_and_diff_count_what_the_other_lacks_as_0(one: am.Time, other: am.Time) -> None:
    assert one.add(other) == tuple(tick + other.tick(i) for i, tick in enumerate(one))
    assert one.diff_since(other) == tuple(tick - other.tick(i) for i, tick in enumerate(one))


@given(TIMES, POSITIONS)
def test_active_states_are_those_at_odd_ticks(time: am.Time, positions: list[int]) -> None:
    assert time.active_states() == tuple(i for i, tick in enumerate(time) if tick % 2)
    assert time.active_states(positions) == tuple(i for i in positions if time.tick(i) % 2)


@given(TIMES)
def test_non_zero_states_are_those_that_ever_were_active(time: am.Time) -> None:
    assert time.non_zero_states() == tuple(i for i, tick in enumerate(time) if tick > 0)


@given(TIMES, POSITIONS, POSITIONS)
def test_checks_of_a_time_agree_with_one_another(time: am.Time, some: list[int], others: list[int]) -> None:
    active = {i for i, tick in enumerate(time) if tick % 2}
    assert [time.is1(i) for i in some] == [i in active for i in some]
    assert [time.not1(i) for i in some] == [i not in active for i in some]
    assert time.is_(some) == active.issuperset(some)
    assert time.not_(some) == active.isdisjoint(some)
    assert time.any(some, others) == (time.is_(some) or time.is_(others))
    assert time.any1(*some) == (not time.not_(some))


def test_no_groups_and_no_states_are_never_any() -> None:
    assert not am.Time([1]).any()
    assert not am.Time([1]).any1()
    assert not am.TimeIndex(["A"], [1]).any()
    assert not am.TimeIndex(["A"], [1]).any1()


@given(st.sets(st.integers(0, 7)))
def test_a_time_of_active_states_has_just_these(active: set[int]) -> None:
    time = am.Time.of_active(8, active)
    assert len(time) == 8
    assert set(time.active_states()) == active
    assert time.sum() == len(active)


@given(TIMES, TIMES)
def test_after_and_before_are_each_others_mirror(one: am.Time, other: am.Time) -> None:
    assert one.after(other) == other.before(one)
    assert one.after(other, or_equal=True) == other.before(one, or_equal=True)


@given(TIMES, TIMES)
def test_later_means_later_in_every_shared_tick(one: am.Time, other: am.Time) -> None:
    shared = range(min(len(one), len(other)))
    assert one.after(other) == all(one[i] > other[i] for i in shared)
    assert one.after(other, or_equal=True) == all(one[i] >= other[i] for i in shared)


@given(TIMES, TIMES)
def test_neither_earlier_nor_later_is_equal_where_shared(one: am.Time, other: am.Time) -> None:
    both = one.after(other, or_equal=True) and one.before(other, or_equal=True)
    assert both == one.equal(other, strict=False)


@given(TIMES, TIMES)
def test_strictly_equal_times_are_the_same_tuple(one: am.Time, other: am.Time) -> None:
    assert one.equal(other) == (tuple(one) == tuple(other))
    assert one.equal(list(one))
    assert not one.equal((*one, 0))
    assert one.equal((*one, 0), strict=False)


@given(st.lists(st.sampled_from(["A", "B"]), max_size=10))
def test_machine_time_only_goes_on(toggled: list[str]) -> None:
    mach = am.Machine({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}})
    for state in toggled:
        before = mach.time()
        mach.toggle1(state)
        assert mach.time().after(before, or_equal=True)
        assert mach.time().diff_since(before).sum() in {1, 2}


# TimeIndex.


@given(TIMES)
def test_a_time_knows_its_names_as_an_index(time: am.Time) -> None:
    names = [f"S{i}" for i in range(len(time))]
    index = time.to_index(names)
    assert index.names == tuple(names)
    assert index.time == time
    assert [index.state_name(i) for i in range(len(time))] == names
    assert [index.tick(name) for name in names] == list(time)


def test_a_position_beyond_the_end_has_no_name() -> None:
    index = am.TimeIndex(["A"], [1])
    assert [index.state_name(i) for i in (-1, 0, 1)] == ["", "A", ""]


@given(INDEXES, SOME_NAMES)
def test_an_index_checks_names_as_a_time_checks_positions(index: am.TimeIndex, some: list[str]) -> None:
    position = {name: i for i, name in enumerate(NAMES)}
    places = [position.get(name, 99) for name in some]
    time = index.time
    assert [index.is1(name) for name in some] == [time.is1(i) for i in places]
    assert [index.not1(name) for name in some] == [time.not1(i) for i in places]
    assert index.is_(some) == time.is_(places)
    assert index.not_(some) == time.not_(places)
    assert index.any(some, ["A"]) == time.any(places, [0])
    assert index.any1(*some) == time.any1(*places)
    assert index.sum() == time.sum()
    assert index.sum(some) == time.sum(places)
    assert index.active_states() == tuple(NAMES[i] for i in time.active_states())
    assert index.active_states(some) == tuple(name for name in some if index.is1(name))
    assert index.non_zero_states() == tuple(NAMES[i] for i in time.non_zero_states())


@given(INDEXES, SOME_NAMES)
def test_a_filtered_index_keeps_the_ticks(index: am.TimeIndex, some: list[str]) -> None:
    some = list(dict.fromkeys(some))
    part = index.filter(some)
    assert part.names == tuple(some)
    assert {name: part.tick(name) for name in some} == {name: index.tick(name) for name in some}
    assert index.filter(iter(NAMES)) == index


@given(st.sets(st.sampled_from(NAMES)))
def test_an_index_of_active_states_has_just_these(active: set[str]) -> None:
    index = am.TimeIndex.of_active(iter(NAMES), active)
    assert index.names == tuple(NAMES)
    assert set(index.active_states()) == active
    assert str(index) == " ".join(name for name in NAMES if name in active)


@given(INDEXES, INDEXES)
def test_indexes_are_equal_by_names_and_ticks(one: am.TimeIndex, other: am.TimeIndex) -> None:
    assert (one == other) == (one.time == other.time)
    again = copy.copy(one)
    assert again == one
    assert hash(again) == hash(one)
    assert am.TimeIndex(["X", *NAMES[1:]], one.time) != one
    assert one != one.time


def test_an_index_shows_its_ticks_by_name() -> None:
    index = am.TimeIndex(["Foo", "Bar", "Baz"], [3, 2, 1])
    assert repr(index) == "TimeIndex(Foo=3, Bar=2, Baz=1)"
    assert str(index) == "Foo Baz"


@pytest.mark.parametrize("ticks", [[1], [1, 2, 3]])
def test_names_and_ticks_of_different_length_are_no_trouble(ticks: list[int]) -> None:
    index = am.TimeIndex(["A", "B"], ticks)
    assert index.active_states() == ("A",)
    assert index.non_zero_states() == tuple("AB"[: len(ticks)])
    assert index.tick("B") == index.time.tick(1)
