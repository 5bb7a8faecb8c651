"""Every committed lesson passes every check, and every check is seen to fail on a notebook that breaks it."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import sys
import types

import checks
import nbformat
import pytest
from conftest import LESSONS, NOT_YET, ROOT, marked
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ALL = checks.CHECKS + checks.FORM + checks.STYLE


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


@pytest.mark.parametrize("path", marked(LESSONS, NOT_YET))
def test_committed_lesson_is_in_the_house_style(path):
    nb = checks.read(path)
    assert [complaint for check in checks.STYLE for complaint in check(nb, path)] == []


INTRO = """[← Lesson 8](lesson08_x.ipynb) · [Contents](README.md)
# Lesson 9 · A title

**Assignment**

1. Do it.
   Сделайте это.

**Answers in short**

- 0.97 from 2,000 rows: [it](#It-works).
- Take 16 neurons: [it](#It-works).
"""
END = """## Conclusions

1. It is 0.97, as with ResNet-20 and a 7-5-3 of 2018: [it](#It-works).

What we chose after looking: 16.

## Выводы

1. Вышло 0,97, то есть 97,1 %, из 2 000 строк.

## References

He and others (2016)
"""
TABLE = "<thead><th></th><th>measure</th><th>ours</th><th>reference</th><th>source</th></thead>"
TABLE += "<tr><th>0</th><td>accuracy</td><td>0.97</td></tr>"
IMAGE = {"image/png": "iVBORw0KGgo="}


def good_notebook():
    """The smallest notebook that passes every check."""
    cells = [
        new_markdown_cell(INTRO),
        new_markdown_cell("## Setup\n" + 300 * "plain word "),
        new_code_cell("SEED = 0", execution_count=1, metadata={"tags": ["parameters"]}),
        new_markdown_cell("## It works"),
        new_code_cell(
            "NEURONS = 16\nprint('accuracy')", execution_count=2, metadata={"tags": ["first-result"]}
        ),
        new_markdown_cell("## Scoreboard: how it compares"),
        new_code_cell("table", execution_count=3),
        new_markdown_cell(END),
        new_code_cell("print('done')", execution_count=4),
    ]
    for start, cell in zip((0, 1, 90, 100), cells[2:9:2], strict=True):
        moments = {"iopub.execute_input": start, "shell.execute_reply": start + 1}
        cell.metadata.execution = {k: f"2026-01-01T00:0{s // 60}:{s % 60:02d}.5Z" for k, s in moments.items()}
    nb = new_notebook(cells=cells, metadata={"language_info": {"name": "python", "file_extension": ".py"}})
    cells[4].outputs = [
        new_output("stream", name="stdout", text="2,000 rows: accuracy 0.9712\n"),
        new_output("display_data", data=IMAGE, metadata={"image/png": {"alt": "a title"}}),
    ]
    cells[6].outputs = [new_output("display_data", data={"text/html": TABLE})]
    cells[8].outputs = [new_output("stream", name="stdout", text="Run all: 1.7 minutes on 2 CPU cores\n")]
    return nb


def show(nb, kind, **content):
    nb.cells[4].outputs.append(new_output(kind, **content))


def show_table(nb, table):
    nb.cells[6].outputs[0].data["text/html"] = table


def say(nb, text):
    show(nb, "stream", name="stdout", text=text)


def prose(nb, old, new):
    assert any(old in cell.source for cell in nb.cells)
    for cell in nb.cells:
        cell.source = cell.source.replace(old, new)


def code(nb, text):
    nb.cells[4].source += text


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
    ("exports_as_python", lambda nb: nb.metadata.language_info.pop("file_extension")),
    ("figures_have_a_text", lambda nb: show(nb, "display_data", data=IMAGE)),
    ("eighty_eight_columns", lambda nb: code(nb, "  # " + 80 * "x")),
    ("scoreboard_has_its_rows", lambda nb: show_table(nb, TABLE.replace("accuracy", "Accuracy"))),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "- 0.97 ", "- 0.98 ")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "Take 16 ", "Take 17 ")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "2,000", "2,001")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "of 2018: [it](#It-works)", "of 2018")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "of 2018: [it](#It-works)", "[it](#Setup)")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "looking: 16", "looking: 18")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "0,97", "0,96")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "97,1 %", "97,2 %")),
    ("numbers_stand_in_their_section", lambda nb: prose(nb, "2 000", "3 000")),
    ("numbers_are_told_apart", lambda nb: say(nb, " ".join(f"{n / 4000:.4f}" for n in range(4000)))),
    ("decimal_commas_in_russian", lambda nb: prose(nb, "97,1 %", "97.1 %")),
    ("one_execution", lambda nb: nb.cells[4].metadata.pop("execution")),
    ("one_execution", lambda nb: moment(nb, 4, "shell.execute_reply", "01:45.0")),
    ("one_execution", lambda nb: moment(nb, 8, "shell.execute_reply", "02:10.0")),
    ("one_execution", lambda nb: nb.cells[8].update(outputs=[])),
    ("nothing_kept", lambda nb: say(nb, "20 runs: 20 from the store")),
    ("neighbours_are_linked", lambda nb: prose(nb, "(lesson08_x.ipynb)", "(README.md)")),
    ("neighbours_are_linked", lambda nb: prose(nb, "[Contents]", "[10](lesson10_x.ipynb) · [Contents]")),
    ("has_a_picture", lambda nb: nb.metadata.update(remove="picture")),
    ("scoreboard_is_a_table", lambda nb: show_table(nb, "")),
]  # fmt: skip


OVER = [
    ("functions", lambda nb: code(nb, "\ndef f():\n    pass\n" * 23)),
    ("lines of the longest cell", lambda nb: code(nb, "\n" * 40)),
    ("lines to the first result", lambda nb: nb.cells[4].metadata.pop("tags")),
    ("numbers per 100 words", lambda nb: prose(nb, 20 * "plain word ", 20 * "7 words ")),
    ("words", lambda nb: nb.cells.insert(0, new_markdown_cell("word " * 4000))),
    ("code cells in a row", lambda nb: nb.cells.__delitem__(slice(3, 8, 2))),
    ("words of an answer", lambda nb: prose(nb, "- 0.97 from", "- 0.97 " + "word " * 40)),
    ("numbers of an answer", lambda nb: prose(nb, "- 0.97 from", "- 1 2 3 from")),
    ("code lines", lambda nb: code(nb, "\nx = 0" * 800)),
]  # fmt: skip


@pytest.fixture
def complaints(tmp_path, monkeypatch):
    """Function: the names of the checks that complain of a notebook saved beside README and lesson 8."""
    monkeypatch.setitem(sys.modules, "test_lesson09", types.SimpleNamespace(SCOREBOARD=["accuracy"]))
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


@pytest.mark.parametrize(("measure", "damage"), OVER, ids=[name for name, _ in OVER])
def test_a_reader_is_spared(measure, damage):
    broken, path = good_notebook(), ROOT / "lesson09_x.ipynb"
    assert checks.within_the_budget(broken, path) == []
    damage(broken)
    assert f" {measure}, the goal is {checks.goals(path)[measure]}" in "".join(
        checks.within_the_budget(broken, path)
    )


def test_each_check_is_seen_to_fail():
    assert {name for name, _ in OVER} == set(checks.goals("lesson09_x.ipynb"))
    assert {name for name, _ in BREAKS} | {"within_the_budget"} == {check.__name__ for check in ALL}


def ruff(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "path", [ROOT / "tests", ROOT / ".ci" / "record", *LESSONS], ids=lambda path: path.stem
)
@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=["lint", "format"])
def test_ruff_is_content_with_code_and_notebooks(path, command):
    wide = path in LESSONS and checks.number_of(path) in NOT_YET
    result = ruff(*command, *["--line-length=110"] * wide, str(path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_reads_notebooks(tmp_path):
    broken = good_notebook()
    broken.cells[4].source = "import os\nprint( 'accuracy' )"
    path = tmp_path / "broken.ipynb"
    nbformat.write(broken, path)
    settings = ("--config", str(ROOT / "pyproject.toml"))
    assert "F401" in ruff("check", *settings, str(path)).stdout
    assert ruff("format", "--check", *settings, str(path)).returncode == 1


def git(*arguments):
    """What git says; the test is skipped where the course was downloaded as a ZIP."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs git and its history; this is a download")
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)


def test_data_readme_has_the_hash_of_every_file():
    table = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    files = [path for path in (ROOT / "data").glob("*.*") if path.suffix in (".csv", ".json")]
    assert files
    for path in files:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert re.search(rf"^\| {re.escape(path.name)} \|.*\| {digest} \|$", table, flags=re.M), path.name


def test_a_checkout_with_converted_line_ends_keeps_the_data(tmp_path):
    assert git("clone", "-q", "-c", "core.autocrlf=true", ".", str(tmp_path / "clone")).returncode == 0
    for name in git("ls-tree", "-r", "--name-only", "HEAD", "data").stdout.decode().split():
        assert (tmp_path / "clone" / name).read_bytes() == git("show", f"HEAD:{name}").stdout, name


def test_files_that_systems_leave_behind_are_ignored():
    for name in (".DS_Store", "data/Thumbs.db", "data/images/.DS_Store", "data/cache/x", "my_lesson01.ipynb"):
        assert git("check-ignore", "-q", name).returncode == 0, name


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_short():
    assert len(README.split()) <= 900
    cures = README.partition("| what you see |")[2].partition("## Tests")[0]
    rows = [row.replace("|", " ").split() for row in cures.splitlines()[2:] if row.startswith("|")]
    assert 0 < len(rows) <= 10 and max(map(len, rows)) <= 20
    for cure in ("STAND-IN", "read-only", "data/photos.json"):
        assert cure in cures


def test_readme_says_of_a_lesson_what_its_page_has_recorded(lesson):
    nb = checks.read(lesson)
    answer, two_cores, gpu = re.search(
        rf"^\|.*\({lesson.name}\) \|[^|]*\|(.*)\|(.*)\|(.*)\|$", README, flags=re.M
    ).groups()
    assert f"data/images/{lesson.stem.split('_')[0]}.png" in README
    assert checks.unrecorded(answer, checks.code_cells(nb)) == []
    assert checks.count_numbers(answer) <= 2
    minutes, device = re.search(r"Run all: ([\d.]+) minutes on (.*)", nb.cells[-1].outputs[0].text).groups()
    below = re.search(r"^The pages of .*", README, flags=re.M)[0]
    said = two_cores if "CPU" in device else gpu + below
    assert re.search(rf"\b{float(minutes):.0f}\b", said)
