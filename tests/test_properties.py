"""The laws of a machine, shown on random schemas, random handlers that veto, fail and mutate, and random mutations.

A tracer walks through every transition beside the machine and works out by itself, from the schema and from what the
handlers answered, where relations lead, which handlers must be called in which order, and what must come of it. Each
machine has a twin that is given the same and forgets its plans again and again: both must agree to the last tick.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import asyncmachine as am

NAMES = ("A", "B", "Healthcheck", "C", "Start", "D", "E")
HEALTH = {"Healthcheck", "Heartbeat"}
AUTO_RETRIES = 10
"""How often auto states are tried again because of their own errors."""


class Boom(Exception):  # noqa: N818 - what handlers raise here
    """Raised by handlers, and added by hand."""


# What is drawn. States are numbers, taken around the list of a machine's names: so strategies depend on nothing that
# was drawn before, and cases shrink well.


class Op(NamedTuple):
    """One mutation or check."""

    kind: str
    states: tuple[int, ...] = ()
    arg: int | None = None


class Spec(NamedTuple):
    """Handlers of one kind: in which binding, of which states, what they do call by call, and what they ask for."""

    binding: int
    shape: str
    states: tuple[int, ...]
    outcomes: tuple[str, ...]
    ops: tuple[Op, ...]
    times: int

    def handler_names(self, names: Sequence[str]) -> set[str]:
        if self.shape.startswith("Any"):
            return {self.shape}
        of = {names[i % len(names)] for i in self.states}
        return {name + second for name in of for second in (of if self.shape == "Both" else (self.shape,))}


class Case(NamedTuple):
    """All that a machine is made of."""

    size: int
    edges: tuple[tuple[str, int, int], ...]
    auto: frozenset[int]
    multi: frozenset[int]
    handlers: tuple[Spec, ...]
    queue_limit: int
    raise_errors: bool
    exception_at: int | None

    def schema(self, *more: str) -> dict[str, am.State]:
        """Give the states. Of a Require and a Remove that contradict each other, the Remove is left out."""
        names = list(NAMES[: self.size])
        names.insert(len(names) if self.exception_at is None else self.exception_at % len(names), am.EXCEPTION)
        names += more
        of: dict[str, dict[str, list[str]]] = {
            name: {"require": [], "add": [], "remove": [], "after": []} for name in names
        }
        for relation, state, other in self.edges:
            of[names[state % len(names)]][relation].append(names[other % len(names)])
        for relations in of.values():
            relations["remove"] = [name for name in relations["remove"] if name not in relations["require"]]
        auto = {names[i % len(names)] for i in self.auto} - {am.EXCEPTION}
        multi = {names[i % len(names)] for i in self.multi} | {am.EXCEPTION}
        return {name: am.State(auto=name in auto, multi=name in multi, **of[name]) for name in names}


def tuples(items: st.SearchStrategy[Any], few: int, many: int) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw short lists that shrink to nothing, and as often long ones, where things meet."""
    return st.one_of(st.lists(items, max_size=few), st.lists(items, min_size=few, max_size=many)).map(tuple)


numbers = st.one_of(st.integers(0, 2), st.integers(0, 7))  # a few states are drawn often, so that things meet
ops = st.builds(
    Op,
    st.sampled_from(["add", "remove", "set", "toggle", "can_add", "can_remove", "add_err", "add_err_state"]),
    st.lists(numbers, max_size=3).map(tuple),
    st.sampled_from([None, 0, 1]),
)
outcomes = st.lists(st.sampled_from(["pass", "none", "veto", "raise", "odd"]), min_size=1, max_size=3).map(tuple)
specs = st.builds(
    Spec,
    st.integers(0, 2),
    st.sampled_from(["State", "Enter", "State", "Exit", "Enter", "End", "Both", "AnyEnter", "AnyState"]),
    st.lists(numbers, min_size=1, max_size=4, unique=True).map(tuple),
    st.one_of(st.just(("pass",)), outcomes),
    st.lists(ops, max_size=2).map(tuple),
    st.integers(0, 2),
)
relations = st.tuples(st.sampled_from(["require", "add", "remove", "after"]), numbers, numbers)


def with_dependents(case: Case, state: int, others: list[int], outcomes: tuple[str, ...]) -> Case:
    """Have states require one that may fail when it is activated anew, which takes them along: chance seldom does."""
    return case._replace(
        edges=(*case.edges, *(("require", other, state) for other in others)),
        multi=case.multi | {state},
        handlers=(
            *case.handlers,
            Spec(0, "State", (state,), ("pass", *outcomes), (), 0),
            Spec(0, "End", tuple(others), ("pass", "raise"), (), 0),
        ),
    )


