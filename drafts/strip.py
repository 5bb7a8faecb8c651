"""strip.py NB.ipynb: drops papermill and widget metadata, keeps execution times, joins stream pieces, obeys carriage returns."""
import sys, nbformat
nb = nbformat.read(sys.argv[1], 4)
for k in ("papermill", "widgets"): nb.metadata.pop(k, None)
li = nb.metadata.get("language_info", {})
nb.metadata["language_info"] = {"name": "python", **({"version": li["version"]} if "version" in li else {})}
def obey(text):
    lines = []
    for line in text.split("\n"):
        parts = [p for p in line.split("\r")]
        cur = ""
        for p in parts:
            cur = p + cur[len(p):]
        lines.append(cur.rstrip() if "\r" in line else cur)
    return "\n".join(lines)
for c in nb.cells:
    c.metadata.pop("papermill", None)
    if c.cell_type != "code": continue
    outs = []
    for o in c.outputs:
        if o.output_type == "stream" and outs and outs[-1].output_type == "stream" and outs[-1].name == o.name:
            outs[-1].text += o.text
        else:
            outs.append(o)
    for o in outs:
        if o.output_type == "stream":
            o.text = obey(o.text)
    c.outputs = [o for o in outs if not (o.output_type == "stream" and not o.text.strip())]
    c.metadata = {k: v for k, v in c.metadata.items() if k in ("tags", "execution")}
    if "tags" in c.metadata and not c.metadata["tags"]: del c.metadata["tags"]
nbformat.write(nb, sys.argv[1])
