"""Errors as a state: what a failing handler or piece of work leads to, and that none is lost on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from asyncmachine.args import Args
from asyncmachine.handlers import Handler
from asyncmachine.mutation import ExceptionArgs, Mutation, Result, Source, current, new_mutation
from asyncmachine.plans import Planner
from asyncmachine.requests import ADD, Request
from asyncmachine.schema import EXCEPTION
from asyncmachine.transition import Transition

__all__ = ["Faults"]


class Host(Protocol):
    """The machine, seen from its faults."""

    machine: Any
    planner: Planner

    @property
    def is_disposed(self) -> bool: ...

    @property
    def logger(self) -> logging.Logger: ...

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result: ...

    def is_bound(self, handler: str) -> bool: ...

    def raise_in_caller(self, err: BaseException) -> bool: ...


class Faults:
    """The errors of a machine.

    Args:
        host: the machine.
    """

    __slots__ = ("_host", "_in_work", "callback", "count", "err")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._in_work = False
        """True while a mutation runs that nobody's call has made, such as one for the error of a piece of work."""
        self.err: BaseException | None = None
        """The last one."""
        self.count: int = 0
        self.callback: Callable[[Any, BaseException], object] | None = None
        """Called with the machine at each error."""

    def note(self, err: BaseException) -> None:
        """Keep an error as the last one, and tell the callback."""
        self.err = err
        self.count += 1
        if self.callback is not None:
            try:
                self.callback(self._host.machine, err)
            except Exception as failure:  # noqa: BLE001 - reported; it must not hide the error it was told of
                self.report("the on_error callback raised", failure)

    def handler_failed(self, error: ExceptionArgs, transition: Transition[Any]) -> None:
        """Make the error of a handler the machine's, which runs next; one that failed on an error is only logged."""
        if transition.mutation.request.calls_exception:
            self.note(error.err)
            first = transition.mutation.error
            during = f"while this was handled:\n{first.traceback}" if first is not None else "in an error state"
            self.report(f"{error.handler} raised {during}", error.err)
            return
        if not self._in_work and self._host.raise_in_caller(error.err):
            return
        self.note(error.err)
        request = self._host.planner.requests.of(ADD, EXCEPTION)
        self._host.submit(self.mutation(request, error, source=transition.as_source()), prepend=True)

    def work_failed(self, err: Exception, name: str) -> None:
        """Make the error of a piece of work the machine's."""
        if self._host.is_disposed:
            self.report(f"{name} raised after the machine was disposed", err)
            return
        self.note(err)
        cause = current.get()
        origin = (cause.called_states, cause.states_before) if cause else ((), ())
        request, source = self._host.planner.requests.of(ADD, EXCEPTION), cause.as_source() if cause else None
        mutation = self.mutation(request, ExceptionArgs(err, name, *origin), source=source)
        self.submit_uncalled(mutation, f"the error of {name} could not be handled")

    def submit_uncalled(self, mutation: Mutation, failed: str, *, prepend: bool = False) -> None:
        """Submit a mutation that nobody's call has made; what fails in it has no caller it could be raised to.

        Args:
            mutation: the mutation.
            failed: what is reported if it raises.
            prepend: have it run before what waits.
        """
        outer, self._in_work = self._in_work, True
        try:
            self._host.submit(mutation, prepend=prepend)
        except Exception as failure:  # noqa: BLE001 - reported; here, too, there is no caller it could go to
            self.report(failed, failure)
        finally:
            self._in_work = outer

    def mutation(
        self, request: Request, error: ExceptionArgs, payload: Args | None = None, source: Source | None = None
    ) -> Mutation:
        """Make a mutation that adds an error, which is logged if nobody handles it."""
        mutation = new_mutation(request, payload, source)
        mutation.error = error
        mutation.when_done(partial(self._settle, error))
        return mutation

    def _settle(self, error: ExceptionArgs, result: Result) -> None:
        """Log an error that nobody has handled."""
        if result.canceled or not self._host.is_bound(f"{EXCEPTION}State"):
            where = f" in {error.handler}" if error.handler else ""
            self.report(f"[error] {error.err!r}{where}", error.err)

    def handler_slow(self, handler: Handler, seconds: float, limit: float) -> None:
        """Report a handler that has blocked the loop."""
        message = "[handler:slow] %r blocked the loop for %.3f s (handler_timeout is %s s); do it in async work"
        self._host.logger.warning(message, handler, seconds, limit)

    def report(self, message: str, err: BaseException) -> None:
        """Log an error with its traceback."""
        self._host.logger.error("%s", message, exc_info=err)
