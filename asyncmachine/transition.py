"""Plans and transitions: what a mutation would do from given active states, and the record of one that is doing it.

A `Plan` holds all that follows from a request and the active states alone: the target, the ticks that change, the
handlers to call. It is worked out once and found again by one look-up, from the `ActiveSet` the machine stands on.
Each plan names the active set it leads to, so a machine that goes round in circles never resolves anything twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from typing_extensions import override

from asyncmachine.clock import Time, TimeIndex
from asyncmachine.mutation import ADD, EXECUTED, REMOVE, Mutation, MutationType, Request, Requests, Result, Source
from asyncmachine.relations import RelationStep, Resolver
from asyncmachine.schema import ANY, Schema

__all__ = [
    "ActiveSet",
    "Call",
    "CallKind",
    "HandlerTable",
    "Live",
    "Plan",
    "Planner",
    "Step",
    "StepType",
    "Transition",
]


class CallKind(StrEnum):
    """The phases in which handlers are called, in their order."""

    EXIT = "exit"
    ENTER = "enter"
    SELF = "self"
    PAIR = "pair"
    ANY_ENTER = "any_enter"
    END = "end"
    STATE = "state"
    ANY_STATE = "any_state"


@dataclass(frozen=True, slots=True)
class Call:
    """One handler name to be called in a transition.

    Args:
        kind: the phase.
        name: the handler's name, such as "FooEnter".
        state: the position of the state it is about; for a pair, of the one that is to be active. -1 for `Any`.
        handlers: what is bound to the name and called in the transition, in binding order.
        works: what is bound to the name and is `async`, to be started after the transition.
    """

    kind: CallKind
    name: str
    state: int
    handlers: tuple[Any, ...]
    works: tuple[Any, ...]


class HandlerTable(Protocol):
    """Where a planner looks handlers up."""

    def lookup(self, name: str) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
        """Give what is bound to a handler's name, plain and `async` apart, or None."""
        ...

    def pairs(self) -> Mapping[int, Mapping[int, str]]:
        """Give the names of bound state-state handlers: active state -> target state -> name."""
        ...


class ActiveSet:
    """One ordered list of active states a machine has been in, with the plans known from there."""

    __slots__ = ("auto", "mask", "plans", "states")

    def __init__(self, states: tuple[int, ...]) -> None:
        self.states = states
        self.mask = sum(1 << i for i in states)
        self.plans: dict[Request, Plan] = {}
        self.auto: Request | bool | None = False
        """The request that adds the auto states from here, None if there are none, False if not worked out yet."""


class Plan:
    """What a request leads to from an active set, if no handler objects."""

    __slots__ = (
        "after",
        "before",
        "changes",
        "enters",
        "exits",
        "finals",
        "flips",
        "has_works",
        "missing",
        "negotiation",
        "planner",
        "request",
        "ticks",
    )

    def __init__(self, planner: Planner, before: ActiveSet, request: Request, after: ActiveSet) -> None:
        self.planner = planner
        self.request = request
        self.before = before
        self.after = after
        self.missing: tuple[int, ...] = tuple(i for i in request.states if not after.mask >> i & 1)
        if request.type is REMOVE:
            self.missing = ()
        """Called states that relations keep out."""
        self.exits = planner.resolver.order([i for i in before.states if not after.mask >> i & 1])
        again = request.mask & planner.multi & before.mask & after.mask
        self.enters = tuple(i for i in after.states if not before.mask >> i & 1 or again >> i & 1)
        self.changes = tuple((i, 2 if again >> i & 1 else 1) for i in (*self.exits, *self.enters))
        """Positions of the states that tick, with by how much."""
        self.ticks = sum(by for _, by in self.changes)
        self.flips = tuple(i for i, by in self.changes if by == 1)
        self.negotiation: tuple[Call, ...] = tuple(planner.negotiation(self))
        self.finals: tuple[Call, ...] = tuple(planner.finals(self.exits, self.enters))
        self.has_works = any(call.works for call in self.finals)

    def accepts(self, mutation: Mutation) -> bool:
        """Tell whether relations allow the mutation."""
        if not self.missing:
            return True
        if mutation.is_auto:
            return len(self.missing) < len(self.request.states)
        return mutation.is_check and self.request.multi

    def result(self, mutation: Mutation) -> Result:
        """Give the result of the mutation once the plan has been carried out."""
        if self.request.type is REMOVE and self.after.mask & self.request.mask:
            return Result(1, self.why)
        if mutation.is_auto and len(self.after.states) <= len(self.before.states):
            return Result(1, "no auto state could enter without another leaving")
        return EXECUTED

    def relation_steps(self) -> list[RelationStep]:
        """Resolve once more, to see what each relation did."""
        steps: list[RelationStep] = []
        self.planner.resolver.resolve(self.request.type, self.request.states, self.before.states, steps=steps)
        return steps

    def why(self) -> str:
        """Say why not all that was asked for comes about, in words."""
        names = self.planner.names
        steps = self.relation_steps()
        if self.request.type is REMOVE:
            stays = next(i for i in self.request.states if self.after.mask >> i & 1)
            return f"{names[stays]} stays active{_because(stays, steps, names, 'add', '; it is added by {}')}"
        out = self.missing[0]
        reason = _because(out, steps, names, "require", " requires {}")
        reason = reason or _because(out, steps, names, "remove", " is removed by {}")
        return names[out] + (reason or " is left out by the resolver")


