"""What the tests share: where the notebooks are, how to lift their definitions, how to run one alone."""

import ast
import importlib
import json
import linecache
import os
import shutil
from pathlib import Path

import checks
import nbformat
import papermill
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(ROOT.glob("lesson*.ipynb"))


def small(lesson: Path) -> dict:
    """The parameters of a run at tiny scale: SMALL of the lesson's own test file."""
    return importlib.import_module(f"test_{lesson.stem.split('_')[0]}").SMALL


def _is_constant(node: ast.stmt) -> bool:
    """True for an UPPER_CASE name bound to a literal, to a dict, list or tuple display, or to a union."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    displays = ast.Constant | ast.Dict | ast.List | ast.Tuple | ast.UnaryOp
    union = isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)
    return node.targets[0].id.isupper() and (union or isinstance(node.value, displays))


def definitions(lesson: str, autograph: bool = False) -> dict:
    """Names defined by a lesson: its imports, functions, classes and UPPER_CASE constants; no more is run.

    Raises:
        FileNotFoundError: there is no such notebook in the repository's root.
    """
    notebook = nbformat.read(ROOT / f"{lesson}.ipynb", as_version=4)
    wanted = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
    namespace = {"__name__": lesson}
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        name = f"{lesson}[{number}]"
        if autograph:  # which reads the source of a function to turn its loops into TensorFlow's
            linecache.cache[name] = (len(cell.source), None, cell.source.splitlines(keepends=True), name)
        for node in ast.parse(cell.source).body:
            if not isinstance(node, wanted) and not _is_constant(node):
                continue
            if isinstance(node, ast.FunctionDef):  # a store of results is there only in a run of the lesson
                node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) != "memory.cache"]
            code = compile(ast.Module([node], type_ignores=[]), name, "exec")
            try:
                exec(code, namespace)
            except NameError:
                if not isinstance(node, ast.Assign):
                    raise  # only a constant may depend on something that is not a definition: it is left out
    return namespace


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request) -> Path:
    """Each committed lesson in turn, found by its name."""
    return request.param


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder with nothing but data/, an empty Keras cache, and proxies that lead nowhere."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("KERAS_HOME", "TFHUB_CACHE_DIR", "IPYTHONDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "alone"
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("cache"))
    return folder


@pytest.fixture
def run_small(alone):
    """Function that runs a lesson at tiny scale in the folder `alone` and returns all that it printed."""

    def run(lesson: Path) -> str:
        copy = alone / lesson.name
        shutil.copy(lesson, copy)
        papermill.execute_notebook(
            str(copy), str(copy), small(lesson), cwd=str(alone), kernel_name="python3", progress_bar=False
        )
        done = checks.read(copy)
        assert checks.no_error_output(done, copy) == []
        assert all(cell.execution_count for cell in checks.code_cells(done))
        return "\n".join(checks.text_of(output) for output in checks.outputs(done))

    return run


@pytest.fixture
def keras_json(alone):
    """Function that writes settings into the keras.json that a lesson will meet."""
    defaults = {
        "floatx": "float32",
        "epsilon": 1e-07,
        "backend": "tensorflow",
        "image_data_format": "channels_last",
    }
    return lambda **settings: (alone.parent / "KERAS_HOME" / "keras.json").write_text(
        json.dumps(defaults | settings)
    )


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section(
        "a reader's budget (goals: 500 to 700 code lines, cells of at most 25, 3,000 words)"
    )
    for path in LESSONS:
        terminalreporter.write_line(f"{path.stem}: {checks.budget(checks.read(path))}")
