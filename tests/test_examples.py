"""The main example, `examples/process_files.py`, in process where that is enough, else as users run it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

import pytest
from conftest import turns
from hypothesis import given
from hypothesis import strategies as st

import asyncmachine as am

SCRIPT = Path(__file__).parent.parent / "examples" / "process_files.py"
WITHOUT = "import runpy, sys; sys.modules['{}'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
ESCAPE = "\x1b"

Cli = Callable[..., int]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("process_files", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def cli(example: ModuleType) -> Cli:
    def call(*args: object) -> int:
        status: int = example.cli([str(arg) for arg in args])
        return status

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files of every kind, all of which can be read."""
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "b.txt").write_text("one two\nthree\n")
    (tree / "a.txt").write_text("no line ends here")
    (tree / "empty").touch()
    (tree / "sub" / "binary.bin").write_bytes(bytes(range(256)) * 5)
    (tree / "sub" / "deep" / "large.txt").write_bytes(b"word and word\n" * 50_000)
    (tree / "z.txt").write_text("\n\n")
    return tree


def environment() -> dict[str, str]:
    """Give a subprocess the import path of the tests, so that it runs the same package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120"}


def command(args: Sequence[object], without: str = "") -> list[str]:
    start = ["-c", WITHOUT.format(without)] if without else []
    return [sys.executable, *start, str(SCRIPT), *map(str, args)]


def run(*args: object, without: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the project's own script
        command(args, without), capture_output=True, text=True, env=environment(), check=False
    )


@contextlib.contextmanager
def running(*args: object, without: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run the example in a process of its own, which does not outlive the block."""
    process = subprocess.Popen(  # noqa: S603 - the project's own script
        command(args, without), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run_on_terminal(*args: object, folder: Path, without: str = "") -> tuple[int, str]:
    """Run the example in a folder on a terminal, and give its exit status and all that it wrote there."""
    ours, theirs = pty.openpty()
    environ = {**environment(), "TERM": "xterm-256color"}
    with subprocess.Popen(  # noqa: S603 - the project's own script
        command(args, without), stdout=theirs, stderr=theirs, stdin=theirs, env=environ, cwd=folder
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # how a terminal says that its other side is closed
            while chunk := os.read(ours, 4096):
                written += chunk
    os.close(ours)
    return process.returncode, written.decode()


def table(text: str) -> tuple[dict[str, tuple[int, int, int, str]], str, tuple[int, ...]]:
    """Read the plain table: what was counted by name, what the totals are of, and the totals."""
    heading, *lines, totals = text.splitlines()
    assert heading.split() == ["file", "lines", "words", "bytes", "SHA-256"]
    files = {}
    for line in lines:
        if re.search(r" [0-9a-f]{64}$", line):
            name, *numbers, digest = line.rsplit(maxsplit=4)
            lines_, words, bytes_ = map(int, numbers)
            files[name] = lines_, words, bytes_, digest
    words_of_totals, *sums = totals.rsplit(maxsplit=3)
    return files, words_of_totals.strip(), tuple(map(int, sums))


def counted(path: Path) -> tuple[int, int, int, str]:
    """Count a file in another way than the example does."""
    data = path.read_bytes()
    words = re.findall(rb"[^ \t\n\r\v\f]+", data)
    return data.count(b"\n"), len(words), len(data), hashlib.sha256(data).hexdigest()


def until(stream: IO[str] | None, text: str) -> list[str]:
    """Read lines up to the first that holds a text."""
    assert stream is not None
    read = []
    for line in stream:
        read.append(line)
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came, but {read}")


# What is counted.


def test_counts_every_file_of_a_folder_in_order(tree: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(tree) == 0
    out, err = capsys.readouterr()
    files, totals, sums = table(out)
    expected = {str(path): counted(path) for path in sorted(tree.rglob("*")) if path.is_file()}
    assert files == expected
    assert list(files) == list(expected)
    assert totals == "Done: 6 of 6 files"
    assert sums == tuple(map(sum, list(zip(*expected.values(), strict=True))[:3]))
    assert err == ""


@given(data=st.binary(max_size=40) | st.text(" \n\tab", max_size=40).map(str.encode), chunk=st.integers(1, 9))
def test_words_are_counted_across_chunks(
    data: bytes, chunk: int, example: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks"
    path.write_bytes(data)
    counts = example.Counts()
    with pytest.MonkeyPatch.context() as patch, example.open_at_once(path) as file:
        patch.setattr(example, "CHUNK", chunk)
        while counts.take(file):
            pass
    assert (counts.lines, counts.words, counts.bytes, counts.hash.hexdigest()) == counted(path)


def test_a_file_named_twice_is_read_once(tree: Path) -> None:
    done = run("--log", "changes", tree / "b.txt", tree / "sub" / ".." / "b.txt", tree / "b.txt")
    assert done.returncode == 0
    files, totals, sums = table(done.stdout)
    assert len(files) == 2  # a path with ".." may lead elsewhere, if there are links
    assert totals == "Done: 2 of 2 files"
    assert sums == (4, 6, 28)
    assert done.stderr.count("+ProcessingFile") == 2


def test_a_folder_without_files_is_done_at_once(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(tmp_path) == 0
    assert table(capsys.readouterr().out) == ({}, "Done: 0 of 0 files", (0, 0, 0))


def test_skips_what_is_no_source_of_anyone(tree: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (".hidden", "__pycache__", "node_modules"):
        (tree / "sub" / folder).mkdir()
        (tree / "sub" / folder / "file").write_text("not to be read")
    (tree / "sub" / "loop").symlink_to(tree)
    os.mkfifo(tree / "sub" / "pipe")
    (tree / ".hidden_file").write_text("to be read")
    assert cli(tree) == 0
    files, totals, _ = table(capsys.readouterr().out)
    assert totals == "Done: 7 of 7 files"
    assert str(tree / ".hidden_file") in files


def test_a_folder_that_is_hidden_is_looked_through_if_it_is_named(
    tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    (hidden / "file").write_text("a\n")
    assert cli(hidden) == 0
    assert list(table(capsys.readouterr().out)[0]) == [str(hidden / "file")]


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("w") as file:
            file.write("hello wor")
            file.flush()
            file.write("ld\n" * 100_000)  # more than a pipe holds

    writer = threading.Thread(target=write)
    writer.start()
    assert cli(pipe) == 0
    writer.join()
    assert table(capsys.readouterr().out)[2] == (100_000, 100_001, 300_009)


# What cannot be read.


def test_a_file_that_cannot_be_read_fails_alone(tree: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "dangling").symlink_to("nowhere")
    (tree / "sub" / "round").symlink_to("round")
    missing = tree / "missing"
    assert cli(missing, tree) == 1
    out, err = capsys.readouterr()
    files, totals, _ = table(out)
    assert len(files) == 6
    assert totals == "Done: 6 of 9 files"
    said = [
        f"{missing}: No such file or directory",
        f"{tree / 'dangling'}: No such file or directory",
        f"{tree / 'sub' / 'round'}: Too many levels of symbolic links",
    ]
    assert [line for line in out.splitlines() if re.search("No such|Too many", line)] == said
    assert sorted(err.splitlines()) == sorted(said)


def test_an_error_is_a_state_of_the_one_file(example: ModuleType, tmp_path: Path) -> None:
    async def main() -> str:
        async with am.Machine(example.FileStates, handlers=example.File(tmp_path / "missing")) as mach:
            mach.add1("ProcessingFile")
            await mach.when1("FileFailed")
            return str(mach)

    assert am.run(main) == "(FileFailed:1 Exception:1)"


# Stopping.


async def test_reading_ends_between_chunks_when_the_state_is_left(example: ModuleType) -> None:
    endless = example.File(Path("/dev/zero"))
    async with am.Machine(example.FileStates, handlers=endless) as mach:
        mach.add1("ProcessingFile")
        await turns()
        assert mach.statistics().work == 1
        mach.remove1("ProcessingFile")
        while mach.statistics().work:
            await turns(1)
    assert endless.counts is None
    assert endless.problem is None


def test_a_timeout_ends_what_would_never_end(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert cli("--timeout", 0.01, tmp_path / "pipe") == 124
    out, err = capsys.readouterr()
    # On a busy machine the time may have passed before the pipe was found.
    assert re.search(r"(pipe: not read\nTimedOut: 0 of 1|TimedOut: 0 of 0) files +0 +0 +0\n$", out)
    assert err == ""


def test_a_timeout_that_is_not_reached_stops_nothing(tree: Path, cli: Cli) -> None:
    assert cli("--timeout", 60, tree) == 0


@pytest.mark.parametrize("without", ["", "uvloop"], ids=["uvloop", "asyncio"])
def test_ctrl_c_stops_all_reads_and_still_gives_the_table(tmp_path: Path, without: str) -> None:
    pipes = [tmp_path / f"pipe{number}" for number in range(6)]
    for pipe in pipes:
        os.mkfifo(pipe)
    with running("--jobs", 3, "--log", "changes", *pipes, without=without) as process:
        log = until(process.stderr, "+AllFound")
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate()
    log += rest.splitlines(keepends=True)
    assert process.returncode == 130
    assert [line for line in out.splitlines() if ": not read" in line] == [f"{pipe}: not read" for pipe in pipes]
    assert "Interrupted: 0 of 6 files" in out
    assert "asyncmachine.run [state] +Interrupted -Start -Working -FileFound\n" in log
    # As many as there are jobs were being read, and just these are stopped.
    begun = [line.partition(" [state] +")[0] for line in log if "+ProcessingFile" in line]
    ended = [line.partition(" [state] -")[0] for line in log if "-ProcessingFile -InProgress" in line]
    assert begun == [f"asyncmachine.{pipe}" for pipe in pipes[:3]]
    assert sorted(ended) == begun


def test_files_wait_for_their_turn(tree: Path) -> None:
    done = run("--jobs", 2, "--log", "changes", tree)
    assert done.returncode == 0
    at_once = most = 0
    for line in done.stderr.splitlines():
        at_once += ("+ProcessingFile" in line) - ("-ProcessingFile" in line)
        most = max(most, at_once)
    assert most == 2
    assert at_once == 0


# What is shown.


def test_plain_progress_is_a_line_now_and_then(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(60):
        (tmp_path / f"{number}").touch()
    assert cli(tmp_path) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"of \d+", "of …", line) for line in lines] == ["25 of … files", "50 of … files"]


def test_names_are_shown_without_control_codes(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "red\x1b[31m\n").touch()
    (tmp_path / os.fsdecode(b"bytes\xff")).touch()
    assert cli(tmp_path) == 0
    out = capsys.readouterr().out
    assert ESCAPE not in out
    assert f"{tmp_path}/red\\x1b[31m\\n " in out
    assert f"{tmp_path}/bytes\\udcff " in out


@pytest.mark.parametrize("without", ["", "rich"], ids=["rich", "no rich"])
def test_without_a_terminal_all_is_plain_text(tree: Path, without: str) -> None:
    done = run(tree, tree / "missing", without=without)
    assert done.returncode == 1
    assert table(done.stdout)[1] == "Done: 6 of 7 files"
    assert f"{tree / 'missing'}: No such file or directory\n" in done.stderr
    assert ESCAPE not in done.stdout + done.stderr


def test_a_terminal_without_rich_gets_plain_text(tree: Path) -> None:
    status, written = run_on_terminal(".", folder=tree, without="rich")
    assert status == 0
    # Before the table, a computer that stands still for a moment may have something said of a slow handler.
    _, heading, rest = written.partition("file ")
    assert table(heading + rest)[1] == "Done: 6 of 6 files"
    assert ESCAPE not in written


def test_a_terminal_gets_bars_and_a_drawn_table(tree: Path) -> None:
    (tree / "[bold]").write_text("no markup")
    status, written = run_on_terminal(".", "missing", folder=tree)
    assert status == 1
    progress, _, drawn = written.partition("┏")
    assert ESCAPE in progress
    assert "8 of 8 files" in progress
    plain = re.sub(rf"{ESCAPE}\[[0-9;]*m", "", drawn)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in plain.splitlines()]
    lines, words, size, digest = counted(tree / "b.txt")
    (row,) = (row for row in cells if row[:1] == ["b.txt"])
    assert row[1:4] == [str(lines), str(words), str(size)]
    assert digest.startswith(row[4].rstrip("…"))
    assert ["missing: No such file or directory", "", "", "", ""] in cells
    assert any(row[:1] == ["[bold]"] for row in cells)
    assert any(row[:1] == ["Done: 7 of 8 files"] for row in cells)


@pytest.mark.parametrize("level", [level.name.lower() for level in am.LogLevel])
def test_logs_at_every_level(tree: Path, level: str) -> None:
    done = run("--log", level, tree / "a.txt")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    given = am.LogLevel.of(level)
    assert ("asyncmachine.run [state] +Start" in lines) == (given >= am.LogLevel.CHANGES)
    assert ("asyncmachine.run [add] Start" in lines) == (given >= am.LogLevel.OPS)
    assert (f"asyncmachine.{tree / 'a.txt'} [state] +ProcessingFile" in lines) == (given >= am.LogLevel.CHANGES)
    if given is am.LogLevel.CHANGES:
        assert lines[-1] == "asyncmachine.run [auto_] +Done -Start -Working -FileFound -FileFinished"


# How it is called.


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "the following arguments are required: PATH"),
        (["--jobs", "0", "x"], "--jobs and --timeout take numbers above 0"),
        (["--jobs", "many", "x"], "invalid int value: 'many'"),
        (["--timeout", "0", "x"], "--jobs and --timeout take numbers above 0"),
        (["--timeout", "nan", "x"], "--jobs and --timeout take numbers above 0"),
        (["--log", "loud", "x"], "invalid choice: 'loud'"),
    ],
)
def test_wrong_usage_is_said_and_has_a_status_of_its_own(
    args: list[str], said: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli(*args)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_an_error_of_the_run_itself_is_raised(
    example: ModuleType, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(folder: Path) -> None:
        raise ZeroDivisionError(str(folder))

    monkeypatch.setattr(example, "list_folder", broken)
    with pytest.raises(ZeroDivisionError, match=str(tmp_path)):
        cli(tmp_path)
    assert "ZeroDivisionError" in caplog.text
