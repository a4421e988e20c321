"""States that many machines need, to be mixed into your own, with handlers for those that have something to do.

>>> from asyncmachine.states import BasicStates, ConnectedStates
>>> class ClientStates(BasicStates, ConnectedStates):
...     Ready: str = am.state(extend=True, auto=True, require=["Connected"])
>>> client = am.Machine(ClientStates)
>>> client.add1("Start"), str(client)
(Result.EXECUTED, '(Start:1 Disconnected:1)')
"""

from __future__ import annotations

from asyncmachine.states.basic import BasicStates
from asyncmachine.states.connected import ConnectedArgs, ConnectedStates, Connector
from asyncmachine.states.disposed import DisposalArgs, DisposedStates, Disposer

__all__ = [
    "BasicStates",
    "ConnectedArgs",
    "ConnectedStates",
    "Connector",
    "DisposalArgs",
    "DisposedStates",
    "Disposer",
]

for _public in (BasicStates, ConnectedArgs, ConnectedStates, Connector, DisposalArgs, DisposedStates, Disposer):
    _public.__module__ = __name__  # where users import it from
del _public
