"""README.md and docs/*.md tell the truth: their Python runs and prints what it says, and their links lead somewhere.

The blocks of a file run in order, in one namespace, as they would in `python -m asyncio`: `await` stands anywhere. What
they print is said behind each `print(...)`, as `# …`, or in lines that begin with `#>`; no more and no less may come.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import logging
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")]

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def announced(source: str) -> list[str]:
    """Give the lines of output that a block says it has, in order."""
    ends = {
        node.end_lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    comments = (t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT)
    return [
        comment.string.removeprefix("#").removeprefix(">").removeprefix(" ").rstrip()
        for comment in comments
        if comment.string.startswith("#>") or comment.start[0] in ends
    ]


def run(example: Example, runner: asyncio.Runner) -> None:
    """Run a block in the namespace of its page, and compare what it prints with what it says."""
    source = str(example.parsed)
    # Tracebacks show the line of the page.
    tree = ast.increment_lineno(ast.parse(source), example.line + example.parsed.line_offset)
    code = compile(tree, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        made = eval(code, example.namespace)  # noqa: S307 - the project's own words
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(made)
    assert printed.getvalue().splitlines() == announced(source), f"{example.path}, line {example.line}"


@pytest.fixture
def log_as_it_was() -> Iterator[None]:
    """Take back what a page does to the log, for the tests that follow."""
    logger = logging.getLogger("asyncmachine")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.usefixtures("log_as_it_was")
@by_name
def test_its_python_runs_and_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("seven words are enough for an example\n")
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner() as runner:

        def evaluate(example: Example) -> None:
            run(example, runner)

        examples = list(Document.parse(str(page), CodeBlockParser("python", evaluate)).examples())
        assert examples
        for example in examples:
            example.evaluate()


def slug(heading: str) -> str:
    """Give the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_its_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("https://")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_begins_with_two_commands() -> None:
    language, block = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    assert language == "sh"
    assert block.splitlines() == ["python -m pip install nox && python -m nox -s demo", "python -m nox -s tests"]


@by_name
def test_its_blocks_say_their_language(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= {"python", "sh", "text", "json", "go"}
    assert set(fences[1::2]) == {""}
