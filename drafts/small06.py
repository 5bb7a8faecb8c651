"""python small.py NAME [xla] [standin] [arrays]: executes the draft with parameters of the test module NAME (SMALL/ONE/...)."""
import sys, nbformat, time, os, shutil
from pathlib import Path
from nbclient import NotebookClient
sys.path.insert(0,'/work/main/tests'); sys.path.insert(0,'/tmp/l6d')
import test_lesson06 as t
name=sys.argv[1]; xla='xla' in sys.argv
P=dict(getattr(t,name))
if 'arrays' in sys.argv:
    import numpy as np
    P={k:(np.array(v) if 'SEEDS' in k else v) for k,v in P.items()}
nb=nbformat.read('/tmp/l6d/lesson06_unet.ipynb',4)
k=[i for i,c in enumerate(nb.cells) if 'parameters' in c.metadata.get('tags',[])][0]
lines=[f"{n} = numpy.{v!r}" if hasattr(v,'dtype') else f"{n} = {v!r}" for n,v in P.items()]
nb.cells.insert(k+1,nbformat.v4.new_code_cell("\n".join(["import numpy",*lines])))
run=Path('/tmp/l6d/run'); run.mkdir(exist_ok=True)
ipy=Path('/tmp/l6d/ipy'); shutil.rmtree(ipy,ignore_errors=True); (ipy/'profile_default/startup').mkdir(parents=True)
if xla: shutil.copy('/work/main/tests/as_gpu.py', ipy/'profile_default/startup')
os.environ['IPYTHONDIR']=str(ipy); os.environ['MPLBACKEND']='agg'
if 'standin' in sys.argv:
    kh=Path('/tmp/l6d/kh'); shutil.rmtree(kh,ignore_errors=True); kh.mkdir(); os.environ['KERAS_HOME']=str(kh)
    for n in ("HTTP_PROXY","HTTPS_PROXY","http_proxy","https_proxy"): os.environ[n]="http://127.0.0.1:9"
    for n in ("NO_PROXY","no_proxy"): os.environ.pop(n,None)
else: os.environ['KERAS_HOME']='/tmp/keras'
t0=time.time()
try: NotebookClient(nb,timeout=None,kernel_name='python3',record_timing=True).execute(cwd='/tmp/l6d/run')
except Exception as e: print(str(e)[-3500:])
print(name,f"{time.time()-t0:.0f} s")
nbformat.write(nb,f'/tmp/l6d/run/{"_".join(sys.argv[1:])}.ipynb')
