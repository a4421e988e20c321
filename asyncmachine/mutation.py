"""Mutations, the requests a machine takes: what is asked, with which args, by whom, and what came of it."""

from __future__ import annotations

import builtins
import dataclasses
import traceback as tb
from collections.abc import Callable, Generator, Mapping
from contextvars import Context, ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

from typing_extensions import override

from asyncmachine.args import Args, as_mapping
from asyncmachine.errors import ArgsError
from asyncmachine.requests import MutationType, Request

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Cause",
    "ExceptionArgs",
    "Mutation",
    "Result",
    "Source",
    "current",
    "new_mutation",
]

T = TypeVar("T")
Class: TypeAlias = type[T]  # within `Mutation`, whose property hides `type`


class Source(NamedTuple):
    """The transition that caused a mutation.

    Args:
        machine_id: the machine the transition ran on.
        transition_id: its id there.
        machine_time: the sum of that machine's ticks before the transition.
    """

    machine_id: str
    transition_id: str
    machine_time: int


class Cause(Protocol):
    """What travels in `current`: something that can say where it comes from."""

    machine: Any
    depth: int
    is_completed: bool

    @property
    def called_states(self) -> tuple[str, ...]: ...

    @property
    def states_before(self) -> tuple[str, ...]: ...

    def as_source(self) -> Source: ...


current: ContextVar[Cause | None] = ContextVar("asyncmachine_current", default=None)
"""The transition whose handlers, or whose handlers' work, run in this context; mutations read their source from it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ExceptionArgs:
    """The typed args of every mutation that adds `Exception`.

    Args:
        err: the error.
        handler: the name of the handler or function that raised it, None for an error that was added by hand.
        called: the states called by the mutation in which the handler failed.
        states_before: the states active before that mutation.

    >>> mach.add_err(ValueError("no fuel"))
    Result.EXECUTED
    >>> mach.err
    ValueError('no fuel')
    """

    err: BaseException
    handler: str | None = None
    called: tuple[str, ...] = ()
    states_before: tuple[str, ...] = ()

    @property
    def traceback(self) -> str:
        """The traceback of the error as text, formatted when asked for."""
        return "".join(tb.format_exception(self.err))


class Mutation:
    """A request to change a machine's states, made by a call such as `Machine.add`."""

    __slots__ = (
        "context",
        "error",
        "is_auto",
        "is_check",
        "on_done",
        "outcome",
        "payload",
        "queue_tick",
        "request",
        "source",
    )

    # `Machine` makes most of them, and sets their fields itself, as `new_mutation` does: an `__init__` would double
    # the cost.
    request: Request
    payload: Args | None
    source: Source | None
    """The transition this was made from, or None."""
    is_auto: bool
    """True for the addition of auto states that follows a transition."""
    is_check: bool
    """True for `can_add` and `can_remove`, which change nothing."""
    queue_tick: int
    """The queue tick at which it runs; 0 for one that was prepended."""
    error: ExceptionArgs | None
    context: Context | None
    outcome: Result | None
    on_done: list[Callable[[Result], object]] | None

    @property
    def type(self) -> MutationType:
        """What is asked for: add, remove, or set."""
        return self.request.type

    @property
    def called(self) -> tuple[str, ...]:
        """The names of the states that were asked for, once each."""
        return self.request.names

    @property
    def args(self) -> Mapping[str, Any]:
        """The args as a mapping; empty without args."""
        given = as_mapping(self.payload)
        if self.error is None:
            return given
        return {**given, **{field: getattr(self.error, field) for field in ("err", "handler", "called")}}

    def arg(self, kind: builtins.type[T]) -> T:
        """Give the typed args of this class.

        Raises:
            ArgsError: the mutation carries no instance of it.

        >>> @mach.on.state("Exception")
        ... def tell(e: am.Event) -> None:
        ...     print(repr(e.mutation.arg(am.ExceptionArgs).err))
        >>> mach.add_err(ValueError("no fuel"))
        ValueError('no fuel')
        Result.EXECUTED
        """
        for given in (self.payload, self.error):
            if isinstance(given, kind):
                return given
        has = f"a mapping with {sorted(self.args)}" if isinstance(self.payload, Mapping) else repr(self.payload)
        raise ArgsError(
            f"this mutation carries no {kind.__name__}, but {has}; "
            f"pass it along: mach.{self.type}({list(self.called)}, {kind.__name__}(...))"
        )

    def finish(self, result: Result) -> None:
        """Keep the final result and tell whoever waits for it."""
        self.outcome = result
        if self.on_done is not None:
            callbacks, self.on_done = self.on_done, None
            for callback in callbacks:
                callback(result)

    def when_done(self, callback: Callable[[Result], object]) -> None:
        """Have the final result told to `callback` once it is known."""
        if self.on_done is None:
            self.on_done = []
        self.on_done.append(callback)

    @override
    def __repr__(self) -> str:
        flags = f"{':auto' if self.is_auto else ''}{':check' if self.is_check else ''}"
        return f"<Mutation [{self.type}{flags}] {' '.join(self.called)}>"


