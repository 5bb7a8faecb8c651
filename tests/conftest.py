"""What the tests share: where the notebooks are, and how to lift definitions out without running them."""

import ast
import linecache
import os
from pathlib import Path

import nbformat
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(ROOT.glob("lesson*.ipynb"))


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
            linecache.cache[name] = (
                len(cell.source),
                None,
                cell.source.splitlines(keepends=True),
                name,
            )
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