def _because(state: int, steps: list[RelationStep], names: Sequence[str], relation: str, text: str) -> str:
    others = dict.fromkeys(names[step.other] for step in steps if step.state == state and step.relation == relation)
    return text.format(" and ".join(others)) if others else ""


class Planner:
    """Works plans out and keeps them.

    Args:
        schema: the states and relations.
        resolver: decides targets and order.
        table: where the bound handlers are found.
        bound: how many plans are kept. Beyond it all are dropped and worked out anew: a machine that repeats itself
            needs few plans, one that does not gains nothing from keeping them, and this costs the warm path nothing.
    """

    def __init__(self, schema: Schema, resolver: Resolver, table: HandlerTable, bound: int = 4096) -> None:
        self.names = schema.names
        self.resolver = resolver
        self.multi = sum(1 << i for i, value in enumerate(schema.values()) if value.multi)
        self.requests = Requests(schema)
        self.auto_states = sum(1 << i for i, value in enumerate(schema.values()) if value.auto)
        self._table = table
        self._bound = bound
        self._count = 0
        self._sets: dict[tuple[int, ...], ActiveSet] = {}

    def active_set(self, states: tuple[int, ...]) -> ActiveSet:
        """Give the one active set of these states in this order."""
        found = self._sets.get(states)
        if found is None:
            found = self._sets[states] = ActiveSet(states)
        return found

    def forget(self) -> None:
        """Drop all plans, as when handlers change. Active sets in use stay usable."""
        for active_set in self._sets.values():
            active_set.plans.clear()
        self._sets.clear()
        self._count = 0

    def plan(self, before: ActiveSet, request: Request) -> Plan:
        """Give the plan for a request, worked out if it is not known."""
        if self._count >= self._bound:
            self.forget()
        # One that was in use when all were forgotten may not be the known one of its states any more; plans are kept
        # at known ones alone, so that none outlives the handlers it was made for.
        before = self._sets.setdefault(before.states, before)
        found = before.plans.get(request)
        if found is None:
            self._count += 1
            after = self.resolver.resolve(request.type, request.states, before.states)
            found = before.plans[request] = Plan(self, before, request, self.active_set(after))
        return found

    def auto(self, now: ActiveSet) -> Request | None:
        """Give the request that adds the auto states, None if there are none to add."""
        if isinstance(now.auto, bool):
            states = self.resolver.auto(now.states)
            now.auto = self.requests.of(ADD, [self.names[i] for i in states]) if states else None
        return now.auto

    def without(self, plan: Plan, dropped: int) -> Plan | None:
        """Give what is left of the plan of an auto mutation without the states vetoed in it; None if it is canceled.

        Nothing enters that was not negotiated, and nothing leaves that was not asked.
        """
        before = plan.before
        left = [i for i in plan.request.states if not dropped >> i & 1]
        admitted = sum(1 << i for i in plan.enters) & ~dropped
        target = self.resolver.resolve(ADD, left, before.states, admitted=admitted)
        after = ActiveSet(target)
        asked = sum(1 << i for i in plan.exits)
        if not any(after.mask >> i & 1 for i in left) or before.mask & ~after.mask & ~asked:
            return None
        request = self.requests.of(ADD, [self.names[i] for i in left])
        return Plan(self, before, request, self.active_set(target))

    def negotiation(self, plan: Plan) -> Iterator[Call]:
        """Give the calls that may veto: exits, enters, selves, pairs, `AnyEnter`. Only names with handlers count."""
        names, before, after = self.names, plan.before, plan.after
        yield from self._calls(CallKind.EXIT, ((f"{names[i]}Exit", i) for i in plan.exits))
        yield from self._calls(CallKind.ENTER, ((f"{names[i]}Enter", i) for i in plan.enters))
        if plan.request.type is not REMOVE:
            staying = (i for i in after.states if before.mask >> i & 1)
            yield from self._calls(CallKind.SELF, ((names[i] * 2, i) for i in staying))
        pairs = self._table.pairs()
        if pairs:
            for active in before.states:
                to = pairs.get(active)
                if to:
                    found = ((to[i], i) for i in after.states if i in to and i != active)
                    yield from self._calls(CallKind.PAIR, found)
        yield from self._calls(CallKind.ANY_ENTER, [(f"{ANY}Enter", -1)])

    def finals(self, exits: Iterable[int], enters: Iterable[int]) -> Iterator[Call]:
        """Give the calls that act: ends, states, `AnyState`. Only names with handlers count."""
        yield from self.ends(exits)
        yield from self._calls(CallKind.STATE, ((f"{self.names[i]}State", i) for i in enters))
        yield from self._calls(CallKind.ANY_STATE, [(f"{ANY}State", -1)])

    def ends(self, exits: Iterable[int]) -> Iterator[Call]:
        """Give the calls of the `End` handlers of states."""
        return self._calls(CallKind.END, ((f"{self.names[i]}End", i) for i in exits))

    def _calls(self, kind: CallKind, wanted: Iterable[tuple[str, int]]) -> Iterator[Call]:
        lookup = self._table.lookup
        for name, state in wanted:
            found = lookup(name)
            if found is not None:
                yield Call(kind, name, state, *found)


