import subprocess
subprocess.run("cd /work/main && /tmp/venv/bin/jupytext --to py:percent lesson04_cnn.ipynb -o /tmp/lesson/l4.py -q",shell=True,check=True)
p='/tmp/lesson/l4.py'; t=open(p).read()
def sub(a,b,n=1):
    global t
    assert t.count(a)==n,(t.count(a),a); t=t.replace(a,b)
sub('''import time
from itertools import pairwise
''','''import time
import warnings
from itertools import pairwise
''')
sub('''keras.config.set_image_data_format("channels_last")
''','''keras.config.set_image_data_format("channels_last")
warnings.filterwarnings("ignore", "Precision loss")  # two seeds may agree to the last image
''')
sub('''        if "URL fetch failure" not in str(error):
''','''        if not isinstance(error, TimeoutError | ConnectionError) and "URL fetch failure" not in str(error):
''')
sub('''    print(f"full size: about {expected:.0f} minutes here; the {SCALE} size runs, the text is about the full")
''','''    cost = f"about {expected:.0f} minutes here" if GPU else "hours without a GPU"
    print(f"full size: {cost}; the {SCALE} size runs, the text is about the full")
''')
sub('fig.suptitle("Depth at equal parameters pays up to three blocks", y=1.03)','fig.suptitle("What blocks bring at equal width, and what at equal parameters", y=1.03)')
a=t.index('fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)\nfor ax, size in zip(axes, ["parameters"'); b=t.index("# %% [markdown]\n# **How to read it.** The three layers of 512")
t=t[:a]+'''lines = [
    ("convolutional 7-5-3", width["network"].unique(), "o-", "C0"),
    ("dense, one layer", one_layer, "o-", "grey"),
    ("the same, no shifts", [f"{smallest}, no shifts", f"{largest}, no shifts"], "s:", "grey"),
    ("dense 3 × 512, 40 epochs", ["dense 3 × 512"], "D", "black"),
    ("the same, no shifts", ["dense 3 × 512, no shifts"], "s", "black"),
]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, size, subs in zip(axes, ["parameters", "multiply-adds"], [(1, 3), (1,)], strict=True):
    for label, names, form, colour in lines:
        groups = pd.concat([width, dense]).groupby("network").agg({size: "first", "test": ["mean", "std"]})
        x, y, error = groups.loc[list(names)].to_numpy().T
        ax.errorbar(x, y, yerr=error, fmt=form, color=colour, markersize=5, label=label)
    ax.set(xscale="log", xlabel=size, ylabel="test accuracy")
    ax.xaxis.set_major_locator(plt.LogLocator(subs=subs))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_formatter("")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
fig.suptitle("Per parameter convolution is far ahead; per multiplication it starts later")
plt.show()

'''+t[b:]
sub('page = "authors\' page"','page = "Fashion-MNIST\'s README"')
open(p,'w').write(t)
