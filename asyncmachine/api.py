"""`MachineApi`, the surface a local and a remote machine share, and `Tracer`, what watches a machine from outside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from asyncmachine.mutating import MutationApi
from asyncmachine.mutation import Mutation
from asyncmachine.schema import Schema
from asyncmachine.transition import Transition
from asyncmachine.waiting import WaitApi

__all__ = ["MachineApi", "Tracer"]


class MachineApi(WaitApi, MutationApi):
    """All that can be done with a machine without knowing where it runs."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The machine's id."""

    @property
    @abstractmethod
    def parent_id(self) -> str | None:
        """The id of the machine this one is a part of, or None."""

    @property
    @abstractmethod
    def tags(self) -> tuple[str, ...]:
        """Words of your own, given to the machine when it was built."""

    @property
    @abstractmethod
    def machine_tick(self) -> int:
        """How many times the machine was started: 1, and one more for each restore."""

    @property
    @abstractmethod
    def transition(self) -> Transition[Any] | None:
        """The transition that runs now, as seen from its handlers; None between transitions."""

    @property
    @abstractmethod
    def is_disposed(self) -> bool:
        """True once the machine is disposed."""

    @abstractmethod
    def state_ctx(self, state: str) -> AbstractContextManager[Any]:
        """Give a cancel scope that is cancelled when the state flips."""

    @abstractmethod
    def dispose(self) -> Awaitable[None]:
        """End the machine, its children and its work."""

    @abstractmethod
    def bind_handlers(self, handlers: object, *, id: str | None = None, prefix: str = "", strict: bool = True) -> str:
        """Bind an object's handlers."""

    @abstractmethod
    def detach_handlers(self, id: str) -> None:
        """Detach the handlers bound under an id."""

    @property
    @abstractmethod
    def handlers(self) -> tuple[str, ...]:
        """The ids of the bound handlers, in binding order."""

    @abstractmethod
    def bind_tracer(self, tracer: Tracer) -> None:
        """Have a tracer watch the machine."""

    @abstractmethod
    def detach_tracer(self, tracer: Tracer) -> None:
        """Have a tracer watch the machine no longer."""

    @property
    @abstractmethod
    def tracers(self) -> tuple[Tracer, ...]:
        """The tracers that watch the machine."""

    @abstractmethod
    def on_error(self, callback: Callable[[Any, BaseException], object] | None) -> None:
        """Have `callback(mach, err)` called at each error."""

    @abstractmethod
    def on_change(self, callback: Callable[[Any, Any, Any], object] | None) -> None:
        """Have `callback(mach, before, after)` called whenever the clock changed."""

    @abstractmethod
    def on_dispose(self, callback: Callable[[Any], object]) -> Callable[[], object]:
        """Have `callback(mach)` called when the machine is disposed; gives what takes this back."""

    @abstractmethod
    def add_breakpoint(
        self,
        added: Iterable[str] = (),
        removed: Iterable[str] = (),
        *,
        strict: bool = False,
        action: Callable[[], object] | None = None,
    ) -> None:
        """Log the stack of whoever asks for these states."""

    @abstractmethod
    def log(self, message: str, *args: object) -> None:
        """Log a line of your own."""

    @abstractmethod
    def export(self) -> Any:
        """Give what is needed to restore the machine."""


class Tracer:
    """Watches machines. Override what you need; every method does nothing by itself.

    Tracers run inside transitions and must neither block nor change the machine. One that raises is logged and
    detached. `Machine(tracers=[...])` and `bind_tracer` take any number.

    >>> class Recorder(am.Tracer):
    ...     def transition_end(self, transition):
    ...         print(transition.type, *transition.called_states)
    >>> traced = am.Machine({"Foo": {}}, tracers=[Recorder()])
    >>> traced.add1("Foo")
    add Foo
    Result.EXECUTED
    """

    def transition_init(self, transition: Transition[Any]) -> None:
        """Called when relations are resolved, before anything else."""

    def transition_start(self, transition: Transition[Any]) -> None:
        """Called before the negotiation."""

    def transition_finals(self, transition: Transition[Any]) -> None:
        """Called when the clocks have moved, before the final handlers."""

    def transition_end(self, transition: Transition[Any]) -> None:
        """Called when the transition is completed, canceled or not."""

    def mutation_queued(self, machine: MachineApi, mutation: Mutation) -> None:
        """Called when a mutation enters the queue."""

    def handler_start(self, transition: Transition[Any], binding: str, handler: str) -> None:
        """Called before each handler, with the id it is bound under and its name."""

    def handler_end(self, transition: Transition[Any], binding: str, handler: str) -> None:
        """Called after each handler, also one that raised."""

    def machine_init(self, machine: MachineApi) -> None:
        """Called when a machine is built with this tracer."""

    def machine_dispose(self, machine: MachineApi) -> None:
        """Called when the machine is disposed."""

    def new_submachine(self, parent: MachineApi, machine: MachineApi) -> None:
        """Called when a machine is built with a watched one as its parent."""

    def queue_end(self, machine: MachineApi) -> None:
        """Called when the queue is empty."""

    def schema_change(self, machine: MachineApi, old: Schema) -> None:
        """Called when the schema was changed, with the one before."""

    def inheritable(self) -> bool:
        """Tell whether machines built with a watched one as their parent are watched, too."""
        return False
