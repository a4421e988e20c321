"""Mutations and their results: what a record says, where it comes from, and what became of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am


@dataclasses.dataclass
class Data:
    addr: str
    port: int = 80


EXECUTED, CANCELED = am.Result.EXECUTED, am.Result.CANCELED


def step(coroutine: Coroutine[Any, Any, am.Result]) -> am.Result:
    """Run a coroutine that must not suspend even once, and give what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: am.Result = stop.value
        return result
    finally:
        coroutine.close()
    raise AssertionError("it was suspended")


async def final(result: am.Result) -> am.Result:
    return await result


def queued(
    *mutations: Callable[[am.Machine], am.Result], schema: am.SchemaLike | None = None
) -> tuple[am.Machine, list[am.Result]]:
    """Make mutations within a transition, and let them run; give their results as they were when they were queued."""
    results: list[am.Result] = []
    mach = am.Machine(schema or {"Go": {}, "A": {}, "B": {"require": ["C"]}, "C": {}, "D": {}})
    mach.bind_handlers({"GoState": lambda e: results.extend(mutate(e.machine) for mutate in mutations)})
    assert mach.add1("Go").executed
    return mach, results


def backlog(
    *mutations: Callable[[am.Machine], am.Result], slow: int = 2, dispose_timeout: float = 1
) -> tuple[am.Machine, list[am.Result]]:
    """Leave mutations waiting in the queue of a machine.

    Before them wait slow ones, for each of which an `impatient` machine takes all the time it has: the first is run by
    the call that queues all this, each of the others by a turn of the loop.
    """
    results: list[am.Result] = []

    class Handlers:
        def GoState(self, e: am.Event) -> None:
            for number in range(slow):
                e.machine.add1("Slow", {"number": number})
            results.extend(mutate(e.machine) for mutate in mutations)

    mach = am.Machine(
        {"Go": {}, "Slow": {"multi": True}, "A": {}, "B": {"require": ["C"]}, "C": {}},
        handlers=Handlers(),
        handler_timeout=None,
        dispose_timeout=dispose_timeout,
    )
    assert mach.add1("Go").executed
    assert mach.queue_len == slow - 1 + len(mutations)
    return mach, results


# The kinds of mutations.


def test_mutation_types_are_strings() -> None:
    assert [str(kind) for kind in am.MutationType] == ["add", "remove", "set"]
    assert am.MutationType("add") is am.MutationType.ADD
    assert {"set": 1}[am.MutationType.SET] == 1


def test_a_mutation_is_recorded_as_it_was_asked() -> None:
    mach, results = queued(
        lambda mach: mach.add(["A", "D", "A"], {"k": 1}),
        lambda mach: mach.remove1("Go"),
        lambda mach: mach.set(["D"]),
        lambda mach: mach.can_add1("A"),
    )
    records = [result.mutation for result in results]
    assert [repr(record) for record in records] == [
        "<Mutation [add] A D>",
        "<Mutation [remove] Go>",
        "<Mutation [set] D>",
        "<Mutation [add:check] A>",
    ]
    added, removed, was_set, check = (record for record in records if record is not None)
    assert (added.type, added.called, added.args) == ("add", ("A", "D"), {"k": 1})
    assert (removed.type, removed.called, removed.args) == ("remove", ("Go",), {})
    assert (was_set.type, was_set.is_check, was_set.is_auto) == ("set", False, False)
    assert check.is_check
    assert [record.queue_tick for record in (added, removed, was_set, check)] == [3, 4, 5, 0]
    assert mach.active_states() == ("D",)


@pytest.mark.parametrize("method", ["add", "remove", "set", "toggle", "can_add", "can_remove"])
def test_a_mutation_of_an_unknown_state_is_refused(method: str) -> None:
    mach = am.Machine({"Foo": {}})
    with pytest.raises(am.UnknownStateError, match=r"^'Fooo' is no state of this machine; did you mean 'Foo'\?$"):
        getattr(mach, method)(["Foo", "Fooo"])
    assert mach.time() == (0, 0)


def test_an_auto_mutation_says_so() -> None:
    class Recorder(am.Tracer):
        def __init__(self) -> None:
            self.seen: list[am.Mutation] = []

        def transition_end(self, transition: am.Transition[Any]) -> None:
            self.seen.append(transition.mutation)

    recorder = Recorder()
    mach = am.Machine({"A": {}, "Auto": {"auto": True}}, tracers=[recorder])
    mach.add1("A")
    assert [repr(mutation) for mutation in recorder.seen] == ["<Mutation [add] A>", "<Mutation [add:auto] Auto>"]
    assert [mutation.is_auto for mutation in recorder.seen] == [False, True]