class Live:
    """The clock of a running machine, and the active set it stands on."""

    __slots__ = ("closed", "index", "schema", "standing", "ticks", "total")

    def __init__(self, schema: Schema, standing: ActiveSet) -> None:
        self.schema = schema
        self.index = schema.index
        self.ticks = [0] * len(schema)
        self.total = 0
        """The sum of all ticks."""
        self.standing = standing
        self.closed = False
        """True once the machine is disposed: nothing counts as active from then on."""


class StepType(StrEnum):
    """What a step of a transition did."""

    CALLED = "called"
    RELATION = "relation"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    HANDLER = "handler"
    CANCEL = "cancel"


class Step(NamedTuple):
    """One step of a transition: a state that was called, a relation at work, a handler that was called.

    Args:
        type: what happened.
        state: the state it happened to.
        other: the state that caused it, for a relation.
        relation: require, add or remove, for a relation.
        handler: the handler's name, for a handler.
    """

    type: StepType
    state: str
    other: str = ""
    relation: str = ""
    handler: str = ""


M = TypeVar("M", bound="Owner")


class Owner(Protocol):
    """What a transition needs to know of its machine."""

    @property
    def id(self) -> str: ...

    @property
    def machine_tick(self) -> int: ...


class Transition(Generic[M]):
    """One mutation being carried out, or the record of it: what was asked, what came of it, when.

    `machine.transition` and `event.transition` give it inside a handler, tracers get it at each of its phases.
    """

    __slots__ = (
        "_number",
        "at",
        "before",
        "committed",
        "is_accepted",
        "is_completed",
        "machine",
        "mutation",
        "plan",
        "rolled_back",
        "total_before",
    )

    def __init__(self, machine: M, mutation: Mutation, plan: Plan, number: int, total_before: int) -> None:
        self.machine = machine
        self.mutation = mutation
        self.plan = plan
        self.before: Time = _UNSEEN
        self.total_before = total_before
        self.is_accepted = True
        """False once relations, a veto or an error canceled it."""
        self.is_completed = False
        """True when all of its handlers are done."""
        self.committed = False
        """True once the clocks have moved."""
        self.at: Call | None = None
        """The call being made, or made last."""
        self.rolled_back: tuple[int, ...] = ()
        """States deactivated again, because a final handler failed."""
        self._number = number

    @property
    def id(self) -> str:
        """The transition's id, unique among those of its machine, also after the machine is restored."""
        return f"{self.machine.machine_tick}.{self._number}"

    def as_source(self) -> Source:
        """Give this transition as the source of another mutation."""
        return Source(self.machine.id, self.id, self.total_before)

    @property
    def type(self) -> MutationType:
        """What was asked for."""
        return self.mutation.request.type

    @property
    def args(self) -> Mapping[str, Any]:
        """The mutation's args, as a mapping."""
        return self.mutation.args

    @property
    def is_auto(self) -> bool:
        """True for the addition of auto states."""
        return self.mutation.is_auto

    @property
    def called_states(self) -> tuple[str, ...]:
        """The states that were asked for."""
        return self.mutation.request.names

    @property
    def states_before(self) -> tuple[str, ...]:
        """The states active before, in their order."""
        return self._names(self.plan.before.states)

    @property
    def target_states(self) -> tuple[str, ...]:
        """The states to be active after, in their order, as relations have it."""
        return self._names(self.plan.after.states)

    @property
    def enters(self) -> tuple[str, ...]:
        """The states that are activated, or activated anew, if no handler objects; none if relations refuse."""
        return self._names(self.plan.enters) if self.plan.accepts(self.mutation) else ()

    @property
    def exits(self) -> tuple[str, ...]:
        """The states that are deactivated, if no handler objects; none if relations refuse."""
        return self._names(self.plan.exits) if self.plan.accepts(self.mutation) else ()

    @property
    def time_before(self) -> Time:
        """The machine's time before."""
        return self.before

    @property
    def time_after(self) -> Time:
        """The machine's time after: as planned while it runs, as it came about once it is completed."""
        if not self.committed and (self.is_completed or not self.is_accepted or self.mutation.is_check):
            return self.before
        ticks = list(self.before)
        for i, by in self.plan.changes:
            ticks[i] += by
        for i in self.rolled_back:
            ticks[i] += 1
        return Time(ticks)

    @property
    def time_index_before(self) -> TimeIndex:
        """The time before, by name."""
        return TimeIndex(self.plan.planner.names, self.before)

    @property
    def time_index_after(self) -> TimeIndex:
        """The time after, by name."""
        return TimeIndex(self.plan.planner.names, self.time_after)

    @property
    def time_index_called(self) -> TimeIndex:
        """The called states as the active ones of an index."""
        return TimeIndex.of_active(self.plan.planner.names, self.called_states)

    @property
    def time_index_touched(self) -> TimeIndex:
        """The states that any step touched as the active ones of an index."""
        touched = {name for step in self.steps for name in (step.state, step.other)}
        return TimeIndex.of_active(self.plan.planner.names, touched)

    @property
    def time_index_time_diff(self) -> TimeIndex:
        """The states that ticked as the active ones of an index."""
        diff = self.time_after.diff_since(self.before)
        return TimeIndex(self.plan.planner.names, [int(by != 0) for by in diff])

    def time_index_diff(self) -> tuple[TimeIndex, TimeIndex]:
        """Give the states added (multi states activated anew, too) and those removed, each as an index."""
        names, after = self.plan.planner.names, self.time_after
        ticked = after.diff_since(self.before).non_zero_states()
        added = [names[i] for i in ticked if after.is1(i)]
        removed = [names[i] for i in ticked if after.not1(i) and self.before.is1(i)]
        return TimeIndex.of_active(names, added), TimeIndex.of_active(names, removed)

    @property
    def steps(self) -> list[Step]:
        """What was done so far: states called, relations at work, handlers called. Worked out when asked for."""
        plan, names = self.plan, self.plan.planner.names
        steps = [Step(StepType.CALLED, name) for name in self.called_states]
        for relation, state, other in ((s.relation, s.state, s.other) for s in plan.relation_steps()):
            steps.append(Step(StepType.RELATION, names[state], names[other], relation))
        if not plan.accepts(self.mutation):
            return steps + [Step(StepType.CANCEL, names[i]) for i in plan.missing]
        steps += [Step(StepType.ACTIVATE, names[i]) for i in plan.enters]
        steps += [Step(StepType.DEACTIVATE, names[i]) for i in plan.exits]
        for call in (*plan.negotiation, *plan.finals) if self.at else ():
            steps.append(Step(StepType.HANDLER, names[call.state] if call.state >= 0 else ANY, handler=call.name))
            if call is self.at:
                break
        if not self.is_accepted:
            steps.append(Step(StepType.CANCEL, steps[-1].state, handler=steps[-1].handler))
        return steps

    def _names(self, states: Iterable[int]) -> tuple[str, ...]:
        names = self.plan.planner.names
        return tuple([names[i] for i in states])

    @override
    def __repr__(self) -> str:
        mark = "" if self.is_accepted else " canceled"
        return f"<Transition {self.id} [{self.type}] {' '.join(self.called_states)}{mark}>"


_UNSEEN = Time()
