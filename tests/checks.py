"""What a committed lesson must satisfy: each check takes a notebook and its path, and returns complaints."""

import ast
import base64
import html
import re
from datetime import datetime
from pathlib import Path

import nbformat

SIZE_LIMIT = 1_500_000  # bytes; GitHub stops rendering larger notebooks
PICTURE_LIMIT = 150_000  # bytes of a lesson's picture in the README
SECTIONS = ["Assignment", "Answers in short", "Setup", "Scoreboard", "Conclusions", "Выводы", "References"]
QUOTING = ["Answers in short", "Conclusions", "Выводы"]  # sections whose numbers must stand in an output
GAIN_FROM_A_GPU = {2, 4, 6, 7}
MACHINE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:home|root|Users|work|tmp|mnt|var|opt|srv)/[\w.-]|/content/drive|[A-Za-z]:\\\\?Users)"
    r"|site-packages|\.\./shared|\.venv/"
)
DECIMAL = re.compile(r"(?<![\w./-])\d+\.\d+(?![\w.]*\d)")
KEPT = re.compile(
    r"from the store|kept (from|results)|stored results|earlier (execution|session|run)|decoded earlier"
)


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


def blocks(nb) -> list[tuple[int, str, str]]:
    """(level, title, text) of each heading and of each line that is bold as a whole (level 7)."""
    found = [(0, "", "")]
    lines = [line for c in nb.cells if c.cell_type == "markdown" for line in c.source.splitlines()]
    for line in lines:
        if heading := re.match(r"(#+)\s+(.*?)\s*$", line):
            found.append((len(heading[1]), heading[2], ""))
        elif bold := re.match(r"\*\*([^*]+)\*\*\s*$", line):
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
    wanted = "GPU" if number_of(path) in GAIN_FROM_A_GPU else None
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


def unrecorded(text, nb):
    """Decimal numbers of a text that are no number of an output, nor 100 times one, rounded."""
    shown = html.unescape(" ".join(text_of(o) for o in outputs(nb))).replace(",", "")
    recorded = [float(n) for n in re.findall(r"\d+\.?\d*(?:e[-+]?\d+)?", shown)]
    missing = []
    for number in DECIMAL.findall(text):
        half = 0.5001 * 10.0 ** -len(number.split(".")[1])
        if not any(abs(r * scale - float(number)) <= half for r in recorded for scale in (1, 100)):
            missing.append(number)
    return missing


def numbers_are_recorded(nb, path):
    """Each decimal number of the quoting sections stands in an output; Russian writes it with a comma."""
    texts = {name: section(nb, name) for name in QUOTING}
    texts["Выводы"] = re.sub(r"(?<=\d),(?=\d)", ".", texts["Выводы"])
    missing = {name: unrecorded(text, nb) for name, text in texts.items()}
    return [f"{n} in {name!r} stands in no recorded output" for name in missing for n in missing[name]]


def decimal_commas_in_russian(nb, path):
    return [f"decimal point in 'Выводы': {number}" for number in DECIMAL.findall(section(nb, "Выводы"))]


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


def scoreboard_is_a_table(nb, path):
    inside, columns = False, ["measure", "ours", "reference", "source"]
    written = re.search(r"^\|(.*)\|$", section(nb, "Scoreboard"), flags=re.M)
    if written and [name.split("(")[0].strip() for name in written[1].split("|")] == columns:
        return []
    for cell in nb.cells:
        if cell.cell_type == "markdown" and re.search("^## ", cell.source, flags=re.M):
            inside = re.findall("^## (.*)", cell.source, flags=re.M)[-1].startswith("Scoreboard")
        elif inside:
            shown = "".join(text_of(o) for o in cell.get("outputs", []))
            if re.findall(r"<th>(\w+)</th>", shown)[:4] == columns:
                return []
    return ["no table with the columns measure, ours, reference, source under Scoreboard"]


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
    numbers_are_recorded,
]
FORM = [decimal_commas_in_russian, one_execution, nothing_kept, neighbours_are_linked, has_a_picture]
FORM += [scoreboard_is_a_table]


def read(path):
    """A notebook as it is, valid or not."""
    return nbformat.read(path, as_version=4)


def budget(nb) -> str:
    """What a reader goes through, for the eye: 1,000 pixels a screen, estimated."""
    code = [len(cell.source.splitlines()) for cell in code_cells(nb)]
    words = sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown")
    pictures = [o.data["image/png"][:64] for o in outputs(nb) if "image/png" in o.get("data", {})]
    heights = [int.from_bytes(base64.b64decode(start)[20:24]) for start in pictures]
    rows = sum(text_of(o).count("<tr") for o in outputs(nb))
    pixels = 21 * sum(code) + 43 * len(nb.cells) + 2 * words + 1.2 * sum(heights) + 33 * rows
    return f"{sum(code)} code lines, longest cell {max(code)}, {words} words, {pixels / 1000:.0f} screens"
