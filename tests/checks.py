"""What a committed lesson must satisfy: each check takes a notebook and its path, and returns complaints."""

import ast
import html
import importlib
import math
import re
from bisect import bisect_left
from datetime import datetime
from pathlib import Path

import nbformat

SIZE_LIMIT = 1_500_000  # bytes; GitHub stops rendering larger notebooks
PICTURE_LIMIT = 150_000  # bytes of a lesson's picture in the README
SECTIONS = ["Assignment", "Answers in short", "Setup", "Scoreboard", "Conclusions", "Выводы", "References"]
QUOTING = ["Answers in short", "Conclusions", "Выводы"]  # sections whose numbers must stand in an output
ASK_FOR_A_GPU = {2, 4, 6, 7}
MACHINE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:home|root|Users|work|tmp|mnt|var|opt|srv)/[\w.-]|/content/drive|[A-Za-z]:\\\\?Users)"
    r"|site-packages|\.\./shared|\.venv/"
)
# A number as it is quoted; what has a letter or a hyphen in it (ResNet-20, 7-5-3, 30-fold) is a name.
NUMBER = re.compile(r"(?<![\w.,])(?<!\w-)\d+(?:,\d{3})*(?:\.\d+)?(?!\w|[.,]\d|-\w)")
LINK = re.compile(r"\]\(#([^)]*)\)")
KEPT = re.compile(
    r"from the store|kept (from|results)|stored results|earlier (execution|session|run)|decoded earlier"
)

GOALS = {  # of every lesson; below, of each: code lines, functions, code lines to the first result
    "numbers per 100 words": 4,
    "code cells in a row": 3,
    "lines of the longest cell": 25,
    "words": 3000,
    "words of an answer": 30,
    "numbers of an answer": 2,
}
OWN_GOALS = {1: (500, 16, 60), 2: (550, 16, 80), 3: (600, 18, 80), 4: (520, 15, 80)}
OWN_GOALS |= {5: (780, 25, 80), 6: (750, 25, 90), 7: (750, 25, 90)}


