"""How long does a flow with an auto state take?

The flow of a file: `ProcessingFile` and `FileProcessed` exclude each other, and `InProgress` comes by itself with the
first. So each other mutation is followed by a second transition, and the rest by a look at whether one could follow.
"""

from __future__ import annotations

from _harness import FLOOR_PLAIN, Case, Goal, Lab, Mark, Question, timed
from _ours import plain_floor, toggling
from _report import main

import asyncmachine as am

FLOOR = "the floor, toggled without one"
SCHEMA = am.Schema(
    {
        "ProcessingFile": {"remove": ["FileProcessed"]},
        "FileProcessed": {"remove": ["ProcessingFile"]},
        "InProgress": {"auto": True, "require": ["ProcessingFile"]},
    }
)


def flow(lab: Lab) -> list[Case]:
    goal = Goal(must=5e-6 / FLOOR_PLAIN, aim=4e-6 / FLOOR_PLAIN)
    ours = timed(toggling(am.Machine(SCHEMA), "ProcessingFile", "FileProcessed"))
    return [
        Case("asyncmachine", ours, FLOOR, goal, mark=Mark("flow with an auto state", "asyncmachine")),
        Case(FLOOR, timed(plain_floor())),
    ]


QUESTIONS = [Question("How long does a mutation take in a flow with an auto state?", flow)]

if __name__ == "__main__":
    main(QUESTIONS)
