"""What one mutation does: the phases in their order, what each of them may refuse, and what is left when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st
from noting import Boom, Ends, noting
from typing_extensions import override

import asyncmachine as am
from asyncmachine.executor import AUTO_RETRIES

# A mutation in which every phase has something to do: Old leaves, Stay stays though it is called, New enters.

PHASES = {"Old": {}, "Stay": {}, "New": {"remove": ["Old"]}}
NEGOTIATION = ("OldExit", "NewEnter", "StayStay", "OldNew", "OldStay", "StayNew", "AnyEnter")
FINALS = ("OldEnd", "NewState", "AnyState")
SILENT = ("OldEnter", "OldState", "OldOld", "NewExit", "NewEnd", "NewNew", "NewOld", "NewStay", "StayOld", "StayExit")
SILENT += ("StayEnter", "StayState", "StayEnd")


def in_old_and_stay(**options: Any) -> am.Machine:
    mach = am.Machine(PHASES, handler_timeout=None, **options)
    mach.add(["Old", "Stay"])
    return mach


# The order of things.


def test_the_phases_come_in_their_order_and_call_what_fits_alone() -> None:
    calls: list[str] = []
    mach = in_old_and_stay()
    mach.bind_handlers(noting(calls, *reversed(NEGOTIATION + FINALS + SILENT)))
    assert mach.add(["New", "Stay"]).executed
    assert calls == [*NEGOTIATION, *FINALS]
    assert str(mach) == "(Stay:1 New:1)"


def test_a_set_goes_through_the_same_phases_as_an_add() -> None:
    calls: list[str] = []
    mach = in_old_and_stay()
    mach.bind_handlers(noting(calls, *NEGOTIATION, *FINALS, *SILENT))
    assert mach.set(["New", "Stay"]).executed
    assert calls == [*NEGOTIATION, *FINALS]


def test_a_remove_asks_exits_and_pairs_but_no_self_handler() -> None:
    calls: list[str] = []
    mach = in_old_and_stay()
    mach.bind_handlers(noting(calls, *NEGOTIATION, *FINALS, *SILENT))
    assert mach.remove1("Old").executed
    assert calls == ["OldExit", "OldStay", "AnyEnter", "OldEnd", "AnyState"]


def test_pairs_are_asked_in_the_order_of_the_active_and_then_of_the_target_states() -> None:
    calls: list[str] = []
    mach = am.Machine({"A": {}, "B": {}, "C": {}})
    mach.add(["B", "A"])
    pairs = ["AB", "AC", "BA", "BC", "CA", "CB"]
    mach.bind_handlers(noting(calls, *pairs))
    assert mach.active_states() == ("B", "A")
    assert mach.add1("C").executed
    target = mach.active_states()
    expected = [f"{active}{to}" for active in ("B", "A") for to in target if to != active]
    assert calls == expected
    assert len(calls) == 4


def test_self_handlers_are_asked_of_states_active_before_called_or_not() -> None:
    calls: list[str] = []
    mach = am.Machine({"A": {}, "B": {}})
    mach.add1("A")
    mach.bind_handlers(noting(calls, "AA", "BB"))
    assert mach.add1("B").executed
    assert calls == ["AA"]


def test_each_name_is_called_on_each_binding_in_binding_order() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {}})
    for number in "123":
        marked = noting(calls, "FooEnter", "FooState")
        mach.bind_handlers(
            {name: lambda e, call=call, number=number: calls.append(number) or call(e) for name, call in marked.items()}
        )
    mach.add1("Foo")
    assert calls == [
        "1",
        "FooEnter",
        "2",
        "FooEnter",
        "3",
        "FooEnter",
        "1",
        "FooState",
        "2",
        "FooState",
        "3",
        "FooState",
    ]


def test_the_first_veto_among_several_bindings_ends_the_asking() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers(noting(calls, "FooEnter"), id="first")
    mach.bind_handlers(noting(calls, "FooEnter", "AnyEnter", veto=["FooEnter"]), id="second")
    mach.bind_handlers(noting(calls, "FooEnter"), id="third")
    assert mach.add1("Foo").reason == "vetoed by FooEnter of second"
    assert calls == ["FooEnter", "FooEnter"]


def test_handlers_are_called_in_the_order_relations_demand() -> None:
    calls: list[str] = []
    schema = {"A": {"after": ["C"]}, "B": {"require": ["D"]}, "C": {}, "D": {}}
    mach = am.Machine(schema)
    mach.bind_handlers(noting(calls, *(f"{name}{suffix}" for name in "ABCD" for suffix in ("State", "End"))))
    mach.add(["A", "B", "C", "D"])
    assert calls.index("CState") < calls.index("AState")
    assert calls.index("DState") < calls.index("BState")
    calls.clear()
    mach.remove(["A", "B", "C", "D"])
    assert calls.index("CEnd") < calls.index("AEnd")
    assert calls.index("DEnd") < calls.index("BEnd")


def test_exits_are_called_in_the_order_relations_demand_since_the_schema_changed() -> None:
    calls: list[str] = []
    mach = am.Machine({"A": {}, "B": {}})
    mach.add(["A", "B"])
    mach.set_schema({"A": {"after": ["B"]}, "B": {}})
    assert mach.active_states() == ("A", "B")
    mach.bind_handlers(noting(calls, "AExit", "BExit", "AEnd", "BEnd"))
    mach.remove(["A", "B"])
    assert calls == ["BExit", "AExit", "BEnd", "AEnd"]


# Vetoes.


@pytest.mark.parametrize("name", NEGOTIATION)
def test_a_veto_in_any_phase_ends_the_asking_and_changes_nothing(name: str) -> None:
    calls: list[str] = []
    changes: list[object] = []
    mach = in_old_and_stay()
    before, order, tick = mach.time(), mach.active_states(), mach.queue_tick
    mach.bind_handlers(noting(calls, *NEGOTIATION, *FINALS, veto=[name]), id="guard")
    mach.on_change(lambda *change: changes.append(change))
    result = mach.add(["New", "Stay"])
    assert result.canceled
    assert result.reason == f"vetoed by {name} of guard"
    assert calls == list(NEGOTIATION[: NEGOTIATION.index(name) + 1])
    assert mach.time() == before
    assert mach.active_states() == order
    assert mach.queue_tick == tick + 1
    assert changes == []
    assert mach.err is None


# Relations refuse before anyone is asked.


@pytest.mark.parametrize(
    ("kind", "states", "reason"),
    [
        ("add", ["Needy"], "Needy requires Base"),
        ("add", ["Free", "Needy"], "Needy requires Base"),
        ("set", ["Free", "Needy"], "Needy requires Base"),
        ("add", ["Loser"], "Loser is removed by Winner"),
    ],
)
def test_what_relations_refuse_no_handler_is_asked_about(kind: str, states: list[str], reason: str) -> None:
    calls: list[str] = []
    schema = {"Free": {}, "Base": {}, "Needy": {"require": ["Base"]}, "Winner": {"remove": ["Loser"]}, "Loser": {}}
    mach = am.Machine(schema)
    mach.add1("Winner")
    names = ["AnyEnter", "AnyState", "FreeEnter", "FreeState", "NeedyEnter", "LoserEnter", "WinnerExit"]
    mach.bind_handlers(noting(calls, *names))
    result: am.Result = getattr(mach, kind)(states)
    assert result.reason == reason
    assert calls == []
    assert str(mach) == "(Winner:1)"


def test_a_remove_that_relations_undo_is_not_executed_though_the_rest_is() -> None:
    mach = am.Machine({"Keeper": {"multi": True, "add": ["Kept"]}, "Kept": {}, "Other": {}})
    mach.add(["Keeper", "Other"])
    assert mach.remove(["Kept", "Other"]).executed
    assert str(mach) == "(Keeper:1)"


def test_a_remove_is_executed_only_if_none_of_the_called_states_is_active_after() -> None:
    class Clinging(am.RelationsResolver):
        @override
        def resolve(
            self,
            type_: am.MutationType,
            called: Any,
            active: Any,
            *,
            admitted: int | None = None,
            steps: list[am.RelationStep] | None = None,
        ) -> tuple[int, ...]:
            return tuple(active) if type_ == "remove" else super().resolve(type_, called, active, steps=steps)

    mach = am.Machine({"Foo": {}}, resolver=Clinging)
    mach.add1("Foo")
    result = mach.remove1("Foo")
    assert result.canceled
    assert result.reason == "Foo stays active"
    assert mach.is1("Foo")


# Checks.


def test_an_accepted_check_is_executed_and_has_no_effect() -> None:
    calls: list[str] = []
    changes: list[object] = []
    mach = in_old_and_stay()
    mach.bind_handlers(noting(calls, *NEGOTIATION, *FINALS))
    mach.on_change(lambda *change: changes.append(change))
    before, order, tick = mach.time(), mach.active_states(), mach.queue_tick
    assert mach.can_add(["New", "Stay"]) == am.Result.EXECUTED
    assert calls == list(NEGOTIATION)
    assert (mach.time(), mach.active_states(), mach.queue_tick) == (before, order, tick)
    assert changes == []


@pytest.mark.parametrize("name", NEGOTIATION)
def test_a_check_is_vetoed_as_the_mutation_would_be(name: str) -> None:
    mach = in_old_and_stay()
    mach.bind_handlers(noting([], *NEGOTIATION, veto=[name]), id="guard")
    assert mach.can_add(["New", "Stay"]).reason == f"vetoed by {name} of guard"
    assert str(mach) == "(Old:1 Stay:1)"


def test_a_check_is_refused_by_relations_with_their_reason() -> None:
    mach = am.Machine({"Foo": {"require": ["Bar"]}, "Bar": {}})
    assert mach.can_add1("Foo").reason == "Foo requires Bar"


def test_a_check_of_a_multi_state_passes_relations() -> None:
    mach = am.Machine({"Multi": {"multi": True, "require": ["Bar"]}, "Bar": {}})
    assert mach.can_add1("Multi").executed
    assert mach.add1("Multi").canceled


def test_a_check_of_a_remove_asks_the_exit_handler() -> None:
    mach = am.Machine({"Foo": {}}, handlers=noting([], "FooExit", veto=["FooExit"]))
    mach.add1("Foo")
    assert mach.can_remove1("Foo").reason == "vetoed by FooExit of dict"
    assert mach.can_remove1("Exception").executed


def test_a_check_starts_no_auto_states() -> None:
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}})
    assert mach.can_add1("Foo").executed
    assert str(mach) == "()"


def test_a_check_of_async_work_needs_no_loop_but_the_mutation_does() -> None:
    async def work(e: am.Event) -> None:
        raise AssertionError("never runs")

    mach = am.Machine({"Foo": {}}, handlers={"FooState": work})
    assert mach.can_add1("Foo").executed
    with pytest.raises(am.MachineLoopError, match="needs a running event loop"):
        mach.add1("Foo")
    assert str(mach) == "()"
    assert mach.is_idle


def test_a_check_made_by_a_handler_runs_next_before_what_waits_already() -> None:
    answers: list[am.Result] = []
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}}, tracers=[ends])

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar")
        answers.append(e.machine.can_add1("Baz"))

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    assert answers[0].queued
    assert [t.called_states for t in ends.seen] == [("Foo",), ("Baz",), ("Bar",)]
    assert str(mach) == "(Foo:1 Bar:1)"


# The commit.


def test_checks_see_the_old_states_in_negotiation_and_the_target_in_final_handlers() -> None:
    seen: dict[str, str] = {}
    mach = in_old_and_stay()

    def look(e: am.Event) -> None:
        seen[e.name] = str(e.machine)

    mach.bind_handlers(dict.fromkeys([*NEGOTIATION, *FINALS], look))
    mach.add(["New", "Stay"])
    assert seen == {
        **dict.fromkeys(NEGOTIATION, "(Old:1 Stay:1)"),
        **dict.fromkeys(FINALS, "(Stay:1 New:1)"),
    }


async def test_contexts_are_cancelled_after_negotiation_and_before_any_final_handler() -> None:
    mach = in_old_and_stay()
    old, stay, new = (mach.state_ctx(state) for state in ("Old", "Stay", "New"))
    seen: list[tuple[str, bool, bool, bool]] = []

    def look(e: am.Event) -> None:
        seen.append((e.name, old.cancel_called, stay.cancel_called, new.cancel_called))

    mach.bind_handlers(dict.fromkeys(["AnyEnter", "OldEnd", "NewState", "AnyState"], look))
    mach.add(["New", "Stay"])
    assert seen == [
        ("AnyEnter", False, False, False),
        ("OldEnd", True, False, True),
        ("NewState", True, False, True),
        ("AnyState", True, False, True),
    ]


def test_ticks_move_by_one_for_each_state_that_enters_or_leaves() -> None:
    mach = in_old_and_stay()
    mach.add1("New")
    assert mach.time() == (2, 1, 1, 0)


def test_the_order_of_the_target_is_that_of_the_active_states_also_where_no_tick_moves() -> None:
    mach = am.Machine({"A": {}, "B": {}, "C": {}})
    changes: list[object] = []
    mach.add(["A", "B", "C"])
    before, order = mach.time(), mach.active_states()
    mach.on_change(lambda *change: changes.append(change))
    assert mach.add(list(reversed(order))).executed
    assert mach.active_states() != order
    assert sorted(mach.active_states()) == sorted(order)
    assert mach.time() == before
    assert changes == []


# Multi states.


def test_a_called_multi_state_that_is_active_enters_anew_by_two_ticks() -> None:
    calls: list[str] = []
    mach = am.Machine({"Multi": {"multi": True}, "Other": {}})
    mach.bind_handlers(noting(calls, *(f"Multi{suffix}" for suffix in ("Enter", "Exit", "State", "End", "Multi"))))
    mach.add1("Multi")
    assert calls == ["MultiEnter", "MultiState"]
    calls.clear()
    assert mach.add(["Multi", "Other"]).executed
    assert calls == ["MultiEnter", "MultiMulti", "MultiState"]
    assert mach.tick("Multi") == 3
    calls.clear()
    assert mach.set(["Multi"]).executed
    assert calls == ["MultiEnter", "MultiMulti", "MultiState"]
    assert mach.time() == (5, 2, 0)
    mach.remove1("Multi")
    assert mach.tick("Multi") == 6


def test_a_multi_state_that_is_not_called_does_not_enter_anew() -> None:
    calls: list[str] = []
    mach = am.Machine({"Multi": {"multi": True}, "Adder": {"add": ["Multi"]}, "Other": {}})
    mach.add1("Multi")
    mach.bind_handlers(noting(calls, "MultiEnter", "MultiState"))
    mach.add1("Other")
    mach.add1("Adder")
    assert calls == []
    assert mach.tick("Multi") == 1


async def test_a_multi_state_that_enters_anew_keeps_its_context() -> None:
    mach = am.Machine({"Multi": {"multi": True}})
    mach.add1("Multi")
    scope = mach.state_ctx("Multi")
    mach.add1("Multi")
    assert mach.tick("Multi") == 3
    assert not scope.cancel_called
    mach.remove1("Multi")
    assert scope.cancel_called


# Auto states.


def test_auto_states_follow_in_one_mutation_in_schema_order_before_what_waits() -> None:
    ends = Ends()
    schema = {
        "Later": {},
        "Two": {"auto": True},
        "Foo": {"remove": ["Barred"]},
        "Barred": {"auto": True},
        "One": {"auto": True},
    }
    mach = am.Machine(schema, tracers=[ends], handlers={"FooState": lambda e: e.machine.add1("Later")})
    mach.add1("Foo")
    assert [(t.called_states, t.is_auto) for t in ends.seen] == [
        (("Foo",), False),
        (("Two", "One"), True),
        (("Later",), False),
    ]
    assert [t.mutation.queue_tick for t in ends.seen] == [2, 0, 3]


def test_no_auto_mutation_follows_if_every_auto_state_is_active_or_removed_by_an_active_one() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {"remove": ["Barred"]}, "Barred": {"auto": True}, "One": {"auto": True}})
    mach.add(["Foo", "One"])
    mach.bind_tracer(ends)
    mach.add_err(Boom("moves the clock"))
    assert ends.accepted() == [(("Exception",), True)]


@pytest.mark.parametrize("state", ["Healthcheck", "Heartbeat"])
def test_health_states_alone_start_no_auto_states(state: str) -> None:
    mach = am.Machine({"Healthcheck": {}, "Heartbeat": {}, "Auto": {"auto": True}, "Foo": {}})
    mach.add1(state)
    mach.remove1(state)
    assert mach.not1("Auto")
    mach.add([state, "Foo"])
    assert mach.is1("Auto")


def test_a_mutation_that_moves_no_clock_starts_no_auto_states() -> None:
    allow: list[bool] = []
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, handlers={"AutoEnter": lambda e: bool(allow)})
    mach.add1("Foo")
    allow.append(True)
    mach.add1("Foo")
    assert mach.not1("Auto")
    mach.add_err(Boom("moves the clock"))
    assert mach.is1("Auto")


def test_a_canceled_mutation_starts_no_auto_states() -> None:
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, handlers={"FooEnter": lambda e: False})
    mach.add1("Foo")
    assert str(mach) == "()"


def test_an_auto_mutation_starts_no_further_one() -> None:
    ends = Ends()
    schema = {"Foo": {}, "Auto": {"auto": True, "remove": ["Barrier"]}, "Barrier": {"remove": ["Late"]}}
    mach = am.Machine({**schema, "Late": {"auto": True}}, tracers=[ends])
    mach.set(["Barrier"])
    assert ends.accepted() == [(("Barrier",), True), (("Auto",), True)]
    assert str(mach) == "(Auto:1)"
    mach.add1("Foo")
    assert mach.is1("Late")


def test_an_auto_mutation_is_not_executed_if_it_leaves_no_more_states_active() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True, "remove": ["Foo"]}}, tracers=[ends])
    mach.add1("Foo")
    assert str(mach) == "(Auto:1)"
    assert ends.accepted() == [(("Foo",), True), (("Auto",), True)]
    assert mach.statistics().canceled == 1


def test_an_auto_mutation_goes_on_without_the_states_relations_refuse() -> None:
    schema = {"Foo": {}, "Bar": {}, "Needy": {"auto": True, "require": ["Bar"]}, "Auto": {"auto": True}}
    mach = am.Machine(schema)
    mach.add1("Foo")
    assert str(mach) == "(Foo:1 Auto:1)"
    mach.add1("Bar")
    assert str(mach) == "(Foo:1 Bar:1 Needy:1 Auto:1)"


def test_an_auto_mutation_of_which_relations_leave_nothing_is_canceled() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {}, "Bar": {}, "Needy": {"auto": True, "require": ["Bar"]}})
    mach.bind_handlers(noting(calls, "AnyEnter"))
    mach.add1("Foo")
    assert calls == ["AnyEnter"]
    assert mach.statistics().canceled == 1


# What is told, and when.


async def test_waiters_come_first_then_tracers_then_on_change_then_work() -> None:
    order: list[str] = []
    mach = am.Machine({"Foo": {}})
    active = mach.when1("Foo")

    class Watching(am.Tracer):
        @override
        def transition_end(self, transition: am.Transition[Any]) -> None:
            order.append(f"tracer, waiter done: {active.done()}")

    async def work(e: am.Event) -> None:
        order.append("work")

    mach.bind_tracer(Watching())
    mach.on_change(lambda *change: order.append("on_change"))
    mach.bind_handlers({"FooState": work, "AnyState": lambda e: order.append(f"final, waiter done: {active.done()}")})
    mach.add1("Foo")
    await turns()
    assert order == ["final, waiter done: False", "tracer, waiter done: True", "on_change", "work"]
    assert await active == 1


async def test_a_failed_final_phase_notifies_of_every_tick() -> None:
    changes: list[tuple[am.Time, am.Time]] = []
    mach = am.Machine({"Foo": {}, "Old": {}}, handlers=noting([], "FooState", fail=["FooState"]))
    mach.add1("Old")
    mach.on_change(lambda machine, before, after: changes.append((before, after)))
    ticked, left, active = mach.when_time1("Foo", 2), mach.when_not1("Old"), mach.when1("Foo")
    assert not ticked.done()
    assert not left.done()
    assert mach.set(["Foo"]).canceled
    assert ticked.result() == 2
    assert left.result() == 2
    assert not active.done()
    assert changes == [((0, 1, 0), (2, 2, 0)), ((2, 2, 0), (2, 2, 1))]
    active.cancel()


async def test_a_failed_final_phase_notifies_of_the_states_that_fell_with_it() -> None:
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}})
    mach.add(["Base", "Top"])
    mach.bind_handlers(noting([], "BaseState", fail=["BaseState"]))
    fell = mach.when_not1("Top")
    assert not fell.done()
    mach.add1("Base")
    assert fell.result() == 2


async def test_async_handlers_run_as_work_beside_plain_ones() -> None:
    calls: list[str] = []

    def make(name: str) -> Callable[[am.Event], Coroutine[Any, Any, None]]:
        async def work(e: am.Event) -> None:
            calls.append(f"{name} async")

        return work

    names = ["OldEnd", "NewState", "AnyState"]
    mach = in_old_and_stay()
    mach.bind_handlers({name: make(name) for name in names})
    mach.bind_handlers(noting(calls, *names))
    assert mach.add1("New").executed
    await turns()
    assert calls == [*names, *(f"{name} async" for name in names)]


async def test_the_work_of_a_state_ends_with_it_and_that_of_its_end_does_not() -> None:
    started, ended = list[str](), list[str]()
    released = asyncio.Event()

    async def foo_state(e: am.Event) -> None:
        started.append(e.name)
        try:
            await released.wait()
        finally:
            ended.append(e.name)

    async def foo_end(e: am.Event) -> None:
        started.append(e.name)
        await released.wait()
        ended.append(e.name)

    async with am.Machine({"Foo": {}}, handlers={"FooState": foo_state, "FooEnd": foo_end}) as mach:
        mach.add1("Foo")
        await turns()
        mach.remove1("Foo")
        await turns()
        assert (started, ended) == (["FooState", "FooEnd"], ["FooState"])
        released.set()
        await turns()
        assert ended == ["FooState", "FooEnd"]


async def test_work_starts_only_for_handlers_whose_turn_came_before_a_failure() -> None:
    calls: list[str] = []

    async def work(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine({"Old": {}, "One": {}, "Two": {"after": ["One"]}, "Three": {"after": ["Two"]}})
    mach.add1("Old")
    # Two fails in its plain handler; its async one, bound later, must not run either.
    mach.bind_handlers(noting([], "TwoState", fail=["TwoState"]))
    mach.bind_handlers(dict.fromkeys(["OldEnd", "OneState", "TwoState", "ThreeState", "AnyState"], work))
    mach.set(["Three", "Two", "One"])
    assert str(mach) == "(One:1 Exception:1)"
    await turns()
    assert calls == ["OldEnd", "OneState", "AnyState"]  # the last is that of the transition that added Exception


async def test_work_does_not_start_for_a_state_that_fell_with_its_require() -> None:
    calls: list[str] = []

    async def work(e: am.Event) -> None:
        calls.append(e.name)

    # A cycle of Require lets the state that fails come after the one that needs it.
    mach = am.Machine({"One": {"require": ["Two"]}, "Two": {"require": ["One"]}})
    mach.bind_handlers({"OneState": work, "OneEnd": work})
    mach.bind_handlers(noting([], "TwoState", fail=["TwoState"]))
    ends = Ends()
    mach.bind_tracer(ends)
    mach.add(["One", "Two"])
    assert ends.seen[0].enters == ("One", "Two")
    await turns()
    assert calls == ["OneEnd"]
    assert str(mach) == "(Exception:1)"


# A handler that raises.


@pytest.mark.parametrize("name", NEGOTIATION)
def test_a_failure_in_negotiation_cancels_and_changes_nothing_but_exception(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    mach = in_old_and_stay()

    def fail_once(e: am.Event) -> None:
        calls.append(e.name)
        if e.name == name and not e.machine.err:
            raise Boom(f"boom {name}")

    mach.bind_handlers(dict.fromkeys([*NEGOTIATION, *FINALS], fail_once), id="guard")
    result = mach.add(["New", "Stay"])
    assert result.canceled
    assert result.reason == f"{name} of guard raised Boom('boom {name}')"
    assert str(mach.err) == f"boom {name}"
    assert str(mach) == "(Old:1 Stay:1 Exception:1)"
    assert mach.time() == (1, 1, 0, 1)
    # The transition that adds Exception asks and tells, too, but nothing of the one that failed goes on.
    assert calls[: NEGOTIATION.index(name) + 1] == list(NEGOTIATION[: NEGOTIATION.index(name) + 1])
    assert not {"OldEnd", "NewState"} & set(calls)
    assert [record.getMessage() for record in caplog.records] == [f"[error] Boom('boom {name}') in {name}"]
    assert "fail_once" in caplog.text


@pytest.mark.parametrize(
    ("name", "ticks"),
    [
        ("OldEnd", (2, 2, 2, 2, 1)),
        ("OneState", (2, 2, 2, 2, 1)),
        ("TwoState", (2, 1, 2, 2, 1)),
        ("ThreeState", (2, 1, 1, 2, 1)),
        ("AnyState", (2, 1, 1, 1, 1)),
    ],
)
def test_a_failure_in_the_final_phase_leaves_no_state_without_its_handler(
    name: str, ticks: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    ends = Ends()
    mach = am.Machine({"Old": {}, "One": {}, "Two": {"after": ["One"]}, "Three": {"after": ["Two"]}})
    mach.add1("Old")
    mach.bind_tracer(ends)

    def fail_once(e: am.Event) -> None:
        if not e.machine.err:
            calls.append(e.name)
            if e.name == name:
                raise Boom(f"boom {name}")

    finals = ["OldEnd", "OneState", "TwoState", "ThreeState", "AnyState"]
    # A state whose State handler never completed was never there: its End handler is not called.
    mach.bind_handlers(dict.fromkeys([*finals, "OneEnd", "TwoEnd", "ThreeEnd"], fail_once), id="acts")
    result = mach.set(["One", "Two", "Three"])
    assert result.canceled
    assert result.reason == f"{name} of acts raised Boom('boom {name}')"
    assert calls == finals[: finals.index(name) + 1]
    assert mach.time() == ticks
    assert ends.accepted() == [(("One", "Two", "Three"), False), (("Exception",), True)]
    assert str(mach.err) == f"boom {name}"
    assert [record.getMessage() for record in caplog.records] == [f"[error] Boom('boom {name}') in {name}"]


def test_no_auto_states_follow_a_failure() -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}, "Auto": {"auto": True}}, handlers=noting([], "FooState", fail=["FooState"]))
    mach.bind_tracer(ends)
    mach.add1("Foo")
    assert [(t.called_states, t.is_auto) for t in ends.seen] == [
        (("Foo",), False),
        (("Exception",), False),
        (("Auto",), True),  # that of Exception
    ]


def test_states_that_lose_their_require_by_a_failure_fall_too_with_their_end_handlers() -> None:
    calls: list[str] = []
    schema = {
        "Base": {"multi": True},
        "Middle": {"require": ["Base"]},
        "Top": {"require": ["Middle"]},
        "Free": {},
    }
    mach = am.Machine(schema)
    mach.add(["Base", "Middle", "Top", "Free"])
    mach.bind_handlers(noting(calls, "BaseState", "BaseEnd", "MiddleEnd", "TopEnd", "FreeEnd", fail=["BaseState"]))
    assert mach.add1("Base").canceled
    # Ends come in the order of Require, as anywhere.
    assert calls == ["BaseState", "MiddleEnd", "TopEnd"]
    assert str(mach) == "(Free:1 Exception:1)"
    assert mach.time() == (4, 2, 2, 1, 1)


def test_end_handlers_of_fallen_states_that_fail_are_errors_as_well(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    mach = am.Machine({"Base": {"multi": True}, "One": {"require": ["Base"]}, "Two": {"require": ["Base"]}})
    mach.add(["Base", "One", "Two"])
    names = ["BaseState", "OneEnd", "TwoEnd"]
    mach.bind_handlers(noting(calls, *names, fail=names))
    errors: list[str] = []
    mach.on_error(lambda machine, err: errors.append(str(err)))
    result = mach.add1("Base")
    assert result.reason == "BaseState of dict raised Boom('boom BaseState')"
    assert calls == names
    assert errors == ["boom BaseState", "boom OneEnd", "boom TwoEnd"]
    assert str(mach.err) == "boom TwoEnd"
    assert str(mach) == "(Exception:5)"
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"[error] Boom('boom {name}') in {name}" for name in names
    )


async def test_async_end_handlers_of_fallen_states_run() -> None:
    calls: list[str] = []

    async def end(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}}, handlers={"TopEnd": end})
    mach.add(["Base", "Top"])
    mach.bind_handlers(noting(calls, "BaseState", fail=["BaseState"]))
    mach.add1("Base")
    await turns()
    assert calls == ["BaseState", "TopEnd"]


async def test_contexts_of_states_that_fall_by_a_failure_are_cancelled() -> None:
    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}, "Free": {}})
    mach.add(["Base", "Top", "Free"])
    base, top, free = (mach.state_ctx(state) for state in ("Base", "Top", "Free"))
    mach.bind_handlers(noting([], "BaseState", fail=["BaseState"]))
    mach.add1("Base")
    assert (base.cancel_called, top.cancel_called, free.cancel_called) == (True, True, False)


def test_the_first_failing_binding_of_a_final_handler_ends_the_phase() -> None:
    calls: list[str] = []
    mach = am.Machine({"Foo": {}})
    mach.bind_handlers(noting(calls, "FooState", fail=["FooState"]), id="first")
    mach.bind_handlers(noting(calls, "FooState"), id="second")
    assert mach.add1("Foo").reason == "FooState of first raised Boom('boom FooState')"
    assert calls == ["FooState"]


# Errors in handlers of Exception itself.


@pytest.mark.parametrize("name", ["ExceptionState", "AnyState"])
def test_exception_is_never_rolled_back(name: str, caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    mach = am.Machine({"Foo": {}}, tracers=[ends], handlers=noting([], name, fail=[name]))
    result = mach.add_err(Boom("first"))
    assert result.reason == f"{name} of dict raised Boom('boom {name}')"
    assert str(mach) == "(Exception:1)"
    assert str(mach.err) == f"boom {name}"
    assert ends.accepted() == [(("Exception",), False)]
    assert f"{name} raised while this was handled:" in caplog.text
    assert "Boom: first" in caplog.text
    assert f"Boom: boom {name}" in caplog.text


# What is no error of the program goes on to the caller, and leaves the machine whole.


@pytest.mark.parametrize("name", NEGOTIATION)
def test_an_interrupt_in_negotiation_leaves_everything_as_it_was(name: str) -> None:
    ends = Ends()
    mach = in_old_and_stay(tracers=[ends])
    order = mach.active_states()
    ends.seen.clear()
    bound = mach.bind_handlers(noting([], name, fail=[name], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=f"boom {name}"):
        mach.add(["New", "Stay"])
    assert mach.time() == (1, 1, 0, 0)
    assert mach.active_states() == order
    assert mach.transition is None
    assert mach.is_idle
    assert mach.err is None
    assert ends.accepted() == [(("New", "Stay"), False)]
    mach.detach_handlers(bound)
    assert mach.add(["New", "Stay"]).executed


@pytest.mark.parametrize(
    ("name", "left"),
    [("OldEnd", "()"), ("OneState", "()"), ("TwoState", "(One:1)"), ("AnyState", "(One:1 Two:1)")],
)
def test_an_interrupt_in_the_final_phase_rolls_back_as_a_failure_does(name: str, left: str) -> None:
    ends = Ends()
    mach = am.Machine({"Old": {}, "One": {}, "Two": {"after": ["One"]}})
    mach.add1("Old")
    changes: list[tuple[am.Time, am.Time]] = []
    mach.on_change(lambda machine, before, after: changes.append((before, after)))
    mach.bind_tracer(ends)
    bound = mach.bind_handlers(noting([], name, fail=[name], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=f"boom {name}"):
        mach.set(["One", "Two"])
    assert str(mach) == left
    assert mach.transition is None
    assert mach.is_idle
    assert mach.err is None
    assert ends.accepted() == [(("One", "Two"), False)]
    assert changes == [((1, 0, 0, 0), mach.time())]
    mach.detach_handlers(bound)
    assert mach.set(["One", "Two"]).executed
    assert mach.is_(["One", "Two"])


@pytest.mark.parametrize("err", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_no_base_exception_is_an_error_state(err: type[BaseException]) -> None:
    mach = am.Machine({"Foo": {}}, handlers=noting([], "FooState", fail=["FooState"], err=err))
    with pytest.raises(err):
        mach.add1("Foo")
    assert str(mach) == "()"
    assert mach.err is None


async def test_async_ends_of_fallen_states_run_after_an_interrupt() -> None:
    calls: list[str] = []

    async def end(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"]}}, handlers={"TopEnd": end})
    mach.add(["Base", "Top"])
    mach.bind_handlers(noting([], "BaseState", fail=["BaseState"], err=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Base")
    await turns()
    assert calls == ["TopEnd"]
    assert str(mach) == "()"


async def test_an_interrupt_of_an_end_during_the_rollback_starts_nothing_that_was_not_due_and_leaves_no_timer() -> None:
    calls: list[str] = []

    async def work(e: am.Event) -> None:
        calls.append(e.name)

    mach = am.Machine({"Base": {"multi": True}, "Top": {"require": ["Base"], "timeout": 3600}})
    mach.add(["Base", "Top"])
    assert mach.statistics().timeouts == 1
    mach.bind_handlers(noting([], "BaseState", fail=["BaseState"], err=KeyboardInterrupt))
    mach.bind_handlers(noting([], "TopEnd", fail=["TopEnd"], err=GeneratorExit))
    mach.bind_handlers({"AnyState": work}, id="work")
    with pytest.raises(GeneratorExit):
        mach.add1("Base")
    await turns()
    assert calls == []
    assert str(mach) == "()"
    assert mach.statistics().timeouts == 0


@pytest.mark.parametrize("asked", [["FooEnter"], []])
def test_an_interrupt_before_the_first_final_handler_leaves_no_state_without_its_own(asked: list[str]) -> None:
    class Interrupting(am.Tracer):
        @override
        def transition_finals(self, transition: am.Transition[Any]) -> None:
            raise KeyboardInterrupt

    calls: list[str] = []
    mach = am.Machine({"Foo": {}}, tracers=[Interrupting()], handlers=noting(calls, *asked, "FooState"))
    with pytest.raises(KeyboardInterrupt):
        mach.add1("Foo")
    assert calls == asked
    assert mach.string_all() == "() [Foo:2 Exception:0]"


def test_exception_is_rolled_back_where_it_was_added_but_not_called() -> None:
    changes: list[am.Time] = []
    mach = am.Machine({"Foo": {"add": ["Exception"]}}, handlers=noting([], "FooState", fail=["FooState"]))
    mach.on_change(lambda machine, before, after: changes.append(after))
    mach.add1("Foo")
    assert mach.active_states() == ("Exception",)
    assert changes == [(2, 2), (2, 3)]


NAMES = ["A", "B", "C", "D"]
relations = st.fixed_dictionaries(
    {
        "require": st.lists(st.sampled_from(NAMES), max_size=2),
        "add": st.lists(st.sampled_from(NAMES), max_size=2),
        "remove": st.lists(st.sampled_from(NAMES), max_size=1),
        "multi": st.booleans(),
    }
)


def consistent(name: str, state: Mapping[str, Any]) -> am.State:
    """Give a state without the one contradiction a schema refuses."""
    require = [other for other in state["require"] if other not in {name, *state["remove"]}]
    return am.State(**{**state, "require": require})


@given(
    schema=st.fixed_dictionaries(dict.fromkeys(NAMES, relations)),
    ops=st.lists(st.tuples(st.sampled_from(["add", "remove", "set"]), st.lists(st.sampled_from(NAMES))), max_size=6),
    at=st.integers(0, 12),
)
def test_wherever_an_interrupt_strikes_no_relation_is_broken_and_the_machine_goes_on(
    schema: dict[str, dict[str, Any]], ops: list[tuple[str, list[str]]], at: int
) -> None:
    count = 0

    def interrupt(e: am.Event) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt

    mach = am.Machine({name: consistent(name, state) for name, state in schema.items()}, handler_timeout=None)
    handlers = [f"{name}{suffix}" for name in NAMES for suffix in ("Enter", "Exit", "State", "End")]
    mach.bind_handlers(dict.fromkeys([*handlers, "AnyEnter", "AnyState"], interrupt))
    for kind, states in ops:
        before = mach.time()
        try:
            getattr(mach, kind)(states)
        except KeyboardInterrupt:
            assert mach.transition is None
        assert am.broken_relations(mach.schema, mach.active_states()) == []
        assert mach.is_idle
        assert mach.err is None
        active = {name for name in mach.state_names if mach.tick(name) % 2}
        assert active == set(mach.active_states())
        assert mach.time().after(before, or_equal=True)


@pytest.mark.parametrize("watched", [True, False])
def test_a_mutation_that_changes_nothing_has_no_auto_states_added(*, watched: bool) -> None:
    schema = {"Foo": {}, "One": {"auto": True, "require": ["Base"]}, "Base": {}}
    mach = am.Machine(schema, handlers=noting([], "AnyState") if watched else None)
    mach.add1("Foo")
    assert mach.statistics().transitions == 2
    mach.add1("Foo")
    assert mach.statistics().transitions == 3


@pytest.mark.parametrize("watched", [True, False])
def test_nothing_comes_of_auto_states_none_of_which_may_be_added(*, watched: bool) -> None:
    schema = {"Foo": {}, "One": {"auto": True, "require": ["Base"], "add": ["Extra"]}, "Base": {}, "Extra": {}}
    mach = am.Machine(schema, tracers=[Ends()] if watched else [])
    mach.add1("Foo")
    assert str(mach) == "(Foo:1)"
    assert mach.statistics().canceled == 1


def test_auto_states_that_always_fail_are_left_alone_until_something_else_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[str] = []

    def failing(e: am.Event) -> None:
        tries.append(e.name)
        raise ValueError("never")

    mach = am.Machine({"Auto": {"auto": True}, "Foo": {}, "Bar": {}})
    mach.bind_handlers({"AutoState": failing, "ExceptionState": lambda e: None})
    assert mach.add1("Foo").executed
    assert len(tries) == AUTO_RETRIES
    assert mach.is_idle
    assert f"auto states failed {AUTO_RETRIES} times in a row" in caplog.text
    # A change from elsewhere tries them once more, and their error does not start it all again.
    mach.add1("Bar")
    assert len(tries) == AUTO_RETRIES + 1


def test_auto_states_that_succeed_at_last_are_tried_as_often_again() -> None:
    tries: list[str] = []

    def failing(e: am.Event) -> bool:
        tries.append(e.name)
        if len(tries) % AUTO_RETRIES:
            raise ValueError("not yet")
        return True

    mach = am.Machine({"Auto": {"auto": True}, "Foo": {}})
    mach.bind_handlers({"AutoEnter": failing, "ExceptionState": lambda e: None})
    for number, mutate in ((1, mach.add1), (2, mach.remove1)):
        mutate("Foo" if number == 1 else "Auto")
        assert mach.is1("Auto")
        assert len(tries) == number * AUTO_RETRIES


@pytest.mark.parametrize("watched", [False, True])
def test_auto_states_count_whether_somebody_watches_or_not(*, watched: bool) -> None:
    states = {
        "Foo": {},
        "Auto": {"auto": True, "require": ["Foo"]},
        "Never": {"auto": True, "require": ["Bar"]},
        "Bar": {},
    }
    mach = am.Machine(cast("Any", states), tracers=[am.Tracer()] if watched else [])
    mach.add1("Foo")  # Auto comes along
    mach.remove1("Foo")  # and nothing can come
    counts = mach.statistics()
    assert (counts.transitions, counts.canceled) == (4, 1)