plain_cases = st.builds(
    Case,
    size=st.integers(3, 7),
    edges=tuples(relations, 5, 16),
    auto=tuples(numbers, 2, 6).map(frozenset),
    multi=tuples(numbers, 1, 4).map(frozenset),
    handlers=tuples(specs, 5, 20),
    queue_limit=st.sampled_from([1000, 1000, 2]),
    raise_errors=st.sampled_from([False, False, False, True]),
    exception_at=st.one_of(st.none(), st.integers(0, 6)),
)
cases = st.one_of(
    plain_cases,
    st.builds(with_dependents, plain_cases, st.integers(0, 2), st.lists(numbers, min_size=1, max_size=3), outcomes),
)


# Relations, worked out by names, one rule after the other, with no thought of speed.


def resolve(schema: am.Schema, type_: str, called: Sequence[str], active: Sequence[str]) -> list[str]:
    """Give the target of a mutation, in order."""
    removing = type_ == "remove"
    if removing:
        listed = [name for name in active if name not in called]
    else:
        listed = list(dict.fromkeys([*called, *(active if type_ == "add" else ())]))

    def added(owners: Iterable[str], out: Iterable[str]) -> Iterator[str]:
        for owner in owners:
            if owner not in active or schema[owner].multi:
                yield from (name for name in schema[owner].add if name not in out)

    spared = set(called) if removing else set()
    listed = list(dict.fromkeys([*listed, *added(listed, spared)]))
    listed = required(schema, listed)
    blocking, kept = list(listed), []
    for name in reversed(listed):
        if any(name in schema[by].remove for by in blocking):
            blocking.remove(name)
        else:
            kept.append(name)
    out = spared | {name for by in kept for name in schema[by].remove}
    while (grown := list(dict.fromkeys([*kept, *added(kept, out)]))) != kept:
        kept = grown
    listed = consistent(schema, required(schema, kept[::-1]), () if removing else called)
    return ordered(schema, listed)


def resolve_without(schema: am.Schema, called: Sequence[str], active: Sequence[str], asked: Iterable[str]) -> list[str]:
    """Give the target of an auto mutation from which states were vetoed: nothing enters that was not asked."""
    target = [name for name in resolve(schema, "add", called, active) if name in active or name in asked]
    return consistent(schema, required(schema, target), called)


def required(schema: am.Schema, listed: list[str]) -> list[str]:
    while (kept := [name for name in listed if set(schema[name].require) <= set(listed)]) != listed:
        listed = kept
    return listed


def consistent(schema: am.Schema, listed: list[str], called: Sequence[str]) -> list[str]:
    while True:
        conflicts = [(name, [by for by in listed if name in schema[by].remove]) for name in listed]
        name, by = next((pair for pair in conflicts if pair[1]), ("", []))
        if not by:
            return listed
        leaving = by if name in called and not set(by) & set(called) else [name]
        listed = required(schema, [other for other in listed if other not in leaving])


def ordered(schema: am.Schema, listed: Sequence[str]) -> list[str]:
    """Sort by Require, then by After."""
    by_require = {name: schema[name].require for name in schema}
    result = list(listed)
    if is_acyclic(by_require):
        visited: dict[str, None] = {}

        def visit(name: str) -> None:
            for other in by_require[name]:
                visit(other)
            visited[name] = None

        for name in schema:
            if by_require[name]:
                visit(name)
        rank = {name: i for i, name in enumerate(visited, 1)}
        result.sort(key=lambda name: rank.get(name, 0))
    waiting, result = result, []
    while waiting:
        free = [name for name in waiting if not set(schema[name].after) & set(waiting)]
        result.append((free or waiting)[0])
        waiting.remove(result[-1])
    return result


def is_acyclic(graph: Mapping[str, Sequence[str]]) -> bool:
    left = dict(graph)
    while free := [name for name, others in left.items() if not any(other in left for other in others)]:
        for name in free:
            del left[name]
    return not left


# A machine that is put to it.


class Called(NamedTuple):
    """A call of a handler, and what came of it: pass, veto or raise."""

    binding: str
    name: str
    outcome: str