@pytest.mark.parametrize(
    ("added", "autos"),
    [(["Healthcheck"], 0), (["Heartbeat"], 0), (["Healthcheck", "Heartbeat"], 1), (["A"], 1), (["A", "Heartbeat"], 1)],
)
def test_a_sign_of_health_alone_starts_no_auto_states(added: list[str], autos: int) -> None:
    multi: am.StateDict = {"multi": True}
    mach = am.Machine({"Healthcheck": multi, "Heartbeat": multi, "A": {}, "Auto": {"auto": True}})
    mach.add(added)
    assert mach.tick("Auto") == autos


# Sources.


def test_a_mutation_from_outside_has_no_source() -> None:
    seen: list[am.Source | None] = []
    mach = am.Machine({"A": {}}, handlers={"AState": lambda e: seen.append(e.mutation.source)})
    mach.add1("A")
    assert seen == [None]


def test_a_mutation_made_by_a_handler_knows_its_transition_on_any_machine() -> None:
    seen: list[am.Source | None] = []
    expected: list[am.Source] = []
    other = am.Machine({"B": {}}, id="other", handlers={"BState": lambda e: seen.append(e.mutation.source)})

    def pass_on(e: am.Event) -> None:
        expected.append(am.Source("first", e.transition.id, e.transition.time_before.sum()))
        other.add1("B")

    mach = am.Machine({"A": {}, "C": {}}, id="first", handlers={"AState": pass_on})
    mach.add1("C")
    mach.add1("A")
    assert seen == expected
    assert seen[0] is not None
    assert seen[0].machine_time == 1
    other.remove1("B")
    other.add1("B")
    assert seen[1] is None


def test_a_source_may_be_given() -> None:
    seen: list[am.Source | None] = []
    mach = am.Machine({"A": {}}, handlers={"AState": lambda e: seen.append(e.mutation.source)})
    source = am.Source("far away", "1.7", 42)
    mach.add1("A", source=source)
    assert seen == [source]


