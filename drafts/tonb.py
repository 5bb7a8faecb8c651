"""tonb.py SRC.py OUT.ipynb: py:percent -> notebook with kernelspec, ids, accelerator."""
import sys, jupytext, nbformat, re, os
nb = jupytext.read(sys.argv[1])
name = os.path.basename(sys.argv[2])
nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
if re.match(r"lesson0[2467]", name):
    nb.metadata["accelerator"] = "GPU"
    nb.metadata["colab"] = {"gpuType": "T4"}
for i, c in enumerate(nb.cells):
    c["id"] = f"c{i:03d}"
    c.metadata = {k: v for k, v in c.metadata.items() if k == "tags"}
nb.nbformat, nb.nbformat_minor = 4, 5
nbformat.write(nb, sys.argv[2])
