"""Carries out one mutation at a time: relations, negotiation, clocks, final handlers, and what follows from them.

Everything here is synchronous: between two transitions the machine is whole, and nothing a caller does, such as being
cancelled or timing out, can leave one half done. What may take time is started at the end, as work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Protocol

from asyncmachine.calling import Caller, judge_failure, judge_veto, traced
from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.events import EventOf
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler
from asyncmachine.home import Home
from asyncmachine.mutation import EXECUTED, Mutation, Result, Source, current, new_mutation
from asyncmachine.plans import LONGEST, ActiveSet, BoundCall, Call, CallKind, Live, Plan, Planner
from asyncmachine.requests import Request
from asyncmachine.schema import EXCEPTION
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.tracing import Tracers
from asyncmachine.transition import Transition, transition_id

__all__ = ["Executor"]

_enter, _leave = current.set, current.reset

AUTO_RETRIES = 10
"""How often the error of an auto state's handler leads to auto states being tried again, before something else has to
change first: a handler that always fails would go on for ever."""


class Host(Protocol):
    """The machine, seen from its executor."""

    machine: Any
    home: Home

    @property
    def logger(self) -> logging.Logger: ...

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result: ...

    def start_work(self, handler: Handler, event: EventOf[Any], context: int) -> None: ...

    def follow_timeouts(self, states: Iterable[int]) -> None: ...

    @property
    def id(self) -> str: ...


class Executor:
    """Runs the transitions of a machine.

    Args:
        host: the machine.
        live: its clock.
        planner: gives the plans.
        subscriptions: told of ticks.
        contexts: cancelled when states flip.
        faults: told of handlers that fail.
        event: makes the event a handler is given.
    """

    __slots__ = (
        "_contexts",
        "_faults",
        "_host",
        "_live",
        "_machine",
        "_subscriptions",
        "callback",
        "calls",
        "canceled",
        "count",
        "depth",
        "is_watched",
        "planner",
        "tracers",
        "transition",
    )

    def __init__(
        self,
        host: Host,
        live: Live,
        planner: Planner,
        subscriptions: Subscriptions,
        contexts: Contexts,
        faults: Faults,
        event: type[EventOf[Any]],
    ) -> None:
        self._host = host
        self._machine = host.machine
        self._live = live
        self._subscriptions = subscriptions
        self._contexts = contexts
        self._faults = faults
        self.calls: Caller = Caller(faults, event)
        self.planner: Planner = planner
        self.tracers: Tracers | None = None
        self.callback: Callable[[Any, Time, Time], object] | None = None
        self.is_watched: bool = False
        """True if somebody is told of all transitions."""
        self.count: int = 0
        """How many transitions there have been."""
        self.canceled: int = 0
        """How many of them were canceled."""
        self.transition: Transition[Any] | None = None
        """The one that runs."""
        self.depth: int = 0
        """In how many transitions of other machines the next one runs."""

    def watch(self, tracers: Tracers | None) -> None:
        """Have these tracers told of transitions, and no others."""
        self.tracers = tracers
        self.is_watched = tracers is not None or self.callback is not None

    def call_back(self, callback: Callable[[Any, Time, Time], object] | None) -> None:
        """Have a function called with the machine, the time before and the time after, whenever the clock changed."""
        self.callback = callback
        self.is_watched = callback is not None or self.tracers is not None

    def run(self, mutation: Mutation) -> Result:
        """Carry a mutation out, tell whoever waits for what comes of it, and give that."""
        subscriptions, standing = self._subscriptions, self._live.standing
        try:
            plan = standing.plans.get(mutation.request)
            if plan is None:
                plan = self.planner.plan(standing, mutation.request)
            self.count += 1
            if plan.is_bare and not self.is_watched and not subscriptions.queries:
                result = self._run_unseen(mutation, plan)
            else:
                result = self._run_seen(mutation, plan)
        except BaseException as err:
            self._done(mutation, Result(1, str(err)) if isinstance(err, Exception) else _INTERRUPTED)
            subscriptions.notify_queue()
            raise
        if result is not EXECUTED or mutation.on_done is not None:
            self._done(mutation, result)
        else:
            mutation.outcome = result
        if subscriptions.queue_ticks:
            subscriptions.notify_queue()
        return result

    def _done(self, mutation: Mutation, result: Result) -> None:
        """Note what came of a mutation, and tell whoever waits for it."""
        mutation.finish(result)
        if result.canceled:
            self.canceled += 1

    def _run_unseen(self, mutation: Mutation, plan: Plan) -> Result:
        """Carry a mutation out that no handler and nobody else could see: without a record of the transition."""
        if plan.missing and not plan.accepts(mutation):
            return Result(1, plan.why)
        if mutation.is_check:
            return EXECUTED
        live, subscriptions = self._live, self._subscriptions
        live.trail = None
        self._move(plan)
        is_heard = subscriptions.waited & plan.mask
        auto = plan.after.auto
        if mutation.is_auto:
            self.calls.auto_failures = 0
        elif auto is not None and plan.changes and (is_heard or not self._follow_unseen(mutation, plan.after, auto)):
            before = sum(live.ticks) - len(plan.changes)
            source = Source(self._host.id, transition_id(live.machine_tick, self.count), before)
            self._follow_up(mutation, auto, source)
        if is_heard:
            subscriptions.notify(plan.ticked, plan, mutation)
        return plan.result(mutation) if mutation.is_auto else plan.executed

    def _follow_unseen(self, mutation: Mutation, standing: ActiveSet, auto: Request) -> bool:
        """Carry the addition of auto states out at once, if nobody could see it wait in the queue; tell whether."""
        plan = standing.plans.get(auto) or self.planner.plan(standing, auto)
        is_heard = self._subscriptions.waited & plan.mask
        if is_heard or not plan.is_bare or mutation.error is not None or mutation.request.is_health:
            return False
        self.count += 1
        is_accepted = len(plan.missing) < len(auto.states)
        if is_accepted:
            self._move(plan)
            self.calls.auto_failures = 0
        if not is_accepted or not plan.grows:
            self.canceled += 1
        return True

    def _run_seen(self, mutation: Mutation, plan: Plan) -> Result:
        """Carry a mutation out under a record of the transition, for all who take part in it or look on."""
        live = self._live
        if plan.needs_loop and not mutation.is_check:
            # Said before anything has changed: a state must not be active without the work it stands for, or for ever.
            self._host.home.bind_loop()
        trail = live.trail
        if trail is None or (place := len(trail)) >= LONGEST:
            trail, place = live.begin_trail(), 0
        transition: Transition[Any] = Transition()
        self.transition = transition
        transition.machine = self._machine
        transition.mutation = mutation
        transition.plan = plan
        transition.number = self.count
        transition.trail = trail
        transition.place = place
        transition.depth = self.depth
        transition.is_accepted = True
        transition.is_completed = transition.committed = False
        transition.at = None
        transition.rolled_back = ()
        # Mutations made by handlers, on any machine, find their source in the context.
        token = _enter(transition)
        try:
            result = self._carry_out(transition)
        except BaseException:
            transition.is_accepted = False
            raise
        finally:
            # Also if what ends it is no error of the program (KeyboardInterrupt, say): then, too, the machine is whole.
            transition.is_completed = True
            try:
                if (
                    self.is_watched
                    or plan.has_tail
                    or not transition.is_accepted
                    or self._subscriptions.waited & transition.plan.mask
                ):
                    self._close(transition)
            finally:
                self.transition = None
                _leave(token)
                if plan.planner is not self.planner:
                    # Handlers were bound meanwhile: where the machine stands now has plans for the old ones.
                    live.standing = self.planner.active_set(live.standing.states)
        return result

    def _carry_out(self, transition: Transition[Any]) -> Result:  # noqa: C901, PLR0912 - one frame, for speed
        """Ask the negotiation handlers, move the clocks, and call the final handlers."""
        mutation, plan, calls = transition.mutation, transition.plan, self.calls
        is_traced = self.tracers is not None
        if is_traced:
            self.tell("transition_init", transition)
            self.tell("transition_start", transition)
        if plan.missing and not plan.accepts(mutation):
            transition.is_accepted = False
            return Result(1, plan.why)
        if calls.limit is not None:
            calls.since = perf_counter()
        if plan.asks:
            if is_traced or mutation.is_auto:
                canceled = self._negotiate(transition)
                plan = transition.plan
            else:
                canceled = calls.call(plan.asks, transition, judge_veto)
            if canceled is not None:
                transition.is_accepted = False
                return canceled
            is_traced = self.tracers is not None  # a handler may have bound one
        if mutation.is_check:
            return EXECUTED
        transition.trail.append(plan.changes)
        # What `_move` does, without the call: on this way every one counts.
        live, contexts = self._live, self._contexts
        live.standing = plan.after
        ticks = live.ticks
        for i in plan.changes:
            ticks[i] += 1
        transition.committed = True
        if contexts.work or contexts.lent:
            contexts.cancel(plan.flips)
            calls.since = perf_counter()  # that took time which is no handler's
        if plan.deeds or is_traced:
            canceled = _INTERRUPTED
            try:
                canceled = self._act(transition) if is_traced else calls.call(plan.deeds, transition, judge_failure)
            finally:
                if canceled is not None:
                    self._roll_back(transition)
            if canceled is not None:
                return canceled
        if mutation.is_auto:
            calls.auto_failures = 0
            return plan.result(mutation)
        if plan.after.auto is not None and plan.changes:
            self._follow_up(mutation, plan.after.auto, transition.as_source())
        return plan.executed

    def _move(self, plan: Plan) -> None:
        """Move the clocks, and cancel the contexts of every state that flipped."""
        live, contexts = self._live, self._contexts
        live.standing = plan.after
        ticks = live.ticks
        for i in plan.changes:
            ticks[i] += 1
        if contexts.work or contexts.lent:
            contexts.cancel(plan.flips)

    def _negotiate(self, transition: Transition[Any]) -> Result | None:
        """Ask the negotiation handlers of a transition that somebody watches, or that adds auto states."""
        asks = transition.plan.asks
        steps = traced(asks, transition, self.tell) if self.tracers is not None else asks
        if transition.mutation.is_auto:
            return self.calls.negotiate_auto(steps, transition)
        return self.calls.call(steps, transition, judge_veto)

    def _act(self, transition: Transition[Any]) -> Result | None:
        """Call the final handlers of a transition that somebody watches."""
        self.tell("transition_finals", transition)
        self.calls.since = perf_counter()
        return self.calls.call(traced(transition.plan.deeds, transition, self.tell), transition, judge_failure)

    def _follow_up(self, mutation: Mutation, auto: Request, source: Source) -> None:
        """Prepend the addition of auto states, after a change that calls for it."""
        if mutation.error is not None and self.calls.auto_failures >= AUTO_RETRIES:
            text = "auto states failed %d times in a row; they are tried again after the next change from elsewhere"
            self._host.logger.warning(text, self.calls.auto_failures)
        elif not mutation.request.is_health:
            self._host.submit(new_mutation(auto, source=source, is_auto=True), prepend=True)

    def tell(self, event: str, *details: Any) -> None:
        if self.tracers is not None:
            self.tracers.tell(event, *details)

    def _roll_back(self, transition: Transition[Any]) -> None:
        """Deactivate the states whose `State` handler has not completed, and those that lose a Require by it."""
        plan, failed = transition.plan, transition.at
        transition.is_accepted = False
        incomplete = plan.enters
        if failed is not None:  # else a tracer ended it, before the first handler
            if failed.kind is CallKind.ANY_STATE:
                return
            if failed.kind is CallKind.STATE:
                incomplete = plan.enters[plan.enters.index(failed.state) :]
        names = self.planner.names
        if transition.mutation.request.calls_exception:
            incomplete = tuple(i for i in incomplete if names[i] != EXCEPTION)
        self._deactivate(transition, incomplete)
        fallen = self._lacking()
        self._deactivate(transition, fallen)
        try:
            for call in plan.planner.ends(plan.planner.resolver.order(fallen)):
                self._end(call, transition)
        finally:
            # Also if what ends it is an interrupt.
            if self.planner.timed:
                self._host.follow_timeouts(fallen)
            transition.at = failed

    def _end(self, call: Call, transition: Transition[Any]) -> None:
        """Call the `End` handlers of a state that lost a Require, and start those that are `async`."""
        steps: Sequence[BoundCall] = [(handler.fn, handler, call) for handler in call.handlers]
        if self.tracers is not None:
            steps = traced(steps, transition, self.tell)
        self.calls.since = perf_counter()  # what was done before took time which is no handler's
        self.calls.call(steps, transition, judge_failure)
        self._start(call, MACHINE, transition)

    def _lacking(self) -> list[int]:
        """Find the active states that lack a Require, in their order, and those that lack one of these, and so on."""
        schema, states = self._live.schema, self._live.standing.states
        names = self.planner.names
        left = {names[i] for i in states}
        while lacking := {name for name in left if not left.issuperset(schema[name].require)}:
            left -= lacking
        return [i for i in states if names[i] not in left]

    def _deactivate(self, transition: Transition[Any], states: Sequence[int]) -> None:
        live = self._live
        for i in states:
            live.ticks[i] += 1
        transition.trail.append(states)
        live.standing = self.planner.active_set(tuple(i for i in live.standing.states if i not in states))
        transition.rolled_back += tuple(states)
        self._contexts.cancel(states)

    def _close(self, transition: Transition[Any]) -> None:
        """Tell whoever waits or watches, then start the work and the timeouts of the states that are active."""
        plan, undone = transition.plan, transition.rolled_back
        changed = transition.committed and plan.changes
        if changed:
            ticked = dict.fromkeys((*plan.ticked, *undone)) if undone else plan.ticked
            self._subscriptions.notify(ticked, plan, transition.mutation)
        self.tell("transition_end", transition)
        if changed and self.callback is not None:
            self.tell_change(transition.time_before, transition.time_after)
        if plan.has_tail and transition.committed:
            if plan.timed:
                self._host.follow_timeouts(plan.timed)
            self._start_all(transition)

    def tell_change(self, before: Time, after: Time) -> None:
        """Call the callback for changes, if there is one."""
        if self.callback is not None:
            try:
                self.callback(self._host.machine, before, after)
            except Exception as err:  # noqa: BLE001 - reported; it must not break the machine
                self._faults.report("the on_change callback raised", err)

    def _start_all(self, transition: Transition[Any]) -> None:
        """Start the `async` final handlers whose turn came before any failure."""
        for call in transition.plan.finals:
            if not transition.is_accepted and call is transition.at:
                break
            if call.kind is not CallKind.STATE:
                self._start(call, MACHINE, transition)
            elif call.state not in transition.rolled_back:
                self._start(call, call.state, transition)

    def _start(self, call: Call, context: int, transition: Transition[Any]) -> None:
        if call.works:
            event = self.calls.event(call, transition)
            for handler in call.works:
                self._host.start_work(handler, event, context)


_INTERRUPTED = Result(1, "interrupted")
