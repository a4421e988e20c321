"""Carries out one mutation at a time: relations, negotiation, clocks, final handlers, and what follows from them.

Everything here is synchronous: between two transitions the machine is whole, and nothing a caller does, such as being
cancelled or timing out, can leave one half done. What may take time is started at the end, as work.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NoReturn, Protocol

from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.errors import HandlerError
from asyncmachine.faults import Faults
from asyncmachine.handlers import EventOf, Handler
from asyncmachine.home import Home
from asyncmachine.mutation import EXECUTED, ExceptionArgs, Mutation, Request, Result, Source, current
from asyncmachine.plans import Call, CallKind, Live, Plan, Planner
from asyncmachine.schema import EXCEPTION
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.tracing import Tracers
from asyncmachine.transition import Transition, transition_id

__all__ = ["Executor"]

_DROPPABLE = frozenset({CallKind.ENTER, CallKind.SELF, CallKind.PAIR})
"""The phases in which an auto state may be vetoed out of an auto mutation."""


AUTO_RETRIES = 10
"""How often the error of an auto state's handler leads to auto states being tried again, before something else has to
change first: a handler that always fails would go on for ever."""


class Host(Protocol):
    """The machine, seen from its executor."""

    id: str
    machine: Any
    machine_tick: int
    home: Home
    handler_timeout: float | None

    @property
    def logger(self) -> logging.Logger: ...

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result: ...

    def start_work(self, handler: Handler, event: EventOf[Any], context: int) -> None: ...


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
        "_subscriptions",
        "callback",
        "count",
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
        self.transition: Transition[Any] | None = None
        """The one that runs."""
        self._auto_failures = 0

    def run(self, mutation: Mutation) -> Result:
        """Carry a mutation out, and give its result."""
        live = self._live
        plan = live.standing.plans.get(mutation.request)
        if plan is None:
            plan = self.planner.plan(live.standing, mutation.request)
        self.count += 1
        if plan.is_bare and self.tracers is None and self.callback is None and not self._subscriptions.queries:
            return self._run_unseen(mutation, plan)
        if plan.has_works and not mutation.is_check:
            # Said before anything has changed: a state must not be active without the work it stands for.
            self._host.home.bind_loop()
        self.transition = transition = Transition(self._host.machine, mutation, plan, self.count, live)
        # Mutations made by handlers, on any machine, find their source in the context.
        token = current.set(transition)
        try:
            return self._run(transition)
        finally:
            self.transition = None
            current.reset(token)

    def _run_unseen(self, mutation: Mutation, plan: Plan) -> Result:
        """Carry a mutation out that no handler and nobody else could see: without a record of the transition."""
        if plan.missing and not plan.accepts(mutation):
            return Result(1, plan.why)
        if mutation.is_check:
            return EXECUTED
        total = self._live.total
        self._move(plan)
        if plan.changes:
            if plan.after.auto is not None and not mutation.is_auto:
                id = transition_id(self._host.machine_tick, self.count)
                self._follow_up(mutation, plan.after.auto, Source(self._host.id, id, total))
            if self._subscriptions.by_state:
                self._subscriptions.notify(plan.ticked, plan, mutation)
        if not mutation.is_auto:
            return plan.executed
        self._auto_failures = 0
        return plan.result(mutation)

    def _run(self, transition: Transition[Any]) -> Result:
        mutation, plan, traced = transition.mutation, transition.plan, self.tracers is not None
        if traced:
            self.tell("transition_init", transition)
            self.tell("transition_start", transition)
        try:
            canceled = self._negotiate(transition)
            if canceled is None and not mutation.is_check:
                plan = transition.plan
                self._move(plan)
                transition.committed = True
                if traced:
                    self.tell("transition_finals", transition)
                if plan.finals:
                    canceled = self._finalize(transition)
                if canceled is None and plan.changes and plan.after.auto is not None and not mutation.is_auto:
                    self._follow_up(mutation, plan.after.auto, transition.as_source())
        except BaseException:
            # Not an error of the program (KeyboardInterrupt, say): it goes on to the caller, and the machine is whole.
            self._close(transition, canceled=True)
            raise
        self._close(transition, canceled=canceled is not None)
        if canceled is not None:
            return canceled
        return EXECUTED if mutation.is_check else plan.result(mutation)

    def _move(self, plan: Plan) -> None:
        """Move the clocks, and cancel the contexts of every state that flipped."""
        live = self._live
        live.standing = plan.after
        if plan.changes:
            ticks = live.ticks
            for i, by in plan.changes:
                ticks[i] += by
            live.total += plan.ticks
            if self._contexts.work or self._contexts.lent:
                self._contexts.cancel(plan.flips)

    def _follow_up(self, mutation: Mutation, auto: Request, source: Source) -> None:
        """Prepend the addition of auto states, after a change that calls for it."""
        if mutation.error is not None and self._auto_failures >= AUTO_RETRIES:
            text = "auto states failed %d times in a row; they are tried again after the next change from elsewhere"
            self._host.logger.warning(text, self._auto_failures)
        elif not mutation.request.is_health:
            following = Mutation(auto, source=source)
            following.is_auto = True
            self._host.submit(following, prepend=True)

    def _negotiate(self, transition: Transition[Any]) -> Result | None:
        """Call the negotiation handlers; give the result if one of them cancels."""
        plan, limit, traced = transition.plan, self._host.handler_timeout, self.tracers is not None
        if plan.missing and not plan.accepts(transition.mutation):
            return Result(1, plan.why)
        dropped = 0
        since = perf_counter() if plan.negotiation else 0.0
        skipped: list[Call] = []
        for call in plan.negotiation:
            if dropped and call.kind in _DROPPABLE and dropped >> call.state & 1:
                skipped.append(call)
                continue
            transition.at = call
            event = self._event(call, transition)
            for handler in call.handlers:
                try:
                    answer = self._call_traced(handler, event) if traced else handler.fn(event)
                    canceled = None if answer is None or answer is True else _veto(handler, answer)
                except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                    canceled = self._failed(err, handler, transition)
                if limit is not None:
                    now = perf_counter()
                    if now - since > limit:
                        self._faults.handler_slow(handler, now - since)
                    since = now
                if canceled is None:
                    continue
                if not self._may_drop(call, transition):
                    return canceled
                # An auto state that is vetoed out of an auto mutation is asked no more.
                dropped |= 1 << call.state
                break
        return self._without(transition, dropped, skipped) if dropped else None

    def _may_drop(self, call: Call, transition: Transition[Any]) -> bool:
        """Tell whether a veto, or a failure, only drops an auto state out of an auto mutation."""
        is_auto = transition.mutation.is_auto and call.kind in _DROPPABLE
        return is_auto and self.planner.auto_states >> call.state & 1 == 1

    def _without(self, transition: Transition[Any], dropped: int, skipped: list[Call]) -> Result | None:
        """Go on with what is left of an auto mutation; give the result if that is nothing."""
        plan = transition.plan
        left = self.planner.without(plan, dropped, [call for call in plan.negotiation if call not in skipped])
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

    def _finalize(self, transition: Transition[Any]) -> Result | None:
        """Call the final handlers; give the result if one fails, with the states that are not complete rolled back."""
        failed: Result | None = _INTERRUPTED
        try:
            failed = self._act(transition.plan.finals, transition)
        finally:
            if failed is not None and transition.at is not None:
                transition.is_accepted = False
                self._roll_back(transition, transition.at)
        return failed

    def _act(self, calls: Iterable[Call], transition: Transition[Any]) -> Result | None:
        """Call plain final handlers; give the result if one of them fails."""
        limit, traced, since = self._host.handler_timeout, self.tracers is not None, perf_counter()
        for call in calls:
            if not call.handlers:
                continue
            transition.at = call
            event, failed = self._event(call, transition), None
            for handler in call.handlers:
                try:
                    answer = self._call_traced(handler, event) if traced else handler.fn(event)
                    if answer is not None and inspect.iscoroutine(answer):
                        _refuse_coroutine(handler, answer)
                except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                    self._failed(err, handler, transition)
                    failed = Result(1, partial("{!r} raised {!r}".format, handler, err))
                if limit is not None:
                    now = perf_counter()
                    if now - since > limit:
                        self._faults.handler_slow(handler, now - since)
                    since = now
                if failed is not None:
                    return failed
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

    def _roll_back(self, transition: Transition[Any], failed: Call) -> None:
        """Deactivate the states whose `State` handler has not completed, and those that lose a Require by it."""
        plan = transition.plan
        if failed.kind is CallKind.ANY_STATE:
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
        for call in self.planner.ends(plan, self.planner.resolver.order(fallen)):
            self._act([call], transition)
            self._start(call, MACHINE, transition)
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
        live.standing = self.planner.active_set(tuple(i for i in live.standing.states if i not in states))
        transition.rolled_back += tuple(states)
        self._contexts.cancel(states)

    def _close(self, transition: Transition[Any], *, canceled: bool) -> None:
        """Tell whoever waits or watches, then start the work of the states that are active."""
        plan = transition.plan
        if canceled:
            transition.is_accepted = False
        transition.is_completed = True
        changed = transition.committed and plan.changes
        if changed and (self._subscriptions.by_state or self._subscriptions.queries):
            ticked = dict.fromkeys((*plan.ticked, *transition.rolled_back)) if canceled else plan.ticked
            self._subscriptions.notify(ticked, plan, transition.mutation)
        if self.tracers is not None:
            self.tell("transition_end", transition)
        if transition.mutation.is_auto and not canceled:
            self._auto_failures = 0
        if changed and self.callback is not None:
            self.tell_change(transition.time_before, transition.time_after)
        if plan.has_works and transition.committed:
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
            event = self._event(call, transition)
            for handler in call.works:
                self._host.start_work(handler, event, context)


_INTERRUPTED = Result(1, "interrupted")


def _veto(handler: Handler, answer: object) -> Result:
    """Give the result of an answer that is not a pass."""
    if answer is False:
        return Result(1, partial("vetoed by {!r}".format, handler))
    if inspect.iscoroutine(answer):
        _refuse_coroutine(handler, answer)
    raise HandlerError(
        f"{handler!r} returned {answer!r}; a negotiation handler returns False to veto, True or None to pass"
    )


def _refuse_coroutine(handler: Handler, answer: Coroutine[Any, Any, Any]) -> NoReturn:
    """Refuse a coroutine from a plain function; it is closed, for it will never run."""
    answer.close()
    raise HandlerError(f"{handler!r} returned a coroutine; make it `async def`, if it is a final handler")
