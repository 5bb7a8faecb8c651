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

ALL = checks.CHECKS + checks.FORM


def test_lessons_are_found_and_named_by_number():
    numbers = [re.fullmatch(r"lesson(\d\d)_[a-z]+", path.stem) for path in LESSONS]
    assert LESSONS and all(numbers)
    assert [int(n[1]) for n in numbers] == list(range(1, len(LESSONS) + 1))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_committed_lesson(lesson, check):
    assert check(checks.read(lesson), lesson) == []


def test_committed_lesson_has_the_form(lesson):
    nb = checks.read(lesson)
    assert [complaint for check in checks.FORM for complaint in check(nb, lesson)] == []


INTRO = """[← Lesson 8](lesson08_x.ipynb) · [Contents](README.md)
# Lesson 9 · A title

**Assignment**

1. Do it.
   Сделайте это.

**Answers in short**

- 0.97, see [it](#It-works).
"""
END = """## Conclusions

It is 0.97.

## Выводы

Вышло 0,97, то есть 97,1 %.

## References
"""
TABLE = "<th>measure</th><th>ours</th><th>reference</th><th>source</th>"


def good_notebook():
    """The smallest notebook that passes every check."""
    cells = [
        new_markdown_cell(INTRO),
        new_markdown_cell("## Setup"),
        new_code_cell("SEED = 0", execution_count=1, metadata={"tags": ["parameters"]}),
        new_markdown_cell("## It works"),
        new_code_cell("print('accuracy')", execution_count=2),
        new_markdown_cell("## Scoreboard: how it compares"),
        new_code_cell("table", execution_count=3),
        new_markdown_cell(END),
        new_code_cell("print('done')", execution_count=4),
    ]
    for start, cell in zip((0, 1, 90, 100), cells[2:9:2], strict=True):
        moments = {"iopub.execute_input": start, "shell.execute_reply": start + 1}
        cell.metadata.execution = {k: f"2026-01-01T00:0{s // 60}:{s % 60:02d}.5Z" for k, s in moments.items()}
    nb = new_notebook(cells=cells)
    cells[4].outputs = [new_output("stream", name="stdout", text="accuracy 0.9712\n")]
    cells[6].outputs = [new_output("display_data", data={"text/html": TABLE})]
    cells[8].outputs = [new_output("stream", name="stdout", text="Run all: 1.7 minutes on 2 CPU cores\n")]
    return nb


def show(nb, kind, **content):
    nb.cells[4].outputs.append(new_output(kind, **content))


def say(nb, text):
    show(nb, "stream", name="stdout", text=text)


def prose(nb, old, new):
    assert any(old in cell.source for cell in nb.cells)
    for cell in nb.cells:
        cell.source = cell.source.replace(old, new)


def moment(nb, cell, key, time):
    nb.cells[cell].metadata.execution[key] = f"2026-01-01T00:{time}Z"


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
    ("gpu_where_it_helps", lambda nb: nb.metadata.update(accelerator="GPU")),
    ("plain_python", lambda nb: nb.cells[4].update(source="!pip install x")),
    ("numbers_are_recorded", lambda nb: prose(nb, "- 0.97,", "- 0.98,")),
    ("numbers_are_recorded", lambda nb: prose(nb, "It is 0.97", "It is 0.9713")),
    ("numbers_are_recorded", lambda nb: prose(nb, "0,97", "0,96")),
    ("numbers_are_recorded", lambda nb: prose(nb, "97,1 %", "97,2 %")),
    ("decimal_commas_in_russian", lambda nb: prose(nb, "97,1 %", "97.1 %")),
    ("one_execution", lambda nb: nb.cells[4].metadata.pop("execution")),
    ("one_execution", lambda nb: moment(nb, 4, "shell.execute_reply", "01:45.0")),
    ("one_execution", lambda nb: moment(nb, 8, "shell.execute_reply", "02:10.0")),
    ("one_execution", lambda nb: nb.cells[8].update(outputs=[])),
    ("nothing_kept", lambda nb: say(nb, "20 runs: 20 from the store")),
    ("neighbours_are_linked", lambda nb: prose(nb, "(lesson08_x.ipynb)", "(README.md)")),
    ("neighbours_are_linked", lambda nb: prose(nb, "[Contents]", "[10](lesson10_x.ipynb) · [Contents]")),
    ("has_a_picture", lambda nb: nb.metadata.update(remove="picture")),
    ("scoreboard_is_a_table", lambda nb: nb.cells[6].update(outputs=[])),
]  # fmt: skip


