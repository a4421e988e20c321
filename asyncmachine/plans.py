"""Plans: what a mutation would do from given active states, worked out once.

A `Plan` holds all that follows from a request and the active states alone: the target, the ticks that change, the
handlers to call. It is worked out once and found again by one look-up, from the `ActiveSet` the machine stands on.
Each plan names the active set it leads to, so a machine that goes round in circles never resolves anything twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias

from asyncmachine.mutation import ADD, EXECUTED, REMOVE, Mutation, Request, Requests, Result
from asyncmachine.relations import RelationStep, Resolver
from asyncmachine.schema import ANY, Schema

__all__ = ["ActiveSet", "Call", "CallKind", "HandlerTable", "Live", "Lookup", "Plan", "Planner"]


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


class Call(NamedTuple):
    """One handler name to be called in a transition.

    Args:
        kind: the phase.
        name: the handler's name, such as "FooEnter".
        state: the position of the state it is about; for a pair, of the one that is to be active. -1 for `Any`.
        handlers: what is bound to the name and called in the transition, in binding order.
        works: what is bound to the name and is `async`, to be started after the transition.
        about: the name of that state, or "Any".
    """

    kind: CallKind
    name: str
    state: int
    handlers: tuple[Any, ...]
    works: tuple[Any, ...]
    about: str


Lookup: TypeAlias = Callable[[str], tuple[tuple[Any, ...], tuple[Any, ...]] | None]
"""Gives what is bound to a handler's name, plain and `async` apart, or None."""


class HandlerTable(Protocol):
    """Where a planner looks handlers up."""

    def reader(self) -> Lookup:
        """Give a look-up of what is bound now, whatever is bound or detached later."""
        ...

    def pairs(self) -> Mapping[int, Mapping[int, str]]:
        """Give the names of bound state-state handlers: active state -> target state -> name."""
        ...


class ActiveSet:
    """One ordered list of active states a machine has been in, with the plans known from there."""

    __slots__ = ("auto", "mask", "plans", "states")

    def __init__(self, states: tuple[int, ...]) -> None:
        self.states: tuple[int, ...] = states
        self.mask: int = sum(1 << i for i in states)
        self.plans: dict[Request, Plan] = {}
        self.auto: Request | None = None
        """The request that adds the auto states from here, if there are any."""