@pytest.mark.parametrize("record", [am.Source("far away", "1.7", 42), am.ExceptionArgs(ValueError("no fuel"))])
def test_records_are_frozen(record: object) -> None:
    for name in ("machine_id", "err", "another"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(record, name, None)


# Results.


def test_a_machine_executes_cancels_and_queues() -> None:
    mach, results = queued(lambda mach: mach.add1("A"))
    assert mach.remove1("A").executed
    assert mach.add1("B").canceled
    assert results[0].queued


@pytest.mark.parametrize(
    ("result", "number", "tick", "text", "shown"),
    [
        (EXECUTED, 0, 0, "executed", "Result.EXECUTED"),
        (CANCELED, 1, 0, "canceled", "Result.CANCELED"),
        (am.Result(1, "disposed"), 1, 0, "canceled: disposed", "<Result canceled: disposed>"),
        (am.Result(2), 2, 2, "queued at 2", "<Result queued at 2>"),
        (am.Result(7), 7, 7, "queued at 7", "<Result queued at 7>"),
    ],
)
def test_results_as_numbers_truths_and_texts(result: am.Result, number: int, tick: int, text: str, shown: str) -> None:
    assert int(result) == number
    assert bool(result) is (number != 1)
    assert result.tick == tick
    assert str(result) == text
    assert repr(result) == shown
    assert (result.executed, result.canceled, result.queued) == (number == 0, number == 1, number > 1)


@given(st.integers(0, 20), st.integers(0, 20))
def test_results_are_equal_by_kind_and_queued_ones_by_tick(one: int, other: int) -> None:
    left, right = am.Result(one, "this"), am.Result(other, "that")
    assert (left == right) == (one == other)
    assert (left != right) == (one != other)
    assert len({left, right}) == len({one, other})


def test_a_result_equals_nothing_else() -> None:
    assert EXECUTED != 0
    assert CANCELED != False  # noqa: E712 - the comparison is the subject
    assert am.Result(2) != 2


def test_results_can_be_matched() -> None:
    def kind(result: am.Result) -> str:
        match result:
            case am.Result.EXECUTED:
                return "executed"
            case am.Result.CANCELED:
                return f"canceled, {result.reason}"
            case am.Result(queued=True, tick=tick):
                return f"queued at {tick}"
            case _:
                raise AssertionError(result)

    mach, results = queued(lambda mach: mach.add1("A"))
    assert kind(mach.add1("D")) == "executed"
    assert kind(mach.add1("B")) == "canceled, B requires C"
    assert kind(results[0]) == "queued at 3"


def test_only_a_queued_result_has_a_mutation() -> None:
    mach, results = queued(lambda mach: mach.add1("A", {"k": 1}))
    mutation = results[0].mutation
    assert mutation is not None
    assert mutation.args == {"k": 1}
    assert results[0].tick == mutation.queue_tick
    assert mach.add1("D").mutation is None


# Reasons.


def test_the_reason_of_what_was_not_canceled_is_none() -> None:
    mach, results = queued(lambda mach: mach.add1("A"))
    assert mach.add1("D").reason is None
    assert results[0].reason is None


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (lambda mach: mach.add1("Bar"), "Bar requires Foo"),
        (lambda mach: mach.add1("Many"), "Many requires Foo and Bar"),
        (lambda mach: mach.add1("Blocked"), "Blocked is removed by Start"),
        (lambda mach: mach.set(["Foo", "Shut"]), "Shut is removed by Foo"),
        (lambda mach: mach.add1("Vetoed"), "vetoed by VetoedEnter of Handlers"),
        (lambda mach: mach.add1("Broken"), "BrokenEnter of Handlers raised ValueError('no fuel')"),
        (lambda mach: mach.can_add1("Bar"), "Bar requires Foo"),
        (lambda mach: mach.can_add1("Vetoed"), "vetoed by VetoedEnter of Handlers"),
        (lambda mach: mach.add_err(None), "no error was given"),
    ],
)
def test_a_canceled_result_says_why(mutate: Callable[[am.Machine], am.Result], reason: str) -> None:
    class Handlers:
        def VetoedEnter(self, e: am.Event) -> bool:
            return False

        def BrokenEnter(self, e: am.Event) -> None:
            raise ValueError("no fuel")

        def ExceptionState(self, e: am.Event) -> None:
            """Handle the error, so that it is not logged."""

    mach = am.Machine(
        {
            "Foo": {"remove": ["Shut"]},
            "Bar": {"require": ["Foo"]},
            "Many": {"require": ["Foo", "Bar"]},
            "Start": {"remove": ["Blocked"]},
            "Blocked": {},
            "Shut": {},
            "Vetoed": {},
            "Broken": {},
        },
        handlers=Handlers(),
    )
    mach.add1("Start")
    result = mutate(mach)
    assert result.canceled
    assert result.reason == reason


class Counting(am.RelationsResolver):
    """Counts how often it is asked for what the relations did."""

    explained = 0

    def resolve(self, *args: Any, steps: list[am.RelationStep] | None = None, **more: Any) -> tuple[int, ...]:
        Counting.explained += steps is not None
        return super().resolve(*args, steps=steps, **more)


def test_a_reason_is_worked_out_once_when_it_is_asked_for() -> None:
    Counting.explained = 0
    mach = am.Machine({"Bar": {"require": ["Foo"]}, "Foo": {}}, resolver=Counting)
    result = mach.add1("Bar")
    assert result.canceled
    assert Counting.explained == 0
    assert result.reason == "Bar requires Foo"
    assert result.reason == "Bar requires Foo"
    assert Counting.explained == 1


def test_a_reason_is_of_the_moment_it_was_canceled_in() -> None:
    mach = am.Machine({"Bar": {"require": ["Foo"]}, "Foo": {}})
    result = mach.add1("Bar")
    mach.add(["Foo", "Bar"])
    assert result.reason == "Bar requires Foo"


# Awaiting results.


def test_awaiting_a_known_result_never_suspends_and_needs_no_loop() -> None:
    mach = am.Machine({"A": {}, "B": {"require": ["A"]}})
    executed, canceled = mach.add1("A"), mach.can_add1("B")
    assert step(final(executed)) is executed
    assert step(final(canceled)) is canceled
    assert step(final(EXECUTED)) is EXECUTED
    assert step(final(am.Result(1, "because"))).reason == "because"
    # One that no machine has made stands for itself.
    assert step(final(am.Result(5))).tick == 5