class Subject:
    """A machine of a case, with handlers that note what they do."""

    def __init__(self, case: Case, *, id: str, tracers: Sequence[am.Tracer] = ()) -> None:
        self.case = case
        self.calls: list[Called] = []
        self.nested: list[str] = []
        self.asking = False
        self.mach = am.Machine(
            case.schema(),
            id=id,
            tracers=tracers,
            queue_limit=case.queue_limit,
            raise_errors=case.raise_errors,
            handler_timeout=None,
        )
        self.bindings: dict[str, dict[str, Callable[[am.Event], Any]]] = {}
        for spec in case.handlers:
            binding = str(spec.binding)
            for name in sorted(spec.handler_names(self.mach.state_names)):
                self.bindings.setdefault(binding, {})[name] = self.handler(name, binding, spec)
        for binding in sorted(self.bindings):
            self.mach.bind_handlers(self.bindings[binding], id=binding)

    def handler(self, name: str, binding: str, spec: Spec) -> Callable[[am.Event], Any]:
        count = 0
        is_final = name.endswith(("State", "End"))

        def call(event: am.Event) -> Any:
            nonlocal count
            count += 1
            outcome = spec.outcomes[(count - 1) % len(spec.outcomes)]
            fails = outcome == "raise" or (outcome == "odd" and not is_final)
            vetoes = outcome == "veto" and not is_final
            self.calls.append(Called(binding, name, "raise" if fails else "veto" if vetoes else "pass"))
            if count <= spec.times:
                self.nested += [told(self.ask(op)) for op in spec.ops]
            if outcome == "raise":
                raise Boom(f"{name} of {binding}")
            # A negotiation handler may not answer with a number: that fails, too.
            return {"pass": True, "none": None, "veto": False, "odd": 0}[outcome]

        return call

    def ask(self, op: Op) -> am.Result:
        names = self.mach.state_names
        states = [names[i % len(names)] for i in op.states]
        args = None if op.arg is None else {"k": op.arg}
        self.asking = True
        try:
            if op.kind == "add_err":
                return self.mach.add_err(Boom("by hand"), args)
            if op.kind == "add_err_state":
                return self.mach.add_err_state(states[0] if states else am.EXCEPTION, Boom("by hand"), args)
            one = len(states) == 1 and op.kind != "set"
            method: Callable[..., am.Result] = getattr(self.mach, f"{op.kind}1" if one else op.kind)
            return method(states[0] if one else states, args)
        finally:
            self.asking = False

    def do(self, op: Op) -> str:
        """Do an operation from outside, and tell what came of it."""
        try:
            return told(self.ask(op))
        except (Boom, am.HandlerError) as err:
            assert self.case.raise_errors
            return f"raised {err!r}"

    def drop_plans(self) -> None:
        """Have the machine work everything out anew: plans are dropped when handlers change."""
        self.mach.bind_handlers({"AnyEnter": lambda event: None}, id="dropped")
        self.mach.detach_handlers("dropped")

    def seen(self) -> dict[str, object]:
        mach = self.mach
        return {
            "calls": self.calls,
            "nested": self.nested,
            "ticks": mach.time(),
            "active": mach.active_states(),
            "queue_tick": mach.queue_tick,
            "err": repr(mach.err),
            "statistics": (mach.statistics().transitions, mach.statistics().canceled, mach.statistics().errors),
        }


class Watched(Subject):
    """The one of the two that is watched: what its handlers ask for is held against a model of the queue."""

    def __init__(self, case: Case, watch: Watch) -> None:
        self.watch = watch
        watch.subject = self
        super().__init__(case, id="main", tracers=[watch])

    def ask(self, op: Op) -> am.Result:
        mach, queue = self.mach, self.watch.queue
        if mach.is_idle:
            return super().ask(op)
        names = [mach.state_names[i % len(mach.state_names)] for i in op.states]
        is_error, is_check = op.kind.startswith("add_err"), op.kind.startswith("can_")
        if is_error:
            names = [*(names[:1] if op.kind == "add_err_state" else ()), am.EXCEPTION]
        kind = op.kind.removeprefix("can_").removesuffix("_state").removesuffix("_err")
        if kind == "toggle":
            kind = "remove" if mach.is_(names) else "add"
        bare = op.arg is None and not is_error and not any(mach.schema[name].multi for name in names)
        equal = any(is_bare(other) and other.type == kind and set(other.called) == set(names) for other in queue)
        idle = kind == "remove" and not queue and mach.not_(names)
        full = len(queue) >= mach_limit(self.case, names)
        last = queue[-1] if queue else None
        result = super().ask(op)
        if not is_check and (idle or (bare and equal)):
            assert result.executed
        elif full:
            assert result.reason == f"queue full ({self.case.queue_limit})"
        else:
            assert result.queued
            asked = queue[0 if is_check else -1]
            assert asked is not last or is_check
            assert (asked.type, asked.called) == (kind, tuple(dict.fromkeys(names)))
            assert result.mutation is asked
            ticking = sum(other.queue_tick > 0 for other in queue)
            assert result.tick == mach.queue_tick + (1 if is_check else ticking)
        return result


def mach_limit(case: Case, names: Sequence[str]) -> int:
    """Give how many mutations may wait before one is canceled; one that adds `Exception` finds room for itself."""
    return case.queue_limit + (am.EXCEPTION in names)


def is_bare(mutation: am.Mutation) -> bool:
    return not mutation.args and not mutation.is_check


def told(result: am.Result) -> str:
    assert (result.executed, result.canceled, result.queued).count(True) == 1
    assert bool(result.reason) == result.canceled
    return str(result)


