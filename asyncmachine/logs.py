"""The text log: a tracer that writes what a machine does, in the lines users of asyncmachine know.

Lines go to the standard `logging`, to the logger `asyncmachine.<id>`: changes and lines of your own at INFO, all that
is finer at DEBUG, errors nobody handles at ERROR.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, TypeAlias

from typing_extensions import override

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.mutation import Mutation
from asyncmachine.requests import Request
from asyncmachine.transition import StepType, Transition

__all__ = ["LogArgs", "LogLevel", "TextLog"]

LogArgs: TypeAlias = Iterable[str] | Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Which args are shown in the log: their names, or a function from the args to what is to be shown."""

MAX_VALUE = 20
"""How many characters of an arg's value are shown."""


class LogLevel(IntEnum):
    """How much a machine logs; each level has all of those before it."""

    NOTHING = 0
    EXTERNAL = 1
    """Lines of your own, by `Machine.log`."""
    CHANGES = 2
    """State changes and errors."""
    OPS = 3
    """Mutations, handlers, vetoes."""
    DECISIONS = 4
    """What relations did, and why."""
    EVERYTHING = 5
    """Also checks, and what did not change."""

    @classmethod
    def of(cls, level: LogLevel | int | str | None) -> LogLevel:
        """Read a level by name or number; None is NOTHING.

        >>> am.LogLevel.of("changes")
        <LogLevel.CHANGES: 2>
        """
        if isinstance(level, str):
            try:
                return cls[level.upper()]
            except KeyError:
                names = ", ".join(name.lower() for name in cls.__members__)
                raise ValueError(f"{level!r} is no log level; use one of {names}") from None
        return cls(level or 0)


class TextLog(Tracer):
    """Writes the lines of one machine.

    Args:
        logger: where to.
        level: how much.
        args: which args are shown.
    """

    def __init__(self, logger: logging.Logger, level: LogLevel, args: LogArgs | None) -> None:
        self._logger = logger
        self.level = level
        if isinstance(args, str):
            args = (args,)
        self._args = args if args is None or callable(args) else tuple(args)

    def write(self, level: LogLevel, message: str, *details: object) -> None:
        """Write a line, if the machine logs that much."""
        if self.level >= level:
            self._logger.log(logging.INFO if level <= LogLevel.CHANGES else logging.DEBUG, message, *details)

    def skipped(self, request: Request) -> None:
        """Write that a mutation was not queued, because an equal one waits."""
        self.write(LogLevel.OPS, "[queue:skipped] %s is queued already: %s", request.type, " ".join(request.names))

    @override
    def mutation_queued(self, machine: MachineApi, mutation: Mutation) -> None:
        if machine.transition is not None:
            label = f"queue:{mutation.type}" if mutation.queue_tick else f"prepend:{mutation.type}"
            self.write(_ops(mutation), "[%s] %s%s", label, " ".join(mutation.called), self._shown(mutation))

    @override
    def transition_init(self, transition: Transition[Any]) -> None:
        mutation = transition.mutation
        called, shown = " ".join(mutation.called), self._shown(mutation)
        if mutation.is_check:
            self.write(LogLevel.EVERYTHING, "[check:%s] %s%s", mutation.type, called, shown)
        elif mutation.is_auto:
            self.write(LogLevel.OPS, "[auto] %s", called)
        else:
            self.write(LogLevel.OPS, "[%s] %s%s", mutation.type, called, shown)
        source = mutation.source
        if source is not None:
            where = (source.machine_id, source.transition_id, source.machine_time)
            self.write(_ops(mutation), "[source] %s/%s/%s", *where)
        if self.level >= max(LogLevel.DECISIONS, _ops(mutation)):
            self._write_relations(transition)
        plan = transition.plan
        if plan.missing and not plan.accepts(mutation):
            names = plan.planner.names
            self.write(_ops(mutation), "[cancel:reject] %s", " ".join(names[i] for i in plan.missing))

    def _write_relations(self, transition: Transition[Any]) -> None:
        for step in transition.steps:
            if step.type is not StepType.RELATION:
                continue
            if step.relation == "require":
                self.write(LogLevel.DECISIONS, "[reject] %s(-%s)", step.state, step.other)
            else:
                self.write(LogLevel.DECISIONS, "[rel:%s] %s by %s", step.relation, step.state, step.other)

    @override
    def transition_finals(self, transition: Transition[Any]) -> None:
        plan = transition.plan
        names = plan.planner.names
        parts = [f"+{names[i]}" for i in plan.enters] + [f"-{names[i]}" for i in plan.exits]
        if self.level >= LogLevel.EVERYTHING:
            parts += [names[i] for i in plan.after.states if i not in plan.enters]
        if parts:
            label = "auto_" if transition.is_auto else "state"
            self.write(LogLevel.CHANGES, "[%s] %s%s", label, " ".join(parts), self._shown(transition.mutation))

    @override
    def handler_start(self, transition: Transition[Any], binding: str, handler: str) -> None:
        self.write(LogLevel.OPS, "[handler] %s", handler)

    @override
    def transition_end(self, transition: Transition[Any]) -> None:
        if transition.is_accepted or transition.at is None:
            return  # what relations refused was said at the start
        target, by = " ".join(transition.target_states), transition.at.name
        self.write(_ops(transition.mutation), "[cancel] (%s) by %s", target, by)
        if transition.rolled_back:
            names = transition.plan.planner.names
            undone = " ".join(f"-{names[i]}" for i in transition.rolled_back)
            self.write(LogLevel.CHANGES, "[state] %s", undone)

    @override
    def handler_end(self, transition: Transition[Any], binding: str, handler: str) -> None:
        self.write(LogLevel.EVERYTHING, "[handler:end] %s of %s", handler, binding)

    def _shown(self, mutation: Mutation) -> str:
        """Give the args that are to be shown, as ` (id=1 name=foo)`."""
        if self._args is None or (mutation.payload is None and mutation.error is None):
            return ""
        args = mutation.args
        wanted = self._args
        chosen = wanted(args) if callable(wanted) else {name: args[name] for name in wanted if name in args}
        shown = " ".join(f"{name}={_cut(str(value))}" for name, value in chosen.items())
        return f" ({shown})" if shown else ""


def _ops(mutation: Mutation) -> LogLevel:
    """Give the level at which a mutation's lines are written: those of checks come last."""
    return LogLevel.EVERYTHING if mutation.is_check else LogLevel.OPS


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
