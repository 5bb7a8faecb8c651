"""lesson07_fill.py EXECUTED.ipynb: fills the numbers of the recording into lesson07_template.py -> lesson07_detection.py (then: prose)."""
import re, sys, nbformat, pandas as pd
from bs4 import BeautifulSoup


def read(html):
    soup = BeautifulSoup(html, "html.parser")
    head = [h.text for h in soup.find("thead").find("tr").find_all("th")][1:]
    body = [[x.text for x in r.find_all(["th", "td"])] for r in soup.find("tbody").find_all("tr")]
    if any(len(r) != len(head) + 1 for r in body):
        return pd.DataFrame()
    frame = pd.DataFrame([r[1:] for r in body], columns=head, index=[r[0] for r in body])
    return frame.apply(lambda c: pd.to_numeric(c, errors="coerce") if pd.to_numeric(c, errors="coerce").notna().all() else c)


nb = nbformat.read(sys.argv[1], 4)
tables, texts = [], []
for c in nb.cells:
    for o in c.get("outputs", []):
        texts.append(o.get("text", ""))
        html = o.get("data", {}).get("text/html")
        if html:
            tables.append(read(html))
text = "\n".join(texts)
def table(*columns):
    return next(t for t in tables if all(c in [str(k) for k in t.columns] for c in columns))
v = {}
ten = table("photograph", "method", "found")
rows = ten.to_dict("records")
for key, plain, ours in (("b", rows[0], rows[1]), ("s", rows[2], rows[3])):
    v |= {f"{key}_plain": plain["found"], f"{key}_found": ours["found"], f"{key}_false": ours["false"], f"{key}_precision": f"{ours['precision']:.3f}"}
print(ten.to_string())
best100 = re.search(r"100 photos: (.*?), \(tile, size\) (\[.*?\]), score from ([\d.]+)", text)
best10 = re.search(r"10 photos: (.*?), \(tile, size\) (\[.*?\]), score from ([\d.]+)", text)
views = re.findall(r"\((\d+), (\d+)\)", best100[2])
v["plan100"] = ", ".join(f"tiles of {t}" if t != "0" else f"the whole sheet at {s}" for t, s in views) + f" pixels, score from {best100[3]}"
walls = table("100: recall", "100: precision")
first = lambda cell: str(cell).split()[0]
row = lambda way: next(i for i in walls.index if i.endswith(way))
for key, name in (("large", row("+ larger input")), ("tiles", row("tiles instead")), ("all", next(i for i in walls.index if "whole picture and tiles" in i and "YOLOX" in i))):
    v |= {f"w100_{key}_r": first(walls.loc[name, "100: recall"]), f"w100_{key}_p": first(walls.loc[name, "100: precision"]), f"w100_{key}_ms": f"{int(walls.loc[name, '100: ms']):,}"}
v |= {"w100_plain": first(walls.iloc[0]["100: recall"]), "w100_r": first(walls.loc[best100[1], "100: recall"]), "w100_p": first(walls.loc[best100[1], "100: precision"])}
print(walls.to_string()); print(best10[0]); print(best100[0])
sheet = table("found", "recall, 32 px")
b = sheet.loc[best100[1]]
v |= {"found": int(b["found"]), "false": int(b["false"]), "recall": f"{b['recall']:.3f}", "precision": f"{b['precision']:.3f}", "recall32": f"{b['recall, 32 px']:.3f}", "precision32": f"{b['precision, 32 px']:.3f}", "plain_found": int(sheet.iloc[0]["found"])}
v["n_large"] = re.search(r"objects, (\d+) of 32 pixels", text)[1]
print(sheet.to_string())
sizes = table("under 32 px", "over 96 px")
if best100[1] in sizes.index:
    v |= {"r_small": f"{sizes.loc[best100[1], 'under 32 px']:.3f}", "r_big": f"{sizes.loc[best100[1], 'over 96 px']:.3f}"}
print(sizes.to_string())
ways = table("apart: mAP at 0.5")
print(ways.to_string())
a, c = ways["apart: mAP at 0.5"], ways["crowded: mAP at 0.5"]
v |= {"apart": f"{a.iloc[0]:.3f}", "crowded": f"{c.iloc[0]:.3f}", "nms_instead": f"{c.iloc[2]:.3f}"}
say = lambda column: "changes nothing" if abs(column.iloc[1] - column.iloc[0]) < 0.0015 else f"gives {column.iloc[1]:.3f} instead of {column.iloc[0]:.3f}"
if say(a) == say(c):
    v["nms_short"], v["nms_long"] = "changes nothing, even where boxes overlap", "changes nothing, even where boxes overlap"
    v["nms_ru"] = "NMS после пиков ничего не меняет, даже там, где рамки перекрываются"
else:
    v["nms_short"] = v["nms_long"] = f"{say(a)} where objects lie apart and {say(c)} where they overlap"
    v["nms_ru"] = f"с NMS после пиков — {a.iloc[1]:.3f} и {c.iloc[1]:.3f}".replace(".", ",")
s = open("/tmp/lesson/lesson07_template.py").read()
for key, value in v.items():
    s = s.replace(f"<<{key}>>", str(value)).replace(f"<<{key},>>", str(value).replace(".", ","))
print("left:", re.findall(r"<<.*?>>", s))
open("/tmp/lesson/lesson07_detection.py", "w").write(s)
