"""lesson02_fill.py EXECUTED.ipynb: template + texts + the numbers of an executed notebook -> lesson02_keras.py.

Then `prose lesson02_keras.py EXECUTED.ipynb` takes the refreshed text into the recording.
"""
import contextlib
import io
import re
import sys

import nbformat
import pandas as pd

sys.path[:0] = ["/tmp/lesson", "/tmp/t2_site"]
from lesson02_texts import TEXTS

nb = nbformat.read(sys.argv[1], 4)
code = [c for c in nb.cells if c.cell_type == "code"]


def cell(key):
    (found,) = [c for c in code if key in c.source]
    return found


def table(key, index=1):
    html = [o["data"]["text/html"] for o in cell(key).outputs if "text/html" in o.get("data", {})][-1]
    frame = pd.read_html(io.StringIO(html), header=0)[0]
    frame = frame.dropna(how="all", subset=frame.columns[index:])  # the line of index names
    names = list(frame.columns[:index])
    for name in names:
        with contextlib.suppress(ValueError):
            frame[name] = frame[name].astype(float)
    return frame.set_index(names)


def said(key):
    return "".join(o.get("text", "") for o in cell(key).outputs)


def m(text):
    """The mean of '0.8837 ± 0.0012' or of a signed difference."""
    return float(str(text).split("±")[0].replace("+", ""))


def half(text):
    return float(str(text).split("±")[1])


B = table("first_table =")
W = table('mean_sd(width', 2).droplevel(1)
WD = table('differences(width')
D = table('mean_sd(depth', 3)
DD = table('for size, group in depth.groupby("size")}, names', 2)
LT = table('mean_sd(long', 5).reset_index()
LT.columns = ["network", "layers", "width", "epochs", "parameters", "train", "validation", "test"]
O = table('mean_sd(optimisers', 3)
OD = table('optimisers.groupby("way"', 2)
H = table('mean_sd(helped')
E = table('effects = differences')
F = table('stages = {}')
C = table('reports = [')
K = table('timings =')
tops = float(re.search(r"tops: ([\d.]+)", said("tops = ["))[1])
confidence, accuracy = (float(n) for n in re.search(r"confidence ([\d.]+), accuracy ([\d.]+)", said("tops = [")).groups())
same, other = re.search(r"one seed: (\S+); with two: (\S+)", said("first_run")).groups()
mb, mb8 = (float(n) for n in re.search(r"file ([\d.]+) MB, as int8 ([\d.]+) MB", said("load_model")).groups())
acc, acc8 = (float(n) for n in re.search(r"accuracy ([\d.]+), as int8 ([\d.]+)", said("load_model")).groups())
depth_of = D.reset_index()
depth_of.columns = ["size", "layers", "width", "train", "validation", "test"]
opt_of = O.reset_index()
opt_of.columns = ["way", "optimiser", "rate", "train", "validation", "test"]


def first(name, part):
    return B[part][[name in str(i) for i in B.index]].iloc[0]


def opt(way, optimiser, part="test"):
    return m(opt_of[(opt_of.way == way) & (opt_of.optimiser == optimiser)][part].iloc[0])


def at(size, layers, part="test"):
    return m(depth_of[(depth_of["size"] == size) & (depth_of.layers == layers)][part].iloc[0])


def sizes():
    return sorted(depth_of["size"].unique())


def speed(name, column):
    return K.loc[name, column]


def points(x, digits=1):
    return f"{abs(100 * x):.{digits}f}"


def long_row(name, part):
    return LT[LT["network"] == name][part].iloc[0]


def control(part):
    return long_row("without the five", part)


def spread_of(way):
    values = [opt(way, o) for o in OPTIMISERS]
    return max(values) - min(values)


def reach(name):
    row = K.loc[name]
    done, of = str(row["reached"]).split(" of ")
    if done == "0":
        return f"never within {float(row['epochs']):.0f} epochs"
    return f"after {float(row['seconds']):.1f} s" + ("" if done == of else f" ({done} of {of} runs)")


def both_claimed(frame):
    rows = [(label(i), m(r["test"])) for i, r in frame.iterrows() if all(float(r[f"Holm's p, {p}"]) < 0.05 for p in ("validation", "test"))]
    return "; ".join(f"{n} ({d:+.3f})" for n, d in rows) or "none"


OPTIMISERS = ["SGD", "SGD + momentum", "RMSprop", "Adam"]


def label(index):
    index = index if isinstance(index, tuple) else (index,)
    return ", ".join((f"{i:,.0f}" if isinstance(i, float) else str(i)).replace(" against reference", "") for i in index)


def claimed(frame, part, sign=0):
    """Names and differences of the rows with Holm's p under 0.05, in words."""
    rows = [(label(i), m(r[part])) for i, r in frame.iterrows() if float(r[f"Holm's p, {part}"]) < 0.05]
    rows = [(n, d) for n, d in rows if not sign or d * sign > 0]
    return ", ".join(f"{n} ({d:+.3f})" for n, d in rows) or "none"


def sized(frame, part):
    """The same for depths, the size named after them."""
    found = [(i, m(r[part])) for i, r in frame.iterrows() if float(r[f"Holm's p, {part}"]) < 0.05]
    words = [f"{name.replace(' against 2', ' layers')} at {size:,.0f} parameters ({d:+.3f})" for (size, name), d in found]
    return ", ".join(words) or "none"


def significant(frame, part="test"):
    return int((frame[f"Holm's p, {part}"].astype(float) < 0.05).sum())


loaded = re.search(r"largest difference (\S+);", said("load_model"))[1]
final_seconds = float(re.search(r"a final network takes ([\d.]+)", said("mean_sd(long"))[1])
minutes = f"{final_seconds:.0f} seconds"


def main():
    text = open("/tmp/lesson/lesson02_template.py", encoding="utf-8").read()

    def fill(match):
        body = TEXTS.get(match[1], match[1]).strip("\n")
        body = re.sub(r"⟦(.*?)⟧", token, body, flags=re.S)
        return "\n".join(("# " + line).rstrip() for line in body.split("\n"))

    def token(match):
        source = match[1]
        expression, _, form = source.rpartition("::") if "::" in source else (source, "", "")
        value = eval(expression, globals())
        return format(value, form) if form else str(value)

    text = re.sub(r"@FIRST@", lambda k: re.sub(r"⟦(.*?)⟧", token, TEXTS["FIRST"]), text)
    text = re.sub(r"^# @(\w+)@", fill, text, flags=re.M)
    # numbers of the Russian section: decimal commas
    head, tail = text.split("# ## Выводы")
    body, end = tail.split("# %% [markdown]", 1)
    body = re.sub(r"(?<=\d)\.(?=\d)", ",", body)
    open("/tmp/lesson/lesson02_keras.py", "w", encoding="utf-8").write(head + "# ## Выводы" + body + "# %% [markdown]" + end)


if __name__ == "__main__":
    main()
