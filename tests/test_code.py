"""The fixture `code`: what it takes from a lesson, and what it leaves out."""

import inspect

import conftest
import nbformat
import pytest

LESSON = "lesson09_made_up"
CELLS = [
    "import math",
    "RATE = 0.5\nSIZES = [side * RATE for side in range(3)]",
    'SCALE = "auto"\nif SCALE == "auto":\n    SCALE = "short"',
    'WIDTH = 8 if SCALE == "full" else 4\nSHARE = rows / 2',
    "rows = 1 / 0\n\n\ndef area(side, rate=RATE):\n    return math.pi * side**2 * RATE",
]


@pytest.fixture(autouse=True)
def page(tmp_path, monkeypatch):
    """The made-up lesson in the place of the real ones."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{LESSON}.ipynb")
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    conftest.parts.cache_clear()
    yield
    conftest.parts.cache_clear()


@pytest.mark.parametrize("again", [False, True])
def test_definitions_are_lifted_anew_and_see_what_a_test_sets(code, again):
    assert code.SIZES == [0, 0.5, 1] and code.SCALE == "auto"
    assert code.area(2) == pytest.approx(2 * code.math.pi)
    code.RATE = 1
    code.SIZES.append(9)
    assert code.area(2) == pytest.approx(4 * code.math.pi)
    assert inspect.getsource(code.area).startswith("def area(side, rate=RATE):")


def test_what_only_a_run_knows_is_left_out(code):
    for name in ("WIDTH", "SHARE", "rows"):  # a scale that an `if` sets anew, a name that no definition binds
        assert not hasattr(code, name)


def test_a_function_that_cannot_be_defined_is_no_secret(request, tmp_path):
    path = tmp_path / f"{LESSON}.ipynb"
    path.write_text(path.read_text().replace("RATE = 0.5", "OTHER = 0.5"))
    with pytest.raises(NameError, match="RATE"):
        request.getfixturevalue("code")