# What is waited for.


class Moment(NamedTuple):
    """A machine as a transition leaves it."""

    ticks: Mapping[str, int]
    entered: Sequence[str] = ()
    args: Mapping[str, Any] = {}


@dataclass
class Wait:
    """A future of each of the two machines, and a model of both: when they come true, and what they give then."""

    future: asyncio.Future[Any]
    of_twin: asyncio.Future[Any]
    holds: Callable[[Moment], bool]
    value: Callable[[Moment], object]
    is_done: bool = False
    gives: object = None

    def see(self, moment: Moment) -> None:
        if not self.is_done and self.holds(moment):
            self.is_done, self.gives = True, self.value(moment)

    def check(self, future: asyncio.Future[Any]) -> None:
        assert future.done() == self.is_done
        assert not self.is_done or future.result() == self.gives


@dataclass
class Context:
    """A state context of each of the two machines, and whether the state has flipped."""

    scope: anyio.CancelScope
    of_twin: anyio.CancelScope
    state: str
    flipped: bool = False


# What watches.


class Walk:
    """One transition as it must go."""

    def __init__(self, watch: Watch, transition: am.Transition[Any]) -> None:
        mach = watch.mach
        self.watch, self.transition = watch, transition
        self.first_call = len(watch.subject.calls)
        self.schema = mach.schema
        self.time, self.active = mach.time(), mach.active_states()
        self.called = transition.called_states
        self.calls_exception = am.EXCEPTION in self.called
        self.dropped: set[str] = set()
        self.committed: am.Time | None = None
        self.aim(resolve(mach.schema, transition.type, self.called, self.active))
        assert transition.target_states == self.target
        assert self.is_refused or (transition.enters, transition.exits) == (self.enters, self.exits)

    def aim(self, target: Sequence[str]) -> None:
        """Take a target, and what follows from it."""
        self.target = tuple(target)
        self.exits = tuple(ordered(self.schema, [name for name in self.active if name not in target]))
        again = {name for name in self.called if self.schema[name].multi and self.transition.type != "remove"}
        self.enters = tuple(name for name in target if name not in self.active or name in again)

    @property
    def is_refused(self) -> bool:
        """True if relations alone cancel it."""
        out = [name for name in self.called if name not in self.target]
        if self.transition.type == "remove" or not out:
            return False
        if self.transition.is_auto:
            return len(out) == len(self.called)
        return not (self.transition.mutation.is_check and any(self.schema[name].multi for name in self.called))

    def negotiation(self) -> Iterator[tuple[str, str | None]]:
        """Give the names of all negotiation handlers to be asked, with the state that an auto mutation may drop."""
        yield from ((f"{name}Exit", None) for name in self.exits)
        yield from ((f"{name}Enter", name) for name in self.enters)
        if self.transition.type != "remove":
            yield from ((name * 2, name) for name in self.target if name in self.active)
        yield from ((a + b, b) for a in self.active for b in self.target if a != b)
        yield "AnyEnter", None

    def commit(self) -> None:
        """The clocks have moved, and nothing else has happened yet."""
        self.committed = self.watch.mach.time()

    def check(self) -> None:
        """Hold the transition, now that it has ended, against how it must have gone."""
        calls = iter(self.watch.subject.calls[self.first_call :])
        is_check, mach = self.transition.mutation.is_check, self.watch.mach
        canceled = self.is_refused or not self.is_admitted(calls)
        if canceled or is_check:
            assert self.committed is None
            assert (mach.time(), mach.active_states()) == (self.time, self.active)
            assert self.transition.time_after == self.transition.time_before == self.time
            assert self.transition.is_accepted == (not canceled)
        else:
            self.check_commit()
            self.check_finals(calls)
        assert next(calls, None) is None

    def is_admitted(self, calls: Iterator[Called]) -> bool:
        """Follow the negotiation."""
        for name, state in self.negotiation():
            if state in self.dropped:
                continue
            for called in self.made(name, calls):
                if called.outcome == "pass" or (called.outcome == "raise" and self.calls_exception):
                    continue
                if state is None or not (self.transition.is_auto and self.schema[state].auto):
                    return False
                self.dropped.add(state)
                break
        return not self.dropped or self.goes_on_without()

    def goes_on_without(self) -> bool:
        """Resolve the target again, without the auto states that were vetoed."""
        asked, exits = [name for name in self.enters if name not in self.dropped], self.exits
        left = [name for name in self.called if name not in self.dropped]
        self.aim(resolve_without(self.schema, left, self.active, asked))
        return not set(left).isdisjoint(self.target) and set(self.exits) <= set(exits)

    def made(self, name: str, calls: Iterator[Called]) -> Iterator[Called]:
        """Give the calls of one name, one for each binding that has it, as far as they are asked for."""
        for binding in self.watch.bound(name):
            called = next(calls, None)
            assert called is not None
            assert (called.binding, called.name) == (binding, name)
            yield called

    def check_commit(self) -> None:
        transition = self.transition
        assert (transition.target_states, transition.enters, transition.exits) == (
            self.target,
            self.enters,
            self.exits,
        )
        ticked = dict.fromkeys((*self.exits, *self.enters), 1)
        ticked |= {name: 2 for name in self.enters if name in self.active}
        assert self.committed == self.later(self.time, ticked)

    def later(self, time: am.Time, ticked: Mapping[str, int]) -> am.Time:
        return time.add([ticked.get(name, 0) for name in self.schema])

    def check_finals(self, calls: Iterator[Called]) -> None:
        finals = [(f"{name}End", "") for name in self.exits]
        finals += [(f"{name}State", name) for name in self.enters]
        for name, state in [*finals, ("AnyState", "")]:
            if any(called.outcome == "raise" for called in self.made(name, calls)):
                incomplete = self.enters[self.enters.index(state) :] if state else self.enters
                self.check_failed(() if name == "AnyState" else incomplete, calls)
                return
        mach = self.watch.mach
        assert self.transition.is_accepted
        assert mach.time() == self.transition.time_after == self.committed
        assert mach.active_states() == self.target

    def check_failed(self, incomplete: Sequence[str], calls: Iterator[Called]) -> None:
        """No state is left active whose `State` handler has not completed, nor one that lost a Require by that."""
        assert self.committed is not None
        mach = self.watch.mach
        if self.calls_exception:
            incomplete = [name for name in incomplete if name != am.EXCEPTION]
        rest = [name for name in self.target if name not in incomplete]
        left = required(self.schema, rest)
        fallen = ordered(self.schema, [name for name in rest if name not in left])
        assert not self.transition.is_accepted
        assert mach.active_states() == tuple(left)
        assert mach.time() == self.later(self.committed, dict.fromkeys([*incomplete, *fallen], 1))
        assert self.transition.time_after == mach.time()
        for name in fallen:
            any(called.outcome == "raise" for called in self.made(f"{name}End", calls))


