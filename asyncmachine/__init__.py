"""An asyncio-native state machine.

Many states active at once, relations between them, a logical clock for each, a queue of mutations, handlers found by
name, awaitable subscriptions, and state contexts that cancel a state's work when it is left.

>>> mach = am.Machine({"Foo": {"add": ["Bar"]}, "Bar": {}})
>>> mach.add1("Foo"), str(mach)
(Result.EXECUTED, '(Foo:1 Bar:1)')
"""

from __future__ import annotations

import contextlib

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.clock import (
    Clock,
    Time,
    TimeIndex,
    is_active_tick,
    next_active,
    next_active_in,
    next_inactive,
    next_inactive_in,
)
from asyncmachine.declaring import States, group, state
from asyncmachine.errors import (
    ArgsError,
    AsyncMachineError,
    HandlerError,
    MachineBusyError,
    MachineDisposedError,
    MachineLoopError,
    MachineThreadError,
    SchemaError,
    SnapshotError,
    StateTimeoutError,
    StreamBusyError,
    StreamOverflowError,
    UnknownStateError,
)
from asyncmachine.logs import LogLevel
from asyncmachine.machine import Event, Machine
from asyncmachine.marks import on
from asyncmachine.mutation import ExceptionArgs, Mutation, Result, Source
from asyncmachine.pipes import Pipe, pipe, pipe_err, pipe_many
from asyncmachine.relations import RelationsResolver, RelationStep, Resolver, broken_relations
from asyncmachine.requests import MutationType
from asyncmachine.running import run
from asyncmachine.schema import ANY, EXCEPTION, Schema, SchemaLike, State, StateDict
from asyncmachine.snapshot import Snapshot, Statistics
from asyncmachine.streams import Stream
from asyncmachine.threadsafe import Threadsafe
from asyncmachine.timeouts import TimeoutArgs
from asyncmachine.transition import Step, StepType, Transition
from asyncmachine.waits import expect, wait_all, wait_any
from asyncmachine.watchdog import Watchdog
from asyncmachine.work import Work

__all__ = [
    "ANY",
    "EXCEPTION",
    "ArgsError",
    "AsyncMachineError",
    "Clock",
    "Event",
    "ExceptionArgs",
    "HandlerError",
    "LogLevel",
    "Machine",
    "MachineApi",
    "MachineBusyError",
    "MachineDisposedError",
    "MachineLoopError",
    "MachineThreadError",
    "Mutation",
    "MutationType",
    "Pipe",
    "RelationStep",
    "RelationsResolver",
    "Resolver",
    "Result",
    "Schema",
    "SchemaError",
    "SchemaLike",
    "Snapshot",
    "SnapshotError",
    "Source",
    "State",
    "StateDict",
    "StateTimeoutError",
    "States",
    "Statistics",
    "Step",
    "StepType",
    "Stream",
    "StreamBusyError",
    "StreamOverflowError",
    "Threadsafe",
    "Time",
    "TimeIndex",
    "TimeoutArgs",
    "Tracer",
    "Transition",
    "UnknownStateError",
    "Watchdog",
    "Work",
    "broken_relations",
    "expect",
    "group",
    "is_active_tick",
    "next_active",
    "next_active_in",
    "next_inactive",
    "next_inactive_in",
    "on",
    "pipe",
    "pipe_err",
    "pipe_many",
    "run",
    "state",
    "wait_all",
    "wait_any",
]


def _own(names: list[str]) -> None:
    """Have public names say where users import them from, not where they happen to be defined."""
    for name in names:
        value = globals()[name]
        if getattr(value, "__module__", "").startswith(f"{__name__}."):
            with contextlib.suppress(AttributeError):  # an instance with slots, such as `on`
                value.__module__ = __name__


_own(__all__)
