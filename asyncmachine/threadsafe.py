"""A machine's face for other threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

from asyncmachine.args import Args
from asyncmachine.mutating import MutationApi
from asyncmachine.mutation import Result, Source

__all__ = ["Threadsafe"]

T = TypeVar("T")

States = str | Iterable[str]


class Post(Protocol):
    """Has a call made on the machine's loop."""

    def __call__(self, call: Callable[[], Any], *, in_order: bool) -> Future[Any]: ...


class Threadsafe:
    """The mutations of a machine, and `eval`, for threads that do not own it. Get it as `mach.threadsafe`.

    Each returns a `concurrent.futures.Future` of the final result. Calls of one thread are carried out in their order.
    While the machine is busy they wait outside of its queue; they are never refused, and none is lost. Names of states
    are checked at once, in the calling thread.

    >>> async def main():
    ...     async with am.Machine({"Foo": {}}) as machine:
    ...         threadsafe = machine.threadsafe
    ...         return await anyio.to_thread.run_sync(lambda: threadsafe.add1("Foo").result())
    >>> am.run(main)
    Result.EXECUTED
    """

    __slots__ = ("_check", "_machine", "_post")

    def __init__(self, machine: MutationApi, post: Post, check: Callable[..., object]) -> None:
        self._machine = machine
        self._post = post
        self._check = check

    def add(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Activate states; see `Machine.add`."""
        return self._mutate_all(self._machine.add, states, args, more, source=source)

    def add1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Future[Result]:
        """Activate one state; see `Machine.add1`."""
        return self._mutate(self._machine.add1, state, args, source=source)

    def remove(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Deactivate states; see `Machine.remove`."""
        return self._mutate_all(self._machine.remove, states, args, more, source=source)

    def remove1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Future[Result]:
        """Deactivate one state; see `Machine.remove1`."""
        return self._mutate(self._machine.remove1, state, args, source=source)

    def set(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Make states the only active ones; see `Machine.set`."""
        return self._mutate_all(self._machine.set, states, args, more, source=source)

    def toggle(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Deactivate states if all are active when their turn comes, else activate them; see `Machine.toggle`."""
        return self._mutate_all(self._machine.toggle, states, args, more, source=source, in_order=True)

    def toggle1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Future[Result]:
        """Deactivate one state if it is active when its turn comes, else activate it; see `Machine.toggle1`."""
        return self._mutate(self._machine.toggle1, state, args, source=source, in_order=True)

    def add_err(
        self, err: BaseException | None, args: Args | None = None, *, source: Source | None = None
    ) -> Future[Result]:
        """Add an error; see `Machine.add_err`."""
        return self._mutate(self._machine.add_err, (), err, args, source=source, named=False)

    def add_err_state(
        self, state: str, err: BaseException | None, args: Args | None = None, *, source: Source | None = None
    ) -> Future[Result]:
        """Add an error state of your own; see `Machine.add_err_state`."""
        return self._mutate(self._machine.add_err_state, state, err, args, source=source)

    def can_add(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Ask whether states could be added; see `Machine.can_add`."""
        return self._mutate_all(self._machine.can_add, states, args, more, source=source, in_order=True)

    def can_add1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Future[Result]:
        """Ask whether one state could be added; see `Machine.can_add1`."""
        return self._mutate(self._machine.can_add1, state, args, source=source, in_order=True)

    def can_remove(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Future[Result]:
        """Ask whether states could be removed; see `Machine.can_remove`."""
        return self._mutate_all(self._machine.can_remove, states, args, more, source=source, in_order=True)

    def can_remove1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Future[Result]:
        """Ask whether one state could be removed; see `Machine.can_remove1`."""
        return self._mutate(self._machine.can_remove1, state, args, source=source, in_order=True)

    def eval(self, fn: Callable[[], T]) -> Future[T]:
        """Call a function on the machine's loop, between two transitions, and give what it returns.

        >>> async def main():
        ...     async with am.Machine({"Foo": {}}) as machine:
        ...         threadsafe = machine.threadsafe
        ...         machine.add1("Foo")
        ...         return await anyio.to_thread.run_sync(lambda: threadsafe.eval(machine.active_states).result())
        >>> am.run(main)
        ('Foo',)
        """
        return self._post(fn, in_order=True)

    def _mutate_all(
        self,
        method: Callable[..., Result],
        states: States,
        args: Args | str | None,
        more: tuple[str, ...],
        *,
        source: Source | None,
        in_order: bool = False,
    ) -> Future[Result]:
        if isinstance(args, str):
            # Names given one by one, all to be checked here.
            first = (states,) if isinstance(states, str) else tuple(states)
            states, args, more = (*first, args, *more), None, ()
        return self._mutate(method, states, args, *more, source=source, in_order=in_order)

    def _mutate(
        self,
        method: Callable[..., Result],
        states: States,
        *rest: Any,
        source: Source | None,
        in_order: bool = False,
        named: bool = True,
    ) -> Future[Result]:
        names = (states,) if isinstance(states, str) else tuple(states)
        self._check(*names)
        given = (names[0] if isinstance(states, str) else names,) if named else ()
        return self._post(partial(method, *given, *rest, source=source), in_order=in_order)