class Watch(am.Tracer):
    """Walks through every transition. What is wrong is kept: a tracer that raises would only be logged."""

    subject: Subject

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.walk: Walk | None = None
        self.first: tuple[am.Transition[Any], Moment] | None = None
        self.auto_next: tuple[str, ...] | None = None
        self.auto_failures = 0
        self.queue: list[am.Mutation] = []
        self.waits: list[Wait] = []
        self.contexts: list[Context] = []
        self.ended = self.changed = 0

    @property
    def mach(self) -> am.Machine:
        return self.subject.mach

    def bound(self, name: str) -> list[str]:
        """Give the bindings that have a handler of this name, in binding order."""
        return [id for id in self.mach.handlers if name in self.subject.bindings[id]]

    def keep_failure(self, step: Callable[..., None], *args: Any) -> None:
        if self.failure is None:
            try:
                step(*args)
            except BaseException as err:  # noqa: BLE001 - raised by the test, after the operation
                self.failure = err

    def transition_init(self, transition: am.Transition[Any]) -> None:
        self.keep_failure(self.begin, transition)

    def transition_finals(self, transition: am.Transition[Any]) -> None:
        self.keep_failure(self.commit)

    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.keep_failure(self.end, transition)

    def mutation_queued(self, machine: am.MachineApi, mutation: am.Mutation) -> None:
        self.keep_failure(self.queued, mutation)

    def queue_end(self, machine: am.MachineApi) -> None:
        self.ended += 1

    def queued(self, mutation: am.Mutation) -> None:
        """Checks, auto states and errors of handlers run next, everything else runs last."""
        now = self.mach.transition
        source = None if now is None else am.Source(self.mach.id, now.id, now.time_before.sum())
        assert mutation.source == source
        runs_next = mutation.is_check or not self.subject.asking
        self.subject.asking = False
        assert runs_next == (mutation.queue_tick == 0)
        self.queue.insert(0 if runs_next else len(self.queue), mutation)

    def begin(self, transition: am.Transition[Any]) -> None:
        mach, mutation = self.mach, self.queue.pop(0)
        assert self.walk is None
        assert mach.transition is transition
        assert transition.mutation is mutation
        assert mutation.queue_tick in {0, mach.queue_tick}
        assert transition.is_auto == (self.auto_next is not None)
        assert not transition.is_auto or transition.called_states == self.auto_next
        self.auto_next = None
        self.walk = Walk(self, transition)
        assert transition.time_before == self.walk.time
        assert transition.states_before == self.walk.active

    def commit(self) -> None:
        assert self.walk is not None
        self.walk.commit()
        self.flip(self.walk.time)

    def flip(self, before: am.Time) -> None:
        """Contexts are cancelled at once when their state flips, and no others are."""
        ticked = self.mach.time().diff_since(before)
        for context in self.contexts:
            context.flipped |= ticked[self.mach.index1(context.state)] % 2 == 1
            assert context.scope.cancel_called == context.flipped

    def end(self, transition: am.Transition[Any]) -> None:
        walk, mach = self.walk, self.mach
        assert walk is not None
        assert walk.transition is transition
        assert transition.is_completed
        self.walk = None
        walk.check()
        self.check_whole()
        self.check_order(walk)
        time = mach.time()
        assert time.after(walk.time, or_equal=True)
        self.flip(walk.committed or time)
        entered = () if walk.committed is None else mach.active_states(walk.enters)
        moment = Moment(mach.clock(), entered, transition.args)
        for wait in self.waits:
            if time != walk.time:
                wait.see(moment)
            wait.check(wait.future)
        self.changed += time != walk.time
        self.first = self.first or (transition, moment)
        self.expect_auto(walk)

    def check_whole(self) -> None:
        """No active state lacks a Require or is removed by another; clocks and active states agree."""
        active = self.mach.active_states()
        for name in active:
            assert set(self.mach.schema[name].require) <= set(active)
            assert set(self.mach.schema[name].remove).isdisjoint(active)
        assert sorted(active) == sorted(name for name, tick in self.mach.clock().items() if tick % 2)
        assert all(self.mach.is1(name) for name in active)

    def check_order(self, walk: Walk) -> None:
        """Within a phase, states come after their After, and, where After has no say, after their Require."""
        schema = walk.schema
        names = [called.name for called in self.subject.calls[walk.first_call :]]
        for listed, suffix in (
            (walk.exits, "Exit"),
            (walk.exits, "End"),
            (walk.target, "Enter"),
            (walk.target, "State"),
        ):
            if walk.dropped and suffix == "Enter":
                continue  # what was asked belonged to another target
            place = {name: names.index(name + suffix) for name in listed if name + suffix in names}
            after = {name: [other for other in schema[name].after if other in listed] for name in listed}
            if is_acyclic(after):
                assert all(place[a] > place[b] for a in place for b in after[a] if b in place)
            if not any(after.values()) and is_acyclic({name: schema[name].require for name in schema}):
                assert all(place[a] > place[b] for a in place for b in schema[a].require if b in place)

    def expect_auto(self, walk: Walk) -> None:
        """Work out which auto states must be called next."""
        transition, schema, active = walk.transition, walk.schema, self.mach.active_states()
        if transition.is_auto:
            # A handler of theirs that always fails would lead from error to error for ever.
            raised = [called for called in self.subject.calls[walk.first_call :] if called.outcome == "raise"]
            self.auto_failures = 0 if transition.is_accepted else self.auto_failures + len(raised)
        elif "err" in transition.args and self.auto_failures >= AUTO_RETRIES:
            return
        is_health = len(walk.called) == 1 and walk.called[0] in HEALTH
        if transition.is_accepted and not transition.is_auto and not is_health and self.mach.time() != walk.time:
            autos = [name for name in schema if schema[name].auto and name not in active]
            self.auto_next = tuple(n for n in autos if not any(n in schema[by].remove for by in active)) or None


