"""The event: what a handler is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from typing_extensions import override

from asyncmachine.mutation import Mutation
from asyncmachine.plans import Call
from asyncmachine.schema import ANY
from asyncmachine.transition import Transition

__all__ = ["EventOf"]

T = TypeVar("T")


class Forking(Protocol):
    """A machine that can start work, seen from its events."""

    def fork(
        self, fn: Callable[..., Any], *args: Any, state: str | None = None, delay: float = 0, limit: int | None = None
    ) -> Any: ...

    @property
    def transition(self) -> Transition[Any] | None: ...


M = TypeVar("M", bound=Forking)


class EventOf(Generic[M]):
    """What a handler is given: which handler it is, on which machine, in which transition, with which args."""

    # The executor makes events and sets their fields, for each call of a handler: an `__init__` would double the cost.
    __slots__ = ("call", "transition")

    call: Call
    transition: Transition[Any]
    """The transition the handler is called in."""

    @property
    def name(self) -> str:
        """The handler's name, such as "FooState"."""
        return self.call.name

    @property
    def state(self) -> str:
        """The state the handler is about; "Any" for the global ones."""
        return self.call.about

    @property
    def machine(self) -> M:
        """The machine."""
        machine: M = self.transition.machine
        return machine

    @property
    def mutation(self) -> Mutation:
        """The mutation that is being carried out."""
        return self.transition.mutation

    @property
    def args(self) -> Mapping[str, Any]:
        """The mutation's args as a mapping; the fields, for typed ones."""
        return self.transition.mutation.args

    def arg(self, kind: type[T]) -> T:
        """Give the typed args of a class.

        Raises:
            ArgsError: the mutation carries no instance of it.

        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Conn:
        ...     addr: str
        >>> @mach.on.state("Foo")
        ... def connect(e: am.Event) -> None:
        ...     print(e.arg(Conn).addr, dict(e.args))
        >>> mach.add1("Foo", Conn(":5555"))
        :5555 {'addr': ':5555'}
        Result.EXECUTED
        """
        return self.transition.mutation.arg(kind)

    @property
    def is_valid(self) -> bool:
        """True while this very transition runs and nothing has canceled it."""
        transition = self.transition
        running = self.machine.transition is transition
        return running and transition.is_accepted and not transition.is_completed

    def fork(self, fn: Callable[..., Any], *args: Any, delay: float = 0, limit: int | None = None) -> Any:
        """Start work under the context of the handler's own state; see `Machine.fork`.

        >>> async def load(machine: am.Machine, path: str) -> None:
        ...     machine.add1("Bar", {"text": await anyio.Path(path).read_text()})
        >>> @mach.on.state("Foo")
        ... def start(e: am.Event) -> None:
        ...     e.fork(load, e.machine, e.args["path"])
        """
        state = None if self.state == ANY else self.state
        return self.machine.fork(fn, *args, state=state, delay=delay, limit=limit)

    @override
    def __repr__(self) -> str:
        return f"<Event {self.name} of {self.transition!r}>"
