"""squeeze.py NB: PNG outputs recompressed without loss (no alpha where it is 255 everywhere)."""
import sys, io, base64, nbformat, numpy as np
from PIL import Image
nb = nbformat.read(sys.argv[1], 4)
for c in nb.cells:
    for o in c.get("outputs", []):
        if "image/png" in o.get("data", {}):
            raw = base64.b64decode(o.data["image/png"]); im = Image.open(io.BytesIO(raw)).convert("RGBA")
            a = np.asarray(im)
            if (a[..., 3] == 255).all(): im = im.convert("RGB")
            b = io.BytesIO(); im.save(b, "PNG", optimize=True)
            assert (np.asarray(Image.open(io.BytesIO(b.getvalue())).convert("RGBA")) == a).all()
            if len(b.getvalue()) < len(raw): o.data["image/png"] = base64.b64encode(b.getvalue()).decode()
nbformat.write(nb, sys.argv[1])