class Laws(RuleBasedStateMachine):
    """A machine, its twin, and all that is waited for."""

    @initialize(case=cases)
    def build(self, case: Case) -> None:
        logging.getLogger("asyncmachine").setLevel(logging.CRITICAL + 1)
        self.loop = asyncio.new_event_loop()
        self.case = case
        self.watch = Watch()
        self.main = Watched(case, self.watch)
        self.twin = Subject(case, id="twin")
        self.changes = 0
        self.main.mach.on_change(self.changed)

    def changed(self, mach: am.Machine, before: am.Time, after: am.Time) -> None:
        self.changes += 1 if before != after else 1000

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            try:
                self.dispose()
            finally:
                self.loop.close()
                logging.getLogger("asyncmachine").setLevel(logging.NOTSET)

    def dispose(self) -> None:
        """What is waited for fails, and nothing is left."""
        self.main.asking = True  # for Start to be removed
        for mach in (self.main.mach, self.twin.mach):
            self.loop.run_until_complete(mach.dispose())
            statistics = mach.statistics()
            assert (statistics.queued, statistics.waiters, statistics.contexts, statistics.work) == (0, 0, 0, 0)
            assert mach.active_states() == ()
        self.agree_so_far()
        for wait in self.watch.waits:
            for future in (wait.future, wait.of_twin):
                assert wait.is_done or isinstance(future.exception(), am.MachineDisposedError)
        for context in self.watch.contexts:
            assert context.scope.cancel_called
            assert context.of_twin.cancel_called

    def agree_so_far(self) -> None:
        if self.watch.failure is not None:
            raise self.watch.failure

    @rule(asked=st.lists(ops, min_size=1, max_size=9))
    def mutate(self, asked: list[Op]) -> None:
        for op in asked:
            self.mutate_once(op)

    @precondition(lambda self: not self.case.raise_errors)
    @rule(asked=st.lists(ops, min_size=1, max_size=9))
    def mutate_in_loop(self, asked: list[Op]) -> None:
        for op in asked:
            self.mutate_once(op, in_loop=True)

    def mutate_once(self, op: Op, *, in_loop: bool = False) -> None:
        main, twin, watch = self.main, self.twin, self.watch
        main.calls, main.nested, watch.first = [], [], None
        twin.calls, twin.nested = [], []
        twin.drop_plans()
        ended, before = watch.ended, main.mach.clock()
        if in_loop:
            got = self.loop.run_until_complete(self.ask_in_loop(op))
        else:
            got = main.do(op)
            assert watch.ended == ended + 1
        self.agree_so_far()
        assert got == twin.do(op)
        assert main.seen() == twin.seen()
        for wait in watch.waits:
            wait.check(wait.of_twin)
        assert all(context.of_twin.cancel_called == context.flipped for context in watch.contexts)
        assert watch.auto_next is None
        assert watch.queue == []
        self.check_first(op, before, got)

    async def ask_in_loop(self, op: Op) -> str:
        """Ask where a loop runs: a drain that takes long is handed over to the actor there."""
        result = await self.main.ask(op)
        await self.main.mach.when_queue_ends()
        return told(result)

    def check_first(self, op: Op, before: am.Clock, got: str) -> None:
        """Show that the first transition is of what was asked for, and that the result says what came of it."""
        assert self.watch.first is not None
        transition, after = self.watch.first
        names = self.named(op.states)
        match op.kind.split("_"):
            case ["add", "err"]:
                kind, names = "add", [am.EXCEPTION]
            case ["add", "err", "state"]:
                kind, names = "add", [*names[:1], am.EXCEPTION]
            case ["toggle"]:
                kind = "remove" if all(before[name] % 2 for name in names) else "add"
            case [*_, kind]:
                pass
        assert (transition.type, transition.called_states) == (kind, tuple(dict.fromkeys(names)))
        is_check = op.kind.startswith("can_")
        assert transition.mutation.is_check == is_check
        if is_check:
            executed = transition.is_accepted
        elif kind == "remove":
            executed = transition.is_accepted and not any(after.ticks[name] % 2 for name in names)
        else:
            executed = transition.is_accepted
            assert not executed or all(after.ticks[name] % 2 for name in names)
        assert got.startswith("raised") or (got == "executed") == executed
        if is_check and not self.main.nested and all(called.outcome != "raise" for called in self.main.calls):
            assert self.main.mach.clock() == before

    @rule(
        kind=st.sampled_from(["when", "when_not", "ticks", "time", "time1", "next", "args", "match", "query", "err"]),
        states=st.lists(numbers, min_size=1, max_size=2),
        number=st.integers(0, 4),
    )
    def wait(self, kind: str, states: list[int], number: int) -> None:  # noqa: C901 - a table, by kind
        """Register a future, with what must become of it."""
        names = self.named(states)
        name, now = names[0], self.main.mach.tick(names[0])
        arg = {"k": number % 2} if number else {}

        def active(moment: Moment) -> bool:
            return all(moment.ticks[name] % 2 == 1 for name in names)

        def inactive(moment: Moment) -> bool:
            return all(moment.ticks[name] % 2 == 0 for name in names)

        def reached(ticks: int, second: int = 0) -> Callable[[Moment], bool]:
            return lambda moment: moment.ticks[name] >= ticks and moment.ticks[names[-1]] >= second

        def matches(args: Mapping[str, Any]) -> bool:
            return arg.items() <= args.items()

        def query(clock: Mapping[str, int]) -> bool:
            return sum(clock[name] for name in names) % 5 == number

        def entered(moment: Moment) -> bool:
            return name in moment.entered and matches(moment.args)

        def tick(moment: Moment) -> int:
            return moment.ticks[name]

        def ticks(moment: Moment) -> tuple[int, ...]:
            return tuple(moment.ticks[name] for name in names)

        single, value = len(names) == 1, tick if len(names) == 1 else ticks
        register = self.register
        match kind:
            case "when":
                register(lambda mach: mach.when1(name) if single else mach.when(names), active, value)
            case "when_not":
                register(lambda mach: mach.when_not1(name) if single else mach.when_not(*names), inactive, value)
            case "ticks":
                register(lambda mach: mach.when_ticks(name, number), reached(now + number), tick)
            case "time":
                register(
                    lambda mach: mach.when_time(names, [now + 1, 2][: len(names)]),
                    reached(now + 1, 0 if single else 2),
                    ticks,
                )
            case "time1":
                register(lambda mach: mach.when_time1(name, number), reached(number), tick)
            case "next":
                names, goal = [name], reached(now + 1 + now % 2)  # one that was rolled back is no activation
                register(lambda mach: mach.when_next_active(name), lambda moment: goal(moment) and active(moment), tick)
            case "args":
                register(lambda mach: mach.when_args(name, arg or None), entered, lambda moment: Shown(moment.args))
            case "match":
                register(lambda mach: mach.when_args(name, matches), entered, lambda moment: Shown(moment.args))
            case "query":
                register(lambda mach: mach.when_query(query), lambda m: query(m.ticks), lambda moment: moment.ticks)
            case _:
                names = [am.EXCEPTION]
                register(lambda mach: mach.when_err(), active, lambda moment: AnError())

    @rule(more=st.integers(0, 3))
    def wait_for_queue(self, more: int) -> None:
        """A tick of the queue is no tick of a state: what becomes of this is looked at between operations."""
        mach = self.main.mach
        goal = mach.queue_tick + more
        future, of_twin = self.of_both(lambda mach: mach.when_queue(goal))
        for _ in range(more + 1):
            assert future.done() == of_twin.done() == (mach.queue_tick >= goal)
            self.mutate_once(Op("toggle", (0,), 0))
        assert future.result() == of_twin.result() >= goal

    @precondition(lambda self: self.watch.waits)
    @rule(which=st.integers(0, 20))
    def cancel_wait(self, which: int) -> None:
        """A wait that is cancelled is forgotten at once, and reaches no other."""
        wait = self.watch.waits.pop(which % len(self.watch.waits))
        assert wait.future.cancel() == wait.of_twin.cancel() == (not wait.is_done)

    @rule(state=numbers)
    def open_context(self, state: int) -> None:
        (name,) = self.named([state])
        self.watch.contexts.append(Context(*self.of_both(lambda mach: mach.state_ctx(name)), name))

    @rule(binding=st.integers(0, 2))
    def rebind(self, binding: int) -> None:
        """Handlers that are detached are called no more; bound again, they come last."""
        id = str(binding)
        for subject in (self.main, self.twin):
            if id in subject.mach.handlers:
                subject.mach.detach_handlers(id)
            elif id in subject.bindings:
                subject.mach.bind_handlers(subject.bindings[id], id=id)

    @rule(edges=tuples(relations, 5, 16))
    def grow(self, edges: tuple[tuple[str, int, int], ...]) -> None:
        """A live machine takes on new relations and states, unless active states would be in conflict by them."""
        grown = am.Schema(self.case._replace(edges=edges).schema("Later"))
        active, time = self.main.mach.active_states(), self.main.mach.time()
        fits = all(
            set(grown[name].require) <= set(active) and set(grown[name].remove).isdisjoint(active) for name in active
        )
        for subject in (self.main, self.twin):
            if fits:
                subject.mach.set_schema(grown)
                assert len(subject.mach.time()) == len(grown)
            else:
                with pytest.raises(am.SchemaError, match="but it is active"):
                    subject.mach.set_schema(grown)
            assert subject.mach.time()[: len(time)] == time
            assert subject.mach.active_states() == active

    def named(self, states: Sequence[int]) -> list[str]:
        names = self.main.mach.state_names
        return [names[i % len(names)] for i in states]

    def of_both(self, make: Callable[[am.Machine], Any]) -> tuple[Any, Any]:
        async def made() -> tuple[Any, Any]:
            return make(self.main.mach), make(self.twin.mach)

        return self.loop.run_until_complete(made())

    def register(
        self,
        make: Callable[[am.Machine], asyncio.Future[Any]],
        holds: Callable[[Moment], bool],
        value: Callable[[Moment], object],
    ) -> None:
        wait = Wait(*self.of_both(make), holds, value)
        wait.see(Moment(self.main.mach.clock()))
        wait.check(wait.future)
        wait.check(wait.of_twin)
        self.watch.waits.append(wait)

    @invariant()
    def is_whole(self) -> None:
        if not hasattr(self, "watch"):
            return
        self.agree_so_far()
        self.watch.check_whole()
        mach = self.main.mach
        assert mach.is_idle
        assert mach.queue_len == 0
        assert mach.transition is None
        assert mach.tracers == (self.watch,)
        assert self.changes == self.watch.changed
        assert mach.statistics().waiters == sum(not wait.is_done for wait in self.watch.waits)


class AnError:
    """Equal to every error."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseException)


class Shown(NamedTuple):
    """Equal to args that look the same: two machines that do the same raise two errors."""

    args: Mapping[str, Any]

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and repr(dict(self.args)) == repr(dict(other))


TestLaws = Laws.TestCase
TestLaws.settings = settings(stateful_step_count=60)
