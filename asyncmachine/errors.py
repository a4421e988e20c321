"""The error tree: everything the package raises derives from `AsyncMachineError`.

Each error says what is wrong, why, and how to mend it, and carries its data as attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from typing_extensions import override

__all__ = [
    "ArgsError",
    "AsyncMachineError",
    "HandlerError",
    "MachineBusyError",
    "MachineDisposedError",
    "MachineLoopError",
    "MachineThreadError",
    "SchemaError",
    "SnapshotError",
    "StateTimeoutError",
    "StreamBusyError",
    "StreamOverflowError",
    "UnknownStateError",
]


class AsyncMachineError(Exception):
    """The base of every error the package raises itself."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between processes; what their classes are called with is not always what their text is.
        return _remake, (type(self), self.args, self.__dict__)


class SchemaError(AsyncMachineError, ValueError):
    """A schema that cannot work, with all of its problems at once.

    >>> try:
    ...     am.Schema({"Foo": {"require": ["Baz"]}, "Bar": {}})
    ... except am.SchemaError as err:
    ...     print(err.problems[0])
    Foo requires 'Baz', which is no state of the schema; did you mean 'Bar'?
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("; ".join(self.problems))


class UnknownStateError(AsyncMachineError, LookupError):
    """A state name the machine's schema does not have.

    >>> mach.add1("Fooo")
    Traceback (most recent call last):
    asyncmachine.UnknownStateError: 'Fooo' is no state of this machine; did you mean 'Foo'?
    """

    def __init__(self, state: str, known: Iterable[str], of: str = "this machine") -> None:
        self.state = state
        super().__init__(f"{state!r} is no state of {of}{did_you_mean(state, known)}")


class HandlerError(AsyncMachineError, TypeError):
    """A handler that could never be called as meant, found when it is bound or answers."""


class ArgsError(AsyncMachineError, TypeError):
    """Args of a kind that cannot be passed, or typed args asked for but not given."""


class MachineThreadError(AsyncMachineError, RuntimeError):
    """A machine was used from a thread that does not own it; use `mach.threadsafe` there."""


class MachineLoopError(AsyncMachineError, RuntimeError):
    """A machine needs a running event loop and has none, or was bound to another one."""


class MachineBusyError(AsyncMachineError, RuntimeError):
    """Something that may not happen while a transition runs was asked for by a handler."""


class MachineDisposedError(AsyncMachineError, RuntimeError):
    """The machine was disposed: what was waited for cannot happen any more, and it can be no parent."""


class SnapshotError(AsyncMachineError, ValueError):
    """A snapshot that does not fit the machine it is restored into."""


class StateTimeoutError(AsyncMachineError, TimeoutError):
    """A state was active for longer than its timeout, and has an error state as its `on_timeout`.

    >>> err = am.StateTimeoutError("Connecting", 2.5)
    >>> str(err), err.state, err.timeout
    ('Connecting was still active after 2.5 s', 'Connecting', 2.5)
    """

    def __init__(self, state: str, timeout: float) -> None:
        self.state: str = state
        self.timeout: float = timeout
        super().__init__(f"{state} was still active after {timeout} s")


class StreamBusyError(AsyncMachineError, RuntimeError):
    """A stream was read by two tasks at once."""


class StreamOverflowError(AsyncMachineError, RuntimeError):
    """A stream that may drop nothing was read too slowly, and has ended."""


def _remake(kind: type[AsyncMachineError], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> AsyncMachineError:
    err = kind.__new__(kind, *args)
    err.args = args  # the system's own errors, such as TimeoutError, take them no sooner than in `__init__`
    err.__dict__.update(attributes)
    return err


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Give `; did you mean 'Foo'?` for the names closest to `name`, or nothing; what is no string is close to none."""
    if not isinstance(name, str):
        return ""
    found = get_close_matches(name, [other for other in known if isinstance(other, str)], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def no_function(given: object, wanted: str) -> str:
    """Give the text of the error about what came in place of a function: most often the coroutine of `fn()`.

    That one is closed, or Python would warn that it was never awaited.
    """
    if inspect.iscoroutine(given):
        given.close()
    return f"{wanted}, not {given!r}"
