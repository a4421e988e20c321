"""Carries out one mutation at a time: relations, negotiation, clocks, final handlers, and what follows from them.

Everything here is synchronous: between two transitions the machine is whole, and nothing a caller does, such as being
cancelled or timing out, can leave one half done. What may take time is started at the end, as work.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.errors import HandlerError
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler
from asyncmachine.mutation import EXECUTED, ExceptionArgs, Mutation, Result, current
from asyncmachine.schema import EXCEPTION
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.tracing import Tracers
from asyncmachine.transition import Call, CallKind, Live, Planner, Transition

__all__ = ["Executor"]

_DROPPABLE = frozenset({CallKind.ENTER, CallKind.SELF, CallKind.PAIR})
"""The phases in which an auto state may be vetoed out of an auto mutation."""


class Host(Protocol):
    """The machine, seen from its executor."""

    machine: Any
    handler_timeout: float | None
    change_callback: Callable[[Any, Time, Time], object] | None

    def bind_loop(self) -> object: ...

    def tell_change(self, before: Time, after: Time) -> None: ...

    def new_event(self, call: Call, transition: Transition[Any]) -> Any: ...

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result: ...

    def start_work(self, handler: Handler, event: Any, context: int) -> None: ...


class Executor:
    """Runs the transitions of a machine.

    Args:
        host: the machine.
        live: its clock.
        planner: gives the plans.
        subscriptions: told of ticks.
        contexts: cancelled when states flip.
        faults: told of handlers that fail.
    """

    __slots__ = (
        "_contexts",
        "_faults",
        "_host",
        "_live",
        "_subscriptions",
        "count",
        "planner",
        "tracers",
        "transition",
    )

    def __init__(
        self, host: Host, live: Live, planner: Planner, subscriptions: Subscriptions, contexts: Contexts, faults: Faults
    ) -> None:
        self._host = host
        self._live = live
        self._subscriptions = subscriptions
        self._contexts = contexts
        self._faults = faults
        self.planner = planner
        self.tracers: Tracers | None = None
        self.count = 0
        """How many transitions there have been."""
        self.transition: Transition[Any] | None = None
        """The one that runs."""

    def run(self, mutation: Mutation) -> Result:
        """Carry a mutation out, and give its result."""
        live = self._live
        plan = live.standing.plans.get(mutation.request) or self.planner.plan(live.standing, mutation.request)
        if plan.has_works and not mutation.is_check:
            # Said before anything has changed: a state must not be active without the work it stands for.
            self._host.bind_loop()
        self.count += 1
        transition = Transition(self._host.machine, mutation, plan, self.count, live.total)
        tracers, callback = self.tracers, self._host.change_callback
        if plan.negotiation or plan.finals or tracers is not None or callback is not None:
            # Only now can anyone come to see the transition, and read the time from before.
            transition.before = Time(live.ticks)
        self.transition = transition
        # Mutations made by handlers, on any machine, find their source in the context.
        token = current.set(transition) if plan.negotiation or plan.finals else None
        try:
            return self._run(transition)
        finally:
            self.transition = None
            if token is not None:
                current.reset(token)

    def _run(self, transition: Transition[Any]) -> Result:
        mutation = transition.mutation
        self._tell("transition_init", transition)
        self._tell("transition_start", transition)
        try:
            canceled = self._negotiate(transition)
            if canceled is None and not mutation.is_check:
                self._commit(transition)
                canceled = self._finalize(transition)
        except BaseException:
            # Not an error of the program (KeyboardInterrupt, say): it goes on to the caller, and the machine is whole.
            self._close(transition, canceled=True)
            raise
        if canceled is None and not mutation.is_check:
            self._follow_up(transition)
        self._close(transition, canceled=canceled is not None)
        if canceled is not None:
            return canceled
        return EXECUTED if mutation.is_check else transition.plan.result(mutation)

    def _tell(self, event: str, *details: Any) -> None:
        if self.tracers is not None:
            self.tracers.tell(event, *details)

    def _negotiate(self, transition: Transition[Any]) -> Result | None:
        """Ask relations and the negotiation handlers; give the result if they cancel."""
        plan, mutation = transition.plan, transition.mutation
        if plan.missing and not plan.accepts(mutation):
            transition.is_accepted = False
            return Result(1, plan.why)
        droppable = self.planner.auto_states if mutation.is_auto else 0
        dropped = 0
        for call in plan.negotiation:
            if dropped and call.kind in _DROPPABLE and dropped >> call.state & 1:
                continue
            transition.at = call
            veto = self._ask(call, transition)
            if veto is None:
                continue
            if call.kind not in _DROPPABLE or not droppable >> call.state & 1:
                return veto
            dropped |= 1 << call.state
        if dropped:
            left = self.planner.without(plan, dropped)
            if left is None:
                return Result(1, "every auto state was vetoed")
            transition.plan = left
        return None

    def _ask(self, call: Call, transition: Transition[Any]) -> Result | None:
        """Call the handlers of one name; give the result if one of them vetoes or fails."""
        event = self._host.new_event(call, transition)
        for handler in call.handlers:
            try:
                answer = self._call(handler, event)
                if answer is not None and answer is not True and answer is not False:
                    raise HandlerError(_wrong_answer(handler, answer))
            except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                self._failed(err, handler, transition)
                if not transition.mutation.request.calls_exception:
                    return Result(1, f"{handler!r} raised {err!r}")
            else:
                if answer is False:
                    return Result(1, f"vetoed by {handler!r}")
        return None

    def _call(self, handler: Handler, event: Any) -> Any:
        """Call one handler; report it if it blocked the loop for too long."""
        tracers, limit = self.tracers, self._host.handler_timeout
        if tracers is not None:
            tracers.tell("handler_start", event.transition, handler.binding, handler.name)
        started = time.perf_counter() if limit is not None else 0.0
        try:
            return handler.fn(event)
        finally:
            if limit is not None and (taken := time.perf_counter() - started) > limit:
                self._faults.handler_slow(handler, taken)
            if tracers is not None:
                tracers.tell("handler_end", event.transition, handler.binding, handler.name)

    def _commit(self, transition: Transition[Any]) -> None:
        """Move the clocks, and cancel the contexts of every state that flipped."""
        live, plan = self._live, transition.plan
        for i, by in plan.changes:
            live.ticks[i] += by
        live.total += plan.ticks
        live.standing = plan.after
        transition.committed = True
        if self._contexts:
            self._contexts.cancel(plan.flips)
        self._tell("transition_finals", transition)

    def _finalize(self, transition: Transition[Any]) -> Result | None:
        """Call the final handlers; give the result if one fails, with the states that are not complete rolled back."""
        for call in transition.plan.finals:
            transition.at = call
            failed: Result | None = _INTERRUPTED
            try:
                failed = self._act(call, transition)
            finally:
                if failed is not None:
                    self._roll_back(transition, call)
            if failed is not None:
                return failed
        return None

    def _act(self, call: Call, transition: Transition[Any]) -> Result | None:
        """Call the plain handlers of one final name; give the result if one of them fails."""
        if not call.handlers:
            return None
        event = self._host.new_event(call, transition)
        for handler in call.handlers:
            try:
                answer = self._call(handler, event)
                if inspect.iscoroutine(answer):
                    raise HandlerError(_wrong_answer(handler, answer))
            except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                self._failed(err, handler, transition)
                return Result(1, f"{handler!r} raised {err!r}")
        return None

    def _failed(self, err: Exception, handler: Handler, transition: Transition[Any]) -> None:
        called, before = transition.called_states, transition.states_before
        self._faults.handler_failed(ExceptionArgs(err, handler.name, called, before), transition)

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
        for call in self.planner.ends(self.planner.resolver.order(fallen)):
            self._act(call, transition)
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
        live.total += len(states)
        live.standing = self.planner.active_set(tuple(i for i in live.standing.states if i not in states))
        transition.rolled_back += tuple(states)
        self._contexts.cancel(states)

    def _follow_up(self, transition: Transition[Any]) -> None:
        """Prepend the addition of auto states, if the clock changed by something that calls for it."""
        mutation = transition.mutation
        if transition.plan.changes and not mutation.is_auto and not mutation.request.is_health:
            request = self.planner.auto(self._live.standing)
            if request is not None:
                self._host.submit(Mutation(request, source=transition.as_source(), is_auto=True), prepend=True)

    def _close(self, transition: Transition[Any], *, canceled: bool) -> None:
        """Tell whoever waits or watches, then start the work of the states that are active."""
        host, plan = self._host, transition.plan
        transition.is_accepted = not canceled
        transition.is_completed = True
        changed = transition.committed and plan.changes
        if changed and self._subscriptions.state_waiters:
            ticked = dict.fromkeys([*(i for i, _ in plan.changes), *transition.rolled_back])
            self._subscriptions.notify(ticked, transition)
        self._tell("transition_end", transition)
        if changed and host.change_callback is not None:
            host.tell_change(transition.before, transition.time_after)
        if transition.committed:
            self._start_all(transition)

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
            event = self._host.new_event(call, transition)
            for handler in call.works:
                self._host.start_work(handler, event, context)


_INTERRUPTED = Result(1, "interrupted")


def _wrong_answer(handler: Handler, answer: object) -> str:
    """Say what is wrong with what a handler returned; a coroutine is closed, for it will never run."""
    if inspect.iscoroutine(answer):
        answer.close()
        return f"{handler!r} returned a coroutine; make it `async def`, if it is a final handler"
    return f"{handler!r} returned {answer!r}; a negotiation handler returns False to veto, True or None to pass"
