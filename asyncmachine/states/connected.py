"""A connection as states, and handlers that make it, make it again, and end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio

from asyncmachine.declaring import States, group, state
from asyncmachine.errors import MachineDisposedError, no_function
from asyncmachine.machine import Event, Machine

__all__ = ["ConnectedArgs", "ConnectedStates", "Connector"]

C = TypeVar("C")

RetryOn: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool | float]
"""Which errors are worth another attempt: classes, or a function that gives a bool or the seconds to wait before."""


class ConnectedStates(States):
    """A connection to one other side. At most one of the four states of `Connection` is active.

    Disconnected comes by itself whenever none of the others is left, so removing Connected or Connecting is enough. A
    `Connector` does what the states say; any other handlers may.

    >>> from asyncmachine.states import ConnectedStates
    >>> client = am.Machine(ConnectedStates)
    >>> client.add1("Start"), client.add1("Connecting"), str(client)
    (Result.EXECUTED, Result.EXECUTED, '(Start:1 Connecting:1)')
    >>> client.remove1("Start"), str(client)
    (Result.EXECUTED, '(Disconnected:3)')
    """

    Start: str = state()
    """The machine is to be at work: there is no connection without it."""

    ErrNetwork: str = state(multi=True, add=["Exception"], require=["Exception"])
    """The network has failed. A `Connector` takes the connection for lost."""

    ErrConnecting: str = state(multi=True, add=["Exception"], require=["Exception"], remove=["Connecting"])
    """The connection could not be made. A new attempt removes it."""

    Connecting: str = state(require=[Start], remove=["Connected", "Disconnecting", "Disconnected", ErrConnecting])
    """The connection is being made. Add it to connect; leaving it gives up."""

    Connected: str = state(require=[Start], remove=[Connecting, "Disconnecting", "Disconnected"])
    """The connection is there. With a `Connector`, the args are `ConnectedArgs`."""

    Disconnecting: str = state(remove=[Connecting, Connected, "Disconnected"])
    """The connection is being ended, because somebody asked for it. Add it to disconnect."""

    Disconnected: str = state(auto=True, remove=[Connecting, Connected, Disconnecting])
    """There is no connection. Add it, or remove Connected, to say that the connection is lost."""

    Connection: tuple[str, ...] = group(Connecting, Connected, Disconnecting, Disconnected)


@dataclass(frozen=True, slots=True, eq=False)  # each is one of its own, whatever connections compare by
class ConnectedArgs(Generic[C]):
    """The args of Connected.

    Args:
        connection: what `connect` has given.
    """

    connection: C


class Connector(Generic[C]):
    """Handlers for `ConnectedStates`: connects, retries, disconnects. One for each machine.

    Connecting calls `connect`, and again after a failure, waiting a little longer each time. Then Connected comes, with
    the connection in `ConnectedArgs`; or ErrConnecting, with the last error. Every connection that was made is given to
    `disconnect`, once, when Connected is left in whatever way, or could not be entered any more.

    To say that the connection is lost, remove Connected or add ErrNetwork; to end it, add Disconnecting. When Connected
    is entered again, ErrNetwork is removed; `Exception` is left for you to see to.

    Needs the package stamina: `pip install stamina`, or the extra `states`.

    Args:
        connect: makes a connection.
        disconnect: ends one. Also called for one that is broken.
        reconnect: connect as soon as Start is added, and again when the connection was lost. Not after Disconnecting,
            nor when all attempts have failed, until Connecting is added or Start is added anew.
        on: which errors are worth another attempt: a class, a tuple of them, or a function that gives a bool, or the
            seconds to wait before. Any other is final.
        attempts: how many there are; None for no limit.
        timeout: seconds after which there are no more; None for no limit.
        wait_initial: seconds to wait after the first failure, at least.
        wait_max: seconds to wait at most.
        wait_jitter: seconds at most that chance adds, so that not all clients come back at once.
        wait_exp_base: what the wait is multiplied by each time.
        disconnect_timeout: seconds that `disconnect` may take; None for no limit.

    Raises:
        ImportError: stamina is not installed.
        TypeError: `connect` or `disconnect` is no function, but what one returned, say.
        ValueError: a number is out of its range.

    >>> from asyncmachine.states import ConnectedStates, Connector
    >>> async def main():
    ...     async def connect() -> str:
    ...         return "a connection"
    ...     async def disconnect(connection: str) -> None:
    ...         print("closed", connection)
    ...     connector = Connector(connect, disconnect)
    ...     async with am.Machine(ConnectedStates, handlers=connector) as client:
    ...         client.add1("Start")
    ...         await client.expect("Connected")
    ...         print(connector.connection)
    >>> am.run(main)
    a connection
    closed a connection
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        disconnect: Callable[[C], Awaitable[object]],
        *,
        reconnect: bool = True,
        on: RetryOn = OSError,
        attempts: int | None = 10,
        timeout: float | None = 45.0,
        wait_initial: float = 0.1,
        wait_max: float = 5.0,
        wait_jitter: float = 1.0,
        wait_exp_base: float = 2.0,
        disconnect_timeout: float | None = 1.0,
    ) -> None:
        for name, fn in (("connect", connect), ("disconnect", disconnect)):
            if not callable(fn):
                raise TypeError(no_function(fn, f"{name} is a function that can be awaited when it is called"))
        waits = {"wait_initial": wait_initial, "wait_max": wait_max, "wait_jitter": wait_jitter}
        for name, seconds in {"timeout": timeout, "disconnect_timeout": disconnect_timeout, **waits}.items():
            _check_at_least(0, name, seconds)
        _check_at_least(1, "attempts", attempts)
        _check_at_least(1, "wait_exp_base", wait_exp_base)
        self._stamina: Any = _import_stamina()
        self._connect = connect
        self._disconnect = disconnect
        self._reconnect = reconnect
        self._retry: dict[str, Any] = {"on": on, "attempts": attempts, "timeout": timeout, **waits}
        self._retry["wait_exp_base"] = wait_exp_base
        self._disconnect_timeout = disconnect_timeout
        self._held: tuple[ConnectedArgs[C], int] | None = None
        """What Connected was entered with, and at which tick."""
        self._offers: dict[ConnectedArgs[C], int] = {}
        """What Connected is asked for with, and for which activation of Connecting that was made."""
        self._open = 0
        """How many connections there are that `disconnect` has not ended."""
        self._wanted = False
        """True if Disconnected is to be followed by Connecting."""

    @property
    def connection(self) -> C | None:
        """The connection, while the machine is Connected."""
        return None if self._held is None else self._held[0].connection

    def StartState(self, e: Event) -> None:
        """Connect, if there is to be a connection whenever the machine is started."""
        self._wanted = True
        self._connect_again(e.machine)

    def DisconnectedState(self, e: Event) -> None:
        """Connect again, if the connection was lost."""
        self._connect_again(e.machine)

    def DisconnectingState(self, e: Event) -> None:
        """Be Disconnected once no connection is left."""
        self._wanted = False
        self._settle(e.machine)

    def ErrNetworkState(self, e: Event) -> None:
        """Take the connection for lost."""
        if e.machine.is1(ConnectedStates.Connected):
            e.machine.remove1(ConnectedStates.Connected)

    def ConnectedEnter(self, e: Event) -> bool:
        """Refuse to be connected without a connection, or by one that was made for a Connecting that was left."""
        if e.mutation.is_check:
            return True
        args = cast("ConnectedArgs[C]", e.arg(ConnectedArgs))
        activation = e.machine.tick(ConnectedStates.Connecting)
        return self._offers.get(args, activation) == activation

    def ConnectedState(self, e: Event) -> None:
        """Hold the connection."""
        self._held = e.arg(ConnectedArgs), e.machine.tick(ConnectedStates.Connected)
        if e.machine.is1(ConnectedStates.ErrNetwork):
            e.machine.remove1(ConnectedStates.ErrNetwork)

    def ConnectedEnd(self, e: Event) -> None:  # noqa: ARG002 - handlers take the event
        """Let go of the connection; the work that made it ends it."""
        self._held = None

    async def ConnectingState(self, e: Event) -> None:
        """Make a connection, stay with it while it is used, and end it.

        Leaving Connecting cancels the making. From then on nothing is interrupted: whatever becomes of the machine, the
        one who has made the connection is there to end it.
        """
        machine = e.machine
        activation = machine.tick(ConnectedStates.Connecting)
        self._wanted = False
        try:
            connection = await self._make()
        except Exception as err:
            if machine.tick(ConnectedStates.Connecting) != activation:
                raise  # from the cleaning up after a cancellation
            machine.add_err_state(ConnectedStates.ErrConnecting, err)
            return
        self._open += 1
        with anyio.CancelScope(shield=True):
            try:
                await self._hold(machine, connection, activation)
            finally:
                try:
                    await self._end(connection)
                finally:
                    self._open -= 1
                    self._settle(machine)

    async def _make(self) -> C:
        async for attempt in self._stamina.retry_context(**self._retry):
            with attempt:
                return await self._connect()
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    async def _hold(self, machine: Machine, connection: C, activation: int) -> None:
        """Have the machine connected, and wait until it is not any more.

        If Connecting was left too late for `connect` to be cancelled, or is left before the mutation runs,
        `ConnectedEnter` refuses.
        """
        args = ConnectedArgs(connection)
        self._offers[args] = activation
        try:
            result = await machine.add1(ConnectedStates.Connected, args)
        finally:
            del self._offers[args]
        if result.canceled:
            if machine.tick(ConnectedStates.Connecting) == activation:
                refused = ConnectionError(f"the connection was made, but the machine refused it: {result.reason}")
                machine.add_err_state(ConnectedStates.ErrConnecting, refused)
            return
        self._wanted = True
        self._connect_again(machine)  # it may have been lost in the same breath
        if self._held is not None and self._held[0] is args:
            with suppress(MachineDisposedError):
                await machine.when_time1(ConnectedStates.Connected, self._held[1] + 1)

    async def _end(self, connection: C) -> None:
        with anyio.move_on_after(self._disconnect_timeout) as scope:
            await self._disconnect(connection)
        if scope.cancelled_caught:
            raise TimeoutError(f"disconnect took longer than {self._disconnect_timeout} s, its disconnect_timeout")

    def _connect_again(self, machine: Machine) -> None:
        if self._reconnect and self._wanted and machine.is_(ConnectedStates.Start, ConnectedStates.Disconnected):
            machine.add1(ConnectedStates.Connecting)

    def _settle(self, machine: Machine) -> None:
        if not self._open and machine.is1(ConnectedStates.Disconnecting):
            machine.add1(ConnectedStates.Disconnected)


def _check_at_least(least: float, name: str, value: float | None) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name} is {least} or more, not {value!r}")


def _import_stamina() -> object:
    try:
        import stamina  # noqa: PLC0415 - an optional package, needed by those alone who build a Connector
    except ImportError as err:
        text = "Connector retries by the package stamina, which is not installed; pip install stamina"
        raise ImportError(text, name="stamina") from err
    return stamina
