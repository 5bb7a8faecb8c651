"""python card_trial.py lesson04_cnn.ipynb [gap] [jit depth changes rates final giant]: what decides the open design questions.

Prints validation accuracy only. Needs KERAS_HOME with Fashion-MNIST. About 60 s (jit), 60 s (rates), 240 s (final), 40 s (giant).
"""
import ast
import os
import sys
import time

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import nbformat

ns = {}
wanted = {"CHANGES", "PEAK", "RATES", "LOW_RATES", "TRIAL_SEEDS", "SIZES"}
ONE_PLACE = "gap" in sys.argv  # each map averaged to one number, in place of nine
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type == "code":
        source = cell.source
        if ONE_PLACE:
            source = source.replace("model.output_shape[1] // 3", "model.output_shape[1]")
        for node in ast.parse(source).body:
            name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or name in wanted:
                exec(compile(ast.Module([node], []), "lesson", "exec"), ns)
keras, what = ns["keras"], [w for w in sys.argv[2:] if w != "gap"] or ["jit", "depth", "changes", "final", "giant"]
(x, y), _ = keras.datasets.fashion_mnist.load_data()
ns.update(BATCH=500, x_train=x[:55000], x_valid=x[55000:], y_valid=y[55000:], x_test=x[45000:55000])
PARTS = {"train": (x[:55000], y[:55000]), "validation": (x[55000:], y[55000:])}
FS = ("flip", "shift")
TWO = {"kernels": [5, 3, 3], "convs": 2, "width": 64}


def show(name, seeds=(100,), rate=0.006, jit="auto", **settings):
    t = time.perf_counter()
    model = ns["compiled"](**settings)
    if jit != "auto":
        model.jit_compile = jit
    rows = ns["train"](name, model, list(seeds), rate, settings, PARTS)
    keras.utils.clear_session()
    print(f"{name:44s} rate {rate:<7} train {rows['train'].mean():.4f} valid {rows['validation'].mean():.4f}"
          f" fits {[round(s, 1) for s in rows['seconds']]} all {time.perf_counter() - t:.1f} s", flush=True)


if "jit" in what:  # the first fit holds the compiling: is it cheaper without XLA, and what do the steps cost then?
    for jit in ("auto", False):
        show(f"7-5-3 width 16, jit {jit}", (100, 101), jit=jit, epochs=10, width=16, changes=FS)
        show(f"5-3-3 twice width 64, jit {jit}", (100, 101), jit=jit, epochs=10, changes=FS, **TWO)
if "rates" in what:  # are three rates wide enough, and do width and depth want different ones?
    for width in (4, 16, 64):
        for rate in (0.002, 0.006, 0.018):
            show(f"width {width}", rate=rate, epochs=10, width=width, changes=FS)
if "depth" in what:  # once more with `gap`: the head decides the answer about depth
    goal = ns["multiply_adds"](ns["build"](16))
    for kernels in ([7], [7, 5], [7, 5, 3], [7, 5, 3, 3]):
        width = ns["width_for"](ns["multiply_adds"], goal, kernels=kernels)
        show(f"{len(kernels)} poolings, width {width}", epochs=10, kernels=kernels, width=width, changes=FS)
if "changes" in what:  # do flips and shifts suit ten epochs of width 16 and of width 64?
    for width in (16, 64):
        for changes in ((), FS):
            show(f"width {width}, {changes}", epochs=10, width=width, changes=changes)
if "final" in what:
    ERASE = {"changes": (*FS, "erase")}
    base = TWO | {"epochs": 40, "changes": FS}
    show("final: nine places", **base)
    show("final: dense head", **base | {"hidden": 1})
    show("final: erase", **base | ERASE)
    show("final: dropout 0.2", **base | {"dropout": 0.2})
    show("final: erase, dropout 0.2", **base | ERASE | {"dropout": 0.2})
    show("final: erase, dropout, smoothing", **base | ERASE | {"dropout": 0.2, "smoothing": 0.1})
    show("final: erase, dropout, 3 convs", **base | ERASE | {"dropout": 0.2, "convs": 3})
if "giant" in what:
    width = ns["width_for"](ns["multiply_adds"], ns["multiply_adds"](ns["build"](**TWO)), kernels=(), hidden=3)
    for rate in (0.0005, 0.0015):
        show(f"giant, 3 x {width}", rate=rate, epochs=10, kernels=(), hidden=3, width=width, changes=FS)
