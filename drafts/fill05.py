"""fill05.py EXECUTED.ipynb: puts the figures of an executed lesson 5 into the prose of lesson05_rnn.tmpl.py -> lesson05_rnn.py,
and says which claims of the prose the figures do not carry. Then: /tmp/tools/prose /tmp/lesson/lesson05_rnn.py EXECUTED.ipynb"""
import io, re, sys
import nbformat, pandas as pd

from bs4 import BeautifulSoup
def read_html(html):
    soup = BeautifulSoup(html, "html.parser")
    columns = [c.text.strip() for c in soup.thead.find_all("tr")[0].find_all("th")][1:]
    body = [[c.text.strip() for c in tr.find_all(["th", "td"])] for tr in soup.tbody.find_all("tr")]
    return pd.DataFrame([r[1:] for r in body], [r[0] for r in body], columns)

nb = nbformat.read(sys.argv[1], 4)
tables, said = [], ""
for cell in nb.cells:
    for o in cell.get("outputs", []):
        html = o.get("data", {}).get("text/html")
        if html and "<table" in html:
            t = read_html(html)
            t.index = [str(i) for i in t.index]
            tables.append(t)
        elif o.output_type == "stream":
            said += o.text
def find(column, row=None):
    for t in tables:
        cols = [str(c) for c in t.columns]
        if column in cols and (row is None or row in t.index):
            return t
    raise KeyError(column)
base = find("validation", "SARIMA on logarithms")
first = find("training", "LSTM(32) on 13 months")
rows = find("p against the chosen")
final = find("ours minus this")
tut = find("slope on last month")
timing = find("NumPy", "ms a step")
adding = find("weights")
m = lambda cell: str(cell).split(" ±")[0]
f2 = lambda v: f"{float(v):.2f}"
v = {
    "first": f"{float(first.loc['LSTM(32) on 13 months', 'test']):.1f}", "last1": f"{float(first.loc['this month = last month', 'test']):.1f}",
    "last": f2(base.loc["last month", "test"]), "sarima": f2(base.loc["SARIMA on logarithms", "test"]), "linear": f2(base.loc["linear autoregression on 13 logarithms", "test"]),
    "mean2": f2(base.loc["mean of these two", "test"]), "growth": f2([base.loc[i, "test"] for i in base.index if "growth" in i][0]),
    "row1": m(rows["test"].iloc[0]), "row2": m(rows["test"].iloc[1]), "row5": m(rows["test"].iloc[4]), "row6": m(rows["test"].iloc[5]), "steps6": str(rows["steps"].iloc[5]),
    "ens": f2(final.loc[[i for i in final.index if i.startswith("ours")][0], "RMSE"]), "months": "48",
    "tut": m(tut.loc["all months, as published", "RMSE"]), "tut_fair": m(tut.loc["the training months", "RMSE"]), "slope": m(tut.loc["all months, as published", "slope on last month"]),
    "last46": re.search(r"the same months: ([\d.]+)", said)[1],
    "ms_numpy": f2(timing.loc["ms a step", "NumPy"]), "ms_keras": f2(timing.loc["ms a step", "Keras, compiled"]), "ms_xla": f2(timing.loc["ms a step", "Keras, XLA"]),
}
minutes = re.search(r"Run all: ([0-9.]+)", said)[1]
v["minutes"] = f"{float(minutes):.0f}"
v["speedup"] = f"{float(v['ms_keras']) / float(v['ms_numpy']):.1f}"
words, russian = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"], ["ни одно", "одно", "два", "три", "четыре", "пять", "шесть", "семь", "восемь"]
cell = lambda i, n: str(adding.loc[i, f"length {n}"]) if f"length {n}" in adding else "not tried"
full = lambda n: [i for i in adding.index if i != "simple RNN" and re.match(r"(\d+) of \1,", cell(i, n))]
steps = lambda i, n: (re.search(r"(\d+) steps", cell(i, n)) or [0, "none"])[1]
for n in (100, 200):
    v[f"n{n}"], v[f"n{n}r"] = words[len(full(n))], russian[len(full(n))]
v["N100"], v["N200"] = v["n100"].capitalize(), v["n200"].capitalize()
for key, name in (("lstm", "LSTM"), ("spread", "LSTM, spread memory"), ("ours", "fading means (ours)"), ("gru", "GRU")):
    for n in (50, 100, 200):
        v[f"{key}{n}"] = steps(name, n)
src = open("/tmp/lesson/lesson05_rnn.tmpl.py", encoding="utf-8").read()
def put(match):
    value = v[match[1]]
    start = src.rfind("\n## ", 0, match.start())
    return value
ru = src.index("# ## Выводы")
text = re.sub(r"\{\{(\w+)\}\}", put, src[:ru]) + re.sub(r"\{\{(\w+)\}\}", lambda k: v[k[1]].replace(".", ","), src[ru:])
open("/tmp/lesson/lesson05_rnn.py", "w", encoding="utf-8").write(text)
print({k: x for k, x in v.items()})
n = lambda s: float(re.match(r"[-+]?[\d.]+", str(s).replace("−", "-"))[0])
zero = lambda i: n(str(final.loc[i, "95 % interval"]).split(" to ")[0]) < 0 < n(str(final.loc[i, "95 % interval"]).split(" to ")[1])
claims = {
    "ensemble under SARIMA (and 13.75)": float(v["ens"]) < min(13.75, float(v["sarima"]) + 1e-9),
    "networks' mean of the chosen row <= 15.6": n(rows.loc[[i for i in rows.index if rows.loc[i, 'p against the chosen'] == 'chosen'][0], "test"]) <= 15.6,
    "first solution worse than last month": float(v["first"]) > float(v["last1"]),
    "row 1 worse than last month": float(v["row1"]) > float(v["last"]),
    "rows fall: 1 > 5 > 6": float(v["row1"]) > float(v["row5"]) > float(v["row6"]),
    "rows 7 to 10 within 1.0 of row 6": all(abs(n(x) - float(v["row6"])) < 1.0 for x in rows["test"].iloc[6:]),
    "intervals against SARIMA, linear, mean contain zero": all(zero(i) for i in ("SARIMA on logarithms", "linear autoregression on 13 logarithms", "mean of these two")),
    "intervals against the naive two do not": not zero("last month") and not zero("same month last year"),
    "ensemble above the mean of SARIMA and linear": float(v["ens"]) > float(v["mean2"]),
    "tutorial no better than last month": float(v["tut"]) > float(v["last46"]) - 1, "tutorial worse with an honest scaler": float(v["tut_fair"]) > float(v["tut"]) + 1,
    "NumPy not slower than Keras compiled": float(v["ms_numpy"]) <= float(v["ms_keras"]),
    "five proposals at 100, three at 200": len(full(100)) >= 5 and len(full(200)) >= 3,
    "simple RNN and orthogonal start do not solve 50": all(cell(i, 50).startswith("no") for i in ("simple RNN", "orthogonal start")),
    "LSTM grows with the length, spread memory not": "none" not in (v["lstm50"], v["lstm200"], v["spread50"], v["spread200"]) and int(v["lstm200"]) > 1.5 * int(v["lstm50"]) and int(v["spread200"]) < 1.4 * int(v["spread50"]),
    "ours solves 200 with every seed": "fading means (ours)" in full(200),
    "IRNN does not solve 200": "identity and ReLU, clipped" not in full(200),
}
for claim, holds in claims.items():
    print("ok  " if holds else "NOT ", claim)
