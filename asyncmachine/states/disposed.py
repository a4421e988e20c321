"""The end of a machine as states, so that what it holds can be released before, and others can see it coming."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from asyncmachine.declaring import States, state
from asyncmachine.errors import ArgsError, MachineLoopError
from asyncmachine.machine import Event, Machine

__all__ = ["DisposalArgs", "DisposedStates", "Disposer"]


class DisposedStates(States):
    """Disposal in steps that can be seen. Bind a `Disposer` along with it.

    Both ways lead through the same steps: `mach.add1("Disposing")` ends in `mach.dispose()`, and `mach.dispose()`
    begins with adding Disposing.

    1. Disposing is added, which removes Start.
    2. The registered callbacks run, the last one first. Work goes on meanwhile, unless its state requires Start.
    3. Disposed is added, which removes Disposing.
    4. The rest of the disposal follows: the queue is drained, work is cancelled, waits fail.
    """

    Start: str = state()
    """The machine is to be at work."""

    RegisterDisposal: str = state(multi=True)
    """A callback is registered, to run when the machine is disposed: `mach.add1("RegisterDisposal", DisposalArgs(fn))`.
    """

    Disposing: str = state(remove=[Start])
    """The machine is about to end: registered callbacks run. Add it to begin, or call `mach.dispose()`."""

    Disposed: str = state(remove=[Start, Disposing])
    """All callbacks have run; nothing but the end follows."""


@dataclass(frozen=True, slots=True)
class DisposalArgs:
    """The args of RegisterDisposal.

    Args:
        callback: called without arguments when the machine is disposed; it may be `async`.
    """

    callback: Callable[[], object]


class Disposer:
    """Handlers that make `DisposedStates` work: keeps callbacks, runs them, disposes the machine. One for each machine.

    A callback that raises is an error of the machine, and the others run all the same. Those that have not ended after
    the machine's `dispose_timeout` are cancelled, if `mach.dispose()` was called.

    >>> from asyncmachine.states import DisposalArgs, DisposedStates, Disposer
    >>> async def main():
    ...     async with am.Machine(DisposedStates, handlers=Disposer()) as machine:
    ...         machine.add1("RegisterDisposal", DisposalArgs(lambda: print("the pool is closed")))
    ...         print("at work")
    >>> am.run(main)
    at work
    the pool is closed
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def RegisterDisposalEnter(self, e: Event) -> bool:
        """Refuse what is no callback, and what comes too late to be called."""
        if not e.mutation.is_check:
            callback: object = e.arg(DisposalArgs).callback
            if not callable(callback):
                raise ArgsError(f"a callback for the disposal is a function without arguments, not {callback!r}")
        return not e.machine.any1(DisposedStates.Disposing, DisposedStates.Disposed)

    def RegisterDisposalState(self, e: Event) -> None:
        """Keep a callback."""
        self._callbacks.append(e.arg(DisposalArgs).callback)

    def DisposingState(self, e: Event) -> None:
        """Run the callbacks: as work, or at once where there is no loop."""
        try:
            e.fork(self._dispose, e.machine)
        except MachineLoopError:
            while self._callbacks:
                _refuse_awaitable(self._call(e.machine), e.machine)
            e.machine.add1(DisposedStates.Disposed)

    def DisposedState(self, e: Event) -> None:
        """Dispose the machine."""
        e.machine.dispose()

    async def _dispose(self, machine: Machine) -> None:
        while self._callbacks:
            answer = self._call(machine)
            if inspect.isawaitable(answer):
                try:
                    await answer
                except Exception as err:  # noqa: BLE001 - the machine's error state; the others run all the same
                    machine.add_err(err)
        machine.add1(DisposedStates.Disposed)

    def _call(self, machine: Machine) -> object:
        """Call the callback that was registered last, and is not called yet."""
        try:
            return self._callbacks.pop()()
        except Exception as err:  # noqa: BLE001 - the machine's error state; the others run all the same
            machine.add_err(err)
            return None


def _refuse_awaitable(answer: Any, machine: Machine) -> None:
    """Make an error of what would have to be awaited, but cannot be, as there is no loop."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        _: Awaitable[Any] = answer
        text = f"a callback for the disposal of {machine.id} is async, but no event loop is running to await it"
        machine.add_err(MachineLoopError(f"{text}; use `async with` or `await mach.dispose()`"))
