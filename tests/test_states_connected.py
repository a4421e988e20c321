"""Connections as states: made, tried again, lost, made anew and ended, and none is left open."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio._backends._asyncio import CancelScope
from conftest import turns

import asyncmachine as am
from asyncmachine.states import BasicStates, ConnectedArgs, ConnectedStates, Connector

S = ConnectedStates


class Network:
    """Hands out connections, numbers from 1 on, and knows which of them are open."""

    def __init__(self) -> None:
        self.made = 0
        self.open: set[int] = set()
        self.failures: list[Exception] = []
        """What the next attempts fail with."""
        self.attempts = 0
        self.before: Callable[[], Any] | None = None
        """Awaited before a connection is made."""
        self.at_end: Callable[[], Any] | None = None
        """Awaited before a connection is ended."""

    async def connect(self) -> int:
        self.attempts += 1
        await (asyncio.sleep(0) if self.before is None else self.before())
        if self.failures:
            raise self.failures.pop(0)
        self.made += 1
        self.open.add(self.made)
        return self.made

    async def disconnect(self, connection: int) -> None:
        if self.at_end is not None:
            await self.at_end()
        self.open.remove(connection)  # fails for what was ended before


def connector(network: Network, **options: Any) -> Connector[int]:
    waits = {"wait_initial": 0, "wait_max": 0, "wait_jitter": 0, "attempts": 3}
    return Connector(network.connect, network.disconnect, **{**waits, **options})


class ClientStates(BasicStates, ConnectedStates):
    """A client, with states of its own."""

    Ready: str = am.state(extend=True, auto=True, require=[S.Connected])
    Veto: str = am.state()


class Client:
    """A machine with its network and its connector."""

    def __init__(self, *, schema: am.SchemaLike = ClientStates, machine: Any = None, **options: Any) -> None:
        self.network = Network()
        self.connector = connector(self.network, **options)
        self.errors: list[BaseException] = []
        self.machine = am.Machine(schema, handlers=self.connector, **(machine or {}))
        self.machine.bind_handlers({"ExceptionState": lambda e: self.errors.append(e.arg(am.ExceptionArgs).err)})

    @property
    def state(self) -> str | None:
        """The one state of the connection that is active."""
        (active,) = self.machine.active_states(ClientStates.Connection)
        return active

    async def connected(self) -> None:
        await asyncio.wait_for(self.machine.when_next_active("Connected"), 10)


@pytest.fixture(autouse=True)
def _in_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call drain the queue, however long that takes: a loaded computer may leave some of it to the task."""
    monkeypatch.setattr("asyncmachine.actor.BUDGET", math.inf)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log of the retries out of the way."""
    logger = logging.getLogger("stamina")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    client.network.at_end = None
    await client.machine.dispose()
    assert client.network.open == set()
    assert client.machine.statistics().work == 0


# The states alone.


def test_at_most_one_state_of_the_connection_is_active_and_one_always_once_something_happened() -> None:
    machine = am.Machine(ConnectedStates)
    machine.add1("Start")
    for state in [*S.Connection, *reversed(S.Connection), S.Connected, S.Disconnecting, S.Connecting]:
        machine.add1(state)
        assert machine.active_states(S.Connection) == (state,)
    for state in S.Connection[:-1]:
        machine.add1(state)
        machine.remove1(state)
        assert machine.active_states(S.Connection) == ("Disconnected",)


@pytest.mark.parametrize("state", ["Connecting", "Connected"])
def test_there_is_no_connection_without_start(state: str) -> None:
    machine = am.Machine(ConnectedStates)
    assert machine.add1(state).reason == f"{state} requires Start"


@pytest.mark.parametrize("state", ["ErrConnecting", "ErrNetwork"])
def test_errors_of_the_connection_come_with_exception(state: str) -> None:
    machine = am.Machine(ConnectedStates, handlers={"ExceptionState": lambda e: None})
    machine.add1(state)
    assert machine.is_(state, "Exception")
    machine.remove1("Exception")
    assert machine.not1(state)


def test_a_connection_that_cannot_be_made_is_not_being_made_any_more() -> None:
    machine = am.Machine(ConnectedStates, handlers={"ExceptionState": lambda e: None})
    machine.add(["Start", "Connecting"])
    machine.add_err_state("ErrConnecting", OSError("no"))
    assert machine.is_("Disconnected", "ErrConnecting")
    machine.add1("Connecting")
    assert machine.not1("ErrConnecting")


# Connecting.


async def test_start_connects_and_the_connection_is_in_the_args(client: Client) -> None:
    args = client.machine.when_args("Connected")
    client.machine.add1("Start")
    assert client.state == "Connecting"
    assert await args == {"connection": 1}
    assert client.connector.connection == 1
    assert client.machine.is_("Connected", "Ready")
    assert client.network.open == {1}


async def test_start_connects_also_when_disconnected_was_there_before(client: Client) -> None:
    client.machine.add1("Heartbeat")
    client.machine.add1("Disconnected")
    client.machine.add1("Start")
    await client.connected()


@pytest.mark.parametrize("failures", [0, 2, 3])
async def test_a_connect_that_never_waits_is_no_exception(client: Client, failures: int) -> None:
    client.network.before = lambda: turns(0)
    client.network.failures = [OSError("no")] * failures
    client.machine.add1("Start")
    await asyncio.wait_for(client.machine.when1("Disconnected" if failures == 3 else "Connected"), 10)
    await turns()
    assert client.network.open == (set() if failures == 3 else {1})
    assert client.machine.is1("ErrConnecting") == (failures == 3)


async def test_without_reconnect_one_has_to_ask() -> None:
    client = Client(reconnect=False)
    client.machine.add1("Start")
    await turns()
    assert client.state == "Disconnected"
    client.machine.add1("Connecting")
    await client.connected()
    client.machine.remove1("Connected")
    await turns()
    assert client.state == "Disconnected"
    assert client.network.open == set()
    await client.machine.dispose()


async def test_failed_attempts_are_made_again(client: Client) -> None:
    client.network.failures = [ConnectionRefusedError("1"), TimeoutError("2")]
    client.machine.add1("Start")
    await client.connected()
    assert client.network.attempts == 3
    assert client.errors == []


async def test_when_all_attempts_have_failed_that_is_an_error_and_all_is_left_until_asked_again(client: Client) -> None:
    last = ConnectionRefusedError("3")
    client.network.failures = [ConnectionRefusedError("1"), ConnectionRefusedError("2"), last]
    client.machine.add1("Start")
    await client.machine.when("ErrConnecting", "Exception", "Disconnected")
    await turns()
    assert client.machine.err is last
    assert client.network.attempts == 3
    client.machine.add1("Connecting")
    assert client.machine.not1("ErrConnecting")
    await client.connected()
    assert client.errors == [last]


async def test_after_all_attempts_have_failed_a_new_start_connects_again(client: Client) -> None:
    client.network.failures = [OSError("no")] * 3
    client.machine.add1("Start")
    await client.machine.when("ErrConnecting", "Disconnected")
    client.machine.remove1("Start")
    client.machine.add1("Start")
    await client.connected()


@pytest.mark.parametrize(
    ("on", "attempts"), [(OSError, 1), (KeyError, 3), ((OSError, KeyError), 3), (lambda err: "1" in err.args, 2)]
)
async def test_which_errors_are_worth_another_attempt_can_be_said(on: Any, attempts: int) -> None:
    client = Client(on=on)
    client.network.failures = [KeyError(str(number)) for number in range(1, 4)]
    client.machine.add1("Start")
    await client.machine.when("ErrConnecting", "Disconnected")
    assert client.network.attempts == attempts
    assert isinstance(client.machine.err, KeyError)
    await client.machine.dispose()


async def test_leaving_connecting_cancels_the_attempt(client: Client) -> None:
    cancelled = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.append(client.state)
            raise

    client.network.before = forever
    client.machine.add1("Start")
    await turns()
    client.machine.remove1("Connecting")
    await turns()
    assert cancelled == ["Disconnected"]
    assert client.state == "Disconnected"
    assert client.errors == []
    assert client.machine.statistics().work == 0


async def test_leaving_connecting_cancels_the_wait_between_attempts() -> None:
    client = Client(wait_initial=3600, wait_max=3600)
    client.network.failures = [OSError("no")]
    client.machine.add1("Start")
    await turns()
    assert client.network.attempts == 1
    client.machine.remove1("Connecting")
    await turns()
    assert client.machine.statistics().work == 0
    await client.machine.dispose()


async def test_a_connection_made_just_as_connecting_is_left_is_ended(client: Client) -> None:
    async def too_late() -> None:
        client.machine.remove1("Connecting")  # and nothing after this waits

    client.network.before = too_late
    client.machine.add1("Start")
    await turns()
    assert (client.network.made, client.network.open) == (1, set())
    assert client.state == "Disconnected"


async def test_a_connection_made_while_the_removal_of_connecting_waits_is_ended(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", -1.0)

    async def busy() -> None:
        assert client.machine.remove1("Connecting").queued

    client.network.before = busy
    client.machine.add1("Start")
    await asyncio.wait_for(client.machine.when_time1("Connecting", 2), 10)
    await turns(20)  # one for each mutation, and those that follow
    assert (client.network.made, client.network.open) == (1, set())
    assert client.machine.tick("Connected") == 0


async def test_a_connection_made_in_spite_of_being_cancelled_is_ended_also_while_the_next_is_made(
    client: Client,
) -> None:
    gate = asyncio.Event()

    async def stubborn() -> None:
        client.network.before = None
        with anyio.CancelScope(shield=True):
            await gate.wait()

    client.network.before = stubborn
    client.machine.add1("Start")
    await turns()
    client.machine.remove1("Connecting")
    client.machine.add1("Connecting")
    await client.connected()
    gate.set()
    await turns()
    assert client.network.made == 2
    assert client.network.open == {1}
    assert client.connector.connection == 1


async def test_an_error_of_cleaning_up_after_leaving_connecting_is_an_error_but_not_of_the_connection(
    client: Client,
) -> None:
    async def fails_late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("late")

    client.network.before = fails_late
    client.machine.add1("Start")
    await turns()
    client.machine.remove1("Connecting")
    await turns()
    assert isinstance(client.machine.err, KeyError)
    assert client.machine.not1("ErrConnecting")


async def test_a_machine_that_refuses_to_be_connected_has_an_error_and_no_connection(client: Client) -> None:
    client.machine.bind_handlers({"ConnectedEnter": lambda e: False}, id="veto")
    client.machine.add1("Start")
    await client.machine.when("ErrConnecting", "Disconnected")
    await turns()
    assert str(client.machine.err) == (
        "the connection was made, but the machine refused it: vetoed by ConnectedEnter of veto"
    )
    assert (client.network.made, client.network.open) == (1, set())


@pytest.mark.parametrize("raise_errors", [False, True])
async def test_a_connection_whose_handler_failed_is_ended_and_not_made_again(raise_errors: bool) -> None:  # noqa: FBT001
    client = Client(machine={"raise_errors": raise_errors})
    client.machine.bind_handlers({"ConnectedState": lambda e: 1 / 0})
    client.machine.add1("Start")
    await client.machine.when("Exception", "Disconnected")
    await turns()
    assert isinstance(client.machine.err, ZeroDivisionError)
    assert (client.network.made, client.network.open, client.state) == (1, set(), "Disconnected")
    await client.machine.dispose()


# Being connected.


@pytest.mark.parametrize(
    "lose",
    [
        lambda machine: machine.remove1("Connected"),
        lambda machine: machine.add1("Disconnected"),
        lambda machine: machine.add_err_state("ErrNetwork", OSError("broken")),
    ],
    ids=["Connected is removed", "Disconnected is added", "ErrNetwork is added"],
)
async def test_a_lost_connection_is_ended_and_made_again(client: Client, lose: Callable[[am.Machine], Any]) -> None:
    client.machine.add1("Start")
    await client.connected()
    lose(client.machine)
    assert client.connector.connection is None
    assert client.state == "Connecting"
    await client.connected()
    await turns()
    assert client.network.open == {2}
    assert client.machine.not1("ErrNetwork")


async def test_a_network_error_while_connecting_changes_nothing(client: Client) -> None:
    client.machine.add1("Start")
    client.machine.add_err_state("ErrNetwork", OSError("broken"))
    assert client.state == "Connecting"
    await client.connected()
    assert client.machine.not1("ErrNetwork")
    assert client.machine.is1("Exception")


async def test_a_connection_that_is_lost_in_the_transition_it_came_with_is_made_again(client: Client) -> None:
    once = [True]
    client.machine.bind_handlers({"ConnectedState": lambda e: once and once.pop() and e.machine.remove1("Connected")})
    client.machine.add1("Start")
    await asyncio.wait_for(client.machine.when_time1("Connected", 3), 10)
    await turns()
    assert (client.network.made, client.network.open) == (2, {2})


async def test_while_connected_nothing_runs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.machine.add1("Start")
    await client.connected()
    await turns()
    deliver, told = CancelScope._deliver_cancellation, []
    monkeypatch.setattr(CancelScope, "_deliver_cancellation", lambda *args: told.append(args) or deliver(*args))
    await turns()  # in each of them, the cancelled scope of Connecting would tell its task, if that were in it still
    assert told == []


async def test_a_failing_end_of_another_state_does_not_lose_the_connection(client: Client) -> None:
    client.machine.add1("Start")
    await client.connected()
    client.machine.bind_handlers({"StartEnd": lambda e: 1 / 0, "ReadyEnd": lambda e: 1 / 0})
    client.machine.remove1("Start")
    await turns()
    assert client.network.open == set()


async def test_connected_is_not_entered_without_a_connection(client: Client) -> None:
    client.machine.add1("Start")
    client.machine.remove1("Connecting")
    assert client.machine.can_add1("Connected").executed
    assert client.machine.add1("Connected").canceled
    assert isinstance(client.machine.err, am.ArgsError)


async def test_a_connection_of_somebody_else_is_left_to_them(client: Client) -> None:
    client.machine.add1("Start")
    await client.connected()
    client.machine.remove1("Connected")
    client.machine.add1("Connected", ConnectedArgs(77))
    assert client.connector.connection == 77
    await turns()
    assert client.network.open == set()
    client.machine.add1("Disconnecting")
    assert client.state == "Disconnected"


async def test_a_connection_replaced_before_its_maker_is_told_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncmachine.actor.BUDGET", -1.0)
    client = Client(reconnect=False)

    def replace(e: am.Event) -> None:
        if e.arg(ConnectedArgs).connection == 1:
            e.machine.remove1("Connected")
            e.machine.add1("Connected", ConnectedArgs(77))

    client.machine.bind_handlers({"ConnectedState": replace})
    client.machine.add(["Start", "Connecting"])
    await client.machine.when_args("Connected", {"connection": 77})
    await turns()
    assert client.network.open == set()
    assert client.connector.connection == 77
    await client.machine.dispose()


# Disconnecting.


async def test_disconnecting_ends_the_connection_and_then_is_disconnected(client: Client) -> None:
    gate = asyncio.Event()
    client.network.at_end = gate.wait
    client.machine.add1("Start")
    await client.connected()
    client.machine.add1("Disconnecting")
    await turns()
    assert client.state == "Disconnecting"
    assert client.connector.connection is None
    gate.set()
    await client.machine.when1("Disconnected")
    await turns()
    assert (client.network.attempts, client.network.open) == (1, set())


async def test_disconnecting_while_connecting_gives_up(client: Client) -> None:
    client.network.before = anyio.sleep_forever
    client.machine.add1("Start")
    await turns()
    client.machine.add1("Disconnecting")
    assert client.state == "Disconnected"
    await turns()
    assert client.network.attempts == 1


async def test_after_disconnecting_one_can_connect_again(client: Client) -> None:
    client.machine.add1("Start")
    await client.connected()
    client.machine.add1("Disconnecting")
    await client.machine.when1("Disconnected")
    client.machine.add1("Connecting")
    await client.connected()
    assert client.network.open == {2}


async def test_a_failing_disconnect_is_an_error_and_ends_in_disconnected_all_the_same(client: Client) -> None:
    async def fails() -> None:
        client.network.open.clear()
        raise ConnectionResetError("gone")

    client.network.at_end = fails
    client.machine.add1("Start")
    await client.connected()
    client.machine.add1("Disconnecting")
    await client.machine.when1("Disconnected")
    await turns()
    assert isinstance(client.machine.err, ConnectionResetError)


async def test_a_disconnect_that_takes_too_long_is_an_error() -> None:
    client = Client(disconnect_timeout=0.001)
    client.network.at_end = anyio.sleep_forever
    client.machine.add1("Start")
    await client.connected()
    client.machine.add1("Disconnecting")
    await client.machine.when1("Disconnected")
    await turns()
    assert str(client.machine.err) == "disconnect took longer than 0.001 s, its disconnect_timeout"
    await client.machine.dispose()


async def test_removing_start_ends_the_connection(client: Client) -> None:
    client.machine.add1("Start")
    await client.connected()
    client.machine.remove1("Start")
    await turns()
    assert (client.network.open, client.state) == (set(), "Disconnected")


@pytest.mark.parametrize("wait", [0, 1, 5])
async def test_disposal_ends_the_connection_however_far_it_has_come(wait: int) -> None:
    client = Client()
    client.network.at_end = lambda: turns(3)
    client.machine.add1("Start")
    await turns(wait)
    await client.machine.dispose()
    assert client.network.open == set()
    assert client.machine.statistics().work == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


# A server that comes and goes.


class Server:
    """A TCP server on a port of its own, which may be stopped and started again."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        while line := await reader.readline():
            writer.write(line.upper())
        self._writers.discard(writer)
        writer.close()

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await turns()
        await self._server.wait_closed()


