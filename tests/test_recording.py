"""Recordings: transitions as lines, and their diff against what was expected."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am
from asyncmachine.recording import Line, Recorder, describe
from asyncmachine.testing import Recording, record

DOOR = {
    "Open": {"remove": ["Closed"]},
    "Closed": {"remove": ["Open"]},
    "Locked": {"require": ["Closed"]},
    "Knock": {"multi": True},
    "Lit": {"auto": True, "require": ["Open"]},
}


@pytest.fixture
def door() -> am.Machine:
    return am.Machine(DOOR, id="door")


# The lines.


def test_a_line_says_what_was_asked_for_and_what_came_of_it(door: am.Machine) -> None:
    rec = record(door)
    door.add("Closed", "Knock")
    door.add1("Knock")
    door.set("Open")
    door.remove1("Lit")
    door.remove("Closed", "Open")
    assert list(rec) == [
        "add Closed Knock: +Closed +Knock",
        "add Knock: +Knock",
        "set Open: +Open -Closed -Knock",
        "auto: +Lit",
        "remove Lit: -Lit",
        "auto: +Lit",
        "remove Closed Open: -Open -Lit",
    ]


def test_a_line_says_that_nothing_changed(door: am.Machine) -> None:
    door.add1("Closed")
    rec = record(door)
    door.add1("Closed")
    assert list(rec) == ["add Closed: unchanged"]


def test_a_line_says_why_it_was_canceled(door: am.Machine) -> None:
    class Handlers:
        def ClosedEnter(self, e: am.Event) -> bool:
            return False

        def OpenState(self, e: am.Event) -> None:
            raise OSError("stuck")

    door.bind_handlers(Handlers())
    rec = record(door)
    door.add1("Locked")
    door.add1("Closed")
    door.add1("Open")
    assert list(rec) == [
        "add Locked: canceled (Locked requires Closed)",
        "add Closed: canceled (vetoed by ClosedEnter of Handlers)",
        "add Open: canceled (OpenState of Handlers raised OSError('stuck'))",
        "add Exception: +Exception (OSError('stuck') in OpenState)",
    ]


def test_what_changed_although_it_was_canceled_is_told(door: am.Machine) -> None:
    door.add1("Closed")
    door.bind_handlers({"OpenState": lambda e: 1 / 0})
    rec = record(door)
    door.add1("Open")
    assert rec[0].startswith("add Open: -Closed canceled (")


def test_checks_and_auto_states_that_do_not_come_are_left_out(door: am.Machine) -> None:
    rec = record(door)
    assert door.can_add1("Open")
    door.add1("Closed")
    assert list(rec) == ["add Closed: +Closed"]


def test_a_transition_that_is_under_way_is_told_as_such(door: am.Machine) -> None:
    seen: list[str] = []

    class Last(am.Tracer):
        def transition_end(self, transition: am.Transition[am.Machine]) -> None:
            seen.extend(rec)

    rec = record(door)
    door.bind_tracer(Last())
    door.add1("Locked")
    assert seen == ["add Locked: canceled (under way)"]


@pytest.mark.parametrize(
    "line",
    [
        "add Open: +Open",
        "  add   Open  Closed :  -Open   +Closed ",
        "remove Open: -Open canceled (a (nested) reason)",
        "set Open: unchanged",
        "auto: +Lit",
        "add Open: canceled",
    ],
)
def test_a_line_is_read_as_it_is_written(line: str) -> None:
    parsed = Line.parse(line, DOOR)
    assert Line.parse(str(parsed), DOOR) == parsed


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Open",
        "add Open",
        "add Open:",
        "add: +Open",
        "addOpen: +Open",
        "auto Open: +Open",
        "add Open: Open",
        "add Open: +",
        "add Open: +Open unchanged",
        "add Open: canceled unchanged",
        "toggle Open: +Open",
        "add Open: (why)",
    ],
)
def test_what_is_no_line_is_refused_with_examples(door: am.Machine, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{line!r} is no line of a recording; write what was asked")):
        record(door).assert_equal([line])


@pytest.mark.parametrize("line", ["add Opne: unchanged", "add Open: +Opne"])
def test_a_line_names_states_of_the_machine(door: am.Machine, line: str) -> None:
    with pytest.raises(am.UnknownStateError, match="did you mean 'Open'"):
        record(door).assert_equal([line])


def test_a_text_is_not_taken_for_a_list_of_lines(door: am.Machine) -> None:
    with pytest.raises(TypeError, match=re.escape("write ['add Open: +Open']")):
        record(door).assert_equal("add Open: +Open")


states = st.lists(st.sampled_from(list(DOOR)), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "set", "toggle"]), states), max_size=12))
def test_whatever_a_machine_does_its_own_lines_expect_it(operations: list[tuple[str, list[str]]]) -> None:
    door = am.Machine(DOOR)
    rec = record(door)
    for method, names in operations:
        if names:
            getattr(door, method)(names)
    rec.assert_equal(rec.lines)
    rec.assert_equal([line.partition(" (")[0] for line in rec])
    assert rec == rec.lines
    for line in rec:
        assert line in rec
    if rec:
        assert rec.diff(rec.lines[1:])
        assert rec.diff([*rec.lines, "add Knock: unchanged"])


# What is expected.


def test_the_order_of_states_does_not_count(door: am.Machine) -> None:
    rec = record(door)
    door.add("Closed", "Knock")
    rec.assert_equal(["add Knock Closed: +Knock +Closed"])


def test_a_detail_need_not_be_expected_but_must_be_right_if_it_is(door: am.Machine) -> None:
    rec = record(door)
    door.add1("Locked")
    rec.assert_equal(["add Locked: canceled"])
    rec.assert_equal(["add Locked: canceled (Locked requires Closed)"])
    with pytest.raises(AssertionError):
        rec.assert_equal(["add Locked: canceled (Locked requires Open)"])


def test_a_difference_is_told_as_a_diff_with_the_machine_as_it_is(door: am.Machine) -> None:
    rec = record(door)
    door.add1("Closed")
    door.add1("Open")
    door.add1("Locked")
    door.add_err(OSError("stuck"))
    with pytest.raises(AssertionError) as caught:
        rec.assert_equal(["add Closed: +Closed", "add Locked: +Locked", "add Open: +Open -Closed", "auto: +Lit"])
    assert str(caught.value).splitlines() == [
        "door did not do what was expected (- expected, + happened):",
        "    add Closed: +Closed",
        "  - add Locked: +Locked",
        "    add Open: +Open -Closed",
        "    auto: +Lit",
        "  + add Locked: canceled (Locked requires Closed)",
        "  + add Exception: +Exception (OSError('stuck'))",
        "  the machine: (Open:1 Lit:1 Exception:1) [Closed:2 Locked:0 Knock:0]",
        "  its error: OSError('stuck')",
    ]


def test_what_is_far_from_any_difference_is_counted_only(door: am.Machine) -> None:
    rec = record(door)
    for _ in range(20):
        door.add1("Knock")
    expected = ["add Knock: +Knock"] * 20
    expected.insert(10, "add Open: +Open")
    same = "    add Knock: +Knock"
    assert rec.diff(expected) == [
        "    ... 7 as expected",
        *[same] * 3,
        "  - add Open: +Open",
        *[same] * 3,
        "    ... 7 as expected",
    ]


# The list.


def test_it_is_a_list_of_lines(door: am.Machine) -> None:
    rec = record(door)
    assert not rec
    door.add1("Closed")
    door.add1("Open")
    assert len(rec) == 3
    assert rec[0] == "add Closed: +Closed"
    assert rec[1:] == ["add Open: +Open -Closed", "auto: +Lit"]
    assert "add Open: -Closed +Open" in rec
    assert "add Open: +Open" not in rec
    assert 1 not in rec
    assert rec == ["add Closed: +Closed", "add Open: +Open -Closed", "auto: +Lit"]
    assert rec != ["add Closed: +Closed"]
    assert rec != "add Closed: +Closed"
    assert rec != 3
    assert repr(rec).startswith("<Recording of door ['add Closed: +Closed', ")
    assert rec.transitions[0].called_states == ("Closed",)
    with pytest.raises(TypeError):
        hash(rec)


def test_it_begins_when_it_is_made_and_ends_when_it_is_stopped(door: am.Machine) -> None:
    door.add1("Closed")
    with record(door) as rec:
        assert isinstance(rec, Recording)
        assert rec.machine is door
        door.add1("Open")
        rec.clear()
        door.remove1("Lit")
    door.add1("Closed")
    assert rec == ["remove Lit: -Lit", "auto: +Lit"]
    assert door.tracers == ()


def test_a_machine_is_described_with_its_longest_recording(door: am.Machine) -> None:
    assert describe(door) == ["  the machine: () [Open:0 Closed:0 Locked:0 Knock:0 Lit:0 Exception:0]"]
    longer = Recorder(limit=2)
    door.bind_tracer(am.Tracer())
    door.bind_tracer(longer)
    for _ in range(3):
        door.add1("Knock")
    rec = record(door)
    door.add1("Closed")
    assert describe(door)[1:] == ["  its last transitions (of 4):", "    add Knock: +Knock", "    add Closed: +Closed"]
    door.detach_tracer(longer)
    assert describe(door)[1:] == ["  its last transitions:", "    add Closed: +Closed"]
    assert rec
