"""What the tests share: where the notebooks are, how to lift their definitions, how to run one alone."""

import ast
import builtins
import functools
import importlib
import linecache
import os
import re
import shutil
import subprocess
import symtable
import sys
import types
from pathlib import Path

import checks
import nbformat
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(ROOT.glob("lesson*.ipynb"))
NOT_YET = {4, 6}  # lessons that are not yet in the house style, which checks.STYLE asks for


def of_tests(lesson: Path, name: str, default=None):
    """What the lesson's own test module says: SMALL, ONE, DIVERGES or WRONG."""
    return getattr(importlib.import_module(f"test_{lesson.stem.split('_')[0]}"), name, default)


def names_read(table: symtable.SymbolTable) -> set[str]:
    """Global names that code reads; what its comprehensions and lambdas bind themselves is not among them."""
    own = {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and symbol.is_global()
    }
    return own.union(*map(names_read, table.get_children()))


@functools.cache
def parts(lesson: str) -> list:
    """Imports, functions, classes and UPPER_CASE constants of a lesson: (names that a constant reads, code).

    A constant that reads what another statement binds (an `if`, a loop) is known in a run only: left out.
    """
    definitions, found, bound = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef, [], set()
    for number, cell in enumerate(checks.code_cells(checks.read(ROOT / f"{lesson}.ipynb")), start=1):
        name, lines = f"{lesson}[{number}]", cell.source.splitlines(keepends=True)
        linecache.cache[name] = (len(cell.source), None, lines, name)  # AutoGraph reads a function's source
        for node in ast.parse(cell.source).body:
            constant = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").isupper()
            if constant or isinstance(node, definitions):
                reads = names_read(symtable.symtable(ast.unparse(node), name, "exec")) if constant else set()
                found.append((reads, compile(ast.Module([node], type_ignores=[]), name, "exec")))
            else:
                bound.update(
                    n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                )
    return [(reads, part) for reads, part in found if not reads & bound]


@pytest.fixture
def code(request) -> types.ModuleType:
    """The definitions of the lesson that the test module names in LESSON, lifted anew for each test.

    `code.compare(...)` calls a function of the lesson, `code.x_train = ...` sets a global that it sees.
    A constant is there when every name that it reads is; nothing else of the lesson is run.
    """
    module = types.ModuleType(request.module.LESSON)
    for reads, part in parts(module.__name__):
        if all(hasattr(module, name) or hasattr(builtins, name) for name in reads):
            exec(part, module.__dict__)
    return module


def marked(lessons, numbers):
    """The lessons as parameters of a test that those of some numbers must fail until they are rewritten."""
    strict = pytest.mark.xfail(reason="not rewritten yet", strict=True, raises=AssertionError)
    return [pytest.param(p, id=p.stem, marks=[strict] * (checks.number_of(p) in numbers)) for p in lessons]


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request) -> Path:
    """Each committed lesson in turn, found by its name."""
    return request.param


class Alone:
    """A folder with nothing but data/ and one lesson, an empty Keras cache, and proxies that lead nowhere."""

    def __init__(self, root: Path, monkeypatch):
        self.folder, self.cache = root / "alone", root / "KERAS_HOME"
        self.startup = root / "IPYTHONDIR" / "profile_default" / "startup"
        self.setenv = monkeypatch.setenv
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            self.setenv(name, "http://127.0.0.1:9")
            self.setenv(name.lower(), "http://127.0.0.1:9")
        for name in ("NO_PROXY", "no_proxy", "MPLBACKEND"):
            monkeypatch.delenv(name, raising=False)
        for name in ("KERAS_HOME", "TFHUB_CACHE_DIR", "IPYTHONDIR"):
            (root / name).mkdir()
            self.setenv(name, str(root / name))
        self.startup.mkdir(parents=True)
        shutil.copytree(ROOT / "data", self.folder / "data", ignore=shutil.ignore_patterns("cache"))

    def start_with(self, name: str):
        """Lets the kernel begin with a file of tests/."""
        shutil.copy(ROOT / "tests" / name, self.startup)

    def run(self, lesson: Path, parameters: dict):
        """(the page that .ci/record saves, all that it shows, the error that stopped it).

        A value of a parameter that is an array reaches the lesson as one.
        """
        nb, path = checks.read(lesson), self.folder / lesson.name
        (place,) = (k for k, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
        lines = [
            f"{name} = numpy.{value!r}" if hasattr(value, "dtype") else f"{name} = {value!r}"
            for name, value in parameters.items()
        ]
        nb.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(["import numpy", *lines])))
        nbformat.write(nb, path)
        command = [sys.executable, str(ROOT / ".ci" / "record"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            return nb, "", re.sub(r"\x1b\[[\d;]*m", "", done.stderr)
        nb = checks.read(path)
        return nb, "\n".join(checks.text_of(output) for output in checks.outputs(nb)), ""


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Alone:
    return Alone(tmp_path, monkeypatch)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("a reader's budget, and the goal")
    for path in LESSONS:
        found, goals = checks.measures(checks.read(path)), checks.goals(path)
        words = ", ".join(f"{found[name]:.3g} of {goal} {name}" for name, goal in goals.items())
        terminalreporter.write_line(f"{path.stem}: {words}")
