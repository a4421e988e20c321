"""Count the lines, words and bytes of files, with their SHA-256, some files at a time.

Each file has a machine of its own, and all of them have one parent, the run. What elsewhere becomes flags, locks and
forgotten cancellations is said here by states and their relations:

- A file is read by the work of its state ProcessingFile. When the state is left, for any reason, the reading stops.
- An error in that work becomes the state Exception of that one file, and FileFailed follows. The others go on.
- The run ends when Start is removed: Done, TimedOut and Interrupted remove it. All work of the run belongs to states
  that require Start, and is cancelled with it; StartEnd stops the files.
- Done is an auto state, tried after each change. It comes when as many files have finished as were found.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import FileIO
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from typing_extensions import override

import asyncmachine as am

if RICH := find_spec("rich") is not None:  # without it, or without a terminal, all is plain text
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.table import Column, Table
    from rich.text import Text

CHUNK = 1 << 18
HEADING = ("file", "lines", "words", "bytes", "SHA-256")
SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv"}


class FileStates(am.States):
    """One file, on its way to its counts."""

    ProcessingFile: str = am.state(remove=["FileProcessed"])
    FileProcessed: str = am.state(remove=[ProcessingFile])
    FileFailed: str = am.state(auto=True, require=[am.EXCEPTION], remove=[ProcessingFile])
    InProgress: str = am.state(auto=True, require=[ProcessingFile])


class RunStates(am.States):
    """All files together."""

    Start: str = am.state()
    Working: str = am.state(auto=True, require=[Start])
    FileFound: str = am.state(multi=True, require=[Working])
    FileFinished: str = am.state(multi=True, require=[Working])
    AllFound: str = am.state()
    Done: str = am.state(auto=True, require=[AllFound], remove=[Start])
    TimedOut: str = am.state(remove=[Start, Done])
    Interrupted: str = am.state(remove=[Start, Done])
    Ends = am.group(Done, TimedOut, Interrupted)


@dataclass
class Counts:
    """What is counted of a file, chunk by chunk; lines and words as `wc` counts them."""

    lines: int = 0
    words: int = 0
    bytes: int = 0
    in_word: bool = False
    hash: Any = field(default_factory=hashlib.sha256)

    def take(self, file: FileIO) -> bool:
        """Read and count one chunk, in a worker thread; False at the end of the file."""
        chunk = file.read(CHUNK)
        if chunk:
            self.lines += chunk.count(b"\n")
            self.words += len(chunk.split()) - (self.in_word and not chunk[:1].isspace())
            self.bytes += len(chunk)
            self.in_word = not chunk[-1:].isspace()
            self.hash.update(chunk)
        return chunk != b""  # None is a pipe that has nothing for now


@dataclass(eq=False)
class File:
    """The handlers of one file's machine, and what came of the file."""

    path: Path
    counts: Counts | None = None
    problem: str | None = None

    async def ProcessingFileState(self, e: am.Event) -> None:
        """Read the file. This is cancelled, between two chunks, when the state is left."""
        counts, more = Counts(), True
        with await anyio.to_thread.run_sync(open_at_once, self.path) as file:
            waits = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) or file.isatty()
            while more:
                if waits:
                    await anyio.wait_readable(file)
                more = await anyio.to_thread.run_sync(counts.take, file)
        e.machine.add1("FileProcessed", counts)

    def FileProcessedState(self, e: am.Event) -> None:
        self.counts = e.arg(Counts)

    def ExceptionState(self, e: am.Event) -> None:
        self.problem = in_words(e.arg(am.ExceptionArgs).err)

    def row(self) -> tuple[str, ...]:
        """Give the file's line of the table."""
        if (counts := self.counts) is None:
            return f"{shown(self.path)}: {self.problem or 'not read'}", "", "", "", ""
        return shown(self.path), str(counts.lines), str(counts.words), str(counts.bytes), counts.hash.hexdigest()


