"""The marks of `am.on`: which functions are handlers of which states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from asyncmachine.errors import HandlerError

__all__ = ["Mark", "Marked", "On", "marks_of", "on"]

F = TypeVar("F", bound=Callable[..., object])
N = TypeVar("N", bound=Callable[..., bool | None])

_MARK = "__asyncmachine_on__"


class Mark(NamedTuple):
    """A handler's names as `am.on` notes them on a function."""

    names: tuple[tuple[str, ...], ...]
    limit: int | None

    def handler_names(self) -> Iterator[str]:
        return ("".join(parts) for parts in self.names)


class On:
    """Marks functions as handlers: `@am.on.state("Foo")` on a method, `@mach.on.state("Foo")` to bind a function.

    Every mark but `both` takes one state or several.

    >>> class Handlers:
    ...     @am.on.enter("Foo", "Bar")
    ...     def check(self, e: am.Event) -> bool:
    ...         return e.machine.not1("Baz")
    >>> mach.bind_handlers(Handlers()), mach.add1("Foo")
    ('Handlers', Result.EXECUTED)
    """

    __slots__ = ("_bind",)

    def __init__(self, bind: Callable[[Mark, Callable[..., object]], object]) -> None:
        self._bind = bind

    def enter(self, *states: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked before the states are activated.

        >>> @mach.on.enter("Foo")
        ... def has_ticket(e: am.Event) -> bool:
        ...     return "ticket" in e.args
        >>> mach.add1("Foo").canceled, mach.add1("Foo", {"ticket": 7}).executed
        (True, True)
        """
        return self._marker([(state, "Enter") for state in states])

    def exit(self, *states: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked before the states are deactivated.

        >>> @mach.on.exit("Foo")
        ... def is_done(e: am.Event) -> bool:
        ...     return e.machine.is1("Bar")
        >>> mach.add1("Foo"), mach.remove1("Foo").canceled
        (Result.EXECUTED, True)
        """
        return self._marker([(state, "Exit") for state in states])

    def state(self, *states: str, limit: int | None = None) -> Callable[[F], F]:
        """Mark a final handler called when the states are activated.

        Args:
            states: names of states, or `Any`.
            limit: how many of an `async` handler's runs may be at work at once; more wait their turn.

        >>> @mach.on.state("Foo")
        ... def greet(e: am.Event) -> None:
        ...     print(f"hello {e.args['name']}")
        >>> mach.add1("Foo", {"name": "world"})
        hello world
        Result.EXECUTED
        """
        if limit is not None and limit < 1:
            raise HandlerError(f"limit is how many may run at once, 1 or more, not {limit}")
        return self._marker([(state, "State") for state in states], limit)

    def end(self, *states: str) -> Callable[[F], F]:
        """Mark a final handler called when the states are deactivated.

        >>> @mach.on.end("Foo", "Bar")
        ... def say(e: am.Event) -> None:
        ...     print(f"{e.state} is over")
        >>> mach.add1("Foo"), mach.set("Baz")
        Foo is over
        (Result.EXECUTED, Result.EXECUTED)
        """
        return self._marker([(state, "End") for state in states])

    def both(self, active: str, target: str) -> Callable[[N], N]:
        """Mark a negotiation handler asked when one state is active and another is to be active; or one, to stay.

        >>> @mach.on.both("Foo", "Bar")
        ... def not_while_foo(e: am.Event) -> bool:
        ...     return False
        >>> mach.add1("Bar").executed, mach.set("Foo").executed, mach.add1("Bar").reason
        (True, True, 'vetoed by FooBar of not_while_foo')
        """
        return self._marker([(active, target)])

    def _marker(self, names: list[tuple[str, ...]], limit: int | None = None) -> Callable[[F], F]:
        if not names or not all(isinstance(name, str) for parts in names for name in parts):
            raise HandlerError('name the states of the handler: @am.on.enter("Foo")')

        def mark(fn: F) -> F:
            self._bind(Mark(tuple(names), limit), fn)
            return fn

        return mark


def _note(mark: Mark, fn: Callable[..., object]) -> None:
    setattr(fn, _MARK, [*getattr(fn, _MARK, []), mark])


on: On = On(_note)
"""Marks methods as handlers; see `On`."""


def marks_of(static: object) -> dict[str, int | None]:
    """Give the handler names an attribute is marked with, once each, with their limits."""
    # A mark may stand above or below @staticmethod and @classmethod.
    marks: list[Mark] = [*getattr(getattr(static, "__func__", None), _MARK, ()), *getattr(static, _MARK, ())]
    return {name: mark.limit for mark in marks for name in mark.handler_names()} if marks else {}


class Marked(NamedTuple):
    """A function bound by `@mach.on…`, as a binding's target."""

    names: tuple[str, ...]
    fn: Callable[..., object]
    limit: int | None