class Plan:
    """What a request leads to from an active set, if no handler objects."""

    __slots__ = (
        "after",
        "before",
        "changes",
        "enters",
        "executed",
        "exits",
        "finals",
        "flips",
        "has_works",
        "is_bare",
        "lookup",
        "missing",
        "negotiation",
        "planner",
        "request",
        "ticked",
        "ticks",
    )

    def __init__(self, planner: Planner, before: ActiveSet, request: Request, after: ActiveSet, lookup: Lookup) -> None:
        self.planner: Planner = planner
        self.lookup: Lookup = lookup
        """The handlers bound when the plan was made: what a handler binds counts from the next transition on."""
        self.request: Request = request
        self.before: ActiveSet = before
        self.after: ActiveSet = after
        self.missing: tuple[int, ...] = tuple(i for i in request.states if not after.mask >> i & 1)
        if request.type is REMOVE:
            self.missing = ()
        """Called states that relations keep out."""
        self.exits: tuple[int, ...] = planner.resolver.order([i for i in before.states if not after.mask >> i & 1])
        again = request.mask & planner.multi & before.mask & after.mask
        self.enters: tuple[int, ...] = tuple(i for i in after.states if not before.mask >> i & 1 or again >> i & 1)
        self.changes: tuple[tuple[int, int], ...] = tuple(
            (i, 2 if again >> i & 1 else 1) for i in (*self.exits, *self.enters)
        )
        """Positions of the states that tick, with by how much."""
        self.ticked: tuple[int, ...] = tuple(i for i, _ in self.changes)
        self.ticks: int = sum(by for _, by in self.changes)
        self.flips: tuple[int, ...] = tuple(i for i, by in self.changes if by == 1)
        self.negotiation: tuple[Call, ...] = tuple(planner.negotiation(self))
        self.finals: tuple[Call, ...] = tuple(planner.finals(self))
        self.has_works: bool = any(call.works for call in self.finals)
        self.is_bare: bool = not self.negotiation and not self.finals
        """True if there is no handler to call: nobody then sees the transition, unless someone watches the machine."""
        self.executed: Result = EXECUTED
        """The result of a mutation that is not auto, once the plan has been carried out."""
        if request.type is REMOVE and after.mask & request.mask:
            self.executed = Result(1, self.why)

    def accepts(self, mutation: Mutation) -> bool:
        """Tell whether relations allow the mutation."""
        if not self.missing:
            return True
        if mutation.is_auto:
            return len(self.missing) < len(self.request.states)
        return mutation.is_check and self.request.multi

    def result(self, mutation: Mutation) -> Result:
        """Give the result of the mutation once the plan has been carried out."""
        if mutation.is_auto and len(self.after.states) <= len(self.before.states):
            return Result(1, "no auto state could enter without another leaving")
        return self.executed

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
        self.names: tuple[str, ...] = schema.names
        self.resolver = resolver
        self.multi: int = sum(1 << i for i, value in enumerate(schema.values()) if value.multi)
        self.requests: Requests = Requests(schema)
        self.auto_states: int = sum(1 << i for i, value in enumerate(schema.values()) if value.auto)
        self._table = table
        self._lookup = table.reader()
        self._bound = bound
        self._count = 0
        self._sets: dict[tuple[int, ...], ActiveSet] = {}

    def active_set(self, states: tuple[int, ...]) -> ActiveSet:
        """Give the one active set of these states in this order."""
        found = self._sets.get(states)
        if found is None:
            found = self._sets[states] = ActiveSet(states)
            auto = self.resolver.auto(states)
            if auto:
                found.auto = self.requests.of(ADD, [self.names[i] for i in auto])
        return found

    def forget(self) -> None:
        """Drop all plans, as when handlers change. Active sets in use stay usable."""
        for active_set in self._sets.values():
            active_set.plans.clear()
        self._sets.clear()
        self._count = 0
        self._lookup = self._table.reader()

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
            found = before.plans[request] = Plan(self, before, request, self.active_set(after), self._lookup)
        return found

    def without(self, plan: Plan, dropped: int, asked: Iterable[Call]) -> Plan | None:
        """Give what is left of the plan of an auto mutation without the states vetoed in it; None if it is canceled.

        Nothing enters that was not negotiated, and nothing leaves that was not asked.

        Args:
            plan: the plan.
            dropped: a set of bits of the states vetoed.
            asked: the calls that were made before this was known.
        """
        before = plan.before
        left = [i for i in plan.request.states if not dropped >> i & 1]
        admitted = sum(1 << i for i in plan.enters) & ~dropped
        target = self.resolver.resolve(ADD, left, before.states, admitted=admitted)
        after = ActiveSet(target)
        leaving = sum(1 << i for i in plan.exits)
        if not any(after.mask >> i & 1 for i in left) or before.mask & ~after.mask & ~leaving:
            return None
        request = self.requests.of(ADD, [self.names[i] for i in left])
        rest = Plan(self, before, request, self.active_set(target), plan.lookup)
        rest.negotiation = tuple(asked)
        return rest

    def negotiation(self, plan: Plan) -> Iterator[Call]:
        """Give the calls that may veto: exits, enters, selves, pairs, `AnyEnter`. Only names with handlers count."""
        names, before, after, lookup = self.names, plan.before, plan.after, plan.lookup
        yield from self._calls(lookup, CallKind.EXIT, ((f"{names[i]}Exit", i) for i in plan.exits))
        yield from self._calls(lookup, CallKind.ENTER, ((f"{names[i]}Enter", i) for i in plan.enters))
        if plan.request.type is not REMOVE:
            staying = (i for i in after.states if before.mask >> i & 1)
            yield from self._calls(lookup, CallKind.SELF, ((names[i] * 2, i) for i in staying))
        pairs = self._table.pairs()
        if pairs:
            for active in before.states:
                to = pairs.get(active)
                if to:
                    found = ((to[i], i) for i in after.states if i in to and i != active)
                    yield from self._calls(lookup, CallKind.PAIR, found)
        yield from self._calls(lookup, CallKind.ANY_ENTER, [(f"{ANY}Enter", -1)])

    def finals(self, plan: Plan) -> Iterator[Call]:
        """Give the calls that act: ends, states, `AnyState`. Only names with handlers count."""
        yield from self.ends(plan, plan.exits)
        yield from self._calls(plan.lookup, CallKind.STATE, ((f"{self.names[i]}State", i) for i in plan.enters))
        yield from self._calls(plan.lookup, CallKind.ANY_STATE, [(f"{ANY}State", -1)])

    def ends(self, plan: Plan, exits: Iterable[int]) -> Iterator[Call]:
        """Give the calls of the `End` handlers of states that leave, by a plan or because it failed."""
        return self._calls(plan.lookup, CallKind.END, ((f"{self.names[i]}End", i) for i in exits))

    def _calls(self, lookup: Lookup, kind: CallKind, wanted: Iterable[tuple[str, int]]) -> Iterator[Call]:
        for name, state in wanted:
            found = lookup(name)
            if found is not None:
                yield Call(kind, name, state, *found, self.names[state] if state >= 0 else ANY)


class Live:
    """The clock of a running machine, and the active set it stands on."""

    __slots__ = ("closed", "index", "schema", "standing", "ticks", "total")

    def __init__(self, schema: Schema, standing: ActiveSet) -> None:
        self.schema: Schema = schema
        self.index: Mapping[str, int] = schema.index
        self.ticks: list[int] = [0] * len(schema)
        self.total: int = 0
        """The sum of all ticks."""
        self.standing: ActiveSet = standing
        self.closed: bool = False
        """True once the machine is disposed: nothing counts as active from then on."""
