"""python card_trial.py lesson06_unet.ipynb [speed rates length leak]: what decides the open design questions, on the card.

Runs the lesson's own cells up to the crossover (reading, first network, mosaics), then prints milliseconds per step, seconds of
compiling, seconds of scoring, and VALIDATION figures only. KERAS_HOME must hold stage1_train.zip. Guess: 60 s to get there, then
speed 100 s, rates 60 s, length 120 s, leak 100 s (the four do not fit into five minutes: speed and length first). Every line is flushed: cut it when the time is over.
"""
import os
import sys
import time

T0 = time.perf_counter()
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import matplotlib

matplotlib.use("agg")
import nbformat

ns = {"__name__": "trial"}
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type != "code":
        continue
    if "def crossover" in cell.source:
        break
    source = cell.source.replace('os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"', "")
    begun = time.perf_counter()
    exec(compile(source, cell.source[:30], "exec"), ns)
    took = time.perf_counter() - begun
    if took > 2:
        print(f"   {took:6.1f} s  {source.splitlines()[0][:70]}", flush=True)
print(f"ready after {time.perf_counter() - T0:.0f} s, {ns['DEVICE']}, {ns['SCALE']}", flush=True)
keras, np = ns["keras"], ns["np"]
what = sys.argv[2:] or ["speed", "rates", "length"]
FIRST, LAST, PARTS, STEPS = ns["FIRST"], ns["LAST"], ns["PARTS"], ns["STEPS"]
TRAIN, VALID, W = PARTS["train"], PARTS["validation"], ns["WIDTH"]
LOSS = ns["entropy_and_dice"]
SMALL = {"width": W, "loss": "binary_crossentropy", "average": False}
LARGE = {"width": 2 * W, "loss": LOSS, "average": True}


def show(name, model, settings, seed=0, cuts=(5,)):
    begun = time.perf_counter()
    ms = ns["fit"](model, seed, settings, TRAIN)
    fitted = time.perf_counter() - begun
    rows = ns["evaluate"](model, VALID, settings, cuts)
    scored = time.perf_counter() - begun - fitted
    by_cut = {c: f"{m:.4f}" for c, m in rows.groupby("cut")["mAP"].mean().items()}
    print(f"{name:44s} fit {fitted:6.1f} s = {ms:6.2f} ms a step, scoring {scored:5.1f} s, "
          f"validation IoU {rows['IoU'].mean():.4f} mAP {by_cut}", flush=True)
    return fitted


if "speed" in what:
    begun = time.perf_counter()
    batches = ns["crops"](TRAIN, 0, LAST, 1)
    for _ in range(50):
        next(batches)
    print(f"crops of LAST: {20 * (time.perf_counter() - begun):.1f} ms a batch without any training", flush=True)
    short = {"steps": 200}
    for policy in ("mixed_bfloat16", "float32"):
        keras.config.set_dtype_policy(policy)
        for jit in (True, False):
            ns["JIT"] = jit
            small, large = ns["compiled"](**SMALL), ns["compiled"](**LARGE)
            for name, model, settings in (("small, first", small, FIRST), ("large, last", large, LAST)):
                for again in ("compiling", "again"):
                    show(f"{policy}, XLA {jit}: {name}, {again}", model, settings | short)
            if jit and policy == "mixed_bfloat16":
                show("large, small crops", large, LAST | short | {"crop": ns["CROP"]})
                show("small, large crops", small, FIRST | short | {"crop": 2 * ns["CROP"]})
    keras.config.set_dtype_policy("mixed_bfloat16")
    ns["JIT"] = True
if "cpu" in what:  # the short size: one training of each kind, with and without XLA
    import resource
    for jit in (False, True):
        ns["JIT"] = jit
        for name, net, settings in (("small, first", SMALL, FIRST), ("large, last", LARGE, LAST)):
            model = ns["compiled"](**net)
            show(f"XLA {jit}: {name}", model, settings | {"steps": 40})
            show(f"XLA {jit}: {name}, again", model, settings | {"steps": 40})
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB at most", flush=True)
if "rates" in what:
    small, large = ns["compiled"](**SMALL), ns["compiled"](**LARGE)
    for rate in (0.001, 0.002, 0.004):
        ns["PEAK"] = rate
        show(f"first, peak {rate}", small, FIRST)
        show(f"last, peak {rate}", large, LAST)
    ns["PEAK"] = 0.002
if "length" in what:  # the border class at three lengths, and whether larger batches of views pay
    border = ns["compiled"](**LARGE, outputs=2)
    for factor in (1, 3, 6):
        show(f"border, {factor} x {STEPS} steps", border, LAST | {"steps": factor * STEPS}, cuts=(0.3, 0.5, 0.7))
    large = ns["compiled"](**LARGE)
    show(f"no border, 3 x {STEPS} steps", large, LAST | {"steps": 3 * STEPS}, cuts=(3, 5, 8))
if "leak" in what:  # is the leak seen after STEPS, or only after 3 x STEPS? One start each; no recipe hangs on it
    cells = [cell.source for cell in nbformat.read(sys.argv[1], 4).cells if cell.cell_type == "code"]
    place = next(k for k, source in enumerate(cells) if "def crossover" in source)
    run, after = cells[place + 1], cells[place + 2]
    exec(cells[place], ns)
    for factor in (1, 3):
        ns["SEEDS"] = [0]
        exec(run.replace("LAST", "{**LAST, 'steps': %d * STEPS}" % factor), ns)
        exec(after, ns)
        print(factor, "x STEPS:", ns["leaks"].T.round(4).to_string(), sep="\n", flush=True)
print(f"done after {time.perf_counter() - T0:.0f} s")
