"""The states nearly every machine has."""

from __future__ import annotations

from asyncmachine.declaring import States, group, state

__all__ = ["BasicStates"]


class BasicStates(States):
    """Being started, being ready, signs of life, and errors of the kinds that occur everywhere.

    >>> from asyncmachine.states import BasicStates
    >>> service = am.Machine(BasicStates)
    >>> service.add1("Ready").reason
    'Ready requires Start'
    >>> service.add_err_state("ErrNetwork", OSError("unreachable")), str(service)
    (Result.EXECUTED, '(Exception:1 ErrNetwork:1)')
    """

    Start: str = state()
    """The machine is to be at work. Whatever it does requires this state, directly or not; removing it is the way to
    stop. Disposal does so."""

    Ready: str = state(require=[Start])
    """The machine can do what it is there for. Extend it: `Ready: str = am.state(extend=True, auto=True, require=…)`.
    """

    Healthcheck: str = state(multi=True)
    """Somebody asks whether the machine is alive. Auto states are not tried after it."""

    Heartbeat: str = state(multi=True)
    """The machine looks after itself, at intervals. Auto states are not tried after it."""

    Exception: str = state(multi=True)
    """An error has occurred, and nobody has seen to it yet. Every machine has this state."""

    ErrNetwork: str = state(multi=True, add=[Exception], require=[Exception])
    """The error is one of the network."""

    ErrHandlerTimeout: str = state(multi=True, add=[Exception], require=[Exception])
    """The error is that something took longer than it may."""

    Errors: tuple[str, ...] = group(Exception, ErrNetwork, ErrHandlerTimeout)
