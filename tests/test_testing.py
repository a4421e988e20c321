"""Assertions on machines, and the texts of their errors. What else is to be found there has tests of its own."""

from __future__ import annotations

import asyncio
import re

import anyio
import looptime
import pytest

import asyncmachine as am
from asyncmachine import recording, settling, testing
from asyncmachine.testing import assert_never, assert_states, assert_ticks, record, settle


@pytest.fixture
def door() -> am.Machine:
    return am.Machine(
        {"Open": {"remove": ["Closed"]}, "Closed": {"remove": ["Open"]}, "Knock": {"multi": True}}, id="door"
    )


def text(caught: pytest.ExceptionInfo[AssertionError]) -> list[str]:
    return str(caught.value).splitlines()


def test_all_helpers_are_found_in_one_place() -> None:
    assert testing.settle is settling.settle
    assert testing.record is recording.record
    assert testing.Recording is recording.Recording
    assert not hasattr(am, "testing") or "testing" not in am.__all__


# assert_states


def test_assert_states_passes_if_just_these_are_active(door: am.Machine) -> None:
    assert_states(door)
    door.add("Closed", "Knock")
    assert_states(door, "Knock", "Closed", "Closed")
    assert_states(door, ["Closed", "Knock"])


def test_assert_states_says_what_differs(door: am.Machine) -> None:
    door.add("Closed", "Knock")
    with pytest.raises(AssertionError) as caught:
        assert_states(door, "Open", "Knock")
    assert text(caught) == [
        "door is not in the states expected",
        "  expected: Open Knock",
        "  got:      Closed Knock",
        "  missing:  Open",
        "  too many: Closed",
        "  the machine: (Closed:1 Knock:1) [Open:0 Exception:0]",
    ]


def test_assert_states_says_what_led_there_if_it_was_recorded(door: am.Machine) -> None:
    record(door)
    door.add1("Closed")
    door.add_err(OSError("stuck"))
    with pytest.raises(AssertionError) as caught:
        assert_states(door)
    assert text(caught) == [
        "door is not in the states expected",
        "  expected: none",
        "  got:      Closed Exception",
        "  too many: Closed Exception",
        "  the machine: (Closed:1 Exception:1) [Open:0 Knock:0]",
        "  its error: OSError('stuck')",
        "  its last transitions:",
        "    add Closed: +Closed",
        "    add Exception: +Exception (OSError('stuck'))",
    ]
    assert_states(door, "Closed", "Exception")


def test_assert_states_may_leave_other_states_alone(door: am.Machine) -> None:
    door.add("Closed", "Knock")
    assert_states(door, "Closed", exact=False)
    with pytest.raises(AssertionError) as caught:
        assert_states(door, "Open", exact=False)
    assert "  missing:  Open" in text(caught)
    assert not any("too many" in line for line in text(caught))


def test_assert_states_says_that_the_machine_is_disposed(door: am.Machine) -> None:
    door.add1("Closed")
    door.dispose()
    assert_states(door)
    with pytest.raises(AssertionError) as caught:
        assert_states(door, "Closed")
    assert "  got:      none, for it is disposed" in text(caught)


def test_assert_states_knows_the_states(door: am.Machine) -> None:
    with pytest.raises(am.UnknownStateError, match="did you mean 'Open'"):
        assert_states(door, "Opne")


# assert_ticks


def test_assert_ticks_compares_the_clocks_that_are_given(door: am.Machine) -> None:
    door.add("Closed", "Knock")
    door.add1("Knock")
    door.add1("Open")
    assert_ticks(door, {"Closed": 2, "Open": 1})
    assert_ticks(door, {})
    with pytest.raises(AssertionError) as caught:
        assert_ticks(door, {"Open": 1, "Closed": 1, "Knock": 2})
    assert text(caught) == [
        "the clocks of door do not stand where they should",
        "  Closed: expected 1 (active), got 2 (inactive)",
        "  Knock: expected 2 (inactive), got 3 (active)",
        "  the machine: (Open:1 Knock:3) [Closed:2 Exception:0]",
    ]


def test_assert_ticks_knows_the_states(door: am.Machine) -> None:
    with pytest.raises(am.UnknownStateError):
        assert_ticks(door, {"Opne": 1})


# assert_never


