"""python ladder.py NB NAME ...: climbs of lesson 5, a line per training."""
import ast, os, sys, time, pickle
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
import nbformat
ns = {}
wanted = "RANKS WARM_UP UNITS GLOROT IDENTITY FADING INPUT_DECAY CONTROL LOOPS SUMS TASKS CHUNK BATCH RANDOM VARIANTS LENGTHS LOOPS_UP_TO TASK_SEEDS RATES UPDATES STARTS".split()
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type == "code":
        for node in ast.parse(cell.source).body:
            name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or name in wanted:
                exec(compile(ast.Module([node], []), "lesson", "exec"), ns)
ns["tf"].get_logger().setLevel("ERROR")
solve = ns["solve"]
def told(*a, **k):
    t = time.perf_counter()
    row = solve(*a, **k)
    print(NAME, row, round(time.perf_counter() - t, 1), flush=True)
    return row
ns["solve"] = told
short = [n for n in ns["LENGTHS"] if n <= ns["LOOPS_UP_TO"]]
everything = ns["LOOPS"] | ns["SUMS"] | ns["VARIANTS"]
for NAME in sys.argv[2:]:
    sums = NAME in ns["SUMS"]
    t = time.perf_counter()
    rows = ns["climb"](NAME, everything[NAME], ns["LENGTHS"] if sums else short, not sums)
    print("CLIMBED", NAME, round(time.perf_counter() - t), "s", ns["verdicts"](rows, [NAME]).to_dict("records"), flush=True)
    rows.to_pickle(f"/tmp/out/{NAME.split(' (')[0].replace(' ', '_').replace('*', '')}.pkl")
