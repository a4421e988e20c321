"""Recorded runs of the Go implementation: ours agrees on every value, and on ours where Go breaks its own promises.

The format of the records is described in `conformance/README.md`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import asyncmachine as am

HERE = Path(__file__).parent / "conformance"


def load(name: str) -> list[Any]:
    lines = (HERE / name).read_text().splitlines()
    return [pytest.param(case, id=case["id"]) for case in map(json.loads, lines)]


class Recorder(am.Tracer):
    """Notes each transition as it ends."""

    def __init__(self) -> None:
        self.ended: list[dict[str, Any]] = []

    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.ended.append(
            {
                "type": str(transition.type),
                "called": list(transition.called_states),
                "auto": transition.is_auto,
                "check": transition.mutation.is_check,
                "accepted": transition.is_accepted,
                "before": list(transition.time_before),
                "after": list(transition.time_after),
            }
        )


class Run:
    """One case, being replayed."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.states: list[str] = case["states"]
        self.recorder = Recorder()
        self.calls: list[str] = []
        self.nested: list[str] = []
        schema = {name: case["schema"].get(name, {}) for name in self.states}
        self.mach = am.Machine(schema, tracers=[self.recorder], handler_timeout=None)
        for number, binding in enumerate(case["handlers"]):
            made = {name: self.handler(name, behaviour) for name, behaviour in binding.items()}
            if made:
                self.mach.bind_handlers(made, id=str(number))

    def handler(self, name: str, behaviour: dict[str, Any]) -> Any:
        count = Counter[str]()

        def call(event: am.Event) -> bool | None:
            count[name] += 1
            n = count[name]
            self.calls.append(name)
            if behaviour.get("raise_on") == n:
                raise RuntimeError(f"boom {name}")
            if n <= behaviour.get("times", 0):
                self.nested += [kind(self.mutate(op)) for op in behaviour.get("mutate", [])]
            returns = behaviour.get("returns")
            return returns[(n - 1) % len(returns)] if returns else True

        return call

    def mutate(self, op: list[str]) -> am.Result:
        name, *states = op
        if name == "add_err":
            return self.mach.add_err(RuntimeError(states[0]))
        if name == "add_args":
            return self.mach.add(states, {"k": 1})
        result: am.Result = getattr(self.mach, name)(states)
        return result

    def step(self, op: list[str]) -> dict[str, Any]:
        self.calls, self.nested, self.recorder.ended = [], [], []
        result = self.mutate(op)
        return {
            "result": kind(result),
            "time": list(self.mach.time(self.states)),
            "active": list(self.mach.active_states()),
            "calls": self.calls,
            "nested": self.nested,
            "queue_tick": self.mach.queue_tick,
            "err": str(self.mach.err or ""),
            "transitions": self.recorder.ended,
        }


def kind(result: am.Result) -> str:
    return "executed" if result.executed else "canceled" if result.canceled else "queued"


def replay(case: dict[str, Any]) -> None:
    run = Run(case)
    for number, (op, expected) in enumerate(zip(case["ops"], case["expect"], strict=True)):
        got = run.step(op)
        for mine, theirs in zip(got["transitions"], expected["transitions"], strict=False):
            if theirs["after"] is None:
                mine["after"] = None
        assert got == expected, f"operation {number}: {op}"


@pytest.mark.parametrize("case", load("cases.jsonl"))
def test_agrees_with_go(case: dict[str, Any]) -> None:
    replay(case)


@pytest.mark.parametrize("case", load("differences.jsonl"))
def test_keeps_the_promises_go_breaks(case: dict[str, Any]) -> None:
    replay(case)
