"""What pipes are made of: routes from a state of one machine to a state of another, and what carries them.

A pipe needs no task and no handler. One tracer for each source looks, at the end of every transition, at the ticks of
the states that are piped; what has ticked is passed on there and then, inside the source's transition. So the order is
that of the source, the mutation of the target knows its source, and what a failed transition rolled back is seen, too.

References run one way, source -> outlet -> route -> link -> target, as any subscription holds its subscriber. The
target holds none of this, and a closed link does not hold the target.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.args import Args
from asyncmachine.errors import MachineLoopError, MachineThreadError
from asyncmachine.machine import Machine
from asyncmachine.mutation import Result
from asyncmachine.schema import EXCEPTION
from asyncmachine.transition import Transition

__all__ = ["ActivityRoute", "ErrorRoute", "Link", "Outlet", "Route"]

Change = Callable[[Machine], Result | None]
"""What is done to a target; None where there was nothing to do."""


class Link:
    """The way from one machine to another, for as long as it is open.

    Args:
        source: the machine that is followed; the caller is in its thread.
        target: the machine that follows.
        routes: what is passed on. The present activity is, at once.

    Raises:
        MachineThreadError: the source belongs to another thread.
        MachineLoopError: the target does, and has no loop there.
    """

    __slots__ = ("__weakref__", "_forget", "_routes", "_source", "_target")

    def __init__(self, source: Machine, target: Machine, routes: Sequence[Route]) -> None:
        source.eval(_nothing)
        _reach(target, _nothing)
        self._source: weakref.ref[Machine] = weakref.ref(source)
        self._target: Machine | None = target
        self._routes: tuple[Route, ...] = tuple(routes)
        self._forget: Callable[[], object] = _close_with(target, self)
        outlet = Outlet.of(source)
        for route in routes:
            outlet.join(route, self, source.tick(route.state))
        for route in _in_order(routes, source):
            route.begin(source)

    @property
    def is_open(self) -> bool:
        return self._target is not None

    def send(self, change: Change) -> None:
        """Change the target, in its own thread."""
        target = self._target
        if target is None:
            return
        try:
            _reach(target, partial(_carry_out, target, change))
        except MachineLoopError as err:
            target.logger.warning("a pipe closes, as its target cannot be reached any more: %s", err)
            self.close()

    def close(self) -> None:
        """Pass nothing on any more, from whichever thread, and let go of both machines."""
        if self._target is None:
            return
        self._target = None
        self._forget()
        self._forget = _nothing  # it leads to whatever else waits for the target's end
        routes, self._routes = self._routes, ()
        source = self._source()
        if source is not None:
            # Without a loop nobody would take the routes off in the source's thread; there they do nothing any more.
            with suppress(MachineLoopError):
                _reach(source, partial(Outlet.leave, source, routes))


class Route(ABC):
    """One state of a source, and what becomes of it on the target.

    Args:
        state: the source's state.
        to: the target's state.
    """

    __slots__ = ("link", "state", "tick", "to")

    link: Link

    def __init__(self, state: str, to: str) -> None:
        self.state: str = state
        self.to: str = to
        self.tick: int = 0
        """The source's tick that was passed on last."""

    @abstractmethod
    def begin(self, source: Machine) -> None:
        """Pass on the activity as it is when the pipe is bound."""

    @abstractmethod
    def follow(self, before: int, transition: Transition[Any]) -> None:
        """Pass on what a transition has changed: the tick, which was another before."""

    @abstractmethod
    def end(self) -> None:
        """Pass on that the source is disposed."""


class ActivityRoute(Route):
    """Has the target's state follow the activity of the source's.

    Args:
        state: the source's state.
        to: the target's state.
        flat: pass over what would leave the target's state as active as it is.
    """

    __slots__ = ("_flat",)

    def __init__(self, state: str, to: str, *, flat: bool) -> None:
        super().__init__(state, to)
        self._flat = flat

    @override
    def begin(self, source: Machine) -> None:
        self._pass_on(None, active=self.tick % 2 == 1, flat=True)

    @override
    def follow(self, before: int, transition: Transition[Any]) -> None:
        active = self.tick % 2 == 1
        if active or before % 2:  # else it was activated and rolled back, and the target never knew
            self._pass_on(transition.mutation.payload, active=active, flat=self._flat)

    @override
    def end(self) -> None:
        if self.tick % 2:
            self._pass_on(None, active=False, flat=self._flat)

    def _pass_on(self, args: Args | None, *, active: bool, flat: bool) -> None:
        change = _set_flat if flat else _set_active
        self.link.send(partial(change, state=self.to, active=active, args=_NO_ARGS if args is None else args))


class ErrorRoute(Route):
    """Has errors of the source become errors of the target."""

    __slots__ = ()

    @override
    def begin(self, source: Machine) -> None:
        if source.is_err:
            self.link.send(partial(_add_error, state=self.to, err=source.err, args=None))

    @override
    def follow(self, before: int, transition: Transition[Any]) -> None:
        if self.tick % 2:
            mutation = transition.mutation
            err = None if mutation.error is None else mutation.error.err
            self.link.send(partial(_add_error, state=self.to, err=err, args=mutation.payload))

    @override
    def end(self) -> None:
        """Leave the errors: they are the target's, until somebody has seen to them."""