class Run:
    """The handlers of the run: find the files, give each its machine and its turn, and stop when told to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.files: dict[Path, File] = {}

    @am.on.state("Start")
    async def stop_in_time(self, e: am.Event) -> None:
        """Let the time pass. Like all work of Start, this is cancelled if the run ends before."""
        if self.options.timeout is not None:
            await anyio.sleep(self.options.timeout)
            e.machine.add1("TimedOut")

    @am.on.state("Start")
    async def stop_on_ctrl_c(self, e: am.Event) -> None:
        """Make a state of Ctrl-C. Where loops know no signals it stays a KeyboardInterrupt; see `cli`."""
        if sys.platform != "win32":
            with anyio.open_signal_receiver(signal.SIGINT) as signals:
                async for _ in signals:
                    e.machine.add1("Interrupted")

    async def WorkingState(self, e: am.Event) -> None:
        """Find the files, depth first and in order. What cannot be listed is taken for a file."""
        pending = [(path, True) for path in reversed(self.options.paths)]
        while pending:
            path, may_be_folder = pending.pop()
            listed = await anyio.to_thread.run_sync(list_folder, path) if may_be_folder else None
            if listed is None:
                e.machine.add1("FileFound", File(path))
                await anyio.lowlevel.checkpoint()  # thousands of files are not to hold up the loop
            else:
                pending += reversed(listed)
        e.machine.add1("AllFound")

    def FileFoundEnter(self, e: am.Event) -> bool:
        """Take each file once, however often it is named."""
        return e.arg(File).path not in self.files

    def FileFoundState(self, e: am.Event) -> None:
        """Give a file its machine, and a place in the line of those to be read."""
        file, log = e.arg(File), self.options.log
        self.files[file.path] = file
        mach = am.Machine(FileStates, id=shown(file.path), handlers=file, parent=e.machine, log_level=log)
        e.fork(self.process, e.machine, mach, limit=self.options.jobs)

    async def process(self, run: am.Machine, file: am.Machine) -> None:
        """See a file through. As many of these run at once as there are jobs; the others wait their turn."""
        file.add1("ProcessingFile")
        await file.when_not1("ProcessingFile")
        run.add1("FileFinished")

    def DoneEnter(self, e: am.Event) -> bool:
        """Be done when all is: the clock of a multi state counts how often it was activated."""
        return e.machine.tick("FileFinished") == e.machine.tick("FileFound")

    def StartEnd(self, e: am.Event) -> None:
        """Stop the files that are being read."""
        for file in e.machine.children:
            if file.is1("ProcessingFile"):
                file.remove1("ProcessingFile")


class View(am.Tracer):
    """Watches the run and every file, and tells how it goes in plain lines: each failure, and a count now and then."""

    found = finished = 0

    @override
    def inheritable(self) -> bool:
        return True

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        added, removed = transition.time_index_diff()
        self.found += added.is1("FileFound")
        self.finished += added.is1("FileFinished")
        self.show(transition.machine, added, removed)

    def show(self, mach: am.Machine, added: am.TimeIndex, removed: am.TimeIndex) -> None:
        """Tell of the states that a machine has just added and removed."""
        if added.is1("FileFailed"):
            print(f"{mach.id}: {in_words(mach.err)}", file=sys.stderr, flush=True)
        elif added.is1("FileFinished") and self.finished % 25 == 0:
            print(f"{self.finished} of {self.found} files", file=sys.stderr, flush=True)


class RichView(View):
    """Shows, on a terminal, a bar for the run and a line for each file in progress."""

    def __init__(self) -> None:
        columns = SpinnerColumn(), BarColumn(), TextColumn("{task.description}", markup=False)
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.bar = self.progress.add_task("")
        self.rows = {"": self.bar}

    @override
    def show(self, mach: am.Machine, added: am.TimeIndex, removed: am.TimeIndex) -> None:
        if added.is1("Start"):
            self.progress.start()
        if added.is1("InProgress"):
            self.rows[mach.id] = self.progress.add_task(mach.id, total=None)
        if removed.is1("InProgress"):
            self.progress.remove_task(self.rows.pop(mach.id))
        count = f"{self.finished} of {self.found} files"
        self.progress.update(self.bar, description=count, completed=self.finished, total=self.found)
        if removed.is1("Start"):
            self.progress.stop()


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a heading, rows and totals: as a table of rich's on a terminal, else as aligned plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [(name, *map(str.rjust, numbers, widths[1:4]), digest) for name, *numbers, digest in rows]
    if RICH and sys.stdout.isatty():
        table = Table(rows[0][0], *(Column(name, no_wrap=True) for name in rows[0][1:4]), rows[0][4])
        for name, *others in rows[1:]:
            cells = Text(name, overflow="fold"), *(Text(cell, no_wrap=True, overflow="ellipsis") for cell in others)
            table.add_row(*cells, style="" if others[3] else "bold", end_section=len(table.rows) == len(rows) - 3)
        Console().print(table)
    else:
        for name, *others in rows:
            print("  ".join([name.ljust(widths[0]), *others]).rstrip())


def open_at_once(path: Path) -> FileIO:
    """Open a file without waiting for anyone, as opening a named pipe otherwise would."""
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def list_folder(folder: Path) -> list[tuple[Path, bool]] | None:
    """Give what is to be read in a folder, in order, each with whether it is a folder; None for what is no folder."""
    listed: list[tuple[Path, bool]] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                if not (path.is_symlink() or path.name.startswith(".") or path.name in SKIPPED):
                    listed.append((path, True))
            elif path.is_file() or not path.exists():  # a dangling link is a file that cannot be read
                listed.append((path, False))
    except OSError:
        return None
    return listed


def shown(path: Path) -> str:
    """Give a path as it can be printed anywhere, whatever characters its name has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(path))