def code_cells(nb):
    """Code cells that hold code."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(nb):
    """Every output of every code cell."""
    return [output for cell in code_cells(nb) for output in cell.outputs]


def text_of(output) -> str:
    """The text, plain and HTML, that an output shows; pictures are left out."""
    data = output.get("data", {})
    parts = [output.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/html"))]
    return "\n".join(parts + output.get("traceback", []))


def prose(cell) -> str:
    """The text of a Markdown cell without blocks of code."""
    return re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)


def blocks(nb) -> list[tuple[int, str, str]]:
    """(level, title, text) of each heading and of each line that is bold as a whole (level 7)."""
    found = [(0, "", "")]
    for line in "\n".join(prose(cell) for cell in nb.cells if cell.cell_type == "markdown").splitlines():
        if heading := re.match(r"(#+)\s+(.*?)\s*$", line):
            found.append((len(heading[1]), heading[2], ""))
        elif bold := re.match(r"\*\*([^*]+)\*\*\s*(·.*)?$", line):
            found.append((7, bold[1], ""))
        else:
            level, title, text = found[-1]
            found[-1] = (level, title, text + line + "\n")
    return found[1:]


def section(nb, title: str) -> str:
    """Text under a heading that begins with title, its subsections included; empty where there is none."""
    found, level = [], None
    for depth, name, text in blocks(nb):
        if level is not None and depth <= level:
            level = None
        if name.startswith(title):
            level = depth
        if level is not None:
            found.append(text)
    return "\n".join(found)


def code_under(nb) -> dict[str, list]:
    """Code cells under each heading and its subsections, by the anchor that a link names."""
    found, place = {}, []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for marks, title in re.findall(r"^(#+)\s+(.*?)\s*$", prose(cell), flags=re.MULTILINE):
                anchor = title.replace(" ", "-")
                place = [(depth, name) for depth, name in place if depth < len(marks)]
                place.append((len(marks), anchor))
                found.setdefault(anchor, [])
        elif cell.source.strip():
            for _, anchor in place:
                found[anchor].append(cell)
    return found


def pieces(text) -> list[tuple[bool, str]]:
    """(whether it is an item of a list, text) of each paragraph and item."""
    found = []
    for piece in re.split(r"\n\s*\n|\n(?=(?:[-*]|\d+\.)\s)", text.strip()):
        item = re.match(r"(?:[-*]|\d+\.)\s+", piece)
        found.append((bool(item), piece[item.end() :] if item else piece))
    return found


def number_of(path) -> int:
    return int(re.match(r"lesson(\d+)", Path(path).name)[1])


def valid_format(nb, path):
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    return []


def executed_in_order(nb, path):
    counts = [cell.execution_count for cell in code_cells(nb)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}, not 1..N"]


def no_error_output(nb, path):
    return [f"error output: {o.ename}" for o in outputs(nb) if o.output_type == "error"]


def nothing_on_stderr(nb, path):
    return [f"stderr: {o.text[:80]!r}" for o in outputs(nb) if o.get("name") == "stderr"]


def no_widgets(nb, path):
    views = [kind for o in outputs(nb) for kind in o.get("data", {}) if "widget-view" in kind]
    return ["metadata.widgets is set"] * ("widgets" in nb.metadata) + [f"a widget output: {v}" for v in views]


def no_machine_path(nb, path):
    texts = [cell.source for cell in nb.cells] + [text_of(o) for o in outputs(nb)]
    return [f"a path of a machine: {found[0]!r}" for t in texts for found in MACHINE_PATH.finditer(t)]


def small_enough(nb, path):
    size = Path(path).stat().st_size
    return [] if size < SIZE_LIMIT else [f"{size / 1e6:.2f} MB, the limit is {SIZE_LIMIT / 1e6} MB"]


def one_parameters_cell(nb, path):
    tagged = [c for c in code_cells(nb) if "parameters" in c.metadata.get("tags", [])]
    if any("injected-parameters" in c.metadata.get("tags", []) for c in code_cells(nb)):
        return ["recorded with injected parameters"]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged parameters, not 1"]
    complaints = []
    for node in ast.parse(tagged[0].source).body:
        try:
            assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            complaints.append(f"not NAME = literal in the parameters cell: {ast.unparse(node)}")
    return complaints


def required_sections(nb, path):
    found = [title for _, title, _ in blocks(nb)]
    complaints = []
    if not any(re.match(r"Lesson \d+ · \S", title) for title in found[:1]):
        complaints.append("first heading is not 'Lesson N · …'")
    places = [next((k for k, title in enumerate(found) if title.startswith(name)), -1) for name in SECTIONS]
    complaints += [f"no section {name!r}" for name, place in zip(SECTIONS, places, strict=True) if place < 0]
    if [p for p in places if p >= 0] != sorted(p for p in places if p >= 0):
        complaints.append(f"sections are not in the order {SECTIONS}")
    for name in ("Assignment", "Выводы"):
        if not re.search("[а-яё]{3}", section(nb, name)):
            complaints.append(f"no Russian in {name!r}")
    return complaints


def links_lead_somewhere(nb, path):
    anchors = {title.replace(" ", "-") for _, title, _ in blocks(nb)}
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    return [f"no heading for the link #{a}" for a in re.findall(r"\]\(#([^)]*)\)", text) if a not in anchors]


def gpu_where_it_helps(nb, path):
    wanted = "GPU" if number_of(path) in ASK_FOR_A_GPU else None
    asked = nb.metadata.get("accelerator")
    return [] if asked == wanted else [f"metadata.accelerator is {asked}, not {wanted}"]


def plain_python(nb, path):
    complaints = []
    for cell in code_cells(nb):
        try:
            ast.parse(cell.source)
        except SyntaxError:
            complaints.append(f"cell {cell.execution_count} is not plain Python")
    return complaints


def recorded(cells) -> list[float]:
    """Numbers that the outputs of cells show, sorted, and 100 times the shares among them."""
    shown = "\n".join(text_of(output) for cell in cells for output in cell.outputs)
    shown = html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", shown, flags=re.DOTALL)).replace(",", "")
    numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+\.?\d*(?:e[-+]?\d+)?", shown)]
    return sorted(numbers + [100 * n for n in numbers if n <= 1])


def integers_of_code(cells) -> list[float]:
    code = "\n".join(cell.source for cell in cells)
    return sorted(float(n) for n in re.findall(r"(?<![\w.])\d[\d_]*(?![\w.])", code))


def among(numbers, written) -> bool:
    """Whether a number as it is written is one of sorted numbers, rounded."""
    value, half = float(written), 0.5001 * 10.0 ** -len(written.partition(".")[2])
    place = bisect_left(numbers, value - half)
    return place < len(numbers) and numbers[place] <= value + half


def quoted(text, russian=False) -> list[str]:
    """Decimal numbers and integers of two digits and more in a text, years left out."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|\S+://\S+", " x ", text)
    text = re.sub(r"(?<=\d)[\u00a0\u202f](?=\d{3}(?!\d))", "", text)
    if russian:
        text = re.sub(r"(?<=\d),(?=\d)", ".", re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", text))
    found = [n for n in NUMBER.findall(text) if len(n) > 1 and not re.fullmatch(r"(19|20)\d\d", n)]
    return [n.replace(",", "") for n in found]


def unrecorded(text, cells, russian=False) -> list[str]:
    """Quoted numbers that no output of the cells shows; an integer may also stand in their code."""
    shown, code = recorded(cells), integers_of_code(cells)
    missing = [n for n in quoted(text, russian) if not among(shown, n)]
    return [n for n in missing if "." in n or not among(code, n)]


def numbers_stand_in_their_section(nb, path):
    """Each number of an answer or a conclusion is shown in the section that it links to.

    Item n of the Russian conclusions may use what conclusion n links to, a paragraph without a link the page.
    """
    under, complaints = code_under(nb), []
    conclusions = [LINK.findall(text) for item, text in pieces(section(nb, "Conclusions")) if item]
    for name in QUOTING:
        russian = name == "Выводы"
        of_english = iter(conclusions if russian else [])
        for item, text in pieces(section(nb, name)):
            links = LINK.findall(text) + (next(of_english, []) if item else [])
            cells = [cell for anchor in links for cell in under.get(anchor, [])]
            if item and not links:
                complaints.append(f"no link in {name!r}: {text[:40]!r}")
            missing = unrecorded(text, cells if links else code_cells(nb), russian)
            complaints += [f"{n} in {name!r} is not shown where it links to: {text[:40]!r}" for n in missing]
    return complaints


def numbers_are_told_apart(nb, path):
    """The check above means something: few of all three-digit numbers would pass it in a section."""
    linked = {a for name in QUOTING for a in LINK.findall(section(nb, name))}
    sections = [cells for anchor, cells in code_under(nb).items() if anchor in linked and cells]
    digits = range(100, 1000)
    written = [f"0.{n}" for n in digits] + [f"{n // 10}.{n % 10}" for n in digits] + [f"{n}" for n in digits]
    passing = [1 - len(unrecorded(" ".join(written), cells)) / len(written) for cells in sections]
    share = sum(passing) / max(1, len(passing))
    return [f"{share:.0%} of random numbers would pass"] if share >= 0.2 else []


def decimal_commas_in_russian(nb, path):
    points = [n for n in quoted(section(nb, "Выводы")) if "." in n]
    return [f"decimal point in 'Выводы': {number}" for number in points]


def one_execution(nb, path):
    """Timestamps of every cell, rising without overlap, that span the minutes which the last cell prints."""
    times = []
    for cell in code_cells(nb):
        stamps = cell.metadata.get("execution", {})
        try:
            keys = ("iopub.execute_input", "shell.execute_reply")
            times.append([datetime.fromisoformat(stamps[key].replace("Z", "+00:00")) for key in keys])
        except KeyError:
            return [f"cell {cell.execution_count} has no timestamps"]
    flat = [moment for pair in times for moment in pair]
    complaints = [] if flat == sorted(flat) else ["the cells' timestamps do not rise"]
    said = re.search(
        r"Run all: ([\d.]+) minutes on \S", "".join(text_of(o) for o in code_cells(nb)[-1].outputs)
    )
    if not said:
        return complaints + ["the last cell does not print 'Run all: … minutes on …'"]
    minutes = (flat[-1] - flat[0]).total_seconds() / 60
    if abs(minutes - float(said[1])) > max(0.1 * minutes, 0.1):
        complaints.append(f"the last cell says {said[1]} minutes, the timestamps {minutes:.1f}")
    return complaints


def nothing_kept(nb, path):
    found = [KEPT.search(text_of(o)) for o in outputs(nb)]
    return [f"results of another execution: {match[0]!r}" for match in found if match]


def neighbours_are_linked(nb, path):
    folder, number = Path(path).parent, number_of(path)
    linked = set(re.findall(r"\]\(([^)#]+)\)", nb.cells[0].source.split("\n# ")[0]))
    wanted = {p.name for n in (number - 1, number + 1) for p in folder.glob(f"lesson{n:02d}_*.ipynb")}
    missing = (wanted | {"README.md"}) - linked
    dead = {name for name in linked if not (folder / name).exists()}
    return [f"no link to {n}" for n in sorted(missing)] + [
        f"the link {n} leads nowhere" for n in sorted(dead)
    ]


def has_a_picture(nb, path):
    picture = Path(path).parent / "data" / "images" / f"lesson{number_of(path):02d}.png"
    if not picture.exists():
        return [f"no picture {picture.name}"]
    small = picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size < PICTURE_LIMIT
    return [] if small else [f"{picture.name} is not a PNG under {PICTURE_LIMIT // 1000} kB"]


def scoreboard(nb) -> list[str]:
    """Texts of the table measure, ours, reference, source that is shown under the scoreboard's heading."""
    code = [
        cell for anchor, cells in code_under(nb).items() if anchor.startswith("Scoreboard") for cell in cells
    ]
    for output in (output for cell in code for output in cell.outputs):
        texts = re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", text_of(output), flags=re.DOTALL)
        texts = [text for text in (html.unescape(text).strip() for text in texts) if text]
        if texts[:4] == ["measure", "ours", "reference", "source"]:
            return texts
    return []


def scoreboard_is_a_table(nb, path):
    written = re.search(
        r"^\| *measure.*\| *ours.*\| *reference.*\| *source", section(nb, "Scoreboard"), flags=re.M
    )
    return [] if written or scoreboard(nb) else ["no table measure, ours, reference, source under Scoreboard"]


def exports_as_python(nb, path):
    """`jupyter nbconvert --to script` takes the ending from here, and .txt where it finds none."""
    found = nb.metadata.get("language_info", {}).get("file_extension")
    return [] if found == ".py" else [f"language_info.file_extension is {found}"]


def pictures(output) -> list[str]:
    """The kinds of picture that an output has."""
    return [kind for kind in output.get("data", {}) if kind.startswith("image/")]


def figures_have_a_text(nb, path):
    """Whoever does not see a picture is told its title: .ci/record writes it."""
    bare = [o for o in outputs(nb) if any(not o.metadata.get(kind, {}).get("alt") for kind in pictures(o))]
    return [f"{len(bare)} pictures without alternative text"] if bare else []


def scoreboard_has_its_rows(nb, path):
    """Each measure of SCOREBOARD in the lesson's test module stands once, letter for letter."""
    wanted = importlib.import_module(f"test_lesson{number_of(path):02d}").SCOREBOARD
    found = scoreboard(nb)
    return [f"{found.count(row)} rows {row!r} in the scoreboard" for row in wanted if found.count(row) != 1]


def plain_words(nb) -> str:
    """Prose without headings, tables, formulas, code, links' targets and references."""
    kept, references = [], False
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for title in re.findall(r"^#+\s*(.*)$", cell.source, flags=re.MULTILINE):
                references = title.startswith("References")
            if not references:
                text = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
                kept += [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", " x ", "\n".join(kept)))


def count_numbers(text) -> int:
    return len(re.findall(r"(?<!\w)[+\u2212-]?\d+(?:[.,]\d+)*", text))


def measures(nb) -> dict[str, float]:
    """What a reader goes through."""
    code = [cell.source.splitlines() for cell in code_cells(nb)]
    first, words, lines = math.inf, plain_words(nb), 0
    for cell in code_cells(nb):
        lines += len(cell.source.splitlines())
        if "first-result" in cell.metadata.get("tags", []):
            first = lines
    rows = "".join("c" if cell.cell_type == "code" else " " for cell in nb.cells).split()
    answers = [text for item, text in pieces(section(nb, "Answers in short")) if item]
    answers = [re.sub(r"\[[^]]*\]\([^)]*\)", "", re.sub(r"`[^`]*`", "x", text)) for text in answers]
    return {
        "code lines": lines,
        "functions": len(re.findall(r"^\s*def ", "\n".join(map("\n".join, code)), flags=re.MULTILINE)),
        "lines to the first result": first,
        "numbers per 100 words": 100 * count_numbers(words) / max(1, len(words.split())),
        "code cells in a row": max(map(len, rows), default=0),
        "lines of the longest cell": max(map(len, code), default=0),
        "words": sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown"),
        "words of an answer": max((len(text.split()) for text in answers), default=0),
        "numbers of an answer": max(map(count_numbers, answers), default=0),
    }


def goals(path) -> dict[str, float]:
    own = OWN_GOALS.get(number_of(path), (600, 18, 80))
    return dict(zip(("code lines", "functions", "lines to the first result"), own, strict=True)) | GOALS


def within_the_budget(nb, path):
    """At most a quarter over the goal."""
    found, wanted = measures(nb), goals(path)
    over = [name for name, goal in wanted.items() if found[name] > 1.25 * goal]
    return [f"{found[name]:.1f} {name}, the goal is {wanted[name]}" for name in over]


def eighty_eight_columns(nb, path):
    lines = [line for cell in code_cells(nb) for line in cell.source.splitlines()]
    return [f"{len(line)} columns: {line[:40]!r}" for line in lines if len(line) > 88]


CHECKS = [
    valid_format,
    executed_in_order,
    no_error_output,
    nothing_on_stderr,
    no_widgets,
    no_machine_path,
    small_enough,
    one_parameters_cell,
    required_sections,
    links_lead_somewhere,
    gpu_where_it_helps,
    plain_python,
    exports_as_python,
    figures_have_a_text,
]
FORM = [decimal_commas_in_russian, one_execution, nothing_kept, neighbours_are_linked, has_a_picture]
FORM += [scoreboard_is_a_table]
# the house style, for lessons that are rewritten
STYLE = [within_the_budget, eighty_eight_columns, scoreboard_has_its_rows]
STYLE += [numbers_stand_in_their_section, numbers_are_told_apart]


def read(path):
    """A notebook as it is, valid or not."""
    return nbformat.read(path, as_version=4)
