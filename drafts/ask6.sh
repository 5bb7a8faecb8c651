python3 - <<'P'
import json
nb=json.load(open('/tmp/run6/lesson06_unet.ipynb')); c=[x for x in nb['cells'] if x['cell_type']=='code']; print(sum(1 for x in c if x.get('execution_count')),len(c))
for x in c:
    for o in x.get('outputs',[]):
        if o['output_type'] in('stream','error'): print(str(o.get('text',o.get('evalue')))[:300])
P
date; tail -2 /tmp/run6/log
cp /tmp/run6/lesson06_unet.ipynb $OUT/; cp /tmp/run6/data/images/lesson06.png $OUT/ 2>/dev/null
