"""Every committed lesson passes every check, and every check is seen to fail on a notebook that breaks it."""

import copy
import hashlib
import json
import re
import subprocess
import sys

import checks
import nbformat
import pytest
from conftest import LESSONS, ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


def test_lessons_are_found_and_named_by_number():
    numbers = [re.fullmatch(r"lesson(\d\d)_[a-z]+", path.stem) for path in LESSONS]
    assert LESSONS and all(numbers)
    assert [int(n[1]) for n in numbers] == list(range(1, len(LESSONS) + 1))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_committed_lesson(lesson, check):
    assert check(checks.read(lesson), lesson) == []


INTRO = """# Lesson 9 · A title

**Assignment**

1. Do it.
   Сделайте это.

**Answers in short**

- 0.97, see [it](#It-works).
"""
END = """## Scoreboard

## Conclusions

It is 0.97.

## Выводы

Вышло 0,97, то есть 97.1 %.

## References
"""


def good_notebook():
    """The smallest notebook that passes every check."""
    cells = [
        new_markdown_cell(INTRO),
        new_markdown_cell("## Setup"),
        new_code_cell("SEED = 0", execution_count=1, metadata={"tags": ["parameters"]}),
        new_markdown_cell("## It works"),
        new_code_cell("print('accuracy')", execution_count=2),
        new_markdown_cell(END),
    ]
    nb = new_notebook(cells=cells, metadata={"accelerator": "GPU"})
    say(nb, "accuracy 0.9712\n")
    return nb


def show(nb, kind, **content):
    nb.cells[4].outputs.append(new_output(kind, **content))


def say(nb, text):
    show(nb, "stream", name="stdout", text=text)


def prose(nb, old, new):
    assert any(old in cell.source for cell in nb.cells)
    for cell in nb.cells:
        cell.source = cell.source.replace(old, new)


WIDGET = {"application/vnd.jupyter.widget-view+json": {}}
BREAKS = [
    ("valid_format", lambda nb: nb.cells[0].update(surplus=1)),
    ("executed_in_order", lambda nb: nb.cells[4].update(execution_count=3)),
    ("executed_in_order", lambda nb: nb.cells[2].update(execution_count=None)),
    ("no_error_output", lambda nb: show(nb, "error", ename="E", evalue="", traceback=[])),
    ("nothing_on_stderr", lambda nb: show(nb, "stream", name="stderr", text="W")),
    ("no_widgets", lambda nb: nb.metadata.update(widgets={})),
    ("no_widgets", lambda nb: show(nb, "display_data", data=WIDGET)),
    ("no_machine_path", lambda nb: say(nb, "saved to /home/me/x.csv")),
    ("no_machine_path", lambda nb: nb.cells[4].update(source="open('/content/drive/x')")),
    ("no_machine_path", lambda nb: say(nb, "C:\\Users\\me")),
    ("small_enough", lambda nb: say(nb, "x" * checks.SIZE_LIMIT)),
    ("one_parameters_cell", lambda nb: nb.cells[2].metadata.update(tags=[])),
    ("one_parameters_cell", lambda nb: nb.cells[4].metadata.update(tags=["parameters"])),
    ("one_parameters_cell", lambda nb: nb.cells[4].metadata.update(tags=["injected-parameters"])),
    ("one_parameters_cell", lambda nb: nb.cells[2].update(source="SEED = int('0')")),
    ("required_sections", lambda nb: prose(nb, "# Lesson 9 · A title", "# A title")),
    ("required_sections", lambda nb: prose(nb, "**Assignment**", "**Task**")),
    ("required_sections", lambda nb: prose(nb, "Сделайте это", "Do it again")),
    ("required_sections", lambda nb: prose(nb, "## Выводы", "## Conclusions in Russian")),
    ("required_sections", lambda nb: prose(nb, "## Setup", "## References")),
    ("links_lead_somewhere", lambda nb: prose(nb, "#It-works", "#It-fails")),
    ("gpu_in_colab", lambda nb: nb.metadata.pop("accelerator")),
    ("plain_python", lambda nb: nb.cells[4].update(source="!pip install x")),
    ("numbers_are_recorded", lambda nb: prose(nb, "- 0.97,", "- 0.98,")),
    ("numbers_are_recorded", lambda nb: prose(nb, "It is 0.97", "It is 0.9713")),
    ("numbers_are_recorded", lambda nb: prose(nb, "0,97", "0,96")),
    ("numbers_are_recorded", lambda nb: prose(nb, "97.1 %", "97.2 %")),
]


def complaints(nb, path):
    path.write_text(json.dumps(nb), encoding="utf-8")
    return {check.__name__ for check in checks.CHECKS if check(checks.read(path), path)}


def test_good_notebook_passes(tmp_path):
    assert complaints(good_notebook(), tmp_path / "good.ipynb") == set()


@pytest.mark.parametrize(("check", "damage"), BREAKS, ids=[name for name, _ in BREAKS])
def test_check_fails_on_a_broken_notebook(check, damage, tmp_path):
    broken = copy.deepcopy(good_notebook())
    damage(broken)
    assert check in complaints(broken, tmp_path / "broken.ipynb")


def test_each_check_is_seen_to_fail():
    assert {name for name, _ in BREAKS} == {check.__name__ for check in checks.CHECKS}


def ruff(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", [("check", "."), ("format", "--check", ".")], ids=["lint", "format"])
def test_ruff_is_content_with_code_and_notebooks(arguments):
    result = ruff(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_reads_notebooks(tmp_path):
    broken = good_notebook()
    broken.cells[4].source = "import os\nprint( 'accuracy' )"
    path = tmp_path / "broken.ipynb"
    nbformat.write(broken, path)
    settings = ("--config", str(ROOT / "pyproject.toml"))
    assert "F401" in ruff("check", *settings, str(path)).stdout
    assert ruff("format", "--check", *settings, str(path)).returncode == 1


def test_data_readme_has_the_hash_of_every_file():
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    files = [p for p in (ROOT / "data").iterdir() if p.is_file() and p.name != "README.md"]
    rows = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    assert rows
    for name, digest in rows.items():
        assert re.search(rf"^\| {re.escape(name)} \|.*\| {digest} \|$", table, flags=re.M), f"{name} {digest}"


def test_readme_has_a_row_for_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in LESSONS:
        assert re.search(rf"^\|.*\({path.name}\).*\|$", readme, flags=re.M), path.name
