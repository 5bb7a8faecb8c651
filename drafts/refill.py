"""refill.py OLD.ipynb NEW.ipynb SRC.py [write]: maps numbers of OLD's outputs to NEW's (same table header and row, same line with numbers blanked)
and replaces them in the Markdown of SRC.py where the mapping is unique; lists what changed, what is ambiguous, what is in no output."""
import re, sys, nbformat
from collections import defaultdict
from bs4 import BeautifulSoup
NUM = re.compile(r"\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
def pieces(path):
    out = {}
    for c in nbformat.read(path, 4).cells:
        if c.cell_type != "code": continue
        for o in c.get("outputs", []):
            if o.output_type == "stream":
                for line in o.text.split("\n"):
                    out.setdefault(("line", NUM.sub("#", line)), []).append(NUM.findall(line))
            elif "text/html" in o.get("data", {}):
                s = BeautifulSoup(o.data["text/html"], "html.parser")
                rows = [[x.text.strip() for x in tr.find_all(["th", "td"])] for tr in s.find_all("tr")]
                if not rows: continue
                head = tuple(rows[0])
                for r in rows[1:]:
                    label = r[0]
                    if label.isdigit() and len(r) > 1: label = NUM.sub("#", r[1])
                    out.setdefault(("row", head, label), []).append([NUM.findall(x) for x in r[1:]])
    return out
old, new = pieces(sys.argv[1]), pieces(sys.argv[2])
flat = lambda v: [t for x in v for t in (flat(x) if isinstance(x, list) else [x])]
m = defaultdict(set); missing = []
for k, v in old.items():
    if k not in new:
        missing.append(k); continue
    a, b = flat(v), flat(new[k])
    if len(a) == len(b):
        for x, y in zip(a, b): m[x].add(y)
    else: missing.append(k)
src = open(sys.argv[3], encoding="utf-8").read()
keep, changed, amb, none = set(), {}, {}, set()
def one(tok):
    comma = bool(re.fullmatch(r"\d+,\d+", tok)) 
    t = tok
    if t in m: c = m[t]
    elif comma and t.replace(",", ".") in m: t = t.replace(",", "."); c = m[t]
    else:
        if "." in tok or (comma and len(tok.split(",")[1]) != 3): none.add(tok)
        return tok
    if "." not in t and "e" not in t and len(t) < 4 and len(c) > 1: return tok
    if len(c) > 1: amb[tok] = c; return tok
    n = next(iter(c))
    if n == t: return tok
    if "." not in t: changed[tok] = n + " (whole number: NOT replaced)"; return tok
    n2 = n.replace(".", ",") if comma else n
    changed[tok] = n2
    return n2
lines = []
md = False
for line in src.split("\n"):
    if line.startswith("# %%"): md = "[markdown]" in line
    elif md and line.startswith("#"):
        safe = re.split(r"(\]\([^)]*\)|arXiv[^\s,;)]*|doi[^\s,;)]*)", line)
        line = "".join(s if i % 2 else NUM.sub(lambda k: one(k[0].rstrip(".,")) + k[0][len(k[0].rstrip(".,")):], s) for i, s in enumerate(safe))
    lines.append(line)
print("changed:", *[f"{a} -> {b}" for a, b in sorted(changed.items())], sep="\n  ")
print("ambiguous:", *[f"{a} -> {sorted(b)}" for a, b in sorted(amb.items())], sep="\n  ")
print("in no output:", sorted(none))
print("missing rows:", *missing[:20], sep="\n  ")
if "write" in sys.argv: open(sys.argv[3], "w", encoding="utf-8").write("\n".join(lines))
