# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# [← Lesson 1](lesson01_basics.ipynb) · [Contents](README.md) · [Lesson 3 →](lesson03_tensorflow.ipynb)
#
# # Lesson 2 · Keras: width, depth and optimiser on Fashion-MNIST
#
# How does a dense network's result depend on its width, its depth and its optimiser, and what improves it? Measured in Keras 3 on all 70,000 images of Fashion-MNIST, five seeds for every row.
#
# **Assignment**
#
# 1. Describe how the result depends on the number of neurons of a two-layer network, and on the number of layers (2, 3, 5, 10) at close numbers of trainable parameters; accuracy on the training and the test set.
#    <br>*Описать, как результат зависит от числа нейронов в двухслойной сети и от числа слоёв (2, 3, 5, 10) при близком числе обучаемых параметров; привести точность на обучающей и тестовой выборках.*
# 2. Try SGD, Adam and RMSProp on one of these models, with the same measures.
#    <br>*Сравнить SGD, Adam и RMSProp на одной из этих моделей по тем же показателям.*
# 3. Conclude what improved classification on the test set.
#    <br>*Сделать вывод: что улучшило классификацию на тестовой выборке.*
# 4. For one network form the confusion matrix and judge every class by recall and precision.
#    <br>*Для одной сети построить матрицу ошибок и оценить каждый класс по полноте и точности.*
# 5. (\*) Work with the Keras documentation: find useful commands that the lesson did not cover.
#    <br>*(\*) Изучить документацию Keras и найти полезные команды, которых не было на занятии.*
#
# **Answers in short**
#
# @ANSWERS@

# %% [markdown]
# ## Setup
#
# Plain Keras 3: the same cells run on TensorFlow, JAX and PyTorch (`KERAS_BACKEND`).

# %%
import contextlib
import logging
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from functools import lru_cache

STARTED = time.perf_counter()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
stderr = os.dup(2)  # TensorFlow's start-up lines come from C++: stderr is set aside while it is imported
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
import keras

os.dup2(stderr, 2)
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.special import softmax
from scipy.stats import ttest_rel
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, classification_report
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm

logging.getLogger("tensorflow").setLevel("ERROR")  # a new network a setting is no fault: no warning of "retracing"
keras.config.set_floatx("float32")  # whatever the reader's keras.json says
keras.config.set_image_data_format("channels_last")
sns.set_theme(style="whitegrid", palette="colorblind", rc={"figure.dpi": 80})
pd.set_option("display.max_colwidth", 100)

# %% tags=["parameters"]
SEEDS = [0, 1, 2, 3, 4]  # a run of every configuration for each seed
EPOCHS = 10  # of a run, unless the table says otherwise
BATCH = 512  # images in a step
RATE = 0.008  # highest learning rate of the cycle
WIDTHS = [8, 32, 128, 512]  # neurons in the hidden layer
DEPTHS = [2, 3, 5, 10]  # dense layers, the output layer included
SIZES = [97_500]  # about so many parameters at every depth
RATES = [1, 4, 16, 32, 64]  # times an optimiser's default learning rate: the rates to try, with three seeds
FINAL_EPOCHS = 40  # of the final network
FINAL_WIDTH = 512  # neurons in each of its three hidden layers
TARGET = 0.88  # validation accuracy that the timed runs have to reach

# %%
GPU = any(name in str(keras.ops.zeros(1).device).lower() for name in ("gpu", "cuda"))
DEVICE = subprocess.getoutput("nvidia-smi --query-gpu=name --format=csv,noheader") if GPU else f"{os.cpu_count()} CPU cores"
print(f"Python {platform.python_version()}, Keras {keras.__version__} on {keras.backend.backend()}, NumPy {np.__version__}; {DEVICE}")

# %% [markdown]
# ## Data
#
# 70,000 grey pictures of clothes, 28 × 28 pixels, ten classes of 7,000 each.

