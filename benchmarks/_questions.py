"""All questions, in the order in which they are asked."""

from __future__ import annotations

import importlib

from _harness import Question

MODULES = (
    "toggle",
    "handlers",
    "auto_flow",
    "when_roundtrip",
    "state_work",
    "many_states",
    "relations_100",
    "waiters",
    "many_machines",
    "chain",
    "flood",
    "import_time",
)


def questions() -> list[Question]:
    """Give the questions of all files, in order."""
    return [question for name in MODULES for question in importlib.import_module(name).QUESTIONS]
