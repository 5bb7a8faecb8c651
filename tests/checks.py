"""What every committed lesson must satisfy: each check takes a notebook and returns a list of complaints."""

import ast
import html
import re
from pathlib import Path

import nbformat

SIZE_LIMIT = 1_500_000  # bytes; GitHub stops rendering larger notebooks
SECTIONS = ["Setup", "Scoreboard", "Conclusions", "Выводы", "References"]
QUOTING = ["Answers in short", "Conclusions", "Выводы"]  # sections whose numbers must stand in an output
MACHINE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:home|root|Users|work|tmp|mnt|var|opt|srv)/[\w.-]|/content/drive|[A-Za-z]:\\\\?Users)"
    r"|site-packages|\.\./shared|\.venv/"
)
DECIMAL = re.compile(r"(?<![\w./-])\d+\.\d+(?![\w.]*\d)")


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


def headings(nb) -> list[str]:
    """Titles of all headings, in order."""
    return [title for _, title, _ in blocks(nb)]


def blocks(nb) -> list[tuple[int, str, str]]:
    """(level, title, text) of each heading and of each line that is bold as a whole (level 7)."""
    found = [(0, "", "")]
    for cell in nb.cells:
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            heading = re.match(r"(#+)\s+(.*?)\s*$", line)
            bold = re.match(r"\*\*([^*]+)\*\*\s*$", line)
            if heading:
                found.append((len(heading[1]), heading[2], ""))
            elif bold:
                found.append((7, bold[1], ""))
            else:
                level, title, text = found[-1]
                found[-1] = (level, title, text + line + "\n")
    return found[1:]


def section(nb, title: str) -> str:
    """Text under a heading, its subsections included; empty where there is none."""
    found, level = [], None
    for depth, name, text in blocks(nb):
        if level is not None and depth <= level:
            level = None
        if name == title:
            level = depth
        if level is not None:
            found.append(text)
    return "\n".join(found)


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
    found = headings(nb)
    complaints = (
        [] if re.match(r"Lesson \d+ · \S", (found or [""])[0]) else ["first heading is not 'Lesson N · …'"]
    )
    order = ["Assignment", "Answers in short", *SECTIONS]
    complaints += [f"no section {name!r}" for name in order if name not in found]
    places = [found.index(name) for name in order if name in found]
    if places != sorted(places):
        complaints.append(f"sections are not in the order {order}")
    for name in ("Assignment", "Выводы"):
        if not re.search("[а-яё]{3}", section(nb, name)):
            complaints.append(f"no Russian in {name!r}")
    return complaints


def links_lead_somewhere(nb, path):
    anchors = {title.replace(" ", "-") for title in headings(nb)}
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    return [f"no heading for the link #{a}" for a in re.findall(r"\]\(#([^)]*)\)", text) if a not in anchors]


def gpu_in_colab(nb, path):
    return [] if nb.metadata.get("accelerator") == "GPU" else ["metadata.accelerator is not GPU"]


def plain_python(nb, path):
    complaints = []
    for cell in code_cells(nb):
        try:
            ast.parse(cell.source)
        except SyntaxError:
            complaints.append(f"cell {cell.execution_count} is not plain Python")
    return complaints


def numbers_are_recorded(nb, path):
    """Each decimal number of the quoting sections is a number of an output, or 100 times it, rounded."""
    shown = html.unescape(" ".join(text_of(o) for o in outputs(nb)))
    recorded = [float(n) for n in re.findall(r"\d+\.?\d*(?:e[-+]?\d+)?", shown.replace(",", ""))]
    complaints = []
    for name in QUOTING:
        text = section(nb, name)
        if name == "Выводы":  # Russian writes decimals with a comma
            text = re.sub(r"(?<=\d),(?=\d)", ".", text)
        for number in DECIMAL.findall(text):
            half = 0.5 * 10.0 ** -len(number.split(".")[1])
            if not any(
                abs(r * scale - float(number)) <= half * 1.0001 for r in recorded for scale in (1, 100)
            ):
                complaints.append(f"{number} in {name!r} stands in no recorded output")
    return complaints


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
    gpu_in_colab,
    plain_python,
    numbers_are_recorded,
]


def read(path):
    """A notebook as it is, valid or not."""
    return nbformat.read(path, as_version=4)