# %%
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def load_data():
    """Fashion-MNIST from Keras' cache or the network, else enlarged digits: (x, y), (x_test, y_test), class names."""
    socket.setdefaulttimeout(20)  # a dead connection must not hang the lesson
    try:
        train, test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception where an address cannot be reached
        if "URL fetch failure" not in str(error):
            raise
        print("!!! STAND-IN: no Fashion-MNIST in the cache and no network. scikit-learn's digits take its place: nothing below is about clothes.")
        digits = load_digits()
        x = np.pad(np.kron(digits.images, np.ones((1, 3, 3))), [(0, 0), (2, 2), (2, 2)]) * 255 / 16
        x, y = x.astype("uint8"), digits.target.astype("uint8")
        return (x[:1500], y[:1500]), (x[1500:], y[1500:]), [str(n) for n in range(10)]
    finally:
        socket.setdefaulttimeout(None)
    counts = [np.bincount(y, minlength=10).tolist() for _, y in (train, test)]
    if train[0].shape[1:] != (28, 28) or counts != [[6000] * 10, [1000] * 10]:
        raise ValueError("what Keras' cache holds under Fashion-MNIST's names is something else: 70,000 images of 28 × 28 in ten equal classes were expected")
    return train, test, CLASSES


# %% [markdown]
# The last twelfth of the training images, 5,000 of them, is the validation part. It makes every choice below; the test images only report.

# %%
(x, y), test, names = load_data()
cut = len(x) - len(x) // 12
parts = {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:]), "test": test}
rows = {part: {"images": len(labels), "of a class": f"{np.bincount(labels).min():,} to {np.bincount(labels).max():,}"} for part, (_, labels) in parts.items()}
pd.DataFrame(rows).T.rename_axis("part")

# %%
fig, axes = plt.subplots(2, 10, figsize=(10, 2.4))
for label, column in enumerate(axes.T):
    for ax, picture in zip(column, x[y == label], strict=False):
        ax.imshow(picture, cmap="gray_r")
        ax.axis("off")
    column[0].set_title(names[label], fontsize=9)
plt.show()

# %% [markdown]
# ## A first solution
#
# One hidden layer of 128 neurons with Adam at its default rate already gives @FIRST@.

# %%
def first(*hidden):
    """The network that anyone would write: dense layers on the pixels, a softmax over ten classes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    for width in hidden:
        model.add(keras.layers.Dense(width, activation="relu"))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(*parts["train"], batch_size=128, epochs=EPOCHS, validation_data=parts["validation"], verbose=0)
    return model, history.history


model, history = first(128)
model.summary()

# %%
fig, ax = plt.subplots(figsize=(6, 3.2))
for key, name, colour in (("accuracy", "train", "C0"), ("val_accuracy", "validation", "C1")):
    ax.plot(range(1, EPOCHS + 1), history[key], color=colour, label=name, marker="o")
ax.set(title="Training accuracy pulls away from validation", xlabel="epoch", ylabel="accuracy")
ax.legend()
plt.show()

# %%
def measure(model):
    """Accuracy of a compiled network on each part."""
    return {part: model.evaluate(*data, batch_size=5000, verbose=0)[1] for part, data in parts.items()}


most_frequent = {part: (labels == np.bincount(y).argmax()).mean() for part, (_, labels) in parts.items()}
logistic, _ = first()
first_table = pd.DataFrame({"most frequent class": most_frequent, "logistic regression (no hidden layer)": measure(logistic), "two layers, 128 neurons": measure(model)}).T
first_table.round(4)

# %% [markdown]
# ## One function that builds, one that trains
#
# Every network below comes from `build`. It ends in logits: the loss adds the softmax, which is more exact.

# %%
def build(layers=2, width=128, dropout=0.0, batch_norm=False):
    """A dense network of `layers` layers, the output layer included: pixels 0 to 255 to logits."""
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    for _ in range(layers - 1):
        model.add(keras.layers.Dense(width))
        if batch_norm:
            model.add(keras.layers.BatchNormalization(momentum=0.95))
        model.add(keras.layers.Activation("relu"))
        if dropout:
            model.add(keras.layers.Dropout(dropout))
    model.add(keras.layers.Dense(10))
    return model


# %% [markdown]
# Changed copies of the images (mirrored, moved) are made in NumPy while the network trains, by a `PyDataset`. Eight images, and below them what comes out of it:

# %%
class Batches(keras.utils.PyDataset):
    """Shuffled batches, images mirrored with probability `flip` and moved by up to `shift` pixels."""

    def __init__(self, x, y, flip, shift, seed):
        super().__init__()
        padded = np.pad(x, [(0, 0), (shift, shift), (shift, shift)])
        self.windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:], axis=(1, 2))
        self.y, self.flip, self.shift, self.rng = y, flip, shift, np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.y) // BATCH)

    def __getitem__(self, step):
        chosen = self.order[step * BATCH : (step + 1) * BATCH]
        down, right = self.rng.integers(2 * self.shift + 1, size=(2, len(chosen)))
        x = self.windows[chosen, down, right]
        mirrored = self.rng.random(len(x)) < self.flip
        x[mirrored] = x[mirrored, :, ::-1]
        return x, self.y[chosen]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.y))


# %%
batches = Batches(x[:8], y[:8], flip=0.5, shift=1, seed=1)
batches.order = np.arange(8)  # not shuffled, to see each beside its copy
fig, axes = plt.subplots(2, 8, figsize=(10, 2.6))
for (above, below), image, changed in zip(axes.T, x[:8], batches[0][0], strict=True):
    above.imshow(image, cmap="gray_r")
    below.imshow(changed, cmap="gray_r")
for ax in axes.flat:
    ax.axis("off")
plt.show()

# %% [markdown]
# Each run follows one recipe unless its table says otherwise: Adam, batches of 512, one cycle of the learning rate, which climbs for a fifth of the steps and falls to zero along a cosine, and the weights of the last step, so that no epoch is picked. A network is compiled once for all seeds of a setting; `restart` gives it new weights.

# %%
def make_optimiser(name, rate, **options):
    """A Keras optimiser; "SGD + momentum" is Nesterov's momentum of 0.9."""
    if name == "SGD + momentum":
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, **options)
    return getattr(keras.optimizers, name)(rate, **options)


