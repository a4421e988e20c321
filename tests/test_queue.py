from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

SCHEMA: dict[str, am.StateDict] = {"Go": {}, "A": {}, "B": {}, "C": {}, "Many": {"multi": True}}
EXECUTED, CANCELED = am.Result.EXECUTED, am.Result.CANCELED


class Recorder(am.Tracer):
    """Notes the mutations in the order they were carried out, with the queue's tick."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []

    def transition_init(self, transition: am.Transition[Any]) -> None:
        mutation = transition.mutation
        flag = "check" if mutation.is_check else "auto" if mutation.is_auto else str(mutation.type)
        self.ran.append((f"{flag} {' '.join(mutation.called)}", transition.machine.queue_tick))


def within(fn: Callable[[am.Machine], Any], schema: am.SchemaLike | None = None, **options: Any) -> am.Machine:
    """Call a function within a transition, where mutations are queued."""
    called: list[bool] = []

    def call(e: am.Event) -> None:
        fn(e.machine)
        called.append(True)

    mach = am.Machine(schema or SCHEMA, **options)
    mach.bind_handlers({"GoState": call})
    assert mach.add1("Go").executed
    assert called == [True]
    return mach


# Ticks and order.


def test_the_queue_ticks_from_1_with_each_mutation_taken_off() -> None:
    mach = am.Machine(SCHEMA)
    assert mach.queue_tick == 1
    mach.add1("A")
    assert mach.queue_tick == 2
    mach.remove1("A")
    assert mach.queue_tick == 3


def test_checks_auto_states_and_errors_of_handlers_do_not_tick() -> None:
    def fail(e: am.Event) -> None:
        raise ValueError("no fuel")

    recorder = Recorder()
    handlers = {"BState": fail, "ExceptionState": lambda e: None}
    mach = am.Machine({"A": {}, "B": {}, "Auto": {"auto": True}}, handlers=handlers, tracers=[recorder])
    mach.can_add1("A")
    mach.add1("A")
    mach.add1("B")
    assert recorder.ran == [
        ("check A", 1),
        ("add A", 2),
        ("auto Auto", 2),
        ("add B", 3),
        ("add Exception", 3),
    ]
    assert mach.queue_tick == 3


def test_mutations_of_a_handler_run_after_it_in_order_each_at_its_tick() -> None:
    results: list[am.Result] = []
    recorder = Recorder()

    def ask(mach: am.Machine) -> None:
        results.extend([mach.add1("A"), mach.remove(["A", "Go"]), mach.set(["B"])])
        assert mach.queue_len == 3
        assert mach.active_states() == ("Go",)

    mach = within(ask, tracers=[recorder])
    assert [result.tick for result in results] == [3, 4, 5]
    assert recorder.ran == [("add Go", 2), ("add A", 3), ("remove A Go", 4), ("set B", 5)]
    assert mach.queue_len == 0
    assert mach.queue_tick == 5


@given(st.lists(st.sampled_from(["add", "remove", "set", "can_add"]), max_size=10))
def test_what_is_appended_runs_first_in_first_out_and_what_is_prepended_before_it(methods: list[str]) -> None:
    results: list[am.Result] = []
    order: list[int] = []

    class Order(am.Tracer):
        def transition_init(self, transition: am.Transition[Any]) -> None:
            if transition.args:
                order.append(transition.args["number"])

    def ask(mach: am.Machine) -> None:
        for number, method in enumerate(methods):
            results.append(getattr(mach, method)(["A"], {"number": number}))

    mach = within(ask, tracers=[Order()])
    prepended = [number for number, method in enumerate(methods) if method == "can_add"]
    # Removes with nothing before them in the queue find A inactive, and are not needed.
    needless = next((n for n, method in enumerate(methods) if method != "remove"), len(methods))
    appended = [n for n in range(needless, len(methods)) if n not in prepended]
    assert [result.queued for result in results] == [n >= needless for n in range(len(methods))]
    assert order == prepended[::-1] + appended
    assert [results[n].tick for n in appended] == [3 + place for place in range(len(appended))]
    assert mach.queue_tick == 2 + len(appended)


def test_a_queued_result_of_a_prepended_mutation_has_the_tick_that_runs_next() -> None:
    results: list[am.Result] = []
    recorder = Recorder()
    within(lambda mach: results.extend([mach.add1("A"), mach.can_add1("B")]), tracers=[recorder])
    assert [result.tick for result in results] == [3, 3]
    assert [ran for ran, _ in recorder.ran] == ["add Go", "check B", "add A"]


def test_a_drain_gives_the_result_of_its_first_mutation() -> None:
    schema: dict[str, am.StateDict] = {"Go": {}, "A": {"require": ["B"]}, "B": {}}
    mach = am.Machine(schema, handlers={"GoState": lambda e: e.machine.add1("A")})
    assert mach.add1("Go") == EXECUTED
    assert mach.active_states() == ("Go",)
    assert mach.statistics().canceled == 1


@pytest.mark.usefixtures("impatient")
async def test_what_outlasts_a_call_keeps_its_place_in_the_queue() -> None:
    recorder = Recorder()

    class Handlers:
        def GoState(self, e: am.Event) -> None:
            for number in range(3):
                e.machine.add1("Many", {"number": number})
            e.machine.add1("A")
            e.machine.remove1("Go")

    mach = am.Machine(SCHEMA, handlers=Handlers(), tracers=[recorder], handler_timeout=None)
    assert mach.add1("Go") == EXECUTED
    assert (mach.queue_len, mach.queue_tick) == (4, 3)
    result = mach.add1("B")
    assert result.tick == 8
    # What is posted as from another thread has its place behind what waits already.
    posted = mach.threadsafe.eval(lambda: (mach.queue_tick, mach.queue_len))
    await mach.when_queue_ends()
    assert recorder.ran == [
        ("add Go", 2),
        ("add Many", 3),
        ("add Many", 4),
        ("add Many", 5),
        ("add A", 6),
        ("remove Go", 7),
        ("add B", 8),
    ]
    assert await result == EXECUTED
    assert await asyncio.wrap_future(posted) == (8, 0)


# Duplicates.


@pytest.mark.parametrize(
    ("first", "second", "is_duplicate"),
    [
        (lambda m: m.add1("A"), lambda m: m.add1("A"), True),
        (lambda m: m.add(["A", "B"]), lambda m: m.add(["B", "A"]), True),
        (lambda m: m.add1("A"), lambda m: m.add(["A", "A"], {}), True),
        (lambda m: m.set(["A"]), lambda m: m.set(["A"]), True),
        (lambda m: m.remove1("Go"), lambda m: m.remove1("Go"), True),
        (lambda m: m.add1("A"), lambda m: m.set(["A"]), False),
        (lambda m: m.add1("A"), lambda m: m.add(["A", "B"]), False),
        (lambda m: m.add(["A", "B"]), lambda m: m.add1("A"), False),
        (lambda m: m.add1("A", {"k": 1}), lambda m: m.add1("A"), False),
        (lambda m: m.add1("A"), lambda m: m.add1("A", {"k": 1}), False),
        (lambda m: m.add1("A", {"k": 1}), lambda m: m.add1("A", {"k": 1}), False),
        (lambda m: m.add1("Many"), lambda m: m.add1("Many"), False),
        (lambda m: m.add(["A", "Many"]), lambda m: m.add(["A", "Many"]), False),
        (lambda m: m.can_add1("A"), lambda m: m.add1("A"), False),
        (lambda m: m.add1("A"), lambda m: m.can_add1("A"), False),
        (lambda m: m.add_err(ValueError("a")), lambda m: m.add_err(ValueError("a")), False),
    ],
)
def test_an_equal_mutation_that_waits_already_is_not_queued_again(
    first: Callable[[am.Machine], am.Result],
    second: Callable[[am.Machine], am.Result],
    is_duplicate: object,
) -> None:
    lengths: list[int] = []
    results: list[am.Result] = []

    def ask(mach: am.Machine) -> None:
        for mutate in (first, second):
            results.append(mutate(mach))
            lengths.append(mach.queue_len)

    within(ask, handlers={"ExceptionState": lambda e: None})
    assert lengths == [1, 1 if is_duplicate else 2]
    assert results[0].queued
    assert (results[1] == EXECUTED) == bool(is_duplicate)


def test_a_mutation_taken_off_the_queue_is_no_duplicate_any_more() -> None:
    results: list[am.Result] = []

    class Handlers:
        def GoState(self, e: am.Event) -> None:
            e.machine.add1("A")
            e.machine.remove1("A", {"k": 1})

        def AState(self, e: am.Event) -> None:
            results.append(e.machine.add1("A"))

    mach = am.Machine(SCHEMA, handlers=Handlers())
    mach.add1("Go")
    assert results[0].tick == 5
    assert mach.tick("A") == 3


def test_one_of_several_that_wait_is_enough_for_a_duplicate() -> None:
    asked: list[am.Result] = []
    results: list[am.Result] = []
    lengths: list[int] = []

    class Handlers:
        def GoState(self, e: am.Event) -> None:
            # The addition of the auto states, which is the same, is prepended to this one.
            asked.append(e.machine.add1("B"))

        def BState(self, e: am.Event) -> None:
            lengths.append(e.machine.queue_len)
            results.append(e.machine.add1("B"))
            lengths.append(e.machine.queue_len)

    mach = am.Machine({"Go": {}, "B": {"auto": True}}, handlers=Handlers())
    mach.add1("Go")
    assert lengths == [1, 1]
    assert results == [EXECUTED]
    # Both have run, and neither is remembered.
    mach.remove1("Go")
    mach.add1("Go")
    assert [result.queued for result in asked] == [True, True]


def test_auto_states_that_wait_count_as_a_duplicate() -> None:
    results: list[am.Result] = []
    lengths: list[int] = []

    def changed(mach: am.Machine, before: am.Time, after: am.Time) -> None:
        if mach.not1("Auto"):
            results.append(mach.add1("Auto"))
            lengths.append(mach.queue_len)

    mach = am.Machine({"A": {}, "Auto": {"auto": True}})
    mach.on_change(changed)
    mach.add1("A")
    assert results == [EXECUTED]
    assert lengths == [1]
    assert mach.tick("Auto") == 1


# Removals of what is inactive.


@pytest.mark.parametrize(
    ("states", "before", "needed"),
    [
        (["A"], [], False),
        (["A", "B"], [], False),
        (["Go"], [], True),
        (["A", "Go"], [], True),
        (["A"], ["B"], True),
    ],
)
def test_a_removal_of_inactive_states_is_queued_only_behind_others(
    states: list[str], before: list[str], needed: object
) -> None:
    results: list[am.Result] = []
    lengths: list[int] = []

    def ask(mach: am.Machine) -> None:
        if before:
            mach.add(before)
        results.append(mach.remove(states, {"with": "args"}))
        lengths.append(mach.queue_len)

    within(ask)
    assert results[0].queued == bool(needed)
    assert lengths == [len(before) + bool(needed)]
    assert results[0].queued or results[0] == EXECUTED


def test_a_check_of_a_removal_is_never_needless() -> None:
    results: list[am.Result] = []
    within(lambda mach: results.append(mach.can_remove1("A")))
    assert results[0].queued


# The limit.


def test_beyond_the_limit_mutations_are_canceled_with_the_reason() -> None:
    results: list[am.Result] = []

    def ask(mach: am.Machine) -> None:
        results.extend([mach.add1("A"), mach.add1("B"), mach.add1("C"), mach.can_add1("C"), mach.remove1("Go")])
        assert mach.queue_len == 2

    mach = within(ask, queue_limit=2)
    assert [result.queued for result in results] == [True, True, False, False, False]
    assert [result.reason for result in results[2:]] == ["queue full (2)"] * 3
    assert mach.active_states() == ("B", "A", "Go")
    # What was refused is not remembered: there is room again.
    assert mach.add1("C") == EXECUTED


def test_a_duplicate_needs_no_room() -> None:
    results: list[am.Result] = []
    within(lambda mach: results.extend([mach.add1("A"), mach.add1("A")]), queue_limit=1)
    assert results[1] == EXECUTED


def test_one_exception_may_wait_beyond_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    results: list[am.Result] = []
    handled: list[str] = []

    def ask(mach: am.Machine) -> None:
        results.append(mach.add1("A"))
        results.append(mach.add_err(ValueError("first")))
        results.append(mach.add_err(ValueError("second")))
        assert mach.queue_len == 2

    def note(e: am.Event) -> None:
        handled.append(str(e.args["err"]))

    mach = within(ask, queue_limit=1, handlers={"ExceptionState": note})
    assert [result.queued for result in results] == [True, True, False]
    assert results[2].reason == "queue full (1)"
    assert handled == ["first"]
    assert mach.is_("A", "Exception")
    # The one that found no room is not lost.
    assert str(mach.err) == "second"
    assert [record.getMessage() for record in caplog.records] == ["[error] ValueError('second')"]


def test_an_exception_that_waits_within_the_limit_leaves_the_extra_room_to_another() -> None:
    results: list[am.Result] = []

    def ask(mach: am.Machine) -> None:
        results.extend(mach.add_err(ValueError(text)) for text in "abc")

    within(ask, queue_limit=1, handlers={"ExceptionState": lambda e: None})
    assert [result.queued for result in results] == [True, True, False]


def test_an_idle_machine_needs_no_room() -> None:
    mach = am.Machine(SCHEMA, queue_limit=0)
    assert mach.add1("A") == EXECUTED


def test_the_limit_is_a_thousand_by_default() -> None:
    results: list[am.Result] = []

    def ask(mach: am.Machine) -> None:
        results.extend(mach.add1("A", {"number": number}) for number in range(1001))

    mach = within(ask)
    assert [result.queued for result in results] == [True] * 1000 + [False]
    assert results[-1].reason == "queue full (1000)"
    assert mach.queue_tick == 1002


# Finding mutations.


def found(query: Callable[[am.Machine], Any], *mutations: Callable[[am.Machine], object]) -> Any:
    """Make mutations within a transition, and give what a query finds while they wait."""
    answers: list[Any] = []

    def ask(mach: am.Machine) -> None:
        for mutate in mutations:
            mutate(mach)
        answers.append(query(mach))

    within(ask)
    return answers[0]


QUEUED: list[Callable[[am.Machine], object]] = [
    lambda m: m.add(["A", "B"], {"k": 1}),  # at tick 3
    lambda m: m.add1("A"),  # 4
    lambda m: m.remove1("Go"),  # 5
    lambda m: m.set(["C", "A"]),  # 6
    lambda m: m.can_add(["A", "C"]),  # before all of them
]


@pytest.mark.parametrize(
    ("type_", "states", "filters", "tick"),
    [
        ("add", "A", {}, 3),
        ("add", ["A"], {}, 3),
        (am.MutationType.ADD, ["B", "A"], {}, 3),
        ("add", "C", {}, None),
        ("add", ["A", "C"], {}, None),
        ("add", [], {}, 3),
        ("remove", "Go", {}, 5),
        ("remove", "A", {}, None),
        ("set", "A", {}, 6),
        ("add", "A", {"without_args": True}, 4),
        ("add", "B", {"without_args": True}, None),
        ("add", "A", {"strict": True}, 4),
        ("add", ["B", "A"], {"strict": True}, 3),
        ("set", ["C"], {"strict": True}, None),
        ("add", "A", {"min_tick": 3}, 3),
        ("add", "A", {"min_tick": 4}, 4),
        ("add", "A", {"min_tick": 5}, None),
        ("add", "A", {"check": True}, 0),
        ("add", "C", {"check": True}, 0),
        ("add", "B", {"check": True}, None),
        ("remove", "A", {"check": True}, None),
        ("add", "A", {"check": True, "min_tick": 1}, None),
        ("add", "A", {"check": True, "position": "first"}, 0),
        ("add", "A", {"position": "first"}, None),
        ("set", "A", {"position": "last"}, 6),
        ("add", "A", {"position": "last"}, None),
        ("remove", "Go", {"position": "last"}, None),
    ],
)
def test_queued_mutations_are_found_by_type_states_and_filters(
    type_: str, states: Any, filters: dict[str, Any], tick: int | None
) -> None:
    mutation = found(lambda mach: mach.is_queued(type_, states, **filters), *QUEUED)
    assert (None if mutation is None else mutation.queue_tick) == tick
    if mutation is not None:
        assert mutation.type == type_
        assert mutation.is_check == filters.get("check", False)


@pytest.mark.parametrize("position", [None, "first", "last"])
def test_nothing_is_found_in_an_empty_queue(position: Any) -> None:
    assert am.Machine(SCHEMA).is_queued("add", [], position=position) is None


@pytest.mark.parametrize(
    ("threshold", "filters", "above"),
    [
        (0, {}, True),
        (2, {}, True),
        (3, {}, False),
        (1, {"without_args": True}, True),
        (2, {"without_args": True}, False),
        (2, {"strict": True}, False),
        (1, {"min_tick": 4}, True),
        (2, {"min_tick": 4}, False),
    ],
)
def test_queued_mutations_are_counted(threshold: int, filters: dict[str, Any], above: object) -> None:
    assert found(lambda mach: mach.is_queued_above(threshold, "add", "A", **filters), *QUEUED) == above


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (lambda mach: mach.will_be("A", "B"), True),
        (lambda mach: mach.will_be(["A", "C"]), True),
        (lambda mach: mach.will_be("B", "C"), False),
        (lambda mach: mach.will_be1("C"), True),
        (lambda mach: mach.will_be1("Go"), False),
        (lambda mach: mach.will_be1("C", position="last"), True),
        (lambda mach: mach.will_be1("B", position="last"), False),
        (lambda mach: mach.will_be_removed("Go"), True),
        (lambda mach: mach.will_be_removed1("Go"), True),
        (lambda mach: mach.will_be_removed(["Go", "A"]), False),
        (lambda mach: mach.will_be_removed1("Go", position="first"), False),
    ],
)
def test_what_will_be_is_read_from_the_queue(query: Callable[[am.Machine], bool], answer: object) -> None:
    assert found(query, *QUEUED) == answer


def test_an_unknown_type_or_state_is_not_looked_for() -> None:
    mach = am.Machine(SCHEMA)
    with pytest.raises(ValueError, match="'change' is not a valid MutationType"):
        mach.is_queued("change", "A")
    with pytest.raises(am.UnknownStateError, match="'Aa' is no state of this machine"):
        mach.is_queued("add", "Aa")
