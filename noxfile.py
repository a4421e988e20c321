"""The project's sessions. `nox -s demo` runs the main job, `nox -s tests` the tests; `nox -l` lists all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True
# A session without its interpreter fails: nothing is skipped in silence. Which there are is found out below.
nox.options.error_on_missing_interpreters = True


def _runs(version: str) -> bool:
    """Tell whether there is such a Python: a command of that name may be a shim for one that is not installed."""
    command = shutil.which(f"python{version}")
    return command is not None and subprocess.run([command, "-V"], capture_output=True, check=False).returncode == 0


ROOT = Path(__file__).parent
SUPPORTED = ["3.11", "3.12", "3.13"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# The one that runs nox is always there; the others are used where they are found.
FOUND = [version for version in SUPPORTED if version == HERE or _runs(version)] or [HERE]


def build_wheel(session: nox.Session) -> str:
    """Build the wheel: what is tested is what is shipped."""
    out = session.create_tmp()
    for old in Path(out).glob("*.whl"):
        old.unlink()
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", out, str(ROOT), silent=True)
    (wheel,) = Path(out).glob("*.whl")
    return str(wheel)


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the built wheel, and groups of dependencies."""
    wheel = build_wheel(session)
    session.install("--force-reinstall", "--no-deps", wheel)
    needed = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups) if groups else ()
    session.install(f"{wheel}{extras}", *needed)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job on the project's own tree: count lines, words and bytes of every file."""
    install(session, extras="[uvloop,examples]")
    paths = session.posargs or ["asyncmachine", "tests", "examples", "docs", "README.md"]
    session.run("python", "examples/process_files.py", *paths)


@nox.session(python=FOUND)
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel; on the Python that runs nox, with branch coverage."""
    install(session, "tests", extras="[uvloop,examples]")
    # The working directory is not to be imported from: the wheel is what is tested.
    env = {"PYTHONSAFEPATH": "1"}
    if session.posargs or session.python != HERE:
        session.run("python", "-m", "pytest", *(session.posargs or ["tests"]), env=env)
        return
    session.run("python", "-m", "coverage", "run", "-m", "pytest", "tests", env=env)
    session.run("python", "-m", "coverage", "report", env=env)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the property tests with 10,000 examples each."""
    install(session, "tests", extras="[uvloop]")
    args = session.posargs or ["tests/test_properties.py", "tests/test_properties_work.py"]
    session.run("python", "-m", "pytest", "--hypothesis-profile", "nightly", "--timeout", "0", *args)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and form."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, of the examples, and of programs users write."""
    install(session, "types", extras="[uvloop,examples]")
    session.run("mypy", "asyncmachine", "tests/typing", "examples", "benchmarks")
    session.run("pyright", "--pythonpath", shutil.which("python", path=session.bin) or "python")
    session.run("python", "tests/typing/hover.py")
    # Types as users see them: of the installed package, every public name known.
    session.chdir(session.create_tmp())
    session.run("pyright", "--verifytypes", "asyncmachine", "--ignoreexternal")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare speed with that of others, and write docs/benchmarks.md and docs/benchmarks.svg."""
    install(session, "bench")
    # Run by its path, it does not import from the working directory: the wheel is what is measured.
    options = session.posargs or ["--write", "docs"]
    session.run("python", "benchmarks", "--all-rivals", *options)


@nox.session
def format(session: nox.Session) -> None:
    """Put the code in form."""
    session.install(*nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "lint"))
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")