# %%
@lru_cache(maxsize=1)
def compiled(steps, optimiser="Adam", rate=RATE, cycle=True, smoothing=0.0, decay=None, average=False, **shape):
    """A compiled network and the first state of its optimiser: made once for all seeds of a configuration."""
    keras.utils.clear_session()
    model = build(**shape)
    if cycle:  # up to `rate` in the first fifth of the steps, then down to zero along a cosine
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 5, warmup_target=rate, warmup_steps=steps // 5)
    made = make_optimiser(optimiser, rate, weight_decay=decay, use_ema=average, ema_momentum=0.99)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    calls = 27 if keras.backend.backend() == "tensorflow" else 1  # steps for a call: less Python, the same result
    model.compile(made, loss, steps_per_execution=calls)
    made.build(model.trainable_variables)
    return model, [keras.ops.convert_to_numpy(variable) for variable in made.variables]


def restart(model, state):
    """Fresh initial weights for a compiled network, its optimiser back at the first step."""
    fresh = [keras.ops.convert_to_numpy(variable) for variable in keras.models.clone_model(model).variables]
    for variable, value in zip([*model.variables, *model.optimizer.variables], [*fresh, *state], strict=True):
        variable.assign(value)


# %%
def views(pixels):
    """Images as they are and moved by one pixel in four directions, then the mirror images of all five."""
    padded = np.pad(pixels, [(0, 0), (1, 1), (1, 1)])
    moved = [padded[:, a : a + 28, b : b + 28] for a, b in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
    return moved + [view[:, :, ::-1] for view in moved]


def probabilities(model, pixels):
    """Class probabilities of a network for the ten views of images: (10, images, 10)."""
    return softmax([model.predict(view, batch_size=5000, verbose=0) for view in views(pixels)], axis=-1)


# %%
def run(seed=0, epochs=EPOCHS, flip=0.0, shift=0, keep=False, **settings):
    """Train one network: a row of settings, accuracies and seconds; `keep` adds answers and weights."""
    images, targets = parts["train"][0], keras.utils.to_categorical(parts["train"][1], 10)
    model, state = compiled(epochs * -(-len(images) // BATCH), **settings)
    keras.utils.set_random_seed(seed)
    restart(model, state)
    data = {"x": images, "y": targets, "batch_size": BATCH}
    if flip or shift:
        data = {"x": Batches(images, targets, flip, shift, seed)}
    begun = time.perf_counter()
    model.fit(**data, epochs=epochs, verbose=0)
    row = {"seed": seed, "epochs": epochs, **settings, "parameters": model.count_params(), "seconds": time.perf_counter() - begun}
    for part, (pixels, labels) in parts.items():
        row[part] = float(np.mean(model.predict(pixels, batch_size=5000, verbose=0).argmax(axis=1) == labels))
    if keep:
        row |= {f"{part} answers": probabilities(model, parts[part][0]) for part in ("validation", "test")}
        row["weights"] = model.get_weights()
    return row


pd.DataFrame([run(cycle=True, rate=RATE), run(cycle=False, rate=0.001)]).round(4)

# %% [markdown]
# The cycle against Adam at its constant default, one seed. Three helpers serve every section below: a loop, a table of mean ± sd over seeds, and differences between settings with the same seeds. The intervals of the last (half a 95 % interval by Student's t over five seeds) are not corrected for their number; Holm's p is, and only it carries a claim.

# %%
def sweep(configurations):
    """A row for every configuration (a dict of settings)."""
    return pd.DataFrame([run(**c) for c in tqdm(configurations, file=sys.stdout, leave=False)])


def mean_sd(rows, by):
    """Mean ± sd over seeds of the accuracy on each part, one row a setting."""
    return rows.groupby(by, sort=False)[list(parts)].agg(lambda column: f"{column.mean():.4f} ± {column.std():.4f}")


# %%
def differences(rows, by, pairs):
    """For pairs (setting, reference): change ± half a 95 % interval, paired over seeds, and Holm's p."""
    table = pd.DataFrame(index=pd.Index([f"{a} against {b}" for a, b in pairs], name=by))
    for part in ("validation", "test"):
        wide = rows.pivot(index="seed", columns=by, values=part)
        tests = [ttest_rel(wide[a], wide[b]) for a, b in pairs]
        means = [(wide[a] - wide[b]).mean() for a, b in pairs]
        halves = [np.ptp(test.confidence_interval()) / 2 for test in tests]
        table[part] = [f"{mean:+.4f} ± {half:.4f}" for mean, half in zip(means, halves, strict=True)]
        table[f"Holm's p, {part}"] = multipletests(np.nan_to_num([test.pvalue for test in tests], nan=1.0), method="holm")[1].round(4)
    return table


# %%
def plot_parts(ax, rows, x):
    """Accuracy on each part against the setting `x`: mean and sd over seeds."""
    long = rows.melt([x], list(parts), "part", "accuracy")
    sns.pointplot(long, x=x, y="accuracy", hue="part", palette=["C0", "C1", "C2"], errorbar="sd", capsize=0.1, linewidth=1.5, ax=ax)


# %% [markdown]
# ## Width
#
# @WIDTH@

# %%
width = sweep([{"width": w, "seed": s} for w in WIDTHS for s in SEEDS])
width["gap"] = width["train"] - width["test"]
mean_sd(width, ["width", "parameters"]).assign(gap=width.groupby(["width", "parameters"])["gap"].mean().round(4))

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
plot_parts(ax, width, "width")
ax.set(title="Every fourfold width brings less, and the gap to the training images opens", xlabel="neurons in the hidden layer")
plt.show()

# %%
differences(width, "width", list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True)))

# %% [markdown]
# @READ_W@

# %% [markdown]
# ## Depth
#
# @DEPTH@

# %%
def parameters(layers, width):
    """Trainable parameters of a dense network with `layers` layers for 784 pixels and ten classes."""
    return 785 * width + (layers - 2) * (width + 1) * width + 10 * (width + 1)


def matched(layers, size):
    """The width at which a network of `layers` layers comes closest to `size` parameters."""
    return min(range(1, size // 785 + 2), key=lambda width: abs(parameters(layers, width) - size))


networks = [{"layers": d, "width": matched(d, size)} for size in SIZES for d in DEPTHS]
assert all(parameters(**network) == build(**network).count_params() for network in networks)
table = pd.DataFrame(networks)
table["parameters"] = [parameters(**network) for network in networks]
table

# %%
depth = sweep([{**network, "seed": s} for network in networks for s in SEEDS])
depth["size"] = np.repeat(SIZES, len(DEPTHS) * len(SEEDS))
mean_sd(depth, ["size", "layers", "width"])

# %%
fig, axes = plt.subplots(1, len(SIZES), figsize=(9, 3.6), sharey=True, squeeze=False)
for ax, (size, group) in zip(axes[0], depth.groupby("size"), strict=True):
    plot_parts(ax, group, "layers")
    ax.set(title=f"Close to {size:,} parameters depth changes little", xlabel="dense layers, the output layer included")
    ax.legend().set_visible(size == max(SIZES))
plt.show()

# %%
pairs = [(d, DEPTHS[0]) for d in DEPTHS[1:]]
pd.concat({size: differences(group, "layers", pairs) for size, group in depth.groupby("size")}, names=["size"])

# %% [markdown]
# @READ_D@

# %% [markdown]
# ## Optimisers
#
# @OPT@

# %%
small = {"layers": DEPTHS[1], "width": matched(DEPTHS[1], SIZES[0])}
defaults = {"SGD": 0.01, "SGD + momentum": 0.01, "RMSprop": 0.001, "Adam": 0.001}  # Keras' learning rates
grid = [{"optimiser": o, "rate": r * times, **small} for o, r in defaults.items() for times in RATES]
rates = sweep([{**c, "seed": s} for c in grid for s in SEEDS[:3]])
worst = rates.groupby(["optimiser", "rate"], sort=False)["validation"].min()
worst.unstack("optimiser").sort_index().map(lambda value: "" if np.isnan(value) else f"{value:.4f}")

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
sns.lineplot(rates, x="rate", y="validation", hue="optimiser", style="optimiser", markers=True, dashes=False, errorbar=("pi", 100), ax=ax)
lowest = worst.median() - 0.05
ax.set(xscale="log", ylim=(lowest, worst.max() + 0.01), xlabel="highest learning rate of the cycle")
ax.set(ylabel=f"validation accuracy (below {lowest:.2f} cut off)", title="Each optimiser has its own range of rates")
sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
tuned = {o: float(worst[o].idxmax()) for o in defaults}
plain = [{"optimiser": o, "rate": r, "cycle": False, **small} for o, r in defaults.items()]
default = sweep([{**c, "seed": s} for c in plain for s in SEEDS])
best = [{"optimiser": o, "rate": r, **small} for o, r in tuned.items()]
chosen = sweep([{**c, "seed": s} for c in best for s in SEEDS])
ways = {"Keras' default, constant": default, "tuned, one cycle": chosen}
optimisers = pd.concat([rows.assign(way=way) for way, rows in ways.items()])
print("tuned: " + ", ".join(f"{o} {r:g}{'' if min(RATES) < round(r / defaults[o]) < max(RATES) else ' (at the edge)'}" for o, r in tuned.items()))
mean_sd(optimisers, ["way", "optimiser", "rate"])

# %%
pairs = [(o, "Adam") for o in defaults if o != "Adam"]
pd.concat({way: differences(group, "optimiser", pairs) for way, group in optimisers.groupby("way", sort=False)}, names=["way"])

# %% [markdown]
# @READ_O@

# %% [markdown]
# ## What improved the result
#
# @HELPED@

# %%
score = depth.groupby(["layers", "width"])["validation"].mean()
reference = dict(zip(("layers", "width"), map(int, score.idxmax()), strict=True))
changes = {
    "reference": {},
    "constant rate 0.001": {"cycle": False, "rate": 0.001},
    "constant rate 0.001, averaged weights": {"cycle": False, "rate": 0.001, "average": True},
    "constant rate 0.004": {"cycle": False, "rate": 0.004},
    "dropout 0.2": {"dropout": 0.2},
    "label smoothing 0.1": {"smoothing": 0.1},
    "weight decay 0.05": {"decay": 0.05},
    "batch normalisation": {"batch_norm": True},
    "mirrored images": {"flip": 0.5},
    "images moved by a pixel": {"shift": 1},
    "twice the epochs": {"epochs": 2 * EPOCHS},
    "all five": {"smoothing": 0.1, "decay": 0.05, "batch_norm": True, "flip": 0.5, "shift": 1},
}
helped = sweep([reference | change | {"seed": s} for change in changes.values() for s in SEEDS])
helped["change"] = np.repeat(list(changes), len(SEEDS))
mean_sd(helped, "change")

# %%
effects = differences(helped, "change", [(name, "reference") for name in changes if name != "reference"])
effects.index = [name.removesuffix(" against reference") for name in effects.index]
effects

# %% [markdown]
# @READ_H@

# %% [markdown]
# ## The final network
#
# @FINAL@

# %%
LONG = {"layers": 4, "width": FINAL_WIDTH, "epochs": FINAL_EPOCHS, "rate": 0.004}
FINAL = LONG | changes["all five"]
final = sweep([FINAL | {"seed": s, "keep": True} for s in SEEDS])
control = sweep([LONG | {"seed": s} for s in SEEDS[:3]])  # the same network and training without the five
print(f"a final network takes {final['seconds'].mean():.0f} seconds")
long = pd.concat([control.assign(network="without the five"), final.assign(network="with all five")])
mean_sd(long, ["network", "layers", "width", "epochs", "parameters"])

# %%
def measure_answers(answers, part):
    """Mean and sd of accuracy over networks; `answers` (networks, images, 10)."""
    right = (answers.argmax(axis=-1) == parts[part][1]).mean(axis=-1)
    return f"{right.mean():.4f} ± {right.std(ddof=1):.4f}" if len(right) > 1 else f"{right[0]:.4f}"


stages = {}
for part in ("validation", "test"):
    answers = np.stack(final[f"{part} answers"])  # (networks, views, images, 10)
    averages = {
        "one network": answers[:, 0],
        "one network, ten views": answers.mean(axis=1),
        "all networks": answers[:, 0].mean(axis=0, keepdims=True),
        "all networks, ten views": answers.mean(axis=(0, 1))[None],
    }
    stages[part] = {name: measure_answers(average, part) for name, average in averages.items()}
pd.DataFrame(stages)

# %%
shown = pd.concat([helped, control.assign(change="final without the five"), final.assign(change="final network")])
order = ["reference", *effects.index, "final without the five", "final network"]
colours = ["grey", *["C2"] * len(effects), "grey", "C3"]
fig, ax = plt.subplots(figsize=(7, 4.2))
sns.pointplot(shown, x="test", y="change", hue="change", order=order, hue_order=order, palette=colours, errorbar="sd", linestyle="none", ax=ax)
ax.axvline(shown[shown["change"] == "reference"]["test"].mean(), color="grey", linewidth=1)
ax.set(title="What improves a dense network", xlabel="test accuracy, mean and sd over seeds", ylabel="")
with contextlib.suppress(OSError):
    os.makedirs("data/images", exist_ok=True)
    fig.savefig("data/images/lesson02.png", dpi=100, bbox_inches="tight")
plt.show()

# %% [markdown]
# @READ_F@

# %% [markdown]
# ## Errors by class
#
# @ERRORS@

# %%
labels, answers = test[1], np.stack(final["test answers"])[:, 0]
predictions = answers.argmax(axis=-1)  # (seeds, images)
fig, ax = plt.subplots(figsize=(7, 7))
ConfusionMatrixDisplay.from_predictions(labels, predictions[0], display_labels=names, cmap="Blues", colorbar=False, xticks_rotation=60, ax=ax)
ax.grid(False)
ax.set(title="One final network on the test images", xlabel="predicted", ylabel="true class")
plt.show()

# %% [markdown]
# *Recall* is the share of a class that is found (its row of the matrix), *precision* the share of right answers among those that name the class (its column), F1 their harmonic mean. Mean ± sd over the five networks, the weakest class first:

# %%
reports = [classification_report(labels, p, target_names=names, output_dict=True, zero_division=0) for p in predictions]
by_class = pd.concat([pd.DataFrame(report).T.loc[names] for report in reports]).rename_axis("class").groupby(level=0)
scores = by_class[["recall", "precision"]].agg(lambda column: f"{column.mean():.3f} ± {column.std():.3f}")
scores.assign(F1=by_class["f1-score"].mean().round(3)).sort_values("F1")

# %% [markdown]
# @READ_E@

# %%
tops = [0, 2, 4, 6]  # T-shirt, pullover, coat, shirt
wrong = predictions != labels
among = wrong & np.isin(labels, tops) & np.isin(predictions, tops)
print(f"errors among the four kinds of tops: {among.sum() / wrong.sum():.3f} of all")
print(f"mean confidence {answers.max(axis=-1).mean():.3f}, accuracy {1 - wrong.mean():.3f}")

# %% [markdown]
# The twelve errors of which the five networks together are surest:

# %%
together = answers.mean(axis=0)
missed = np.flatnonzero(together.argmax(axis=1) != labels)
missed = missed[np.argsort(-together[missed].max(axis=1))][:12]
fig, axes = plt.subplots(2, 6, figsize=(10, 4.4))
for ax, i in zip(axes.flat, missed, strict=False):
    ax.imshow(test[0][i], cmap="gray_r")
    ax.set_title(f"{names[together[i].argmax()]} {together[i].max():.2f}\nlabel {names[labels[i]]}", fontsize=9)
for ax in axes.flat:
    ax.axis("off")
fig.tight_layout()
plt.show()

# %% [markdown]
# ## Keras documentation
#
# @DOCS@

# %%
class Clock(keras.callbacks.Callback):
    """Seconds from the call of `fit` to the end of each epoch; stops at the validation accuracy TARGET."""

    def on_train_begin(self, logs=None):
        self.begun, self.seconds = time.perf_counter(), []

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begun)
        self.model.stop_training = logs["val_accuracy"] >= TARGET


# %%
def timed(seed=0, batch=32, cycle=0, **options):
    """Train until TARGET is reached: seconds of a later epoch, epochs and seconds, compilation included."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model, clock, rate = build(), Clock(), 0.001
    if cycle:
        steps = cycle * -(-len(parts["train"][1]) // batch)
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 5, warmup_target=RATE, warmup_steps=steps // 5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **options)
    data, epochs = parts["train"], cycle or 4 * EPOCHS
    model.fit(*data, batch, epochs, verbose=0, callbacks=[clock], validation_data=parts["validation"])
    later = np.diff(clock.seconds).mean() if len(clock.seconds) > 1 else clock.seconds[0]
    row = {"reached": model.stop_training, "seconds a later epoch": later}
    return row | {"epochs": len(clock.seconds), "seconds": clock.seconds[-1]}


# %%
speeds = {
    "batch 32": {"jit_compile": False},
    "batch 512": {"batch": 512, "jit_compile": False},
    "batch 512, steps_per_execution=20": {"batch": 512, "jit_compile": False, "steps_per_execution": 20},
    "batch 512, jit_compile=True": {"batch": 512, "jit_compile": True},
    "batch 512, a cycle of 6 epochs": {"batch": 512, "jit_compile": False, "cycle": 6},
}
if keras.backend.backend() == "torch":  # one step per execution, no XLA
    del speeds["batch 512, steps_per_execution=20"], speeds["batch 512, jit_compile=True"]
timings = pd.DataFrame([{"training": name, **timed(seed, **how)} for name, how in speeds.items() for seed in SEEDS[:2]])
timings = timings.groupby("training", sort=False).agg(
    {"reached": lambda column: f"{column.sum()} of {len(column)}", "seconds a later epoch": "mean", "epochs": "mean", "seconds": "mean"}
)
timings.round(2)

# %% [markdown]
# @READ_K@

# %%
first_run, second_run, other = (run(seed, epochs=1, keep=True)["test answers"] for seed in (1, 1, 2))
same, other = (np.abs(first_run - run_again).max() for run_again in (second_run, other))
print(f"largest difference of two runs with one seed: {same:.2g}; with two: {other:.2g}")

# %%
model = build(**{key: FINAL[key] for key in ("layers", "width", "batch_norm")})
model.set_weights(final["weights"][0])
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/final.keras")
    loaded = keras.saving.load_model(f"{folder}/final.keras")
    same = np.abs(probabilities(model, test[0]) - probabilities(loaded, test[0])).max()
    for layer in loaded.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.quantize("int8")
    loaded.save(f"{folder}/int8.keras")
    sizes = [os.path.getsize(f"{folder}/{name}.keras") / 1e6 for name in ("final", "int8")]
small_answers = probabilities(loaded, test[0])[0]
print(f"saved and loaded: largest difference {same:.2g}; file {sizes[0]:.2f} MB, as int8 {sizes[1]:.2f} MB")
int8 = (small_answers.argmax(axis=1) == labels).mean()
print(f"test accuracy {(predictions[0] == labels).mean():.4f}, as int8 {int8:.4f}")

# %% [markdown]
# ## Scoreboard: how it compares
#
# @SCORE@

# %%
readme, book = "Fashion-MNIST's README", "Hands-On Machine Learning, ch. 10, one run"
wide, best = f"two layers, {max(WIDTHS)} neurons", "all networks, ten views"
single = f"{final['test'].mean():.4f}"
board = [
    (wide, f"{width[width['width'] == max(WIDTHS)]['test'].mean():.4f}", "0.8864", f"layers of 300, 100, 10; {book}"),
    ("final network", single, "0.835", f"people without fashion expertise, 1,000 images; {readme}"),
    ("final network", single, "0.8833", f"256-128-100, best of 30 runs; {readme}"),
    ("final network", single, "0.900", f"256-128-64, no protocol given; {readme}"),
    (best, stages["test"][best], "0.916 to 0.932", f"two convolutional layers, several entries; {readme}"),
]
board = pd.DataFrame(board, columns=["measure", "ours", "reference", "source"])
board.assign(measure="test accuracy, " + board["measure"])

# %% [markdown]
# ## Conclusions
#
# @CONCLUSIONS@

# %% [markdown]
# ## Выводы
#
# @RUSSIAN@

# %% [markdown]
# ## References
#
# - H. Xiao, K. Rasul, R. Vollgraf. [Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms](https://arxiv.org/abs/1708.07747), 2017. Figures of others and of people in the [README](https://github.com/zalandoresearch/fashion-mnist#benchmark), which says that its authors have not tested them; data under the MIT licence.
# - A. Géron. *Hands-On Machine Learning with Scikit-Learn, Keras, and TensorFlow*, 3rd ed., ch. 10; [notebooks](https://github.com/ageron/handson-ml3).
# - D. Kingma, J. Ba. [Adam](https://arxiv.org/abs/1412.6980), 2014. I. Loshchilov, F. Hutter. [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), 2017.
# - L. Smith, N. Topin. [Super-Convergence](https://arxiv.org/abs/1708.07120), 2017 (one cycle of the learning rate).
# - C. Szegedy et al. [Rethinking the Inception Architecture](https://arxiv.org/abs/1512.00567), 2015 (label smoothing). P. Izmailov et al. [Averaging Weights Leads to Wider Optima](https://arxiv.org/abs/1803.05407), 2018.
# - S. Holm. A Simple Sequentially Rejective Multiple Test Procedure. *Scandinavian Journal of Statistics* 6 (1979).
# - Keras: [training](https://keras.io/api/models/model_training_apis/), [callbacks](https://keras.io/api/callbacks/), [schedules](https://keras.io/api/optimizers/learning_rate_schedules/), [saving](https://keras.io/api/models/model_saving_apis/).

# %%
print(f"Run all: {(time.perf_counter() - STARTED) / 60:.1f} minutes on {DEVICE}")
