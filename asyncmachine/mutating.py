"""The mutations of a machine, local or remote, written once over one primitive."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable

from asyncmachine.args import Args
from asyncmachine.errors import ArgsError
from asyncmachine.mutation import Result, Source
from asyncmachine.requests import ADD, REMOVE, SET, MutationType
from asyncmachine.schema import EXCEPTION

__all__ = ["MutationApi"]

States = str | Iterable[str]


class MutationApi(ABC):
    """Requests to change states. Every one returns a `Result` at once and never waits.

    Idle, a machine carries a mutation out within the call. While a transition runs, as in any handler, it is queued.
    All of them take:

    Args:
        states: names of states, as one list; or several names, if there are no args.
        args: a mapping, or one instance of a dataclass, attrs, msgspec or pydantic class, for the handlers.
        source: the transition this comes from; found by itself in handlers and in work started by them.

    Raises:
        UnknownStateError: the machine has no such state.
        ArgsError: the args are of another kind.
        MachineThreadError: the call was made from a thread that does not own the machine.
    """

    @abstractmethod
    def _mutate(
        self,
        type_: MutationType,
        states: States,
        args: Args | None,
        source: Source | None,
        check: bool = False,  # noqa: FBT001, FBT002 - positional, for Python calls functions without keywords faster
        /,
    ) -> Result: ...

    @abstractmethod
    def _add_error(
        self, states: tuple[str, ...], err: BaseException, args: Args | None, source: Source | None
    ) -> Result: ...

    @abstractmethod
    def is_(self, *states: str | Iterable[str]) -> bool: ...

    def add(self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None) -> Result:
        """Activate states.

        >>> mach.add(["Foo", "Bar"])
        Result.EXECUTED
        >>> str(mach)
        '(Foo:1 Bar:1)'
        """
        return self._mutate(ADD, *_split(states, args, more), source)

    def add1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Activate one state.

        >>> mach.add1("Foo", {"path": "README.md"})
        Result.EXECUTED
        """
        return self._mutate(ADD, state, args, source)

    def remove(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Result:
        """Deactivate states. Executed if none of them is active afterwards.

        >>> mach.remove(["Foo", "Bar"])
        Result.EXECUTED
        """
        return self._mutate(REMOVE, *_split(states, args, more), source)

    def remove1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Deactivate one state.

        >>> mach.remove1("Foo")
        Result.EXECUTED
        """
        return self._mutate(REMOVE, state, args, source)

    def set(self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None) -> Result:
        """Make states the only active ones, with what they add.

        >>> mach.add1("Foo"), mach.set(["Bar"]), str(mach)
        (Result.EXECUTED, Result.EXECUTED, '(Bar:1)')
        """
        return self._mutate(SET, *_split(states, args, more), source)

    def toggle(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Result:
        """Deactivate states if all of them are active, else activate them.

        >>> mach.toggle(["Foo"]), mach.toggle(["Foo"]), str(mach)
        (Result.EXECUTED, Result.EXECUTED, '()')
        """
        names, args = _split(states, args, more)
        return self._mutate(REMOVE if self.is_(names) else ADD, names, args, source)

    def toggle1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Deactivate one state if it is active, else activate it.

        >>> mach.toggle1("Foo"), str(mach)
        (Result.EXECUTED, '(Foo:1)')
        """
        return self._mutate(REMOVE if self.is_(state) else ADD, state, args, source)

    def add_err(self, err: BaseException | None, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Add the state `Exception` with an error, which `err` gives from now on.

        None and a cancellation are no errors: nothing happens, and the result is canceled.

        >>> mach.add_err(OSError("disk full")), mach.is_err
        (Result.EXECUTED, True)
        """
        return self.add_err_state(EXCEPTION, err, args, source=source)

    def add_err_state(
        self, state: str, err: BaseException | None, args: Args | None = None, *, source: Source | None = None
    ) -> Result:
        """Add an error state of your own along with `Exception`.

        >>> net = am.Machine({"ErrNetwork": {"require": ["Exception"]}})
        >>> net.add_err_state("ErrNetwork", OSError("unreachable")), str(net)
        (Result.EXECUTED, '(ErrNetwork:1 Exception:1)')
        """
        if err is None or isinstance(err, asyncio.CancelledError):
            return Result(1, "no error was given")
        if not isinstance(err, BaseException):
            raise ArgsError(f"an error is an instance of an exception class, not {err!r}; write {_as_error(err)}")
        return self._add_error(tuple(dict.fromkeys((state, EXCEPTION))), err, args, source)

    def can_add(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Result:
        """Ask relations and negotiation handlers whether states could be added now; nothing changes.

        >>> mach.can_add(["Foo"]), str(mach)
        (Result.EXECUTED, '()')
        """
        return self._mutate(ADD, *_split(states, args, more), source, True)

    def can_add1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Ask whether one state could be added now; see `can_add`.

        >>> mach.can_add1("Foo")
        Result.EXECUTED
        """
        return self._mutate(ADD, state, args, source, True)

    def can_remove(
        self, states: States, args: Args | str | None = None, *more: str, source: Source | None = None
    ) -> Result:
        """Ask relations and negotiation handlers whether states could be removed now; nothing changes.

        >>> mach.can_remove(["Foo"])
        Result.EXECUTED
        """
        return self._mutate(REMOVE, *_split(states, args, more), source, True)

    def can_remove1(self, state: str, args: Args | None = None, *, source: Source | None = None) -> Result:
        """Ask whether one state could be removed now; see `can_remove`.

        >>> mach.can_remove1("Foo")
        Result.EXECUTED
        """
        return self._mutate(REMOVE, state, args, source, True)


def _as_error(value: object) -> str:
    return f"{value.__name__}(...)" if isinstance(value, type) else f"ValueError({value!r})"


def _split(states: States, args: Args | str | None, more: tuple[str, ...]) -> tuple[str | tuple[str, ...], Args | None]:
    """Tell names from args where several names are given one by one: `add("Foo", "Bar")`."""
    if isinstance(args, str):
        if more and not isinstance(more[-1], str):
            raise ArgsError(
                f"names that go with args come as one list; write {_listed(states, args, *more[:-1])!r}, "
                f"and then {more[-1]!r}"
            )
        return ((states, args, *more) if isinstance(states, str) else (*states, args, *more)), None
    if more:
        names = _listed(states, *more)
        raise ArgsError(f"names after args mean nothing; write {names!r} as one list, and then the args")
    return (states if isinstance(states, str) else tuple(states)), args


def _listed(states: States, *more: str) -> list[str]:
    return [*((states,) if isinstance(states, str) else states), *more]
