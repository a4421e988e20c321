"""Answer all questions, and write the table and the picture: `python benchmarks --write docs`.

To be run by its path, as here, and not with `-m`: the directory above is then not imported from, and what is measured
is the package that is installed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from _harness import FULL, QUICK, Answer, Question, measure
from _picture import picture
from _questions import questions
from _report import computer, line, missed, page, raw
from _rivals import missing

import asyncmachine


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Answers the questions of all files.")
    parser.add_argument("--quick", action="store_true", help="less exact, in a tenth of the time")
    parser.add_argument("--all-rivals", action="store_true", help="refuse to run if a rival is not installed")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write benchmarks.md and benchmarks.svg there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all rounds there")
    options = parser.parse_args()
    if options.all_rivals and (names := missing()):
        sys.exit(f"not installed: {', '.join(names)}")
    print(f"Measuring {Path(asyncmachine.__file__).parent}")
    where = computer()
    began, answered = perf_counter(), list[tuple[Question, list[Answer]]]()
    for question in questions():
        print(f"\n{question.text}", flush=True)
        answered.append((question, measure(question, QUICK if options.quick else FULL)))
        for answer in answered[-1][1]:
            print(line(question, answer), flush=True)
    print(f"\n{perf_counter() - began:.0f} seconds", *missed(answered), sep="\n")
    if options.json:
        options.json.write_text(raw(answered), encoding="utf-8")
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        drawn = picture([answer for _, answers in answered for answer in answers])
        (options.write / "benchmarks.md").write_text(page(answered, where), encoding="utf-8")
        (options.write / "benchmarks.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
