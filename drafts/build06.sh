set -e
cd /tmp/l6d; . /work/main/.venv/bin/activate
jupytext --to ipynb lesson06.py -o lesson06_unet.ipynb >/dev/null
ruff format -q --config /work/main/pyproject.toml --line-length 88 lesson06_unet.ipynb
ruff check -q --config /work/main/pyproject.toml lesson06_unet.ipynb || true
python - <<'P'
import nbformat,sys
sys.path.insert(0,'/work/main/tests')
import checks
from pathlib import Path
p=Path('/tmp/l6d/lesson06_unet.ipynb'); nb=nbformat.read(p,4)
nb.metadata['accelerator']='GPU'
nb.metadata['language_info']={'name':'python','version':'3.11.7','file_extension':'.py'}
nb.metadata.pop('jupytext',None)
nbformat.write(nb,p)
for k,v in checks.measures(nb).items(): print(f"{k}: {v:.4g} of {checks.goals(p)[k]}")
print(checks.eighty_eight_columns(nb,p), checks.links_lead_somewhere(nb,p), checks.required_sections(nb,p), checks.plain_python(nb,p), checks.one_parameters_cell(nb,p))
cells=checks.code_cells(nb)
print('median cell', sorted(len(c.source.splitlines()) for c in cells)[len(cells)//2])
print([ (i,len(c.source.splitlines())) for i,c in enumerate(nb.cells) if c.cell_type=='code' and len(c.source.splitlines())>22])
P
