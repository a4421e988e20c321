"""Calls the handlers of a transition, one after the other: those that may veto it, and those that act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import iscoroutine
from time import perf_counter
from typing import Any, TypeAlias

from asyncmachine.errors import HandlerError
from asyncmachine.events import EventOf
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler
from asyncmachine.mutation import ExceptionArgs, Result
from asyncmachine.plans import BoundCall, Call, CallKind
from asyncmachine.transition import Transition

__all__ = ["Caller", "judge_failure", "judge_veto", "traced"]

_DROPPABLE = frozenset({CallKind.ENTER, CallKind.SELF, CallKind.PAIR})
"""The phases in which an auto state may be vetoed out of an auto mutation."""


class Raised:
    """What a handler has raised, in the place of an answer."""

    __slots__ = ("err",)

    def __init__(self, err: Exception) -> None:
        self.err: Exception = err


Judge: TypeAlias = Callable[["Caller", object, Handler, Transition[Any]], Result | None]
"""Gives the result of a transition one of whose handlers answered neither None nor True; None to go on."""


class Caller:
    """Calls the handlers of a machine.

    Args:
        faults: told of handlers that fail, and of slow ones.
        event: makes the event a handler is given.
    """

    __slots__ = ("_event", "_faults", "auto_failures", "limit", "since")

    def __init__(self, faults: Faults, event: type[EventOf[Any]]) -> None:
        self._faults = faults
        self._event = event
        self.limit: float | None = None
        """Seconds a handler may block the loop before it is reported."""
        self.since: float = 0.0
        """When the handler that is called began, or the one before it ended."""
        self.auto_failures: int = 0
        """How often in a row a handler of an auto state has failed."""

    def call(self, steps: Sequence[BoundCall], transition: Transition[Any], judge: Judge) -> Result | None:
        """Call functions until `judge` gives a result, and give that."""
        limit = self.limit
        since = self.since
        kind = self._event
        for fn, handler, call in steps:
            transition.at = call
            event = kind()
            event.call = call
            event.transition = transition
            try:
                answer = fn(event)
            except Exception as err:  # noqa: BLE001 - a failing handler is an error state
                answer = Raised(err)
            if limit is not None:
                now = perf_counter()
                if now - since > limit:
                    self._faults.handler_slow(handler, now - since, limit)
                    now = perf_counter()  # logging took time which is no handler's
                since = now
            if answer is not None and answer is not True:
                result = judge(self, answer, handler, transition)
                since = perf_counter()  # judging took time which is no handler's
                if result is not None:
                    break
        else:
            result = None
        self.since = since
        return result

    def event(self, call: Call, transition: Transition[Any]) -> EventOf[Any]:
        """Make the event of a call."""
        event = self._event()
        event.call, event.transition = call, transition
        return event

    def negotiate_auto(self, steps: Sequence[BoundCall], transition: Transition[Any]) -> Result | None:
        """Ask the handlers of an auto mutation: an auto state that is vetoed, or fails, is left out of it.

        The transition goes on with what is left; the result is given if that is nothing.
        """
        plan, dropped = transition.plan, 0
        skipped: list[Call] = []
        for step in steps:
            call = step[2]
            if dropped and call.kind in _DROPPABLE and dropped >> call.state & 1:
                # It is asked no more.
                if call is not transition.at:
                    skipped.append(call)
                continue
            canceled = self.call((step,), transition, judge_veto)
            if canceled is not None:
                if call.kind not in _DROPPABLE or not plan.planner.auto_states >> call.state & 1:
                    return canceled
                dropped |= 1 << call.state
        if dropped:
            left = plan.planner.without(plan, dropped, [call for call in plan.negotiation if call not in skipped])
            if left is None:
                return Result(1, "every auto state was vetoed")
            transition.plan = left
        return None

    def failed(self, err: Exception, handler: Handler, transition: Transition[Any]) -> Result:
        """Make an error the machine's, and give what comes of the mutation."""
        if transition.mutation.is_auto:
            self.auto_failures += 1
        called, before = transition.called_states, transition.states_before
        self._faults.handler_failed(ExceptionArgs(err, handler.name, called, before), transition)
        return Result(1, partial("{!r} raised {!r}".format, handler, err))


def judge_veto(caller: Caller, answer: object, handler: Handler, transition: Transition[Any]) -> Result | None:
    """Judge the answer of a negotiation handler."""
    if answer is False:
        return Result(1, partial("vetoed by {!r}".format, handler))
    err = _error(answer, handler) or _no_answer(answer, handler)
    result = caller.failed(err, handler, transition)
    # While an error is handled, another one is a pass.
    return None if transition.mutation.request.calls_exception else result


def judge_failure(caller: Caller, answer: object, handler: Handler, transition: Transition[Any]) -> Result | None:
    """Judge the answer of a final handler."""
    err = _error(answer, handler)
    return None if err is None else caller.failed(err, handler, transition)


def traced(steps: Sequence[BoundCall], transition: Transition[Any], tell: Callable[..., None]) -> Sequence[BoundCall]:
    """Give calls that tell tracers of their beginning and their end."""

    def call(handler: Handler, event: EventOf[Any]) -> Any:
        details = (transition, handler.binding, handler.name)
        tell("handler_start", *details)
        try:
            return handler.fn(event)
        finally:
            tell("handler_end", *details)

    return [(partial(call, handler), handler, about) for _, handler, about in steps]


def _error(answer: object, handler: Handler) -> Exception | None:
    """Give the error an answer stands for: what was raised, or a coroutine, which would never run."""
    if isinstance(answer, Raised):
        return answer.err
    try:
        if iscoroutine(answer):
            answer.close()
            return HandlerError(f"{handler!r} returned a coroutine; make it `async def`, if it is a final handler")
    except Exception as err:  # noqa: BLE001 - raised by one that had begun, and would not be closed
        return err
    return None


def _no_answer(answer: object, handler: Handler) -> Exception:
    """Give the error of an answer that means nothing, or what is raised when it is asked how it looks."""
    text = "{!r} returned {!r}; a negotiation handler returns False to veto, True or None to pass"
    try:
        return HandlerError(text.format(handler, answer))
    except Exception as err:  # noqa: BLE001 - it is the handler's failure all the same
        return err