class Outlet(Tracer):
    """All routes that lead out of a machine: the one tracer on it, which only looks at the states that are piped."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[Route, None]] = {}

    @classmethod
    def of(cls, source: Machine) -> Outlet:
        """Give the outlet of a machine; the first route makes it."""
        for tracer in source.tracers:
            if isinstance(tracer, Outlet):
                return tracer
        outlet = cls()
        source.bind_tracer(outlet)
        return outlet

    def join(self, route: Route, link: Link, tick: int) -> None:
        """Take a route in; what it is told of next is what comes after this tick."""
        route.link, route.tick = link, tick
        self._routes.setdefault(route.state, {})[route] = None

    @staticmethod
    def leave(source: Machine, routes: Sequence[Route]) -> None:
        """Take routes off a machine, and its outlet with the last of them."""
        for outlet in [tracer for tracer in source.tracers if isinstance(tracer, Outlet)]:
            for route in routes:
                piped = outlet._routes.get(route.state, {})
                piped.pop(route, None)
                if not piped:
                    outlet._routes.pop(route.state, None)
            if not outlet._routes:
                source.detach_tracer(outlet)

    @override
    def transition_end(self, transition: Transition[Any]) -> None:
        source: Machine = transition.machine
        changed: list[Route] = []
        for state, routes in self._routes.items():
            tick = source.tick(state)
            changed += [route for route in routes if route.tick != tick]
        for route in _in_order(changed, source):
            before, route.tick = route.tick, source.tick(route.state)
            route.follow(before, transition)

    @override
    def machine_dispose(self, machine: MachineApi) -> None:
        every = [route for routes in self._routes.values() for route in routes]
        for route in every:
            route.end()
        for route in every:
            route.link.close()


@dataclass(frozen=True, slots=True)
class _NoArgs:
    """Args without anything in them.

    The queue keeps only the first of several equal mutations without args. If the source's state comes, goes and comes
    again while the target is busy, the third of these would be lost, and the target left inactive.
    """


_NO_ARGS = _NoArgs()


def _nothing() -> None:
    """Do nothing: what is asked is whether it could be done."""


def _reach(machine: Machine, call: Callable[[], object]) -> None:
    """Make a call in the thread of a machine: here and now if that is this one."""
    try:
        machine.eval(call)
    except MachineThreadError:
        machine.threadsafe.eval(call)


def _close_with(target: Machine, link: Link) -> Callable[[], object]:
    """Have a link closed when its target is disposed; give what takes that back.

    The target must not hold the link, and when a link goes together with its source, nothing of it may stay there.
    """
    forget: Callable[[], object] = _nothing
    held = weakref.ref(link, lambda _: forget())

    def close(_: Machine) -> None:
        link = held()
        if link is not None:  # pragma: no branch - else this function would have been taken back
            link.close()

    forget = target.on_dispose(close)
    return forget


def _in_order(routes: Sequence[Route], source: Machine) -> Sequence[Route]:
    """Give routes in the order of the source: those of inactive states first, then as its states became active."""
    if len(routes) < 2:
        return routes
    place = {state: i for i, state in enumerate(source.active_states())}
    return sorted(routes, key=lambda route: place.get(route.state, -1))


def _carry_out(target: Machine, change: Change) -> None:
    """Change a target. Whatever goes wrong is the target's affair, and must not disturb the source."""
    try:
        was_busy = target.transition is not None or target.queue_len > 0
        result = change(target)
        if result is not None and result.canceled and was_busy and not target.is_disposed:
            # Not a veto: that would come later, when the queue is that far.
            target.logger.warning("a piped mutation is lost, and the states differ now: %s", result.reason)
    except Exception as err:  # noqa: BLE001 - there is no caller it could be raised to, so it becomes an error state
        try:
            target.add_err(err)
        except Exception:  # of a machine with `raise_errors`, which fails again
            target.logger.exception("the error of a piped mutation could not be handled")


def _set_active(target: Machine, *, state: str, active: bool, args: Args) -> Result:
    return target.add1(state, args) if active else target.remove1(state, args)


def _set_flat(target: Machine, *, state: str, active: bool, args: Args) -> Result | None:
    """Set a state, unless it is as active as it should be, and nothing that runs or waits asks for the contrary."""
    running = target.transition
    is_settled = running is None or running.is_completed
    if is_settled and target.is1(state) == active and not target.is_queued("remove" if active else "add", state):
        return None
    return _set_active(target, state=state, active=active, args=args)


def _add_error(target: Machine, *, state: str, err: BaseException | None, args: Args | None) -> Result | None:
    names = [state] if state == EXCEPTION else [state, EXCEPTION]
    if err is None:  # somebody added the bare state
        return target.add(names, _NO_ARGS if args is None else args)
    if target.err is err and target.is_(names):
        return None  # else an error would go round in a circle of pipes for ever
    return target.add_err_state(state, err, args)