def test_awaiting_a_queued_result_that_has_run_gives_the_final_one_without_suspending() -> None:
    _, results = queued(
        lambda mach: mach.add1("A"), lambda mach: mach.add1("B", {"k": 1}), lambda mach: mach.can_add1("B")
    )
    assert all(result.queued for result in results)
    executed, canceled, check = (step(final(result)) for result in results)
    assert executed == EXECUTED
    assert canceled == CANCELED
    assert canceled.reason == "B requires C"
    assert check == CANCELED
    assert check.reason == "B requires C"


def test_awaiting_a_queued_result_without_a_loop_says_what_is_missing() -> None:
    raised: list[am.MachineLoopError] = []

    def ask(mach: am.Machine) -> am.Result:
        result = mach.add1("A")
        with pytest.raises(am.MachineLoopError, match="needs a running event loop") as caught:
            step(final(result))
        raised.append(caught.value)
        return result

    queued(ask)
    assert len(raised) == 1


@pytest.mark.usefixtures("impatient")
async def test_awaiting_a_queued_result_waits_for_the_mutation() -> None:
    mach, (result,) = backlog(lambda mach: mach.add1("A"))
    assert mach.not1("A")
    assert await result == EXECUTED
    assert mach.is1("A")


@pytest.mark.usefixtures("impatient")
async def test_awaiting_a_queued_result_gives_the_cancellation_with_its_reason() -> None:
    _, (result,) = backlog(lambda mach: mach.add1("B"))
    last = await result
    assert last.canceled
    assert last.reason == "B requires C"


@pytest.mark.usefixtures("impatient")
async def test_any_number_of_tasks_may_await_one_result() -> None:
    _, (result,) = backlog(lambda mach: mach.add1("A"))
    assert await asyncio.gather(*(final(result) for _ in range(5))) == [EXECUTED] * 5
    assert await result == EXECUTED


@pytest.mark.usefixtures("impatient")
async def test_cancelling_one_who_awaits_changes_nothing_for_the_mutation_and_the_others() -> None:
    mach, (result,) = backlog(lambda mach: mach.add1("A"))
    one, other = asyncio.ensure_future(final(result)), asyncio.ensure_future(final(result))
    await asyncio.sleep(0)
    assert mach.not1("A")
    one.cancel()
    assert await other == EXECUTED
    await turns()
    assert one.cancelled()
    assert mach.is1("A")


@pytest.mark.usefixtures("impatient")
async def test_disposal_gives_those_who_await_the_cancellation() -> None:
    mach, (result,) = backlog(lambda mach: mach.add1("A"), slow=20, dispose_timeout=0)
    waiting = asyncio.ensure_future(final(result))
    await mach.dispose()
    assert await waiting == CANCELED
    assert (await result).reason == "disposed"
    assert mach.tick("A") == 0


# The args of errors.


def failed(mutate: Callable[[am.Machine], object], handlers: Mapping[str, Callable[[am.Event], object]]) -> am.Event:
    """Give the event of the handler of an error."""
    events: list[am.Event] = []
    mach = am.Machine({"Foo": {}, "Bar": {}}, handlers={"ExceptionState": events.append, **handlers})
    mutate(mach)
    assert len(events) == 1
    return events[0]


def test_an_error_added_by_hand_comes_as_typed_args_and_as_a_mapping() -> None:
    err = ValueError("no fuel")
    event = failed(lambda mach: mach.add_err(err), {})
    assert event.arg(am.ExceptionArgs) == am.ExceptionArgs(err)
    assert event.args["err"] is err
    assert event.args["handler"] is None
    assert event.arg(am.ExceptionArgs).traceback == "ValueError: no fuel\n"


def test_an_error_carries_the_args_it_was_added_with() -> None:
    err, conn = ValueError("no fuel"), Data(":1")
    event = failed(lambda mach: mach.add_err(err, conn), {})
    assert event.arg(Data) is conn
    assert event.arg(am.ExceptionArgs).err is err
    assert event.args == {"addr": ":1", "port": 80, "err": err, "handler": None, "called": ()}


def test_the_error_of_a_handler_says_where_it_came_from() -> None:
    def FooState(e: am.Event) -> None:
        raise ValueError("no fuel")

    def fail(mach: am.Machine) -> None:
        mach.add1("Bar")
        mach.add1("Foo")

    args = failed(fail, {"FooState": FooState}).arg(am.ExceptionArgs)
    assert (args.handler, args.called, args.states_before) == ("FooState", ("Foo",), ("Bar",))
    assert "in FooState" in args.traceback
    assert args.traceback.endswith("ValueError: no fuel\n")