async def test_a_server_that_comes_and_goes() -> None:
    server = Server()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", server.port)

    async def disconnect(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        connection[1].close()
        await connection[1].wait_closed()

    waits = {"wait_initial": 0.001, "wait_max": 0.001, "wait_jitter": 0.0}
    connector = Connector(connect, disconnect, attempts=None, timeout=None, **waits)
    machine = am.Machine(ConnectedStates, handlers=connector)

    @machine.on.state("Connected")
    async def listen(e: am.Event) -> None:
        reader, writer = e.arg(ConnectedArgs).connection
        writer.write(b"hello\n")
        answers.append(await reader.readline())
        e.machine.add1("Answered")
        await reader.read()
        e.machine.add1("Disconnected")  # the other side has gone

    machine.set_schema(machine.schema.merge({"Answered": {"multi": True}}))
    answers: list[bytes] = []
    await server.start()
    async with machine:
        for round_ in (1, 2, 3):
            answered = machine.when_next_active("Answered")
            machine.add1("Start")
            await asyncio.wait_for(answered, 60)
            assert answers == [b"HELLO\n"] * round_
            lost = machine.when_not1("Connected")
            await server.stop()
            await asyncio.wait_for(lost, 60)
            assert machine.is1("Connecting")
            await server.start()
        answered = machine.when_next_active("Answered")
        await asyncio.wait_for(answered, 60)
    await server.stop()
    assert machine.err is None


# What is needed, and what is refused.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"attempts": 0}, "attempts is 1 or more, not 0"),
        ({"timeout": -1}, "timeout is 0 or more, not -1"),
        ({"wait_initial": -0.5}, "wait_initial is 0 or more, not -0.5"),
        ({"wait_max": float("nan")}, "wait_max is 0 or more, not nan"),
        ({"wait_jitter": -1}, "wait_jitter is 0 or more, not -1"),
        ({"wait_exp_base": 0.5}, "wait_exp_base is 1 or more, not 0.5"),
        ({"disconnect_timeout": -1}, "disconnect_timeout is 0 or more, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        connector(Network(), **options)


@pytest.mark.parametrize("name", ["connect", "disconnect"])
def test_what_is_no_function_is_refused(name: str) -> None:
    functions: dict[str, Any] = {"connect": anyio.sleep, "disconnect": anyio.sleep, name: 5}
    with pytest.raises(TypeError, match=f"^{name} is a function that can be awaited when it is called, not 5$"):
        Connector(**functions)


def test_a_coroutine_in_place_of_a_function_is_refused_and_closed() -> None:
    given: Any = anyio.lowlevel.checkpoint()
    with pytest.raises(TypeError, match="connect is a function that can be awaited when it is called, not <coroutine"):
        Connector(given, anyio.sleep)
    assert inspect.getcoroutinestate(given) == inspect.CORO_CLOSED


def test_a_machine_without_these_states_is_refused() -> None:
    with pytest.raises(am.HandlerError, match="fits no state"):
        am.Machine(BasicStates, handlers=connector(Network()))


def test_without_stamina_only_building_a_connector_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "stamina", None)
    with pytest.raises(ImportError, match=r"not installed; pip install stamina$") as caught:
        connector(Network())
    assert caught.value.name == "stamina"


def test_importing_the_states_does_not_import_stamina() -> None:
    code = "import sys, asyncmachine.states; sys.exit('stamina' in sys.modules)"
    path = ":".join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False)  # noqa: S603 - ours
    assert done.returncode == 0
