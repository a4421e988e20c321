"""Timeouts of states: what happens when a state stays active for too long.

Each state that is active and has a timeout holds one timer of the loop, and nothing else: no task, no future. The timer
is cancelled when the state ticks, by whatever that comes about, so one that fires finds its state in the very tick it
was started for. What it then asks for runs before anything that waits in the queue; so that is true of the mutation,
too, and a full queue refuses no timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from asyncmachine.errors import StateTimeoutError
from asyncmachine.faults import Faults
from asyncmachine.home import Home
from asyncmachine.mutation import ExceptionArgs, Mutation, Result, current, new_mutation
from asyncmachine.plans import Live, Planner
from asyncmachine.requests import ADD, REMOVE
from asyncmachine.schema import EXCEPTION, Schema

__all__ = ["TimeoutArgs", "Timeouts", "changed_timeouts"]


@dataclass(frozen=True, slots=True)
class TimeoutArgs:
    """The typed args of the mutation made when a state's time is up: which state it was, and since when.

    Args:
        state: the state that was active for too long.
        timeout: its timeout, in seconds.
        tick: its tick, the same from its activation until now.
        since: when it was activated, in seconds of the loop's clock (`loop.time()`).

    >>> async def main():
    ...     job = am.Machine({"Working": {"timeout": 0.001, "on_timeout": "Slow"}, "Slow": {}})
    ...     @job.on.state("Slow")
    ...     def tell(e: am.Event) -> None:
    ...         args = e.arg(am.TimeoutArgs)
    ...         print(f"{args.state} took more than {args.timeout} s")
    ...     job.add1("Working")
    ...     await job.when1("Slow")
    >>> am.run(main)
    Working took more than 0.001 s
    """

    state: str
    timeout: float
    tick: int
    since: float


class Host(Protocol):
    """The machine, seen from its timeouts."""

    home: Home
    live: Live
    faults: Faults

    @property
    def planner(self) -> Planner: ...

    @property
    def is_idle(self) -> bool: ...

    @property
    def logger(self) -> logging.Logger: ...


class Timeouts:
    """The timers of a machine's active states. A machine none of whose states has ever had one has no such object.

    Args:
        host: the machine.
    """

    __slots__ = ("_host", "_timers")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Count the timers that run."""
        return len(self._timers)

    def follow(self, states: Iterable[int]) -> None:
        """Start the timers of those of the states that are active and have a timeout, anew; stop the others'."""
        host = self._host
        schema, ticks = host.live.schema, host.live.ticks
        for state in states:
            timer = self._timers.pop(state, None)
            if timer is not None:
                timer.cancel()
            name = schema.names[state]
            timeout = schema[name].timeout
            if timeout is not None and ticks[state] % 2:
                loop = host.home.bind_loop()
                args = TimeoutArgs(name, timeout, ticks[state], loop.time())
                # As with any timer, handlers find the context variables of whoever started it; but what it asks for
                # does not come from the transition that did.
                context = copy_context()
                context.run(current.set, None)
                self._timers[state] = loop.call_at(args.since + timeout, self._fire, state, args, context=context)

    def stop(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _fire(self, state: int, args: TimeoutArgs) -> None:
        del self._timers[state]
        mutation = self._mutation(args)
        mutation.when_done(partial(self._warn, mutation, args))
        failed = f"what follows from the timeout of {args.state} could not be carried out"
        self._host.faults.submit_uncalled(mutation, failed, prepend=not self._host.is_idle)

    def _mutation(self, args: TimeoutArgs) -> Mutation:
        """Give what follows when a state's time is up: another state, perhaps as an error, or the state's end."""
        schema, requests = self._host.live.schema, self._host.planner.requests
        then = schema[args.state].on_timeout
        if then is None:
            return new_mutation(requests.of(REMOVE, args.state), args)
        if then != EXCEPTION and EXCEPTION not in schema[then].require:
            return new_mutation(requests.of(ADD, then), args)
        error = ExceptionArgs(StateTimeoutError(args.state, args.timeout))
        self._host.faults.note(error.err)
        return self._host.faults.mutation(requests.of(ADD, dict.fromkeys((then, EXCEPTION))), error, args)

    def _warn(self, mutation: Mutation, args: TimeoutArgs, result: Result) -> None:
        if result.canceled:
            asked = f"{mutation.type} {' '.join(mutation.called)}"
            text = "[timeout] %s was still active after %s s, but [%s] was canceled: %s"
            self._host.logger.warning(text, args.state, args.timeout, asked, result.reason)


def changed_timeouts(live: Live, new: Schema) -> list[int]:
    """Give the positions of the active states whose timeout is another one in a schema that has them all, too."""
    old = live.schema
    return [i for i in live.standing.states if old[old.names[i]].timeout != new[old.names[i]].timeout]