def in_words(err: BaseException | None) -> str:
    """Give what went wrong, without the path that the text of an OSError repeats."""
    return getattr(err, "strerror", None) or repr(err)


async def main(options: argparse.Namespace) -> int:
    """Run the machine until Start is removed, print the table, and give the exit status."""
    run, view = Run(options), RichView() if RICH and sys.stderr.isatty() and not options.log else View()
    async with am.Machine(RunStates, id="run", handlers=run, tracers=[view], log_level=options.log) as mach:
        mach.add1("Start")
        await mach.wait_any(mach.when_not1("Start"))  # raises the run's own error, if there should be one
        end, files = mach.switch(RunStates.Ends), list(run.files.values())
    counted = [file.counts for file in files if file.counts is not None]
    sums = (str(sum(getattr(counts, name) for counts in counted)) for name in HEADING[1:4])
    totals = f"{end}: {len(counted)} of {len(files)} files", *sums, ""
    print_table([HEADING, *(file.row() for file in files), totals])
    return {"TimedOut": 124, "Interrupted": 130}.get(str(end), int(any(file.problem for file in files)))


def cli(argv: Sequence[str] | None = None) -> int:
    """Read the command line, run, and give the exit status."""
    levels = [level.name.lower() for level in am.LogLevel]
    parser = argparse.ArgumentParser(description="Count the lines, words and bytes of files, with their SHA-256.")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a file, or a folder to look through")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="files read at a time (%(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="stop after so much time")
    parser.add_argument("--log", choices=levels, metavar="LEVEL", help=f"log to stderr, one of {', '.join(levels)}")
    options = parser.parse_args(argv)
    if options.jobs < 1 or not (options.timeout is None or options.timeout > 0):
        parser.error("--jobs and --timeout take numbers above 0")
    if options.log:
        logging.basicConfig(format="%(name)s %(message)s")
        logging.getLogger("asyncmachine").setLevel(logging.DEBUG)
    try:
        return am.run(main, options)
    except KeyboardInterrupt:  # a second Ctrl-C, or one that no loop turned into a state
        return 130


if __name__ == "__main__":
    sys.exit(cli())
