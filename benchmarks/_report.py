"""What comes out, as a table: on the terminal while it runs, and as the page of the documentation."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from _harness import FULL, QUICK, Answer, Goal, Question, measure, spread

Answered: TypeAlias = Sequence[tuple[Question, Sequence[Answer]]]

LIBRARIES = ("asyncmachine", "anyio", "uvloop", "transitions", "python-statemachine", "Automat")
HEAD = ("question", "who", "each takes", "quartiles", "ratio", "quartiles", "must", "aim", "verdict")


def main(questions: Sequence[Question]) -> None:
    """Answer the questions of one file on the terminal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less exact, in a tenth of the time")
    options = parser.parse_args()
    for question in questions:
        print(f"\n{question.text}")
        for answer in measure(question, QUICK if options.quick else FULL):
            print(line(question, answer))


def line(question: Question, answer: Answer) -> str:
    """Give an answer as a line of text."""
    who, value, values, ratio, ratios, must, aim, verdict = cells(question, answer)
    parts = [f"  {who:<54}{value:>11}  {f'({values})':<24}"]
    if ratio:
        parts.append(f"{ratio} ({ratios})")
    if must:
        parts.append(f"must {must}, aim {aim}: {verdict}")
    return "  ".join(parts).rstrip()


def cells(question: Question, answer: Answer) -> list[str]:
    """Give the cells of an answer: all columns but the question."""
    low, high = spread(answer.values)
    row = [answer.case.name, amount(answer.value, question.unit)]
    row.append(f"{amount(low, question.unit)} to {amount(high, question.unit)}")
    if answer.ratio is None:
        row += ["", ""]
    else:
        low, high = spread(answer.ratios)
        row += [f"{figure(answer.ratio)} x {answer.case.against}", f"{figure(low)} to {figure(high)}"]
    goal = answer.case.goal
    if goal is None:
        return [*row, "", "", ""]
    unit = question.unit if answer.ratio is None else "x"
    return [*row, bound(goal, goal.must, unit), bound(goal, goal.aim, unit), answer.verdict]


def bound(goal: Goal, value: float, unit: str) -> str:
    """Give one side of a goal."""
    text = f"{figure(value)} x" if unit == "x" else amount(value, unit)
    return f"{'≥' if goal.at_least else '≤'} {text}"


def figure(value: float) -> str:
    """Give a number with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def amount(value: float, unit: str) -> str:
    """Give seconds or bytes with their unit."""
    if unit == "B":
        return f"{value:,.0f} B"
    return f"{figure(value * 1e3)} ms" if value >= 1e-3 else f"{figure(value * 1e6)} us"


def table(answered: Answered) -> Iterator[str]:
    """Give the lines of the one table, in Markdown."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for question, answers in answered:
        text = question.text
        for answer in answers:
            who, *rest = cells(question, answer)
            shown = f"**{who}**" if answer.case.goal and not answer.case.goal.at_least else who
            yield f"| {' | '.join([text, shown, *rest])} |"
            text = ""


def missed(answered: Answered) -> Iterator[str]:
    """Say which goals are missed."""
    for question, answers in answered:
        for answer in answers:
            if answer.verdict == "missed":
                yield f"missed: {question.text} {' '.join(line(question, answer).split())}"


def versions() -> str:
    """Say what was measured, with versions."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return ", ".join(found)


def computer() -> str:
    """Describe the computer, and how busy it is now."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = sorted({line.partition(":")[2].strip() for line in lines if line.startswith("model name")})
    model = " and ".join(models) or platform.processor() or platform.machine()
    text = f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    if hasattr(os, "getloadavg"):
        text += f"; load average before the run {os.getloadavg()[0]:.1f}"
    return text


PAGE = """\
# Benchmarks

Written by `nox -s bench`, which takes two or three minutes and writes this page and its picture anew. Each
[file](../benchmarks) asks a question or two, and runs alone as well: `python benchmarks/toggle.py`.

- {date}
- {versions}
- {computer}

![How long one takes, on a logarithmic scale](benchmarks.svg)

## How to read it

All contestants of a question are measured in one run, in turns: each round takes one sample of each. *Each takes* is
the median over the rounds. A *ratio* is how many times as long, or as large, it is as the one that is named, in the
same round; the median of these is given, and is what counts: times tell of the computer, ratios of the programs.
Half of the rounds lie between the *quartiles*. The garbage collector runs before each sample, not during it.

*Must* and *aim* are the project's own bounds for a ratio; *verdict* says which of the two is kept, if any. Those on
absolute times were set on a computer on which the floor took 1.5 us for a plain toggle, and are ratios to that here.
On a busy computer all times are longer, and the quartiles lie further apart.

**The floor** is a bare Python loop that does the least such a machine must do: a mutation object, a deque, one look-up
of a plan made beforehand, the clocks, the calls of handlers. It checks nothing, and can do nothing else:
[_floor.py](../benchmarks/_floor.py) says what it leaves out. **The rivals** are written as their documentation
recommends: [_rivals.py](../benchmarks/_rivals.py). Mind the two of Automat. What its documentation recommends is
`TypeMachineBuilder`, *typed*: a transition is one function, picked by the state, without guards, further callbacks or a
queue; so it costs hardly more than a method call, and may well beat the floor. `MethodicalMachine`, *methodical*,
declares callbacks as the other libraries do, and is the one that is compared with.

What is toggled is this, in ours:

```python
import asyncmachine as am

mach = am.Machine({{"A": {{"remove": ["B"]}}, "B": {{"remove": ["A"]}}}})
print(mach.add1("A"), mach.add1("B"), mach)  # executed executed (B:1)
```

## Results

{table}
"""


def page(answered: Answered, where: str) -> str:
    """Give the page of the documentation.

    Args:
        answered: the questions with their answers.
        where: describes the computer, as it was before.
    """
    today = datetime.now(UTC).date().isoformat()
    return PAGE.format(date=today, versions=versions(), computer=where, table="\n".join(table(answered)))


def raw(answered: Answered) -> str:
    """Give all figures of all rounds, as JSON."""
    return json.dumps(
        {
            question.text: {answer.case.name: {"values": answer.values, "ratios": answer.ratios} for answer in answers}
            for question, answers in answered
        },
        indent=1,
    )