@pytest.fixture
def complaints(tmp_path):
    """Function: the names of the checks that complain of a notebook saved beside README and lesson 8."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("README.md", "lesson08_x.ipynb"):
        (tmp_path / name).write_text("")

    def complain(nb):
        picture = tmp_path / "data" / "images" / "lesson09.png"
        picture.write_bytes(b"GIF" if nb.metadata.get("remove") == "picture" else b"\x89PNG")
        path = tmp_path / "lesson09_y.ipynb"
        path.write_text(json.dumps(nb), encoding="utf-8")
        return {check.__name__ for check in ALL if check(checks.read(path), path)}

    return complain


def test_good_notebook_passes(complaints):
    assert complaints(good_notebook()) == set()


@pytest.mark.parametrize(("check", "damage"), BREAKS, ids=[name for name, _ in BREAKS])
def test_check_fails_on_a_broken_notebook(check, damage, complaints):
    broken = copy.deepcopy(good_notebook())
    damage(broken)
    assert check in complaints(broken)


def test_each_check_is_seen_to_fail():
    assert {name for name, _ in BREAKS} == {check.__name__ for check in ALL}


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


def committed(folder):
    """Files that git keeps under a folder: what a system or a run leaves behind is not among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_data_readme_has_the_hash_of_every_file():
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    files = [path for path in committed("data") if path.parent.name == "data" and path.name != "README.md"]
    assert files
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert re.search(rf"^\| {re.escape(path.name)} \|.*\| {digest} \|$", table, flags=re.M), path.name
    for path in committed("data/images"):
        assert f"| images/{path.name} |" in table or re.fullmatch(r"lesson\d\d\.png", path.name), path.name


def test_a_checkout_with_converted_line_ends_keeps_the_data(tmp_path):
    command = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", str(ROOT), str(tmp_path / "clone")]
    subprocess.run(command, check=True)
    for path in committed("data"):
        known = subprocess.run(
            ["git", "show", f"HEAD:{path.relative_to(ROOT).as_posix()}"], cwd=ROOT, capture_output=True
        )
        if known.returncode == 0:
            assert (tmp_path / "clone" / path.relative_to(ROOT)).read_bytes() == known.stdout, path.name


def test_files_that_systems_leave_behind_are_ignored():
    for name in (".DS_Store", "data/Thumbs.db", "data/images/.DS_Store", "data/cache/x", "my_lesson01.ipynb"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0, name


def test_readme_says_of_a_lesson_what_its_page_has_recorded(lesson):
    readme, nb = (ROOT / "README.md").read_text(encoding="utf-8"), checks.read(lesson)
    row = re.search(rf"^\|.*\({lesson.name}\).*\|$", readme, flags=re.M)[0]
    picture = f"data/images/{lesson.stem.split('_')[0]}.png"
    caption = next(line for line in readme.splitlines() if line.startswith("<td") and picture in line)
    *_, answer, _, two_cores, gpu, _ = row.split("|")
    assert checks.unrecorded(answer + caption, nb) == []
    minutes, device = re.search(r"Run all: ([\d.]+) minutes on (.*)", nb.cells[-1].outputs[0].text).groups()
    said = re.search(r"\d+", two_cores if "CPU" in device else gpu)[0]
    assert int(said) == round(float(minutes))
