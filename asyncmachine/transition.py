"""The transition: the record of a mutation that is being carried out, and of what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from typing_extensions import override

from asyncmachine.clock import Time, TimeIndex
from asyncmachine.mutation import Mutation, Source
from asyncmachine.plans import Call, Plan, Trail
from asyncmachine.requests import MutationType

__all__ = ["Step", "StepType", "Transition", "transition_id"]


class StepType(StrEnum):
    """What a step of a transition did."""

    CALLED = "called"
    RELATION = "relation"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    HANDLER = "handler"
    CANCEL = "cancel"


class Step(NamedTuple):
    """One step of a transition: a state that was called, a relation at work, a handler that was called.

    Args:
        type: what happened.
        state: the state it happened to.
        other: the state that caused it, for a relation.
        relation: require, add or remove, for a relation.
        handler: the handler's name, for a handler.
    """

    type: StepType
    state: str
    other: str = ""
    relation: str = ""
    handler: str = ""


def transition_id(machine_tick: int, number: int) -> str:
    """Give the id of the transition of this number."""
    return f"{machine_tick}.{number}"


M = TypeVar("M", bound="Owner")


class Owner(Protocol):
    """What a transition needs to know of its machine."""

    @property
    def id(self) -> str: ...


class Transition(Generic[M]):
    """One mutation being carried out, or the record of it: what was asked, what came of it, when.

    `machine.transition` and `event.transition` give it inside a handler, tracers get it at each of its phases.
    """

    __slots__ = (
        "at",
        "committed",
        "depth",
        "is_accepted",
        "is_completed",
        "machine",
        "mutation",
        "number",
        "place",
        "plan",
        "rolled_back",
        "trail",
    )

    # The executor makes transitions and sets their fields, which an `__init__` would make half as costly again.
    machine: M
    mutation: Mutation
    plan: Plan
    is_accepted: bool
    """False once relations, a veto or an error canceled it."""
    is_completed: bool
    """True when all of its handlers are done."""
    committed: bool
    """True once the clocks have moved."""
    at: Call | None
    """The call being made, or made last."""
    rolled_back: tuple[int, ...]
    """States deactivated again, because a final handler failed."""
    trail: Trail
    """The way of the clock it is on. Not the ticks themselves, for most often nobody asks for them."""
    place: int
    """Where on it this transition stands."""
    depth: int
    """In how many transitions of other machines it runs."""
    number: int
    """The how-many-eth transition of its machine it is."""

    @property
    def id(self) -> str:
        """The transition's id, unique among those of its machine, also after the machine is restored."""
        return transition_id(self.trail.machine_tick, self.number)

    def as_source(self) -> Source:
        """Give this transition as the source of another mutation.

        >>> door = am.Machine({"Open": {}}, id="door")
        >>> @door.on.state("Open")
        ... def tell(e: am.Event) -> None:
        ...     print(e.transition.as_source())
        >>> door.add1("Open")
        Source(machine_id='door', transition_id='1.1', machine_time=0)
        Result.EXECUTED
        """
        return Source(self.machine.id, self.id, self.trail.total_at(self.place))

    @property
    def type(self) -> MutationType:
        """What was asked for."""
        return self.mutation.request.type

    @property
    def args(self) -> Mapping[str, Any]:
        """The mutation's args, as a mapping."""
        return self.mutation.args

    @property
    def is_auto(self) -> bool:
        """True for the addition of auto states."""
        return self.mutation.is_auto

    @property
    def called_states(self) -> tuple[str, ...]:
        """The states that were asked for."""
        return self.mutation.request.names

    @property
    def states_before(self) -> tuple[str, ...]:
        """The states active before, in their order."""
        return self._names(self.plan.before.states)

    @property
    def target_states(self) -> tuple[str, ...]:
        """The states to be active after, in their order, as relations have it."""
        return self._names(self.plan.after.states)

    @property
    def enters(self) -> tuple[str, ...]:
        """The states that are activated, or activated anew, if no handler objects; none if relations refuse."""
        return self._names(self.plan.enters) if self.plan.accepts(self.mutation) else ()

    @property
    def exits(self) -> tuple[str, ...]:
        """The states that are deactivated, if no handler objects; none if relations refuse."""
        return self._names(self.plan.exits) if self.plan.accepts(self.mutation) else ()

    @property
    def time_before(self) -> Time:
        """The machine's time before."""
        return Time(self.trail.ticks_at(self.place))

    @property
    def time_after(self) -> Time:
        """The machine's time after: as planned while it runs, as it came about once it is completed."""
        if not self.committed and (self.is_completed or not self.is_accepted or self.mutation.is_check):
            return self.time_before
        ticks = list(self.time_before)
        for i in (*self.plan.changes, *self.rolled_back):
            ticks[i] += 1
        return Time(ticks)

    @property
    def time_index_before(self) -> TimeIndex:
        """The time before, by name."""
        return TimeIndex(self.plan.planner.names, self.time_before)

    @property
    def time_index_after(self) -> TimeIndex:
        """The time after, by name."""
        return TimeIndex(self.plan.planner.names, self.time_after)

    @property
    def time_index_called(self) -> TimeIndex:
        """The called states as the active ones of an index."""
        return TimeIndex.of_active(self.plan.planner.names, self.called_states)

    @property
    def time_index_touched(self) -> TimeIndex:
        """The states that any step touched as the active ones of an index."""
        touched = {name for step in self.steps for name in (step.state, step.other)}
        return TimeIndex.of_active(self.plan.planner.names, touched)

    @property
    def time_index_time_diff(self) -> TimeIndex:
        """The states that ticked as the active ones of an index."""
        diff = self.time_after.diff_since(self.time_before)
        return TimeIndex(self.plan.planner.names, [int(by != 0) for by in diff])

    def time_index_diff(self) -> tuple[TimeIndex, TimeIndex]:
        """Give the states added (multi states activated anew, too) and those removed, each as an index.

        >>> @mach.on.state("Bar")
        ... def tell(e: am.Event) -> None:
        ...     added, removed = e.transition.time_index_diff()
        ...     print(added.is1("Bar"), removed.is1("Foo"))
        >>> mach.add1("Foo"), mach.set("Bar")
        True True
        (Result.EXECUTED, Result.EXECUTED)
        """
        names, before, after = self.plan.planner.names, self.time_before, self.time_after
        ticked = after.diff_since(before).non_zero_states()
        added = [names[i] for i in ticked if after.is1(i)]
        removed = [names[i] for i in ticked if after.not1(i) and before.is1(i)]
        return TimeIndex.of_active(names, added), TimeIndex.of_active(names, removed)

    @property
    def steps(self) -> list[Step]:
        """What was done so far: states called, relations at work, handlers called. Worked out when asked for."""
        plan, names = self.plan, self.plan.planner.names
        steps = [Step(StepType.CALLED, name) for name in self.called_states]
        for relation, state, other in ((s.relation, s.state, s.other) for s in plan.relation_steps()):
            steps.append(Step(StepType.RELATION, names[state], names[other], relation))
        if not plan.accepts(self.mutation):
            return steps + [Step(StepType.CANCEL, names[i]) for i in plan.missing]
        steps += [Step(StepType.ACTIVATE, names[i]) for i in plan.enters]
        steps += [Step(StepType.DEACTIVATE, names[i]) for i in plan.exits]
        for call in (*plan.negotiation, *plan.finals) if self.at else ():
            steps.append(Step(StepType.HANDLER, call.about, handler=call.name))
            if call is self.at:
                break
        if not self.is_accepted:
            steps.append(Step(StepType.CANCEL, steps[-1].state, handler=steps[-1].handler))
        return steps

    def _names(self, states: Iterable[int]) -> tuple[str, ...]:
        names = self.plan.planner.names
        return tuple([names[i] for i in states])

    @override
    def __repr__(self) -> str:
        mark = "" if self.is_accepted else " canceled"
        return f"<Transition {self.id} [{self.type}] {' '.join(self.called_states)}{mark}>"