def test_assert_never_passes_if_the_state_stays_away(door: am.Machine) -> None:
    with assert_never(door, "Exception", ["Open"]):
        door.add1("Closed")
        assert door.can_add1("Open")
    assert door.tracers == ()
    door.add1("Open")


def test_assert_never_names_the_error_and_where_it_came_from(door: am.Machine) -> None:
    class Handlers:
        def ClosedState(self, e: am.Event) -> None:
            raise OSError("stuck")

    door.bind_handlers(Handlers())
    with pytest.raises(AssertionError) as caught, assert_never(door, "Exception"):
        door.add1("Closed")
        door.remove1("Exception")
        door.add_err(ValueError("another"))
    assert text(caught) == [
        "door was to stay out of Exception, but it was activated",
        "  by:   add Exception: +Exception (OSError('stuck') in ClosedState)",
        "  from: transition 1.1 of door",
        "  the machine: (Exception:3) [Open:0 Closed:2 Knock:0]",
        "  its error: ValueError('another')",
    ]
    assert isinstance(caught.value.__cause__, OSError)


def test_assert_never_sees_what_was_active_for_a_moment(door: am.Machine) -> None:
    with pytest.raises(AssertionError) as caught, assert_never(door, "Open"):
        door.add1("Open")
        door.remove1("Open")
    assert text(caught)[:2] == ["door was to stay out of Open, but it was activated", "  by:   add Open: +Open"]
    assert caught.value.__cause__ is None


def test_assert_never_sees_what_was_rolled_back(door: am.Machine) -> None:
    door.bind_handlers({"OpenState": lambda e: 1 / 0})
    with (
        pytest.raises(AssertionError, match=r"stay out of Open.*\n  by:   add Open: canceled \("),
        assert_never(door, "Open"),
    ):
        door.add1("Open")
    assert door.err is not None


def test_assert_never_fails_at_once_if_the_state_is_there(door: am.Machine) -> None:
    door.add1("Open")
    with pytest.raises(AssertionError, match="door is in Open from the start"), assert_never(door, "Open"):
        pytest.fail("the block is not entered")


def test_assert_never_sees_what_was_restored(door: am.Machine) -> None:
    door.add1("Open")
    saved = door.export()
    door.remove1("Open")
    with pytest.raises(AssertionError, match="door was restored to Open"), assert_never(door, "Open"):
        door.restore(saved)


def test_assert_never_adds_a_note_to_an_error_of_the_block(door: am.Machine) -> None:
    with pytest.raises(KeyError) as caught, assert_never(door, "Open"):
        door.add1("Open")
        raise KeyError
    assert caught.value.__notes__ == ["door was to stay out of Open, but it was activated\n  by:   add Open: +Open"]
    with pytest.raises(KeyError) as caught, assert_never(door, "Closed"):
        raise KeyError
    assert not hasattr(caught.value, "__notes__")


def test_assert_never_asks_for_states(door: am.Machine) -> None:
    with pytest.raises(ValueError, match=re.escape("assert_never(mach, 'Exception')")), assert_never(door):
        pass
    with pytest.raises(am.UnknownStateError), assert_never(door, "Opne"):
        pass


async def test_assert_never_watches_what_work_does(door: am.Machine) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("stuck")

    with pytest.raises(AssertionError, match=r"\(OSError\('stuck'\) in .*fail\)"), assert_never(door, "Exception"):
        door.fork(fail)
        await settle(door)
    await door.dispose()


# Virtual time, without any plugin.


def test_hours_of_work_pass_at_once_on_a_loop_of_looptime() -> None:
    class Night:
        async def ClosedState(self, e: am.Event) -> None:
            await anyio.sleep(3600 * 8)
            e.machine.add1("Open")

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        schema = {"Closed": {}, "Open": {"remove": ["Closed"]}, "Late": {}}
        async with am.Machine(schema, handlers=Night()) as mach:
            mach.fork(late, mach, delay=3600)
            mach.add1("Closed")
            await settle(mach)
            assert loop.time() == began
            assert_states(mach, "Closed")
            await mach.expect("Late", timeout=3601)
            await mach.expect("Open", timeout=3600 * 7 + 1)
        return loop.time() - began

    async def late(mach: am.Machine) -> None:
        mach.add1("Late")

    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        assert runner.run(main()) == 3600 * 8
