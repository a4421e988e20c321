"""The parts of a machine wired together: what is queued and what is not, restoring, and growing a live machine."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

import asyncmachine as am


def within(machine: am.Machine, fn: Callable[[am.Machine], object]) -> list[Any]:
    """Give what a function gives when it is called in a handler of the machine, which then has all drained."""
    given: list[Any] = []
    id = machine.bind_handlers({"GoState": lambda e: given.append(fn(e.machine))})
    machine.add1("Go")
    machine.detach_handlers(id)
    machine.remove1("Go")
    return given


def build(**options: Any) -> am.Machine:
    return am.Machine({"Go": {}, "A": {}, "B": {}, "C": {}, "Log": {"multi": True}}, **options)


class Ran(am.Tracer):
    """Notes each mutation as it runs."""

    def __init__(self) -> None:
        self.called: list[str] = []

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        kind = "check" if transition.mutation.is_check else transition.type
        self.called.append(f"{kind} {' '.join(transition.called_states)}")


# What is not queued.


@pytest.mark.parametrize(
    "repeat",
    [
        lambda m: (m.add1("A"), m.add1("A")),
        lambda m: (m.add(["A", "B"]), m.add(["B", "A"])),
        lambda m: (m.add(["A", "B"]), m.add("A", "B", "A")),
        lambda m: (m.set(["A"]), m.set(["A"])),
        lambda m: (m.add1("C"), m.remove1("A"), m.remove1("A"))[1:],
        lambda m: (m.add1("A"), m.add1("A", {})),
    ],
)
def test_an_equal_mutation_without_args_is_not_queued_again(repeat: Callable[[am.Machine], Any]) -> None:
    machine = build()
    machine.add1("A")
    ((first, second),) = within(machine, repeat)
    assert first.queued
    assert second == am.Result.EXECUTED


@pytest.mark.parametrize(
    "repeat",
    [
        lambda m: (m.add1("A"), m.add1("A", {"key": 1})),
        lambda m: (m.add1("A", {"key": 1}), m.add1("A", {"key": 1})),
        lambda m: (m.add1("A", {"key": 1}), m.add1("A")),
        lambda m: (m.add1("A"), m.set(["A"])),
        lambda m: (m.add1("A"), m.add(["A", "B"])),
        lambda m: (m.add1("Log"), m.add1("Log")),
        lambda m: (m.can_add1("A"), m.add1("A")),
        lambda m: (m.add1("A"), m.can_add1("A")),
        lambda m: (m.can_add1("A"), m.can_add1("A")),
        lambda m: (m.add_err(ValueError("one")), m.add_err(ValueError("two"))),
        lambda m: (m.add_err(ValueError("one")), m.add1("Exception")),
    ],
)
def test_a_mutation_that_is_not_the_same_is_queued(repeat: Callable[[am.Machine], Any]) -> None:
    machine = build(handlers={"ExceptionState": lambda e: None})
    ((first, second),) = within(machine, repeat)
    assert first.queued
    assert second.queued


def test_a_mutation_equal_to_a_queued_auto_one_is_not_queued() -> None:
    machine = am.Machine({"Go": {}, "Auto": {"auto": True}})
    ran = Ran()
    machine.bind_tracer(ran)
    results: list[am.Result] = []
    queued: list[str] = []

    class Asking(am.Tracer):
        @override
        def transition_end(self, transition: am.Transition[Any]) -> None:
            if transition.called_states == ("Go",):
                queued.append(repr(machine.is_queued("add", "Auto")))
                results.append(machine.add1("Auto"))

    machine.bind_tracer(Asking())
    machine.add1("Go")
    assert queued == ["<Mutation [add:auto] Auto>"]
    assert results == [am.Result.EXECUTED]
    assert ran.called == ["add Go", "add Auto"]


def test_a_skipped_mutation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = build(log_level="ops", id="skipping")
    with caplog.at_level(logging.DEBUG, logger="asyncmachine.skipping"):
        within(machine, lambda m: (m.add(["A", "B"]), m.add(["B", "A"])))
    assert "[queue:skipped] add is queued already: B A" in caplog.messages


def test_a_remove_of_inactive_states_is_not_queued_if_nothing_is() -> None:
    machine = build()
    ran = Ran()
    machine.bind_tracer(ran)
    assert within(machine, lambda m: m.remove(["A", "B"])) == [am.Result.EXECUTED]
    assert ran.called == ["add Go", "remove Go"]


def test_a_remove_of_inactive_states_is_queued_behind_others() -> None:
    machine = build()
    ((_, removed),) = within(machine, lambda m: (m.add1("A"), m.remove1("A")))
    assert removed.queued
    assert machine.tick("A") == 2


def test_a_remove_of_an_active_state_is_queued() -> None:
    machine = build()
    machine.add1("A")
    (result,) = within(machine, lambda m: m.remove(["A", "B"]))
    assert result.queued
    assert machine.tick("A") == 2


def test_a_check_of_a_remove_of_inactive_states_is_queued() -> None:
    machine = build()
    (result,) = within(machine, lambda m: m.can_remove1("A"))
    assert result.queued


# A full queue.


def test_beyond_the_limit_mutations_are_canceled_with_the_reason() -> None:
    machine = build(queue_limit=2)
    (results,) = within(machine, lambda m: [m.add1(state) for state in "ABC"])
    assert [result.queued for result in results] == [True, True, False]
    assert results[2] == am.Result.CANCELED
    assert results[2].reason == "queue full (2)"
    assert machine.tick("C") == 0
    assert machine.is_("A", "B")


def test_checks_and_removes_count_for_the_limit_too() -> None:
    machine = build(queue_limit=1)
    machine.add1("A")
    (results,) = within(machine, lambda m: [m.add1("B"), m.can_add1("C"), m.remove1("A"), m.add1("B")])
    # The last one needs no room: it waits already.
    assert [result.reason for result in results] == [None, "queue full (1)", "queue full (1)", None]


def test_one_error_fits_into_a_full_queue_and_others_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = build(queue_limit=1, handlers={"ExceptionState": lambda e: None})
    errors = [ValueError("one"), ValueError("two")]
    (results,) = within(machine, lambda m: [m.add1("A"), *(m.add_err(err) for err in errors)])
    assert [result.reason for result in results] == [None, None, "queue full (1)"]
    assert machine.is_("A", "Exception")
    assert machine.err is errors[1]
    (record,) = caplog.records
    assert record.getMessage() == "[error] ValueError('two')"
    assert record.exc_info
    assert record.exc_info[1] is errors[1]


def test_a_failing_handler_finds_room_in_any_queue() -> None:
    machine = build(queue_limit=1)

    def failing(e: am.Event) -> None:
        e.machine.add1("A")
        raise ValueError("no room needed")

    machine.bind_handlers({"GoState": failing, "ExceptionState": lambda e: None})
    machine.add1("Go")
    assert machine.is_("A", "Exception")


def test_a_queue_has_room_again_once_it_is_drained() -> None:
    machine = build(queue_limit=1)
    for _ in range(3):
        (results,) = within(machine, lambda m: [m.add1("Log", {"n": 1}), m.add1("Log", {"n": 2})])
        assert [result.reason for result in results] == [None, "queue full (1)"]


async def test_a_machine_with_all_there_is_is_disposed(caplog: pytest.LogCaptureFixture) -> None:
    parent = am.Machine({"Foo": {}})
    machine = am.Machine({"Start": {}, "Foo": {}}, parent=parent)
    order: list[str] = []

    def failing(_: am.Machine) -> None:
        raise ValueError("in the callback")

    machine.bind_handlers({"StartEnd": lambda e: order.append(e.name)})
    machine.on_dispose(failing)
    machine.on_dispose(lambda _: order.append("disposed"))
    machine.add1("Start")
    await machine.dispose()
    assert order == ["StartEnd", "disposed"]
    assert caplog.messages == ["an on_dispose callback raised"]
    assert parent.children == ()


async def test_a_callback_for_the_disposal_may_be_taken_back_once_for_each_time_it_was_given() -> None:
    machine = am.Machine({"Foo": {}})
    told: list[am.Machine] = []
    forget = machine.on_dispose(told.append)
    machine.on_dispose(told.append)
    forget()
    forget()
    await machine.dispose()
    assert told == [machine]


@pytest.mark.usefixtures("impatient")
async def test_the_end_of_the_queue_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    machine = build()
    machine.bind_handlers(
        {"LogState": lambda e: e.args["n"] and e.machine.add1("Log", {"n": e.args["n"] - 1}) and None}
    )
    machine.add1("Log", {"n": 5000})
    await machine.dispose()
    assert machine.tick("Log") == 2 * 5001 - 1
    assert caplog.messages == []


@pytest.mark.usefixtures("impatient")
async def test_a_queued_mutation_is_awaited_from_without() -> None:
    machine = build()
    machine.bind_handlers(
        {"LogState": lambda e: e.args["n"] and e.machine.add1("Log", {"n": e.args["n"] - 1}) and None}
    )
    machine.add1("Log", {"n": 5000})
    queued = machine.add1("A")
    tick = machine.when_queue(queued.tick + 1)
    assert queued.queued
    assert await queued == am.Result.EXECUTED
    assert machine.is1("A")
    assert await tick == queued.tick + 1
    await machine.when_queue_ends()


@given(limit=st.integers(1, 5), count=st.integers(0, 12))
def test_just_as_many_as_the_limit_wait(limit: int, count: int) -> None:
    machine = build(queue_limit=limit)
    (results,) = within(machine, lambda m: [m.add1("Log", {"n": n}) for n in range(count)])
    assert [result.queued for result in results] == [n < limit for n in range(count)]
    assert machine.tick("Log") == max(0, 2 * min(limit, count) - 1)


def test_a_check_runs_before_what_waits() -> None:
    machine = am.Machine({"Go": {}, "A": {}, "B": {"require": ["A"]}})
    ((added, check),) = within(machine, lambda m: (m.add1("A"), m.can_add1("B")))
    assert added.queued
    outcome = check.mutation.outcome
    assert outcome.reason == "B requires A"
    assert machine.is1("A")


def test_no_two_errors_are_one_though_exception_is_not_multi() -> None:
    machine = am.Machine({"Go": {}, "Exception": {}}, handlers={"ExceptionState": lambda e: None})
    (results,) = within(
        machine, lambda m: [m.add1("Exception"), *(m.add_err(ValueError(name)) for name in ("one", "two"))]
    )
    assert [result.queued for result in results] == [True, True, True]
    assert machine.statistics().errors == 2


# Where a mutation comes from.


def test_a_mutation_made_by_a_handler_records_its_source_on_any_machine() -> None:
    sources: list[am.Source | None] = []
    machine, other = build(id="cause"), build()
    for target in (machine, other):
        target.bind_handlers({"AState": lambda e: sources.append(e.mutation.source)})
    machine.add1("B")
    within(machine, lambda m: (m.add1("A"), other.add1("A")))
    machine.remove1("A")
    machine.add1("A")
    assert sources == [am.Source("cause", "1.2", 1), am.Source("cause", "1.2", 1), None]


def test_a_given_source_is_kept() -> None:
    sources: list[am.Source | None] = []
    machine = build()
    machine.bind_handlers({"AState": lambda e: sources.append(e.mutation.source)})
    source = am.Source("elsewhere", "3.14", 15)
    within(machine, lambda m: m.add1("A", source=source))
    assert sources == [source]


def test_breakpoints_are_hit_as_a_mutation_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    machine = build()
    machine.add_breakpoint1("A", action=lambda: order.append("hit"))
    order: list[str] = []
    machine.bind_handlers({"AState": lambda e: order.append("AState")})
    within(machine, lambda m: (m.add1("A"), m.add1("B"), order.append("asked")))
    assert order == ["hit", "asked", "AState"]
    assert caplog.messages[0].startswith("[breakpoint] [add] A\n")


def test_a_machine_disposed_as_a_mutation_is_asked_for_cancels_it() -> None:
    machine = build()
    machine.add_breakpoint1("A", action=machine.dispose)
    result = machine.add1("A")
    assert result.reason == "disposed"
    assert machine.tick("A") == 0


def test_errors_are_raised_to_the_caller_where_that_is_asked_for() -> None:
    machine = build(raise_errors=True)

    def failing(e: am.Event) -> None:
        raise ValueError("in the handler")

    machine.bind_handlers({"AState": failing})
    with pytest.raises(ValueError, match="in the handler"):
        machine.add1("A")
    assert machine.err is None
    assert not machine.is_err
    assert machine.not1("A")


async def test_errors_of_work_become_a_state_however_others_are_raised(caplog: pytest.LogCaptureFixture) -> None:
    machine = build(raise_errors=True)

    async def failing(e: am.Event) -> None:
        raise ValueError("in the work")

    machine.bind_handlers({"AState": failing})
    machine.add1("A")
    assert str(await machine.when_err()) == "in the work"
    assert caplog.messages == ["[error] ValueError('in the work') in AState"]


async def test_the_start_of_async_handlers_is_logged_as_that_of_others(caplog: pytest.LogCaptureFixture) -> None:
    machine = build(log_level="ops", id="logging")
    caplog.set_level(logging.DEBUG, logger="asyncmachine.logging")

    async def work(e: am.Event) -> None:
        await asyncio.sleep(0)

    machine.bind_handlers({"AEnter": lambda e: None, "AState": work})
    machine.add1("A")
    await turns()
    assert caplog.messages == ["[add] A", "[handler] AEnter", "[state] +A", "[handler] AState"]


# Tracers.


class Raising(am.Tracer):
    @override
    def transition_start(self, transition: am.Transition[Any]) -> None:
        raise ValueError("in the tracer")

    @override
    def __repr__(self) -> str:
        return "<Raising>"


def test_a_tracer_that_raises_is_logged_and_detached(caplog: pytest.LogCaptureFixture) -> None:
    ran, raising = Ran(), Raising()
    machine = build(tracers=[raising, ran])
    assert machine.add1("A") == am.Result.EXECUTED
    assert machine.tracers == (ran,)
    assert ran.called == ["add A"]
    assert caplog.messages == ["the tracer <Raising> raised in transition_start and was detached"]


def test_a_callback_that_raises_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    machine = build()

    def callback(mach: am.Machine, before: am.Time, after: am.Time) -> None:
        raise ValueError("in the callback")

    machine.on_change(callback)
    assert machine.add1("A") == am.Result.EXECUTED
    assert machine.remove1("A") == am.Result.EXECUTED
    assert caplog.messages == ["the on_change callback raised"] * 2


# Restoring.


def door(**options: Any) -> am.Machine:
    schema = {"Open": {"remove": ["Closed"]}, "Closed": {"remove": ["Open"]}, "Locked": {"require": ["Closed"]}}
    return am.Machine(schema, id="door", **options)


def used() -> am.Snapshot:
    """Give a snapshot of a door that was opened, and then closed and locked."""
    machine = door()
    machine.add1("Open")
    machine.add(["Locked", "Closed"])
    return machine.export()


@pytest.mark.parametrize(
    "form",
    [
        lambda snapshot: snapshot,
        lambda snapshot: snapshot.to_dict(),
        lambda snapshot: json.loads(json.dumps(snapshot.to_dict())),
        lambda snapshot: am.Snapshot.from_json(snapshot.to_json()),
    ],
    ids=["snapshot", "mapping", "mapping from json", "json"],
)
def test_a_machine_is_restored(form: Callable[[am.Snapshot], Any]) -> None:
    machine = door()
    machine.restore(form(used()))
    assert machine.string_all() == "(Closed:1 Locked:1) [Open:2 Exception:0]"
    assert machine.active_states() == used().active
    assert machine.queue_tick == used().queue_tick == 3
    assert machine.machine_tick == 2
    # It goes on from there.
    assert machine.add1("Open") == am.Result.EXECUTED
    assert machine.string_all() == "(Open:3) [Closed:2 Locked:2 Exception:0]"


def test_a_restored_machine_counts_its_starts_and_its_transitions_anew() -> None:
    ids: list[str] = []
    machine = door(handlers={"OpenState": lambda e: ids.append(e.transition.id)})
    machine.add1("Open")
    machine.restore(used())
    machine.add1("Open")
    snapshot = machine.export()
    machine.restore(snapshot)
    assert machine.machine_tick == 3
    assert ids[0] == "1.1"
    assert ids[1].startswith("2.")


def test_a_machine_goes_on_from_the_start_the_snapshot_was_taken_after() -> None:
    machine = door()
    machine.restore({**used().to_dict(), "machine_tick": 7})
    assert machine.machine_tick == 8


def test_a_restored_machine_tells_its_time_to_others() -> None:
    sources: list[am.Source | None] = []
    other = build(handlers={"AState": lambda e: sources.append(e.mutation.source)})
    machine = door()
    machine.restore(used())
    machine.bind_handlers({"OpenState": lambda e: other.add1("A") and None})
    machine.add1("Open")
    assert sources == [am.Source("door", "2.1", 4)]


def test_restoring_calls_no_handler_and_tells_on_change() -> None:
    changes: list[tuple[am.Time, am.Time]] = []
    machine = door()
    machine.bind_handlers(
        dict.fromkeys(
            ["OpenState", "ClosedState", "LockedState", "AnyEnter", "AnyState", "LockedEnter"],
            lambda e: pytest.fail(e.name),
        )
    )
    machine.on_change(lambda m, before, after: changes.append((before, after)))
    machine.restore(used())
    assert changes == [(am.Time([0, 0, 0, 0]), am.Time([2, 1, 1, 0]))]
    machine.restore(machine.export())
    assert len(changes) == 1


def test_restored_is_a_state_where_the_schema_has_it() -> None:
    calls: list[str] = []
    schema = {"Foo": {}, "MachineRestored": {}, "Auto": {"auto": True, "require": ["MachineRestored"]}}
    machine = am.Machine(schema, id="restored")
    machine.bind_handlers({"MachineRestoredState": lambda e: calls.append(str(e.machine.machine_tick))})
    machine.add1("Foo")
    snapshot = machine.export()
    machine.restore(snapshot)
    assert calls == ["2"]
    assert machine.is_("Foo", "MachineRestored", "Auto")


async def test_restoring_cancels_the_contexts_of_states_that_flip_and_no_others() -> None:
    machine = door()
    machine.add1("Open")
    machine.add1("Closed")
    flipped, kept, also_kept = (machine.state_ctx(state) for state in ("Locked", "Closed", "Open"))
    ends: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append(name)

    machine.fork(work, "flipped", state="Locked")
    held = machine.fork(work, "held", state="Closed")
    await turns()
    snapshot = machine.export().to_dict()
    snapshot.update(ticks=[4, 3, 1, 0], active=["Closed", "Locked"])
    machine.restore(snapshot)
    await turns()
    assert (flipped.cancel_called, kept.cancel_called, also_kept.cancel_called) == (True, False, False)
    assert ends == ["flipped"]
    held.cancel()
    await turns()


async def test_restoring_wakes_the_waiters_whose_time_has_come() -> None:
    machine = door()
    waiters = {
        "when": machine.when("Locked", "Closed"),
        "when_time": machine.when_time(["Open"], [2]),
        "when_query": machine.when_query(lambda clock: clock["Open"] == 2),
        "when_queue": machine.when_queue(3),
    }
    pending = {
        "when1": machine.when1("Open"),
        "when_args": machine.when_args("Locked"),
        "when_queue": machine.when_queue(4),
    }
    machine.restore(used())
    assert {name: await waiter for name, waiter in waiters.items()} == {
        "when": (1, 1),
        "when_time": (2,),
        "when_query": {"Open": 2, "Closed": 1, "Locked": 1, "Exception": 0},
        "when_queue": 3,
    }
    assert not any(waiter.done() for waiter in pending.values())
    await machine.dispose()


OTHER = "Open Closed Exception Locked"
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "another machine's": (
        {"id": "window"},
        "it is of the machine 'window', not 'door'; build the machine with id='window'",
    ),
    "other states": (
        {"states": OTHER.split()},
        f"its states are {OTHER}, not Open Closed Locked Exception; use the schema it was made with",
    ),
    "too few ticks": ({"ticks": [2, 1, 1]}, "its ticks are not one number of 0 or more for each state"),
    "a negative tick": ({"ticks": [-2, 1, 1, 0]}, "its ticks are not one number of 0 or more for each state"),
    "ticks that are no numbers": (
        {"ticks": ["2", "1", "1", "0"]},
        "its ticks are not one number of 0 or more for each state",
    ),
    "inactive states as active": (
        {"active": ["Closed", "Locked", "Open"]},
        "its active states are Closed Locked Open, but its ticks say Closed Locked",
    ),
    "active states as inactive": (
        {"active": ["Closed"]},
        "its active states are Closed, but its ticks say Closed Locked",
    ),
    "active states twice": (
        {"active": ["Closed", "Locked", "Closed"]},
        "its active states are Closed Locked Closed, but its ticks say Closed Locked",
    ),
    "a missing require": ({"ticks": [2, 2, 1, 0], "active": ["Locked"]}, "Locked requires Closed"),
    "states that remove one another": (
        {"ticks": [1, 1, 0, 0], "active": ["Open", "Closed"]},
        "Open removes Closed; Closed removes Open",
    ),
}


@pytest.mark.parametrize(("changes", "text"), FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_snapshot_that_does_not_fit_is_refused_and_nothing_changes(changes: dict[str, Any], text: str) -> None:
    machine = door()
    machine.add1("Open")
    before, waiter = machine.export(), machine.when1("Locked")
    with pytest.raises(am.SnapshotError) as refused:
        machine.restore({**used().to_dict(), **changes})
    assert str(refused.value) == f"this snapshot cannot be restored: {text}"
    assert machine.export() == before
    assert not waiter.done()


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(am.SnapshotError, match=r"this is no snapshot of a machine .*make one with mach\.export\(\)"):
        door().restore({"id": "door"})


BUSY: dict[str, Callable[[am.Machine], None]] = {
    "restore": lambda m: m.restore(m.export()),
    "set_schema": lambda m: m.set_schema(m.schema),
}


@pytest.mark.parametrize(("name", "change"), BUSY.items(), ids=BUSY.keys())
@pytest.mark.parametrize("handler", ["GoEnter", "GoState"])
def test_a_machine_is_not_changed_while_a_transition_runs(
    name: str, change: Callable[[am.Machine], None], handler: str
) -> None:
    machine = build(raise_errors=True)
    machine.bind_handlers({handler: lambda e: change(e.machine)})
    text = rf"{name} while mutations run or wait: call it when `await mach\.when_queue_ends\(\)`"
    with pytest.raises(am.MachineBusyError, match=text):
        machine.add1("Go")
    assert machine.machine_tick == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("name", "change"), BUSY.items(), ids=BUSY.keys())
async def test_a_machine_is_not_changed_while_mutations_wait(name: str, change: Callable[[am.Machine], None]) -> None:
    machine = build()
    stop: list[bool] = []
    machine.bind_handlers({"LogState": lambda e: None if stop else e.machine.add1("Log", {"again": True})})
    machine.add1("Log")
    with pytest.raises(am.MachineBusyError, match=f"{name} while mutations run or wait"):
        change(machine)
    stop.append(True)
    await machine.when_queue_ends()
    change(machine)


# Growing a live machine.


def test_a_live_machine_grows_and_keeps_its_ticks() -> None:
    machine = door()
    machine.add1("Open")
    machine.add(["Locked", "Closed"])
    active = machine.active_states()
    machine.set_schema({"Barred": {"add": ["Chained"]}, **machine.schema, "Chained": {}})
    assert machine.state_names == ("Open", "Closed", "Locked", "Exception", "Barred", "Chained")
    assert machine.active_states() == active
    assert machine.time() == (2, 1, 1, 0, 0, 0)
    assert machine.add1("Barred") == am.Result.EXECUTED
    assert machine.is_("Locked", "Barred", "Chained")
    assert machine.index1("Chained") == 5


def test_relations_of_a_live_machine_change() -> None:
    machine = am.Machine({"A": {}, "B": {}, "C": {}})
    for _ in range(2):
        # Known by heart, before the relations change.
        machine.add(["A", "B"])
        machine.set(["C"])
    machine.set([])
    machine.set_schema({"A": {"remove": ["B"]}, "B": {}, "C": {"auto": True, "require": ["A"]}})
    machine.add1("B")
    machine.add1("A")
    assert machine.active_states() == ("A", "C")


def test_a_schema_in_any_notation_will_do() -> None:
    class Grown(am.States):
        A: str = am.state()
        B: str = am.state(require=[A])
        Both = am.group(A, B)

    machine = am.Machine({"A": {}})
    machine.add1("A")
    machine.set_schema(Grown)
    assert machine.add1(Grown.B) == am.Result.EXECUTED
    assert machine.groups == {"Both": ("A", "B")}


def test_a_schema_that_lacks_states_is_refused_with_all_of_them() -> None:
    machine = door()
    old = machine.schema
    with pytest.raises(am.SchemaError) as refused:
        machine.set_schema({"Open": {}})
    assert refused.value.problems == (
        "Closed is gone, but states of a live machine stay",
        "Locked is gone, but states of a live machine stay",
    )
    assert machine.schema is old


def test_a_schema_that_active_states_break_is_refused_with_all_there_is_to_it() -> None:
    machine = am.Machine({"A": {}, "B": {}, "C": {}})
    machine.add(["A", "B"])
    before = machine.schema, machine.string_all()
    with pytest.raises(am.SchemaError) as refused:
        machine.set_schema({"A": {"require": ["C"], "remove": ["B"]}, "B": {}, "C": {}})
    assert refused.value.problems == ("A requires C, but it is active", "A removes B, but it is active")
    assert (machine.schema, machine.string_all()) == before
    assert machine.add1("C") == am.Result.EXECUTED


def test_an_invalid_schema_is_refused() -> None:
    machine = door()
    with pytest.raises(am.SchemaError, match="Locked requires 'Close', which is no state of the schema"):
        machine.set_schema({**machine.schema, "Locked": {"require": ["Close"]}})
    assert machine.schema["Locked"].require == ("Closed",)


def test_handlers_are_looked_up_again() -> None:
    calls: list[str] = []

    class Handlers:
        def AState(self, e: am.Event) -> None:
            calls.append(e.name)

        def NewState(self, e: am.Event) -> None:
            calls.append(e.name)

    machine = am.Machine({"A": {}})
    machine.bind_handlers(Handlers(), strict=False)
    machine.set_schema({"A": {}, "New": {}})
    machine.add(["A", "New"])
    assert calls == ["AState", "NewState"]
    assert machine.handlers == ("Handlers",)


def test_a_schema_in_which_a_handler_could_mean_two_things_is_refused_and_nothing_changes() -> None:
    machine = am.Machine({"A": {}, "BC": {}})
    calls: list[str] = []
    machine.bind_handlers({"ABC": lambda e: calls.append(e.name)})
    with pytest.raises(am.HandlerError, match=r"ABC of dict reads as A\+BC and as AB\+C; rename"):
        machine.set_schema({"A": {}, "BC": {}, "AB": {}, "C": {}})
    assert machine.state_names == ("A", "BC", "Exception")
    machine.add1("A")
    machine.add1("BC")
    assert calls == ["ABC"]


class SchemaChanges(am.Tracer):
    def __init__(self) -> None:
        self.seen: list[tuple[am.MachineApi, tuple[str, ...], tuple[str, ...]]] = []

    @override
    def schema_change(self, machine: am.MachineApi, old: am.Schema) -> None:
        self.seen.append((machine, old.names, machine.state_names))


def test_tracers_are_told_of_a_new_schema() -> None:
    changes = SchemaChanges()
    machine = am.Machine({"A": {}}, tracers=[changes])
    machine.set_schema({"A": {}, "B": {}})
    assert changes.seen == [(machine, ("A", "Exception"), ("A", "Exception", "B"))]


def test_a_resolver_of_ones_own_is_made_for_the_new_schema() -> None:
    made: list[tuple[str, ...]] = []

    def make(schema: am.Schema) -> am.RelationsResolver:
        made.append(schema.names)
        return am.RelationsResolver(schema)

    machine = am.Machine({"A": {}}, resolver=make)
    machine.set_schema({"A": {}, "B": {}})
    assert made == [("A", "Exception"), ("A", "Exception", "B")]


async def test_what_waits_for_old_states_goes_on_waiting() -> None:
    machine = am.Machine({"A": {}, "B": {}}, id="grows")
    machine.add1("A")
    waiter, scope = machine.when1("B"), machine.state_ctx("A")
    machine.add_breakpoint1("B", action=lambda: hits.append("B"))
    threadsafe = machine.threadsafe
    hits: list[str] = []
    machine.set_schema({"New": {}, "A": {}, "B": {}})
    fresh = machine.when("B", "New")
    machine.add("B", "New")
    assert await waiter == 1
    assert await fresh == (1, 1)
    assert hits == ["B"]
    machine.remove1("A")
    assert scope.cancel_called
    result = await anyio.to_thread.run_sync(lambda: threadsafe.remove1("New").result(timeout=60))
    assert result == am.Result.EXECUTED


def test_a_grown_machine_is_restored_from_a_snapshot_of_the_grown_one_alone() -> None:
    machine = am.Machine({"A": {}}, id="grows")
    small = machine.export()
    machine.set_schema({"A": {}, "B": {}})
    machine.restore(machine.export())
    with pytest.raises(am.SnapshotError, match="its states are A Exception, not A Exception B"):
        machine.restore(small)
