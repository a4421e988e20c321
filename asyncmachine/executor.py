"""Carries out one mutation at a time: relations, negotiation, clocks, final handlers, and what follows from them.

Everything here is synchronous: between two transitions the machine is whole, and nothing a caller does, such as being
cancelled or timing out, can leave one half done. What may take time is started at the end, as work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from inspect import iscoroutine
from time import perf_counter
from typing import Any, NoReturn, Protocol

from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.errors import HandlerError
from asyncmachine.events import EventOf
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler
from asyncmachine.home import Home
from asyncmachine.mutation import EXECUTED, ExceptionArgs, Mutation, Request, Result, Source, current, new_mutation
from asyncmachine.plans import ActiveSet, BoundCall, Call, CallKind, Live, Plan, Planner, Trail
from asyncmachine.schema import EXCEPTION
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.tracing import Tracers
from asyncmachine.transition import Transition, transition_id

__all__ = ["Executor"]

_enter, _leave = current.set, current.reset

_DROPPABLE = frozenset({CallKind.ENTER, CallKind.SELF, CallKind.PAIR})
"""The phases in which an auto state may be vetoed out of an auto mutation."""


AUTO_RETRIES = 10
"""How often the error of an auto state's handler leads to auto states being tried again, before something else has to
change first: a handler that always fails would go on for ever."""


class Host(Protocol):
    """The machine, seen from its executor."""

    machine: Any
    home: Home
    handler_timeout: float | None

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
        "_auto_failures",
        "_contexts",
        "_event",
        "_faults",
        "_host",
        "_live",
        "_since",
        "_subscriptions",
        "callback",
        "canceled",
        "count",
        "depth",
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
        self._live = live
        self._subscriptions = subscriptions
        self._contexts = contexts
        self._faults = faults
        self._event = event
        self.planner: Planner = planner
        self.tracers: Tracers | None = None
        self.callback: Callable[[Any, Time, Time], object] | None = None
        """Called with the machine, the time before and the time after, whenever the clock changed."""
        self.count: int = 0
        """How many transitions there have been."""
        self.canceled: int = 0
        """How many of them were canceled."""
        self.transition: Transition[Any] | None = None
        """The one that runs."""
        self.depth: int = 0
        """In how many transitions of other machines the next one runs."""
        self._auto_failures = 0
        self._since = 0.0
        """When the handler that is called began, or the one before it ended."""

    def run(self, mutation: Mutation) -> Result:
        """Carry a mutation out, and give its result."""
        standing = self._live.standing
        plan = standing.plans.get(mutation.request)
        if plan is None:
            plan = self.planner.plan(standing, mutation.request)
        self.count += 1
        if plan.is_bare and self.tracers is None and self.callback is None and not self._subscriptions.queries:
            return self._run_unseen(mutation, plan)
        return self._run_seen(mutation, plan)

    def _run_unseen(self, mutation: Mutation, plan: Plan) -> Result:
        """Carry a mutation out that no handler and nobody else could see: without a record of the transition."""
        if plan.missing and not plan.accepts(mutation):
            return Result(1, plan.why)
        if mutation.is_check:
            return EXECUTED
        live, subscriptions = self._live, self._subscriptions
        total = live.total
        live.trail = None
        self._move(plan)
        is_heard = subscriptions.waited & plan.mask
        auto = plan.after.auto
        if mutation.is_auto:
            self._auto_failures = 0
        elif auto is not None and plan.changes and (is_heard or not self._follow_unseen(mutation, plan.after, auto)):
            source = Source(self._host.id, transition_id(live.machine_tick, self.count), total)
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
            self._auto_failures = 0
        if not is_accepted or not plan.grows:
            self.canceled += 1
        return True

    def _run_seen(self, mutation: Mutation, plan: Plan) -> Result:  # noqa: C901, PLR0912 - one frame, for speed
        """Carry a mutation out with all a transition does, in its order."""
        host, subscriptions, trail = self._host, self._subscriptions, self._live.trail
        if plan.needs_loop and not mutation.is_check:
            # Said before anything has changed: a state must not be active without the work it stands for, or for ever.
            host.home.bind_loop()
        if trail is None or (place := len(trail.moves)) >= Trail.LENGTH:
            trail, place = self._live.begin_trail(), 0
        transition: Transition[Any] = Transition()
        self.transition = transition
        transition.machine, transition.mutation, transition.plan = host.machine, mutation, plan
        transition.number, transition.trail, transition.place = self.count, trail, place
        transition.is_accepted, transition.is_completed, transition.committed = True, False, False
        transition.depth, transition.at, transition.rolled_back = self.depth, None, ()
        # Mutations made by handlers, on any machine, find their source in the context.
        token = _enter(transition)
        canceled: Result | None = _INTERRUPTED
        try:
            if self.tracers is not None:
                self.tell("transition_init", transition)
                self.tell("transition_start", transition)
            if host.handler_timeout is not None:
                self._since = perf_counter()
            if plan.missing and not plan.accepts(mutation):
                canceled = Result(1, plan.why)
            else:
                canceled = self._negotiate(transition) if plan.asks else None
                if canceled is None and not mutation.is_check:
                    canceled = self._commit(transition)
        finally:
            # Also if what ends it is no error of the program (KeyboardInterrupt, say): then, too, the machine is whole.
            transition.is_completed = True
            if canceled is not None:
                transition.is_accepted = False
            try:
                is_heard = (
                    subscriptions.waited & transition.plan.mask or subscriptions.queries or transition.rolled_back
                )
                if is_heard or plan.has_tail or self.tracers is not None or self.callback is not None:
                    self._close(transition)
            finally:
                self.transition = None
                _leave(token)
                if plan.planner is not self.planner:
                    # Handlers were bound meanwhile: where the machine stands now has plans for the old ones.
                    self._live.standing = self.planner.active_set(self._live.standing.states)
        if canceled is not None:
            return canceled
        if mutation.is_check:
            return EXECUTED
        return transition.plan.result(mutation) if mutation.is_auto else plan.executed

    def _commit(self, transition: Transition[Any]) -> Result | None:
        """Move the clocks and call the final handlers; give the result if one of them fails."""
        plan = transition.plan
        transition.trail.moves.append(plan.changes)
        self._move(plan)
        transition.committed = True
        if self.tracers is not None:
            self.tell("transition_finals", transition)
            self._since = perf_counter()
        if plan.deeds:
            failed: Result | None = _INTERRUPTED
            try:
                failed = self._act(plan.deeds, transition)
            finally:
                if failed is not None:
                    self._roll_back(transition)
            if failed is not None:
                return failed
        mutation = transition.mutation
        if mutation.is_auto:
            self._auto_failures = 0
        elif plan.changes and plan.after.auto is not None:
            self._follow_up(mutation, plan.after.auto, transition.as_source())
        return None

    def _move(self, plan: Plan) -> None:
        """Move the clocks, and cancel the contexts of every state that flipped."""
        live, contexts = self._live, self._contexts
        live.standing = plan.after
        live.total += plan.ticks
        ticks = live.ticks
        for i, by in plan.changes:
            ticks[i] += by
        if contexts.work or contexts.lent:
            contexts.cancel(plan.flips)
            self._since = perf_counter()  # that took time which is no handler's

    def _follow_up(self, mutation: Mutation, auto: Request, source: Source) -> None:
        """Prepend the addition of auto states, after a change that calls for it."""
        if mutation.error is not None and self._auto_failures >= AUTO_RETRIES:
            text = "auto states failed %d times in a row; they are tried again after the next change from elsewhere"
            self._host.logger.warning(text, self._auto_failures)
        elif not mutation.request.is_health:
            self._host.submit(new_mutation(auto, source=source, is_auto=True), prepend=True)

    def _negotiate(self, transition: Transition[Any]) -> Result | None:
        """Call the negotiation handlers; give the result if one of them cancels."""
        limit, traced, kind = self._host.handler_timeout, self.tracers is not None, self._event
        since, dropped = self._since, 0
        skipped: list[Call] = []
        for fn, handler, call in transition.plan.asks:
            if dropped and call.kind in _DROPPABLE and dropped >> call.state & 1:
                # An auto state that is vetoed out of an auto mutation is asked no more.
                if call is not transition.at:
                    skipped.append(call)
                continue
            transition.at = call
            event = kind()
            event.call, event.transition = call, transition
            try:
                answer = self._call_traced(handler, event) if traced else fn(event)
                canceled = None if answer is None or answer is True else _veto(handler, answer)
            except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                canceled = self._failed(err, handler, transition)
            if limit is not None:
                now = perf_counter()
                if now - since > limit:
                    self._faults.handler_slow(handler, now - since)
                since = self._since = now
            if canceled is not None:
                if not self._may_drop(call, transition):
                    return canceled
                dropped |= 1 << call.state
        return self._without(transition, dropped, skipped) if dropped else None

    def _may_drop(self, call: Call, transition: Transition[Any]) -> bool:
        """Tell whether a veto, or a failure, only drops an auto state out of an auto mutation."""
        is_auto = transition.mutation.is_auto and call.kind in _DROPPABLE
        return is_auto and transition.plan.planner.auto_states >> call.state & 1 == 1

    def _without(self, transition: Transition[Any], dropped: int, skipped: list[Call]) -> Result | None:
        """Go on with what is left of an auto mutation; give the result if that is nothing."""
        plan = transition.plan
        left = plan.planner.without(plan, dropped, [call for call in plan.negotiation if call not in skipped])
        if left is None:
            return Result(1, "every auto state was vetoed")
        transition.plan = left
        return None

    def _call_traced(self, handler: Handler, event: EventOf[Any]) -> Any:
        """Call a handler of a machine that is watched."""
        details = (event.transition, handler.binding, handler.name)
        self.tell("handler_start", *details)
        try:
            return handler.fn(event)
        finally:
            self.tell("handler_end", *details)

    def tell(self, event: str, *details: Any) -> None:
        if self.tracers is not None:
            self.tracers.tell(event, *details)

    def _act(self, deeds: Iterable[BoundCall], transition: Transition[Any]) -> Result | None:
        """Call plain final handlers; give the result if one of them fails."""
        limit, traced, kind = self._host.handler_timeout, self.tracers is not None, self._event
        since = self._since
        for fn, handler, call in deeds:
            transition.at = call
            event = kind()
            event.call, event.transition = call, transition
            failed: Exception | None = None
            try:
                answer = self._call_traced(handler, event) if traced else fn(event)
                if answer is not None and iscoroutine(answer):
                    _refuse_coroutine(handler, answer)
            except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                failed = err
            if limit is not None:
                now = perf_counter()
                if now - since > limit:
                    self._faults.handler_slow(handler, now - since)
                since = now
            if failed is not None:
                self._failed(failed, handler, transition)
                return Result(1, partial("{!r} raised {!r}".format, handler, failed))
        return None

    def _failed(self, err: Exception, handler: Handler, transition: Transition[Any]) -> Result | None:
        """Make an error the machine's; give the result, or None while an error is handled: there it is a pass."""
        if transition.mutation.is_auto:
            self._auto_failures += 1
        called, before = transition.called_states, transition.states_before
        self._faults.handler_failed(ExceptionArgs(err, handler.name, called, before), transition)
        if transition.mutation.request.calls_exception:
            return None
        return Result(1, partial("{!r} raised {!r}".format, handler, err))

    def _roll_back(self, transition: Transition[Any]) -> None:
        """Deactivate the states whose `State` handler has not completed, and those that lose a Require by it."""
        plan, failed = transition.plan, transition.at
        transition.is_accepted = False
        if failed is None or failed.kind is CallKind.ANY_STATE:
            return
        incomplete = plan.enters
        if failed.kind is CallKind.STATE:
            incomplete = plan.enters[plan.enters.index(failed.state) :]
        names = self.planner.names
        if transition.mutation.request.calls_exception:
            incomplete = tuple(i for i in incomplete if names[i] != EXCEPTION)
        self._deactivate(transition, incomplete)
        fallen = self._lacking()
        self._deactivate(transition, fallen)
        for call in plan.planner.ends(plan.planner.resolver.order(fallen)):
            self._act([(handler.fn, handler, call) for handler in call.handlers], transition)
            self._start(call, MACHINE, transition)
        if self.planner.timed:
            self._host.follow_timeouts(fallen)
        transition.at = failed

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
        live.total += len(states)
        transition.trail.moves.append([(i, 1) for i in states])
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
            event = self._event()
            event.call, event.transition = call, transition
            for handler in call.works:
                self._host.start_work(handler, event, context)


_INTERRUPTED = Result(1, "interrupted")


def _veto(handler: Handler, answer: object) -> Result:
    """Give the result of an answer that is not a pass."""
    if answer is False:
        return Result(1, partial("vetoed by {!r}".format, handler))
    if iscoroutine(answer):
        _refuse_coroutine(handler, answer)
    raise HandlerError(
        f"{handler!r} returned {answer!r}; a negotiation handler returns False to veto, True or None to pass"
    )


def _refuse_coroutine(handler: Handler, answer: Coroutine[Any, Any, Any]) -> NoReturn:
    """Refuse a coroutine from a plain function; it is closed, for it will never run."""
    answer.close()
    raise HandlerError(f"{handler!r} returned a coroutine; make it `async def`, if it is a final handler")
