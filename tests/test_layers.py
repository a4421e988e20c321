"""Imports run one way: the table of tiers in ARCHITECTURE.md is checked against what the modules import."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import asyncmachine

PACKAGE = Path(asyncmachine.__file__).parent
ARCHITECTURE = Path(__file__).parent.parent / "ARCHITECTURE.md"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def tiers() -> dict[str, int]:
    """Read the table: `| 3 | `relations.py` · `queue.py` | … |`."""
    found: dict[str, int] = {}
    for line in ARCHITECTURE.read_text().splitlines():
        row = re.match(r"\| (\d+) \| ([^|]+) \|", line)
        if row:
            for module in re.findall(r"`([\w/]+)\.py`", row[2]):
                assert module not in found, f"{module} stands in two tiers"
                found[module] = int(row[1])
    return found


def imported(path: Path) -> set[str]:
    """Give the modules of the package that a module imports, those for type checkers alone included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name for name in names if name.split(".")[0] == "asyncmachine"}


def name_of(path: Path) -> str:
    """Give the name of a module as the table has it: `queue`, `states/basic`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def file_of(module: str) -> Path:
    """Find the file of a module that is imported."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_every_module_stands_in_one_tier() -> None:
    assert set(tiers()) == {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_modules_of_lower_tiers(path: Path) -> None:
    known = tiers()
    for name in imported(path):
        assert name != "asyncmachine", f"{path.name} imports the package itself"
        module, tier = name_of(file_of(name)), known[name_of(path)]
        assert known[module] < tier, f"{name_of(path)} (tier {tier}) imports {module}"


@pytest.mark.parametrize("module", ["schema", "clock", "mutation", "relations", "queue", "transition"])
def test_the_hardest_logic_needs_no_event_loop(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    loops = {"asyncio", "anyio"}
    for node in tree.body:  # not what is imported for type checkers alone
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not loops & {name.split(".")[0] for name in names}
