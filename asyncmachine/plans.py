"""Plans: what a mutation would do from given active states, worked out once.

A `Plan` holds all that follows from a request and the active states alone: the target, the ticks that change, the
handlers to call. It is worked out once and found again by one look-up, from the `ActiveSet` the machine stands on.
Each plan names the active set it leads to, so a machine that goes round in circles never resolves anything twice.

What follows from the schema alone is shared by all machines of that schema: a machine without handlers uses the
schema's own planner, one with handlers has a planner of its own, which takes its targets from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from asyncmachine.mutation import EXECUTED, Mutation, Result
from asyncmachine.relations import RelationsResolver, RelationStep, Resolver
from asyncmachine.requests import ADD, REMOVE, Request, Requests
from asyncmachine.schema import ANY, Schema

__all__ = [
    "LONGEST",
    "NO_HANDLERS",
    "ActiveSet",
    "BoundCall",
    "Call",
    "CallKind",
    "HandlerTable",
    "Live",
    "Plan",
    "Planner",
    "Trail",
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


BoundCall: TypeAlias = tuple[Callable[[Any], Any], Any, Call]
"""One function to be called in a transition, with the handler and the call it belongs to."""


class HandlerTable(NamedTuple):
    """What is bound to a machine at some time; never changed, but replaced.

    Args:
        named: handlers by name, plain and `async` apart.
        pairs: the names of state-state handlers: active state -> target state -> name.
        selves: a set of bits of the states that have a handler for staying active, such as "FooFoo".
    """

    named: Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]]
    pairs: Mapping[int, Mapping[int, str]]
    selves: int


NO_HANDLERS = HandlerTable({}, {}, 0)


class ActiveSet:
    """One ordered list of active states a machine has been in, with the plans known from there."""

    __slots__ = ("auto", "mask", "plans", "states")

    def __init__(self, states: tuple[int, ...], mask: int) -> None:
        self.states: tuple[int, ...] = states
        self.mask: int = mask
        self.plans: dict[Request, Plan] = {}
        self.auto: Request | None = None
        """The request that adds the auto states from here, if there are any."""


def _listed(states: Iterable[int], mask: int) -> tuple[int, ...]:
    """Give those states that are in a set, in their order."""
    if mask & (mask - 1):
        return tuple([i for i in states if mask >> i & 1])
    return (mask.bit_length() - 1,) if mask else ()


class Plan:
    """What a request leads to from an active set, if no handler objects."""

    __slots__ = (
        "after",
        "asks",
        "before",
        "changes",
        "deeds",
        "enters",
        "executed",
        "exits",
        "finals",
        "flips",
        "has_tail",
        "is_bare",
        "mask",
        "missing",
        "needs_loop",
        "negotiation",
        "planner",
        "request",
        "ticked",
        "timed",
    )

    def __init__(self, planner: Planner, before: ActiveSet, request: Request, after: ActiveSet) -> None:
        self.planner: Planner = planner
        self.request: Request = request
        self.before: ActiveSet = before
        self.after: ActiveSet = after
        removing = request.type is REMOVE
        self.missing: tuple[int, ...] = () if removing else _listed(request.states, request.mask & ~after.mask)
        """Called states that relations keep out."""
        left = _listed(before.states, before.mask & ~after.mask)
        self.exits: tuple[int, ...] = planner.resolver.order(left) if len(left) > 1 else left
        again = request.mask & planner.multi & before.mask & after.mask
        self.enters: tuple[int, ...] = _listed(after.states, after.mask & ~before.mask | again)
        self.ticked: tuple[int, ...] = self.exits + self.enters
        self.mask: int = (before.mask ^ after.mask) | again
        """The states that tick, as bits."""
        self.changes: tuple[int, ...] = self.ticked
        """Positions of the states that tick, once for each tick: a multi state that is activated anew has two."""
        self.flips: tuple[int, ...] = self.ticked
        if again:
            self.changes += _listed(self.ticked, again)
            self.flips = tuple([i for i in self.ticked if not again >> i & 1])
        self.negotiation: tuple[Call, ...] = ()
        self.asks: tuple[BoundCall, ...] = ()
        """The functions to be asked, one by one."""
        self.finals: tuple[Call, ...] = ()
        self.deeds: tuple[BoundCall, ...] = ()
        """The plain functions that act, one by one."""
        self.timed: tuple[int, ...] = _listed(self.ticked, self.mask & planner.timed)
        """Positions of the states with a timeout that tick."""
        self.has_tail: bool = bool(self.timed)
        """True if something outlasts the transition: work to start, timeouts to start or stop."""
        self.needs_loop: bool = any([i in self.enters for i in self.timed])
        """True if something is started that lives on a loop: work, or a timeout."""
        if planner.table.named:
            self.set_calls(planner.negotiation(self), planner.finals(self))
        self.is_bare: bool = not self.negotiation and not self.finals and not self.timed
        """True if no handler is called and no timeout touched: nobody sees the transition who does not watch all."""
        self.executed: Result = EXECUTED
        """The result of a mutation that is not auto, once the plan has been carried out."""
        if removing and after.mask & request.mask:
            self.executed = Result(1, self.why)

    def set_calls(self, negotiation: Iterable[Call], finals: Iterable[Call]) -> None:
        """Note which handlers are called."""
        self.negotiation, self.finals = tuple(negotiation), tuple(finals)
        self.asks = _steps(self.negotiation)
        self.deeds = _steps(self.finals)
        if any([call.works for call in self.finals]):
            self.has_tail = self.needs_loop = True

    def accepts(self, mutation: Mutation) -> bool:
        """Tell whether relations allow the mutation."""
        if not self.missing:
            return True
        if mutation.is_auto:
            return len(self.missing) < len(self.request.states)
        return mutation.is_check and self.request.multi

    @property
    def grows(self) -> bool:
        """True if more states are active after than before, without which an auto mutation counts as canceled."""
        return len(self.after.states) > len(self.before.states)

    def result(self, mutation: Mutation) -> Result:
        """Give the result of a mutation once the plan has been carried out."""
        if mutation.is_auto and not self.grows:
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


def _steps(calls: Iterable[Call]) -> tuple[BoundCall, ...]:
    return tuple([(handler.fn, handler, call) for call in calls for handler in call.handlers])


def _because(state: int, steps: list[RelationStep], names: Sequence[str], relation: str, text: str) -> str:
    others = dict.fromkeys(names[step.other] for step in steps if step.state == state and step.relation == relation)
    return text.format(" and ".join(others)) if others else ""


class Planner:
    """Works plans out and keeps them.

    Args:
        schema: the states and relations.
        resolver: decides targets and order.
        base: the planner of the same schema without handlers, whose targets this one shares.
        table: the handlers that are bound.
        bound: how many plans are kept. Beyond it all are dropped and worked out anew: a machine that repeats itself
            needs few plans, one that does not gains nothing from keeping them, and this costs the warm path nothing,
            where an order of use would have to be kept up at each look-up.
    """

    def __init__(
        self,
        schema: Schema,
        resolver: Resolver,
        *,
        base: Planner | None = None,
        table: HandlerTable = NO_HANDLERS,
        bound: int = 4096,
    ) -> None:
        self.names: tuple[str, ...] = schema.names
        self.resolver: Resolver = resolver
        self.table: HandlerTable = table
        self.multi: int
        self.auto_states: int
        self.timed: int
        self.requests: Requests
        if base is None:
            self.multi = sum(1 << i for i, value in enumerate(schema.values()) if value.multi)
            self.auto_states = sum(1 << i for i, value in enumerate(schema.values()) if value.auto)
            self.timed = sum(1 << i for i, value in enumerate(schema.values()) if value.timeout is not None)
            self.requests = Requests(schema)
        else:
            self.multi, self.auto_states, self.timed = base.multi, base.auto_states, base.timed
            self.requests = base.requests
        self._schema = schema
        self._base = base
        self._bound = bound
        self._count = 0
        self._sets: dict[tuple[int, ...], ActiveSet] = {}

    @classmethod
    def of(cls, schema: Schema, make_resolver: Callable[[Schema], Resolver] | None) -> Planner:
        """Give the planner that machines of a schema share; one apart for a resolver of the user's own.

        Machines in several threads may share it: whatever it holds can be worked out again, so the worst that can
        happen when two threads look for the same thing at once is that it is worked out twice.
        """
        if make_resolver is not None:
            return cls(schema, make_resolver(schema))
        planner = schema.derived.get(cls)
        if not isinstance(planner, cls):
            planner = schema.derived[cls] = cls(schema, RelationsResolver(schema))
        return planner

    def with_handlers(self, table: HandlerTable) -> Planner:
        """Give a planner for the same schema and these handlers."""
        base = self._base or self
        return Planner(self._schema, self.resolver, base=base, table=table) if table.named else base

    def active_set(self, states: tuple[int, ...]) -> ActiveSet:
        """Give the one active set of these states in this order."""
        found = self._sets.get(states)
        if found is None:
            # One bit for each state, and no state twice: their sum is their union.
            found = ActiveSet(states, sum([1 << i for i in states]))
            if self.auto_states & ~found.mask:
                auto = self.resolver.auto(states)
                if auto:
                    found.auto = self.requests.of(ADD, [self.names[i] for i in auto])
            self._sets[states] = found
        return found

    def forget(self) -> None:
        """Drop all plans. Active sets in use stay usable."""
        known, self._sets, self._count = self._sets, {}, 0
        # A plan leads to a set, which has plans: what is in use must not hold all the others.
        for active_set in list(known.values()):
            active_set.plans = {}

    def plan(self, before: ActiveSet, request: Request) -> Plan:
        """Give the plan for a request, worked out if it is not known."""
        if self._count >= self._bound:
            self.forget()
        # One that was in use when all were forgotten may not be the known one of its states any more; plans are kept
        # at known ones alone, so that the next time they are forgotten, too.
        before = self._sets.setdefault(before.states, before)
        found = before.plans.get(request)
        if found is None:
            self._count += 1
            after = self.active_set(self._target(before, request))
            found = before.plans[request] = Plan(self, before, request, after)
        return found

    def _target(self, before: ActiveSet, request: Request) -> tuple[int, ...]:
        if self._base is not None:
            return self._base.plan(self._base.active_set(before.states), request).after.states
        return self.resolver.resolve(request.type, request.states, before.states)

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
        after = self.active_set(target)
        leaving = sum(1 << i for i in plan.exits)
        if not any(after.mask >> i & 1 for i in left) or before.mask & ~after.mask & ~leaving:
            return None
        rest = Plan(self, before, self.requests.of(ADD, [self.names[i] for i in left]), after)
        rest.set_calls(asked, rest.finals)
        return rest

    def negotiation(self, plan: Plan) -> Iterator[Call]:
        """Give the calls that may veto: exits, enters, selves, pairs, `AnyEnter`. Only names with handlers count."""
        names, before, after, pairs = self.names, plan.before, plan.after, self.table.pairs
        yield from self._calls(CallKind.EXIT, ((f"{names[i]}Exit", i) for i in plan.exits))
        yield from self._calls(CallKind.ENTER, ((f"{names[i]}Enter", i) for i in plan.enters))
        selves = self.table.selves & before.mask & after.mask
        if selves and plan.request.type is not REMOVE:
            yield from self._calls(CallKind.SELF, ((names[i] * 2, i) for i in _listed(after.states, selves)))
        for active in before.states if pairs else ():
            to = pairs.get(active)
            if to:
                yield from self._calls(CallKind.PAIR, ((to[i], i) for i in after.states if i in to and i != active))
        yield from self._calls(CallKind.ANY_ENTER, [(f"{ANY}Enter", -1)])

    def finals(self, plan: Plan) -> Iterator[Call]:
        """Give the calls that act: ends, states, `AnyState`. Only names with handlers count."""
        yield from self.ends(plan.exits)
        yield from self._calls(CallKind.STATE, ((f"{self.names[i]}State", i) for i in plan.enters))
        yield from self._calls(CallKind.ANY_STATE, [(f"{ANY}State", -1)])

    def ends(self, exits: Iterable[int]) -> Iterator[Call]:
        """Give the calls of the `End` handlers of states that leave, by a plan or because it failed."""
        return self._calls(CallKind.END, ((f"{self.names[i]}End", i) for i in exits))

    def _calls(self, kind: CallKind, wanted: Iterable[tuple[str, int]]) -> Iterator[Call]:
        named = self.table.named
        for name, state in wanted:
            found = named.get(name)
            if found is not None:
                yield Call(kind, name, state, *found, self.names[state] if state >= 0 else ANY)


LONGEST = 64
"""How many moves there are on a trail: so many are undone at most to tell a time, and are kept alive by a record."""


class Trail(list[Sequence[int]]):
    """The way a clock has gone from some time on: its ticks then, and each move since.

    Transitions keep their place on it instead of a copy of all ticks, and say what the time was if they are asked.
    """

    __slots__ = ("machine_tick", "start")

    def __init__(self, live: Live) -> None:
        self.start: tuple[int, ...] = tuple(live.ticks)
        self.machine_tick: int = live.machine_tick

    def ticks_at(self, place: int) -> tuple[int, ...]:
        """Give the ticks before the move at a place."""
        ticks = list(self.start)
        for i in chain.from_iterable(self[:place]):
            ticks[i] += 1
        return tuple(ticks)

    def total_at(self, place: int) -> int:
        """Give the sum of the ticks before the move at a place."""
        return sum(self.start) + sum(map(len, self[:place]))


class Live:
    """The clock of a running machine, and the active set it stands on."""

    __slots__ = ("closed", "index", "machine_tick", "schema", "standing", "ticks", "trail")

    def __init__(self, schema: Schema, standing: ActiveSet) -> None:
        self.schema: Schema = schema
        self.index: Mapping[str, int] = schema.index
        self.ticks: list[int] = [0] * len(schema.names)
        self.machine_tick: int = 1
        """How many times the machine was started."""
        self.standing: ActiveSet = standing
        self.trail: Trail | None = None
        """Where moves are noted; None once one was not."""
        self.closed: bool = False
        """True once the machine is disposed: nothing counts as active from then on."""

    def begin_trail(self) -> Trail:
        """Note the next moves on a new trail."""
        trail = self.trail = Trail(self)
        return trail