def new_mutation(
    request: Request,
    payload: Args | None = None,
    source: Source | None = None,
    *,
    is_auto: bool = False,
) -> Mutation:
    """Make a mutation that is no check."""
    mutation = Mutation()
    mutation.request, mutation.payload, mutation.source = request, payload, source
    mutation.is_auto, mutation.is_check, mutation.queue_tick = is_auto, False, 0
    mutation.error = mutation.context = mutation.outcome = mutation.on_done = None
    return mutation


class Futures(Protocol):
    """Makes futures on the loop a machine is bound to."""

    def new_future(self) -> asyncio.Future[Any]: ...


class Result:
    """What came of a mutation: executed, canceled (with a reason), or queued (to run at a tick of the queue).

    Results compare by kind, queued ones by their tick, so that `match` works. `int()` gives 0, 1 or the tick; `bool()`
    is False for canceled alone. Awaiting a result gives the final one, at once where it is known.

    >>> result = mach.remove1("Foo")
    >>> match result:
    ...     case am.Result.EXECUTED:
    ...         print("gone")
    ...     case am.Result.CANCELED:
    ...         print(result.reason)
    gone
    """

    __slots__ = ("_futures", "_mutation", "_reason", "_tick")

    EXECUTED: ClassVar[Result]
    CANCELED: ClassVar[Result]

    def __init__(
        self,
        tick: int,
        reason: str | Callable[[], str] | None = None,
        mutation: Mutation | None = None,
        futures: Futures | None = None,
    ) -> None:
        self._tick = tick
        self._reason = reason
        self._mutation = mutation
        self._futures = futures

    @property
    def executed(self) -> bool:
        """True if the mutation did what was asked."""
        return self._tick == 0

    @property
    def canceled(self) -> bool:
        """True if relations, a handler or the machine refused it; `reason` says why."""
        return self._tick == 1

    @property
    def queued(self) -> bool:
        """True if it waits in the queue; `await` the result for the final one."""
        return self._tick > 1

    @property
    def tick(self) -> int:
        """The queue tick at which a queued mutation runs (2 or more), else 0."""
        return self._tick if self._tick > 1 else 0

    @property
    def reason(self) -> str | None:
        """Why it was canceled, in words; None unless canceled.

        >>> am.Machine({"Bar": {"require": ["Foo"]}, "Foo": {}}).add1("Bar").reason
        'Bar requires Foo'
        """
        if callable(self._reason):
            self._reason = self._reason()
        return self._reason

    @property
    def mutation(self) -> Mutation | None:
        """The mutation a queued result stands for, else None."""
        return self._mutation

    def __await__(self) -> Generator[Any, None, Result]:
        """Give the final result; waits only while the mutation is queued."""
        mutation = self._mutation
        if mutation is None or self._futures is None:
            return self
        if mutation.outcome is not None:
            return mutation.outcome
        future: asyncio.Future[Result] = self._futures.new_future()
        mutation.when_done(partial(_tell, future))
        return (yield from future)

    @override
    def __eq__(self, other: object) -> bool:
        return self._tick == other._tick if isinstance(other, Result) else NotImplemented

    @override
    def __hash__(self) -> int:
        return hash(self._tick)

    def __bool__(self) -> bool:
        return self._tick != 1

    def __int__(self) -> int:
        return self._tick

    @override
    def __repr__(self) -> str:
        if self._tick > 1:
            return f"<Result queued at {self._tick}>"
        if self._tick == 0:
            return "Result.EXECUTED"
        return f"<Result canceled: {self.reason}>" if self._reason else "Result.CANCELED"

    @override
    def __str__(self) -> str:
        if self._tick > 1:
            return f"queued at {self._tick}"
        if self._tick == 0:
            return "executed"
        return f"canceled: {self.reason}" if self._reason else "canceled"


def _tell(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


Result.EXECUTED = EXECUTED = Result(0)
Result.CANCELED = Result(1)
