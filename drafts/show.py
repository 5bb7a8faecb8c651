"""show.py NB.ipynb [first last]: source heads and printed outputs."""
import sys, nbformat, re
from bs4 import BeautifulSoup
nb = nbformat.read(sys.argv[1], 4)
a, b = (int(x) for x in (sys.argv[2:4] or (0, 10**6)))
full = "-f" in sys.argv
for i, c in enumerate(nb.cells):
    if not a <= i <= b: continue
    if c.cell_type == "markdown":
        print(f"\n--- [{i}] md\n{c.source}")
        continue
    print(f"\n--- [{i}] code\n{c.source if full else c.source[:160]}")
    for o in c.get("outputs", []):
        if o.output_type == "stream": print("  >>", o.name, o.text[:3000])
        elif o.output_type == "error": print("  ERR", o.ename, o.evalue[:500])
        else:
            d = o.data
            if "text/html" in d:
                s = BeautifulSoup(d["text/html"], "html.parser")
                for tr in s.find_all("tr"): print("  |", " | ".join(x.text.strip() for x in tr.find_all(["th", "td"])))
                if not s.find("tr"): print("  html", d["text/html"][:300])
            elif "image/png" in d: print("  [picture]", len(d["image/png"]))
            else: print("  =", d.get("text/plain", "")[:1500])
