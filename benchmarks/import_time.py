"""How long does the import take?

Each in a new interpreter, the time to start it not included. anyio brings asyncio; what asyncmachine adds to the two is
the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from _harness import Case, Lab, Question, Sample, is_installed
from _report import main

import asyncmachine

IMPORTS = {
    "transitions": "transitions",
    "transitions, with asyncio": "transitions.extensions.asyncio",
    "python-statemachine": "statemachine",
    "Automat": "automat",
}
PROGRAM = "from time import perf_counter; start = perf_counter(); import {}; print(perf_counter() - start)"


def importing(module: str) -> Sample:
    """Give what imports a module in new interpreters."""
    # The very package that is measured here, wherever it lies; and no other that lies in the working directory.
    package = str(Path(asyncmachine.__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": package, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", PROGRAM.format(module)]

    def sample(count: int) -> float:
        outputs = (subprocess.check_output(command, env=env) for _ in range(count))  # noqa: S603 - our own program
        return sum(float(output) for output in outputs)

    return sample


def imports(lab: Lab) -> list[Case]:
    ours = "asyncmachine"
    return [
        Case(ours, importing("asyncmachine"), against="anyio", count=1),
        Case("anyio", importing("anyio"), count=1),
        Case("asyncio", importing("asyncio"), against=ours, count=1),
        *(
            Case(name, importing(module), against=ours, count=1)
            for name, module in IMPORTS.items()
            if is_installed(module.partition(".")[0])
        ),
    ]


QUESTIONS = [Question("How long does the import take?", imports)]

if __name__ == "__main__":
    main(QUESTIONS)
