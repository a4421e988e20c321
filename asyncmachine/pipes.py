"""Pipes: states of one machine that follow those of another. How that is done stands in `routes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, cast

from typing_extensions import override

from asyncmachine.errors import MachineDisposedError, UnknownStateError
from asyncmachine.machine import Machine
from asyncmachine.routes import ActivityRoute, ErrorRoute, Link, Route
from asyncmachine.schema import EXCEPTION

__all__ = ["Pipe", "pipe", "pipe_err", "pipe_many"]


def pipe(source: Machine, state: str, target: Machine, target_state: str | None = None, *, flat: bool = False) -> Pipe:
    """Have a state of one machine follow a state of another.

    While the source's state is active, so is the target's; each new activation of a multi state is passed on as well.
    The target gets the args of the source's mutation. The present activity is passed on at once.

    The target may refuse, by its relations and handlers. That is no error, and is not tried again.

    Args:
        source: the machine that is followed. The call is made in its thread.
        state: a state of the source.
        target: the machine that follows, in any thread.
        target_state: a state of the target; the one of the same name if None.
        flat: pass over what would leave the target's state as active as it is. New activations of multi states are
            then not passed on, which also ends a circle of pipes between such states.

    Returns:
        A handle, to close the pipe with. The disposal of either machine closes it, too. When the source is disposed,
        its states count as inactive.

    Raises:
        UnknownStateError: one of the machines has no such state.
        MachineDisposedError: one of the machines is disposed.
        MachineThreadError: the source belongs to another thread.
        ValueError: a state would follow itself.

    >>> door = am.Machine({"Open": {}}, id="door")
    >>> lamp = am.Machine({"Lit": {}}, id="lamp")
    >>> am.pipe(door, "Open", lamp, "Lit")
    <Pipe door -> lamp: Open -> Lit>
    >>> door.add1("Open"), str(lamp)
    (Result.EXECUTED, '(Lit:1)')
    >>> door.remove1("Open"), str(lamp)
    (Result.EXECUTED, '()')
    """
    return pipe_many(source, target, {state: state if target_state is None else target_state}, flat=flat)


def pipe_many(
    source: Machine, target: Machine, states: Mapping[str, str] | Iterable[str], *, flat: bool = False
) -> Pipe:
    """Have several states of one machine follow states of another, by one pipe; see `pipe`.

    What one transition of the source changed comes in its own order: first what was deactivated, then what was
    activated, each as a mutation of its own, so that one that is refused does not hold up the others.

    Args:
        source: the machine that is followed.
        target: the machine that follows.
        states: states of the source and those of the target that follow them; or states of the same name.
        flat: pass over what would leave the target's state as active as it is.

    >>> door = am.Machine({"Open": {}, "Locked": {"remove": ["Open"]}}, id="door")
    >>> alarm = am.Machine({"Armed": {}, "Warning": {}})
    >>> with am.pipe_many(door, alarm, {"Locked": "Armed", "Open": "Warning"}):
    ...     door.add1("Open"), str(alarm), door.add1("Locked"), str(alarm)
    (Result.EXECUTED, '(Warning:1)', Result.EXECUTED, '(Armed:1)')
    """
    if isinstance(states, str):
        states = (states,)
    if isinstance(states, Mapping):
        pairs = dict(cast("Mapping[str, str]", states))
    else:
        pairs = {state: state for state in states}
    if not pairs:
        raise ValueError('there is nothing to pipe; name states, as in {"Ready": "SourceReady"}')
    return Pipe(source, target, [ActivityRoute(state, to, flat=flat) for state, to in pairs.items()])


def pipe_err(source: Machine, target: Machine, state: str = EXCEPTION) -> Pipe:
    """Have the errors of one machine become errors of another.

    The target's `err` is the very error of the source, so an error that went in a circle is not passed on again. The
    target keeps its error states until it is seen to there, whatever becomes of the source's.

    Args:
        source: the machine whose errors are passed on: each time its `Exception` is activated.
        target: the machine that gets them, in any thread.
        state: an error state of the target, which is added along with `Exception`.

    Returns:
        A handle, to close the pipe with; see `pipe`.

    >>> worker = am.Machine({"Busy": {}})
    >>> office = am.Machine({"ErrWorker": {"require": ["Exception"]}})
    >>> am.pipe_err(worker, office, "ErrWorker").is_closed
    False
    >>> worker.add_err(OSError("disk full"))
    Result.EXECUTED
    >>> str(office), office.err
    ('(ErrWorker:1 Exception:1)', OSError('disk full'))
    """
    return Pipe(source, target, [ErrorRoute(EXCEPTION, state)])


class Pipe:
    """What `pipe`, `pipe_many` and `pipe_err` give: a handle, which need not be kept. As a context, it closes itself.

    >>> door, lamp = am.Machine({"Open": {}}), am.Machine({"Lit": {}})
    >>> with am.pipe(door, "Open", lamp, "Lit") as piped:
    ...     door.add1("Open"), str(lamp)
    (Result.EXECUTED, '(Lit:1)')
    >>> piped.is_closed, door.remove1("Open"), str(lamp)
    (True, Result.EXECUTED, '(Lit:1)')
    """

    __slots__ = ("_link", "_name")

    def __init__(self, source: Machine, target: Machine, routes: Iterable[Route]) -> None:
        routes = tuple(routes)
        _check(source, "source", [route.state for route in routes])
        _check(target, "target", [route.to for route in routes])
        for route in routes:
            if source is target and route.state == route.to:
                raise ValueError(f"{route.state} of the machine {source.id!r} would follow itself; pipe another state")
        self._name = f"{source.id} -> {target.id}: {', '.join(f'{route.state} -> {route.to}' for route in routes)}"
        self._link = Link(source, target, routes)

    @property
    def is_closed(self) -> bool:
        """True once nothing is passed on any more."""
        return not self._link.is_open

    def close(self) -> None:
        """Pass nothing on any more; the target's states stay as they are. May be called anywhere, and again.

        >>> door, lamp = am.Machine({"Open": {}}), am.Machine({"Lit": {}})
        >>> piped = am.pipe(door, "Open", lamp, "Lit")
        >>> piped.close()
        >>> door.add1("Open"), str(lamp), door.tracers
        (Result.EXECUTED, '()', ())
        """
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @override
    def __repr__(self) -> str:
        return f"<Pipe {self._name}{' closed' if self.is_closed else ''}>"


def _check(machine: Machine, role: str, states: Iterable[str]) -> None:
    """Refuse what could not be piped, before anything is bound."""
    if not isinstance(machine, Machine):
        raise TypeError(f"the {role} of a pipe is a machine, not {machine!r}")
    if machine.is_disposed:
        raise MachineDisposedError(f"the {role} of the pipe, the machine {machine.id!r}, is disposed already")
    for state in states:
        if not isinstance(state, str) or not machine.has1(state):
            raise UnknownStateError(state, machine.state_names, f"the pipe's {role}, the machine {machine.id!r}")
