# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# [← Lesson 4](lesson04_cnn.ipynb) · [Contents](README.md) · [Lesson 6 →](lesson06_unet.ipynb)
#
# # Lesson 5 · Recurrent networks: what they forecast, and what they remember
#
# A recurrent network reads a sequence step by step and carries a memory along. Does it forecast airline passengers better than a straight line? What happens inside an LSTM? And why is it so hard to remember a number for a hundred steps? We forecast, build an LSTM in NumPy, and let ten memories, one of them our own, compete on two tasks.
#
# **Assignment**
#
# 1. Train an LSTM on another data set, such as airline-passengers; describe the result and what improved it.
#    <br>*Обучить LSTM на другом наборе данных, например airline-passengers; описать результат и то, что его улучшило.*
# 2. (\*) Implement the LSTM architecture in NumPy.
#    <br>*(\*) Реализовать архитектуру LSTM на NumPy.*
# 3. (\*) Propose your own ways around the vanishing gradient in recurrent networks.
#    <br>*(\*) Предложить свои варианты того, как обойти затухание градиента в рекуррентных сетях.*
#
# **Answers in short** · [Выводы по-русски](#Выводы)
#
# - **Result.** A month ahead, five LSTMs together err by «?13.34?» thousand passengers; a line through past logarithms, «?13.15?», is as good: [What must a network beat?](#What-must-a-network-beat?), [What improves the forecast?](#What-improves-the-forecast?).
# - **What improved it.** Ask the LSTM for the change and not for the number: its error falls from «?93.63?» to «?14.91?»: [What improves the forecast?](#What-improves-the-forecast?).
# - **In NumPy.** Four lines for the gates, a loop over time; checked against moved weights and Keras, it makes the same forecast: [How does an LSTM work inside?](#How-does-an-LSTM-work-inside?).
# - **Our own cure.** *Fading means*: running means with paces from short to long, and no gates. They solve adding at «?200?» steps, first minus second at «?100?»: [Which cure helps?](#Which-cure-helps?), [What makes our own cure work?](#What-makes-our-own-cure-work?).
# - **The strongest cure.** A memory whose decay the input sets, computed as one sum: the only one to solve both tasks at «?1,000?» steps: [Which cure helps?](#Which-cure-helps?).

# %% [markdown]
# ## Setup
#
# On two processor cores everything runs in «?20?» minutes. A graphics card hardly helps: a recurrent network goes step by step, and each step is tiny. So we hide it.

# %%
import os
import platform
import socket
import time

STARTED = time.perf_counter()
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import tensorflow as tf
from keras import layers, ops

socket.setdefaulttimeout(20)  # seconds that a server may stay silent
keras.config.set_floatx("float32")
tf.get_logger().setLevel("ERROR")  # it warns of many networks in a row: we mean it
sns.set_theme(style="whitegrid", palette="colorblind", font_scale=1.1)
plt.rcParams["figure.dpi"] = 100
pd.set_option("display.precision", 2)

# %% tags=["parameters"]
SERIES = None  # a CSV of your own: in every line a month and a number
EPOCHS = 100  # of the first network
SEEDS = [0, 1, 2, 3, 4]  # of the networks that forecast
STEPS = 200  # their training steps at most
LAGS = [12, 13, 14, 15, 24, 25, 26]  # months that a linear forecast may see
PENALTIES = [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10_000]  # of ridge regression
STARTS = [0, 1, 2, 3, 4, 5, 6, 7]  # first weights whose gradients are measured
LENGTHS = [50, 100, 200, 500, 1000]  # of the sequences that ask for memory
LOOPS_UP_TO = 200  # the longest of them for what must go step by step
TASK_SEEDS = [0, 1, 2]  # networks that must all solve it
RATES = [0.002, 0.006, 0.02, 0.06]  # learning rates to choose from
UPDATES = 1500  # training steps at most

# %%
tf.config.set_visible_devices([], "GPU")  # step by step it is quicker without
DEVICE = f"{os.cpu_count()} CPU cores"
versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
print(f"Python {platform.python_version()}, {versions}; {DEVICE}")


# %% [markdown]
# ## The passengers
#
# Box and Jenkins' series [1]: passengers of international airlines, in thousands a month, over twelve years. The last four years are the test. The three before them are validation, which makes our choices.

# %%
def read_series(path):
    """Numbers by month from a CSV; complains of the first month that is missing."""
    series = pd.read_csv(path, index_col=0, parse_dates=True).iloc[:, 0].astype(float)
    series.index = series.index.to_period("M")
    months = pd.period_range(series.index[0], periods=len(series), freq="M")
    gaps = months[months != series.index]
    assert gaps.empty, f"{path}: {gaps[0]} is missing or out of place"
    assert len(series) >= 144, f"{path}: {len(series)} months, we need 144"
    return series


# %%
assert not SERIES or os.path.exists(SERIES), f"SERIES = {SERIES!r}: no such file"
NAME = "airline-passengers.csv"
FROM = "https://raw.githubusercontent.com/jbrownlee/Datasets/master/"
try:
    path = SERIES or f"data/{NAME}"
    if not os.path.exists(path):
        path = keras.utils.get_file(NAME, FROM + NAME, cache_subdir="seven-lessons")
    series = read_series(path)
except Exception as error:
    if SERIES:
        raise
    print(f"!!! STAND-IN: CO2 in the air takes the place of {NAME} ({error!r})")
    from statsmodels.datasets import co2

    weekly = co2.load_pandas().data["co2"].interpolate()
    series = weekly.resample("MS").mean().to_period("M").iloc[-144:]

# %%
passengers = series.to_numpy()
MONTHS = len(passengers)
TEST_FROM = MONTHS - 48

# %% [markdown]
# ## A first network
#
# **A picture that looks right can be worth nothing: this network has little more to say than "as last month".**
#
# It is the network of a much copied tutorial [2]. It sees one month, scaled by the largest training month, and says the next.

# %%
x_all = (passengers / passengers[:TEST_FROM].max())[:, None, None]
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((1, 1)), layers.LSTM(4), layers.Dense(1)])
known = TEST_FROM - 1  # pairs of a month and the next, both before the test
model.compile("adam", "mse", steps_per_execution=known)
x_train, y_train = x_all[:known], x_all[1:TEST_FROM, 0]
history = model.fit(x_train, y_train, batch_size=1, epochs=EPOCHS, verbose=0)

# %% tags=["first-result"]
output = model.predict(x_all[known:-1], verbose=0)[:, 0]
first = output * passengers[:TEST_FROM].max()
last_month, truth = passengers[known:-1], passengers[TEST_FROM:]
for name, forecast in {"LSTM": first, "last month again": last_month}.items():
    print(f"{name}: RMSE {np.sqrt(np.mean((forecast - truth) ** 2)):.2f} thousand")

# %%
OURS = "#0173B2"
WRONG = "#D55E00"
dates = series.index.to_timestamp()
fig, ax = plt.subplots(figsize=(9, 3.4))
ax.plot(dates[TEST_FROM:], truth, color="black", label="truth")
ax.plot(dates[TEST_FROM:], first, color=OURS, label="LSTM")
ax.plot(dates[TEST_FROM:], last_month, "--", color=WRONG, label="last month again")
ax.set(title="It follows the truth, a month late", ylabel="thousand passengers")
ax.legend()
plt.show()

# %% [markdown]
# Seen from afar the curves agree. Seen closely, each peak of the forecast comes a month too late. One month of the past does not say whether the next goes up or down.

# %% [markdown]
# ## What must a network beat?
#
# **What people used before networks: a line through past logarithms, and Box and Jenkins' own model. Their errors are less than a third of last month's.**
#
# The series grows by *per cent*, so in logarithms its swings are equally large at all times; and a month resembles the last one and the same month of last year. A weighted sum of past logarithms (an *autoregression*, here "the line") learns that by least squares. SARIMA, made for this very series, forecasts the change of the yearly change.
#
# Every forecast below is made alike: fitted before a New Year's Day, one month ahead, each month when the one before it is known.
#
# ```text
# 1949 … 1953  fit ──► 1954          ┐
# 1949 …… 1954  fit ──► 1955         ├ validation: chooses lags, questions, training steps
# 1949 ……… 1955  fit ──► 1956        ┘
# 1949 ………… 1956  fit ──► 1957–1960    test: chooses nothing
# ```

# %%
import warnings

from statsmodels.tsa.ar_model import AutoReg
from statsmodels.tsa.statespace.sarimax import SARIMAX

warnings.filterwarnings("ignore", module="statsmodels")  # of its start values
CUTS = [TEST_FROM - 36, TEST_FROM - 24, TEST_FROM - 12, TEST_FROM]
ENDS = [*CUTS[1:], MONTHS]
VALIDATION = slice(0, 36)  # of the last 84 months
TEST = slice(36, 84)
truth = passengers[CUTS[0] :]


def rmse(forecasts, part):
    """Root mean squared error in thousand passengers; forecasts: (..., 84)."""
    errors = np.sqrt(np.mean((forecasts - truth)[..., part] ** 2, axis=-1))
    return np.nan_to_num(errors, nan=np.inf, posinf=np.inf)  # a training diverged


# %%
def linear(z, cut, lags):
    """Each month as a weighted sum of months before; least squares up to the cut."""
    start, *weights = AutoReg(z.to_numpy()[:cut], lags).fit().params
    terms = [weight * z.shift(k) for k, weight in enumerate(weights, start=1)]
    return start + sum(terms)


# %% [markdown]
# Validation chooses how many months the line may see.

# %%
z = pd.Series(np.log(passengers))
lines = {}
for lags in LAGS:
    spans = zip(CUTS, ENDS, strict=True)
    years = [linear(z, cut, lags)[cut:end] for cut, end in spans]
    lines[lags] = np.exp(np.concatenate(years))
errors = {lags: rmse(line, VALIDATION) for lags, line in lines.items()}
BEST_LAGS = min(errors, key=errors.get)
pd.DataFrame({"validation RMSE": errors}).rename_axis("lags").T.round(2)

# %%
sarimas, years = {}, []
for cut, end in zip(CUTS, ENDS, strict=True):
    arima = SARIMAX(z.to_numpy()[:cut], order=(0, 1, 1), seasonal_order=(0, 1, 1, 12))
    sarimas[cut] = arima.fit(disp=0)
    years.append(sarimas[cut].apply(z.to_numpy()).fittedvalues[cut:end])
rivals = {
    "last month": passengers[CUTS[0] - 1 : -1],
    "same month last year": passengers[CUTS[0] - 12 : -12],
    f"line, {BEST_LAGS} lags": lines[BEST_LAGS],
    "SARIMA": np.exp(np.concatenate(years)),
}

# %%
table = {n: [rmse(f, VALIDATION), rmse(f, TEST)] for n, f in rivals.items()}
pd.DataFrame(table, index=["validation", "test"]).T.round(2)

# %% [markdown]
# ## What improves the forecast?
#
# **What we ask it for. Asked for passengers, five LSTMs together err by «?95.78?» thousand; asked for both differences, by «?14.90?». But a straight line with the same input is as good.**
#
# An LSTM reads thirteen months, one after another, and says the next. Its state stays between -1 and 1, and a series that grows soon leaves the range that it has learned. So what should we ask? Six questions:
#
# | question | it reads | to its answer we add |
# | --- | --- | --- |
# | passengers, logarithms | them | nothing |
# | change since last month | these changes | last month |
# | change since last year | these changes | last year's month |
# | both differences | changes of the yearly change | last year's month with last month's growth |
# | what the line leaves over | the same | what a line of thirteen lags says |
#
# And four answers: *nothing*, the average of the training months; *ridge*, a straight line through the same thirteen numbers; *LSTM*, the mean error of five networks; *ensemble*, the error of the five together. Ridge is the control: it sees what the LSTM sees.

# %%
from sklearn.linear_model import Ridge

WINDOW = 13  # months that a network reads
START = 26  # the first month that all questions can forecast
PASSENGERS = "passengers"
BOTH = "both differences"
REST = "what the line leaves over"
CHANGES = ["change since last month", "change since last year"]
QUESTIONS = [PASSENGERS, "logarithms", *CHANGES, BOTH, REST]


# %%
def prepare(question, cut, series):
    """Windows and targets from START on, and a function from outputs to passengers.

    Scaled by months before the cut; the last number of the series may be unknown.
    """
    z = pd.Series(np.log(series))
    both = z.shift(12) + z.shift(1) - z.shift(13)
    line = linear(z, cut, WINDOW)
    zero = pd.Series(np.zeros(len(z)))
    bases = [zero, zero, z.shift(1), z.shift(12), both, line]
    base = dict(zip(QUESTIONS, bases, strict=True))[question].to_numpy()
    target = (series if question == PASSENGERS else z.to_numpy()) - base
    seen = (z - both).to_numpy() if question == REST else target
    center, scale = np.nanmean(target[:cut]), np.nanstd(target[:cut])

    def forecast(outputs):
        found = outputs * scale + center + base[START:]
        return found if question == PASSENGERS else np.exp(found)

    windows = np.lib.stride_tricks.sliding_window_view(seen, WINDOW)[START - WINDOW : -1]
    windows = (windows - np.nanmean(seen[:cut])) / np.nanstd(seen[:cut])
    target = (target[START:] - center) / scale
    return windows[..., None].astype("float32"), target[:, None], forecast


# %% [markdown]
# One compiled network serves all trainings: `start_afresh` gives it new weights, and months from the cut on weigh nothing.

# %%
def start_afresh(model, fresh):
    """Untrained again: the weights of a fresh network, an optimiser without memory."""
    for old, new in zip(model.variables, fresh.variables, strict=True):
        old.assign(new)
    for variable in model.optimizer.variables:
        if "learning_rate" not in variable.path:
            variable.assign(ops.zeros_like(variable))


def build():
    """An LSTM that reads a window and says one number."""
    lstm = layers.LSTM(32, use_cudnn=False)
    return keras.Sequential([keras.Input((WINDOW, 1)), lstm, layers.Dense(1)])


# %%
LOOK = 10  # training steps between two looks
model = build()
model.compile(keras.optimizers.Adam(0.003), "mse", steps_per_execution=LOOK)


def train(x, target, known, seed, looks):
    """(looks, months) outputs after every LOOK steps, each on all known months."""
    keras.utils.set_random_seed(int(seed))
    start_afresh(model, build())
    rows = tf.data.Dataset.from_tensors((x, target, known / known.mean())).repeat(LOOK)
    outputs = np.empty((looks, len(x)))
    for look in range(looks):
        model.fit(rows, shuffle=False, verbose=0)
        outputs[look] = model.predict_on_batch(x)[:, 0]
    return outputs


# %%
def answers(question):
    """Forecasts of the 84 months: (84,), (penalties, 84) and (looks, seeds, 84)."""
    nothing, ridge, lstm = [], [[] for _ in PENALTIES], []
    for cut, end in zip(CUTS, ENDS, strict=True):
        x, target, forecast = prepare(question, cut, passengers)
        known = np.arange(START, MONTHS) < cut
        year = slice(cut - START, end - START)
        nothing.append(forecast(np.zeros(len(x)))[year])
        for penalty, years in zip(PENALTIES, ridge, strict=True):
            line = Ridge(penalty).fit(x[known, :, 0], target[known, 0])
            years.append(forecast(line.predict(x[..., 0]))[year])
        seeds = [train(x, target, known, seed, STEPS // LOOK) for seed in SEEDS]
        lstm.append(forecast(np.stack(seeds, axis=1))[..., year])
    ridge = np.stack([np.concatenate(years) for years in ridge])
    return np.concatenate(nothing), ridge, np.concatenate(lstm, axis=-1)


# %% [markdown]
# Validation chooses the penalty of ridge, and how long the networks of a question train.

# %%
forecasts, single, table, looks = {}, {}, {}, {}
for question in QUESTIONS:
    nothing, ridge, lstm = answers(question)
    means = lstm.mean(axis=1)
    looks[question] = rmse(means, VALIDATION).argmin()
    single[question] = lstm[rmse(lstm, VALIDATION).mean(axis=1).argmin()]
    ridge = ridge[rmse(ridge, VALIDATION).argmin()]
    found = {"nothing": nothing, "ridge": ridge, "LSTM": single[question]}
    found["ensemble"] = means[looks[question]]
    for kind, forecast in found.items():
        forecasts[question, kind] = forecast
        for name, part in (("validation", VALIDATION), ("test", TEST)):
            table.setdefault(question, {})[name, kind] = rmse(forecast, part).mean()
table = pd.DataFrame(table).T
CHOSEN = table["validation", "ensemble"].idxmin()
CHOSEN_LOOKS = looks[CHOSEN] + 1
print(f"chosen: {CHOSEN}, {CHOSEN_LOOKS * LOOK} steps")
table.round(2)

# %% [markdown]
# Read the test columns downwards. From passengers to both differences the LSTM's error falls to a sixth, and a little more if it only corrects the line. Then read across: ridge is good at *every* question, passengers included. The question was never hard; the LSTM could not answer it.

# %%
PURPLE = "#CC78BC"
fig, ax = plt.subplots(figsize=(9, 4))
for place, question in enumerate(QUESTIONS):
    dots = rmse(single[question], TEST)
    ax.plot(dots, np.full(len(dots), place), "o", color="#949494")
    ax.plot(table.loc[question, ("test", "ensemble")], place, "D", color=OURS)
    ax.plot(table.loc[question, ("test", "ridge")], place, "s", color=PURPLE)
ax.axvline(rmse(rivals["SARIMA"], TEST), color="black", linewidth=1)
ax.text(rmse(rivals["SARIMA"], TEST), -0.7, "SARIMA", ha="center")
ax.set_yticks(range(len(QUESTIONS)), QUESTIONS)
ax.set(xscale="log", xlabel="test RMSE, thousand passengers (log axis)")
ax.set_ylim(len(QUESTIONS) - 0.5, -1)
ax.set_xticks([15, 20, 30, 50, 100], ["15", "20", "30", "50", "100"])
ax.minorticks_off()
ax.legend(["an LSTM", "five together", "ridge"])
ax.set_title("What is asked for decides the LSTM's error")
plt.show()
# %% [markdown]
# **Is a difference real?** We compare two forecasts month by month: the difference of their squared errors in per cent, over the test months. Could its mean be zero? That is Diebold and Mariano's test, which one month ahead, with Harvey's correction, is Student's paired test [13]. Holm's correction makes p stricter where a table asks many questions.

# %%
from scipy import stats
from statsmodels.stats.multitest import multipletests


def compare(scores, pairs, test_share):
    """First minus second: Nadeau and Bengio's 95 % interval over splits, p after Holm.

    scores: a row per split, a column per network.
    test_share: test rows per training row.
    """
    table = pd.DataFrame(pairs, columns=["network", "against"])
    differences = pd.DataFrame([scores[a] - scores[b] for a, b in pairs])
    splits = len(scores)
    table["difference"] = differences.mean(axis=1).to_numpy()
    if splits < 2 or table.empty:  # one split has no spread
        return table
    error = differences.std(axis=1).to_numpy() * np.sqrt(1 / splits + test_share)
    error = np.maximum(error, 1e-12)  # where all splits agree
    table["±"] = stats.t.ppf(0.975, splits - 1) * error
    p = 2 * stats.t.sf(np.abs(table["difference"]) / error, splits - 1)
    table["p"] = multipletests(p, method="holm")[1]
    return table


# %%
squares = {}
named = {f"{kind}, {question}": f for (question, kind), f in forecasts.items()}
for name, forecast in (named | rivals).items():
    if forecast.ndim == 1:  # not the five LSTMs one by one
        squares[name] = (100 * np.log(np.maximum(forecast, 1) / truth)) ** 2
squares = pd.DataFrame(squares, index=dates[CUTS[0] :])
OUR, LINE = f"ensemble, {CHOSEN}", f"line, {BEST_LAGS} lags"
pairs = [
    (f"ensemble, {BOTH}", f"ensemble, {PASSENGERS}"),
    (f"ridge, {PASSENGERS}", f"ensemble, {PASSENGERS}"),
    (f"ensemble, {BOTH}", f"ridge, {BOTH}"),
    (OUR, f"ridge, {CHOSEN}"),
    (OUR, LINE),
    (OUR, "SARIMA"),
]
pairs = list(dict.fromkeys(pairs))
compare(squares[TEST], pairs, 0).round(3)

# %% [markdown]
# «?Only the first two differences are sure: asking for the change helps the LSTM, and a line does not need it.?» All others are within the noise. The dots below are years; below zero our ensemble was better.

# %%
yearly = np.sqrt(squares.groupby(squares.index.year).mean())
fig, ax = plt.subplots(figsize=(9, 3.6))
ax.axhline(0, color="black", linewidth=1)
for name, color in ((f"ridge, {CHOSEN}", PURPLE), (LINE, "#CA9161"), ("SARIMA", "#949494")):
    ax.plot(yearly.index, yearly[OUR] - yearly[name], "o", color=color, label=name)
ax.axvline(yearly.index[2] + 0.5, color="#949494", linestyle=":")
ax.set(title="Some years for us, some against", xlabel="validation | test")
ax.set_ylabel("our error minus theirs, %")
ax.legend()
plt.show()

# %% [markdown]
# **Try it yourself.** Set `LAGS = [26]` among the parameters, as far back as our LSTMs see, and run up to here (two minutes): does the line gain on the test? Would you have chosen it by validation?

# %% [markdown]
# ## How does an LSTM work inside?
#
# **Four small layers look at the new number and the last state, and decide what to forget, what to add and what to show: four lines of NumPy. It forecasts what Keras forecasts.**
#
# ```text
# c ────────────(× f)────────(+)──────────────┬───────► c   memory
#                 ▲           ▲               │
#                 │         (× i)           tanh
#                 │           ▲               ▼
#                 f        i     g          (× o)─────► h   state
#              forget?   add?  what?          ▲
#                 ▲        ▲     ▲         o: show?
#                 └────────┴──┬──┴────────────┘
# h, x ───────────────────────┘    four small layers, each of h and x
# ```
#
# The gates $f$, $i$, $o$ lie between 0 and 1, the candidate $g$ between -1 and 1:
#
# $$i,f,o = \sigma(x_t W^{i,f,o} + h_{t-1} U^{i,f,o} + b^{i,f,o}), \quad g = \tanh(x_t W^g + h_{t-1} U^g + b^g),$$
# $$c_t = f\,c_{t-1} + i\,g, \qquad h_t = o \tanh c_t .$$
#
# Keras keeps the four side by side in one matrix, in the order $i, f, g, o$; so do we.

# %%
from scipy.special import expit as sigmoid


def lstm_forward(x, kernel, recurrent, bias):
    """States (batch, length, u) for x (batch, length, d), and what backward needs."""
    h = c = np.zeros((len(x), len(recurrent)))
    states, steps = [], []
    for t in range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent + bias
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
        i = sigmoid(z_i)
        f = sigmoid(z_f)
        g = np.tanh(z_g)
        o = sigmoid(z_o)
        steps.append((h, c, i, f, g, o))
        c = f * c + i * g
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1), steps


# %% [markdown]
# The way back goes from the last month to the first. Two gradients travel: that of the state, `dh`, through the matrix; that of the memory, `dc`, through the forget gate alone. From this second way comes the LSTM's long memory.
#
# $$\delta c_t \mathrel{+}= \delta h_t\, o\,(1-\tanh^2 c_t), \quad \delta z = \big[\delta c_t\, g\, i(1-i),\; \delta c_t\, c_{t-1} f(1-f),\; \delta c_t\, i(1-g^2),\; \delta h_t \tanh c_t\, o(1-o)\big],$$
# $$\delta W = \sum_t x_t^\top \delta z, \quad \delta U = \sum_t h_{t-1}^\top \delta z, \quad \delta b = \sum_t \delta z, \quad \delta h_{t-1} = \delta z\, U^\top, \quad \delta c_{t-1} = f\,\delta c_t .$$

# %%
def lstm_backward(dstates, x, kernel, recurrent, steps):
    """Gradients by x, kernel, recurrent and bias, from that by all states."""
    dkernel, drecurrent = np.zeros_like(kernel), np.zeros_like(recurrent)
    dbias, dx = np.zeros(kernel.shape[1]), np.zeros_like(x)
    dh = dc = 0
    for t in reversed(range(len(steps))):
        h, c, i, f, g, o = steps[t]
        tanh_c = np.tanh(f * c + i * g)
        dh = dh + dstates[:, t]
        dc = dc + dh * o * (1 - tanh_c**2)
        dz_i = dc * g * i * (1 - i)
        dz_f = dc * c * f * (1 - f)
        dz_g = dc * i * (1 - g**2)
        dz_o = dh * tanh_c * o * (1 - o)
        dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dkernel += x[:, t].T @ dz
        drecurrent += h.T @ dz
        dbias += dz.sum(axis=0)
        dx[:, t] = dz @ kernel.T
        dh, dc = dz @ recurrent.T, dc * f
    return dx, dkernel, drecurrent, dbias


# %% [markdown]
# ### Is it right?
#
# **Yes: moving each number a little changes the loss as the gradient says, and so does Keras, to the last digits.**
#
# Ten random shapes, and a loss that weighs all states at random.

# %%
def central_differences(arrays, weights, step=1e-5):
    """The gradient of the loss by each number of each array, from two losses."""
    gradients = []
    for array in arrays:
        gradient = np.empty_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            losses = []
            for array[place] in (kept + step, kept - step):
                losses.append(np.sum(weights * lstm_forward(*arrays)[0]))
            array[place] = kept
            gradient[place] = (losses[0] - losses[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


# %%
gaps, rng = [], np.random.default_rng(0)
for _ in range(10):
    batch, length, d, u = rng.integers(2, 7, 4)
    shapes = [(batch, length, d), (d, 4 * u), (u, 4 * u), (4 * u,)]
    x, kernel, recurrent, bias = arrays = [rng.normal(0, 0.7, s) for s in shapes]
    weights = rng.normal(size=(batch, length, u))
    states, steps = lstm_forward(*arrays)
    ours = lstm_backward(weights, x, kernel, recurrent, steps)

    layer = layers.LSTM(u, return_sequences=True, dtype="float64", use_cudnn=False)
    layer.build(x.shape)
    layer.set_weights([kernel, recurrent, bias])
    inputs, variables = tf.constant(x), [w.value for w in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(weights * layer(inputs))
    theirs = tape.gradient(loss, [inputs, *variables])
    moved = central_differences(arrays, weights)
    for one, two, three in zip(ours, theirs, moved, strict=True):
        relative = np.abs(one - three).max() / np.abs(three).max()
        gaps.append({"from Keras": np.abs(one - two).max(), "from moving": relative})
pd.DataFrame(gaps).max().map("{:.0e}".format).to_frame("largest gap of 40 gradients").T

# %% [markdown]
# ### Does it forecast the same?
#
# **Yes: from the same first weights both learn the same forecast, to «?less than one passenger?».**
#
# We take the question that validation chose and the months before the test, and write Adam in four lines. Keras counts in float32, NumPy in float64.

# %%
x, target, forecast = prepare(CHOSEN, TEST_FROM, passengers)
known = TEST_FROM - START
keras.utils.set_random_seed(int(SEEDS[0]))
twin = build()
weights = [w.astype("float64") for w in twin.get_weights()]
twin.compile(keras.optimizers.Adam(0.003), "mse")
plan = {"batch_size": known, "shuffle": False, "verbose": 0}
twin.fit(x[:known], target[:known], epochs=CHOSEN_LOOKS * LOOK, **plan)
theirs = forecast(twin.predict(x, verbose=0)[:, 0])

# %%
x = x.astype("float64")
first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
for step in range(1, CHOSEN_LOOKS * LOOK + 1):
    kernel, recurrent, bias, dense, offset = weights
    states, steps = lstm_forward(x[:known], kernel, recurrent, bias)
    output = states[:, -1] @ dense + offset
    doutput = 2 * (output - target[:known]) / known  # of the mean squared error
    dstates = np.zeros_like(states)
    dstates[:, -1] = doutput @ dense.T
    gradients = lstm_backward(dstates, x[:known], kernel, recurrent, steps)[1:]
    gradients = [*gradients, states[:, -1].T @ doutput, doutput.sum(axis=0)]
    size = 0.003 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    for w, g, m, v in zip(weights, gradients, first, second, strict=True):  # Adam
        m += 0.1 * (g - m)
        v += 0.001 * (g**2 - v)
        w -= size * m / (np.sqrt(v) + 1e-7)

# %% [markdown]
# Both forecasts, and how far they are apart:

# %%
kernel, recurrent, bias, dense, offset = weights
states, _ = lstm_forward(x, kernel, recurrent, bias)
ours = forecast((states[:, -1] @ dense + offset)[:, 0])
gap = np.abs(ours - theirs)[known:].max()
for name, f in {"Keras": theirs, "NumPy": ours}.items():
    error = np.sqrt(np.mean((f[known:] - passengers[TEST_FROM:]) ** 2))
    print(f"{name}: RMSE {error:.2f} on the test months, fitted once before them")
print(f"largest difference of a forecast: {gap:.4f} thousand passengers")

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
ax.plot(dates[TEST_FROM:], passengers[TEST_FROM:], color="black", label="truth")
ax.plot(dates[TEST_FROM:], theirs[known:], color="#56B4E9", linewidth=6, label="Keras")
ax.plot(dates[TEST_FROM:], ours[known:], color=OURS, label="NumPy")
ax.set(title="One forecast, written twice", ylabel="thousand passengers")
ax.legend()
plt.show()

# %% [markdown]
# **Try it yourself.** Leave `* c` out of the line of `dz_f` and run this section again (seconds). Which of the two checks notices? Does the forecast?

# %% [markdown]
# ## How far ahead can we see?
#
# **A month ahead within «?8?» per cent, a year ahead within «?17?». A year ahead «?the line errs least?».**
#
# One month ahead first, with a band that should hold 95 % of the months. Its width comes from validation: 1.96 times the root mean squared error of the logarithms there.

# %%
import contextlib

from matplotlib.dates import DateFormatter

ensemble = forecasts[CHOSEN, "ensemble"]
spread = np.sqrt(np.mean(np.log(ensemble / truth)[VALIDATION] ** 2))
factor = np.exp(1.96 * spread)
inside = (truth > ensemble / factor) & (truth < ensemble * factor)
print(f"band ±{100 * (factor - 1):.1f} %: {inside[TEST].sum()} of 48 test months in it")

# %%
fig, ax = plt.subplots(figsize=(9, 4))
shown, below, above = dates[TEST_FROM:], ensemble / factor, ensemble * factor
ax.fill_between(shown, below[TEST], above[TEST], color=OURS, alpha=0.25, label="95 %")
ax.plot(shown, ensemble[TEST], color=OURS, linewidth=2.5, label="five LSTMs")
ax.plot(shown, truth[TEST], "o", color="black", markersize=5, label="truth")
ax.set(title="One month ahead, against the truth", ylabel="thousand passengers")
ax.legend(loc="upper left")
with contextlib.suppress(OSError):  # where nothing may be written
    os.makedirs("data/images", exist_ok=True)
    fig.savefig("data/images/lesson05.png", dpi=80, bbox_inches="tight")
plt.show()

# %% [markdown]
# For a year ahead we take each forecast for true, append it to the series and ask for the next month, twelve times over. Our NumPy LSTM does it, with the weights that Keras has learned.

# %%
networks = {}
for cut in CUTS:
    x, target, _ = prepare(CHOSEN, cut, passengers)
    networks[cut] = []
    for seed in SEEDS:
        train(x, target, np.arange(START, MONTHS) < cut, seed, CHOSEN_LOOKS)
        networks[cut].append(model.get_weights())


def ahead(question, cut, origin, networks):
    """(12,) passengers from the origin on; what the networks say is read again."""
    known = passengers[:origin]
    for _ in range(12):
        x, _, forecast = prepare(question, cut, np.append(known, np.nan))
        outputs = []
        for kernel, recurrent, bias, dense, offset in networks:
            states, _ = lstm_forward(x[-1:], kernel, recurrent, bias)
            outputs.append((states[0, -1] @ dense + offset)[0])
        known = np.append(known, forecast(np.mean(outputs))[-1])
    return known[-12:]


# %% [markdown]
# We start from every month that has a whole year of validation, or of test, ahead.

# %%
starts = {"validation": range(CUTS[0], TEST_FROM - 11)}
starts["test"] = range(TEST_FROM, MONTHS - 11)
paths, logs = {}, {}
for part, origins in starts.items():
    found = {name: [] for name in ("five LSTMs", "line", "SARIMA", "last year again")}
    for origin in origins:
        cut = max(c for c in CUTS if c <= origin)
        found["five LSTMs"].append(ahead(CHOSEN, cut, origin, networks[cut]))
        line = AutoReg(z.to_numpy()[:cut], BEST_LAGS).fit().apply(z.to_numpy()[:origin])
        found["line"].append(np.exp(line.forecast(12)))
        past = sarimas[cut].apply(z.to_numpy()[:origin])
        found["SARIMA"].append(np.exp(past.forecast(12)))
        found["last year again"].append(passengers[origin - 12 : origin])
    paths[part] = {name: np.array(path) for name, path in found.items()}
    logs[part] = z.to_numpy()[np.add.outer(origins, np.arange(12))]

# %%
horizons = {}
for name, path in paths["test"].items():
    errors = path - np.exp(logs["test"])
    horizons[name] = np.sqrt(np.mean(errors**2, axis=0))
horizons = pd.DataFrame(horizons, index=pd.RangeIndex(1, 13, name="months ahead"))
print(f"RMSE from {len(starts['test'])} starts, thousand passengers")
horizons.loc[[1, 3, 6, 12]].T.round(1)

# %% [markdown]
# The band of each horizon comes from validation again:

# %%
errors = np.log(paths["validation"]["five LSTMs"]) - logs["validation"]
widths = 1.96 * np.sqrt(np.mean(errors**2, axis=0))
missed = abs(np.log(paths["test"]["five LSTMs"]) - logs["test"]) > widths
print(f"band a year ahead ±{100 * np.expm1(widths[11]):.0f} %,", end=" ")
print(f"over all horizons it holds {1 - missed.mean():.0%} of the test forecasts")

# %%
BROWN = "#CA9161"
COLORS = {"five LSTMs": OURS, "line": PURPLE, "SARIMA": BROWN}
COLORS["last year again"] = "#949494"
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
for name, color in COLORS.items():
    axes[0].plot(horizons[name], color=color, label=name)
axes[0].set(title="Error by months ahead", xlabel="months ahead", ylim=(0, None))
axes[0].set_ylabel("RMSE, thousand passengers")
axes[0].legend()
last, year = paths["test"]["five LSTMs"][len(starts["test"]) - 1], dates[MONTHS - 12 :]
band = (last * np.exp(-widths), last * np.exp(widths))
axes[1].fill_between(year, *band, color=OURS, alpha=0.25, label="95 %")
axes[1].plot(year, last, color=OURS, linewidth=2.5, label="five LSTMs")
axes[1].plot(year, passengers[MONTHS - 12 :], "o", color="black", label="truth")
axes[1].xaxis.set_major_formatter(DateFormatter("%b"))
axes[1].set(title="The last year, seen from its first day")
axes[1].legend(loc="upper left")
fig.tight_layout()
plt.show()

# %% [markdown]
# «?Up to three months all three are alike; a year ahead the line errs least.?» But the starts overlap: they are worth three or four independent years, so we leave it at the picture. All beat last year's months by far.

# %% [markdown]
# ## Why does the gradient vanish?
#
# **Because on its way back it is multiplied once a step. A hundred factors below one leave nothing; a hundred above one explode.**
#
# To learn that the first number of a sequence matters, the loss must feel it. Each step back multiplies by a *Jacobian*: how the new state hangs on the old one [3].
#
# ```text
# x1      x2      x3              x100
#  ▼       ▼       ▼               ▼
# h1 ───► h2 ───► h3 ──► ... ───► h100 ───► loss             forward
# ◄── J2 ─── J3 ─── J4 ─── ... ─── J100 ───  gradient        back: a product
#
# simple RNN    J = slope of tanh · U     0.9 a step: 0.9^99 = 0.00003
#                                         1.1 a step: 1.1^99 = 12,500
# LSTM          J = f, its forget gate    as close to 1 as the network wants
# ```
#
# So there are two ways out: let the product start close to one, or let the network set the factor.
#
# ### Which ways out are there?
#
# | cure | its idea |
# | --- | --- |
# | orthogonal start [4] | the matrix changes no length at first, but tanh still shrinks |
# | identity and ReLU [5] | at first each step adds to the state |
# | LSTM [6], GRU [8] | a memory that is added to, behind gates |
# | LSTM, spread memory * [7] | forget gates start so that memories last from one step to the whole length |
# | fixed decay * [9] | each unit fades at its own, learned pace; nothing else |
# | decay set by the input * [10, 11] | the same, but a mark may slow a unit down or clear it |
# | **fading means (ours)** * | running means of ReLU features, their paces spread over the length |
#
# A star: is told the length. Slow units without gates are Mikolov's [14], spread paces Tallec's and Ollivier's [7]. **Ours** is the combination: no gates, ReLU features, paces spread up to the length, a recurrent matrix that starts at zero.

# %%
from functools import partial
from itertools import product

UNITS = 32  # features of every cure


class FadingMeans(layers.SimpleRNNCell):
    """Ours: h ← (1 - a) h + a ReLU(x W + h U + b); U starts at 0."""

    def __init__(self, length, shortest=1.1, **changes):
        start = {"activation": "relu", "recurrent_initializer": "zeros"}
        super().__init__(UNITS, **start | changes)
        self.times = np.geomspace(shortest, length, UNITS)

    def build(self, shape):
        super().build(shape)
        start = keras.initializers.Constant(-np.log(self.times - 1))
        self.fading = self.add_weight(shape=(UNITS,), initializer=start)

    def call(self, x, states, training=False):
        mean, _ = super().call(x, states)
        a = ops.sigmoid(self.fading)
        h = (1 - a) * states[0] + a * mean
        return h, [h]


# %% [markdown]
# The two decays need no loop. If step $t$ multiplies the state by $e^{-r_t}$, what came in then is worth $e^{-(r_{t+1} + \dots + r_T)}$ in the end: the last state is a **weighted sum over time**, and a running sum of $r$ gives all weights at once [12].

# %%
def decaying_sum(x, length, by_input):
    """The last state of h ← exp(-r) h + sqrt(1 - exp(-2 r)) u, all steps at once."""
    features = layers.Dense(UNITS, activation="relu")(x)
    marks = x[..., 1:] * float(by_input)
    pace = layers.Dense(
        UNITS,
        kernel_initializer=keras.initializers.RandomNormal(stddev=3),
        bias_initializer=keras.initializers.Constant(
            -np.log(np.geomspace(1, length, UNITS))
        ),
    )
    r = ops.exp(ops.minimum(pace(marks), 3))
    later = ops.sum(r, axis=1, keepdims=True) - ops.cumsum(r, axis=1)
    weights = ops.exp(-later) * ops.sqrt(-ops.expm1(-2 * r))
    return ops.sum(weights * features, axis=1)


# %%
def spread_lstm(x, length):
    """An LSTM whose memories last, at first, between 1 step and the length."""
    times = np.log(np.random.uniform(1, length - 1, UNITS))
    bias = np.concatenate([-times, times, np.zeros(2 * UNITS)])  # gates i, f, g, o
    start = {"bias_initializer": keras.initializers.Constant(bias)}
    return layers.LSTM(UNITS, unit_forget_bias=False, use_cudnn=False, **start)(x)


# %%
GLOROT = {"recurrent_initializer": "glorot_uniform"}
IDENTITY = {"activation": "relu", "recurrent_initializer": "identity"}
FADING = "fading means (ours) *"
INPUT_DECAY = "decay set by the input *"
CONTROL = "plain sum (control)"
LOOPS = {  # step by step
    "simple RNN": lambda x, n: layers.SimpleRNN(UNITS, **GLOROT)(x),
    "orthogonal start": lambda x, n: layers.SimpleRNN(UNITS)(x),
    "identity and ReLU": lambda x, n: layers.SimpleRNN(UNITS, **IDENTITY)(x),
    "LSTM": lambda x, n: layers.LSTM(UNITS, use_cudnn=False)(x),
    "LSTM, spread memory *": spread_lstm,
    "GRU": lambda x, n: layers.GRU(UNITS, use_cudnn=False)(x),
    FADING: lambda x, n: layers.RNN(FadingMeans(n))(x),
}
SUMS = {  # all steps at once
    CONTROL: lambda x, n: ops.sum(layers.Dense(UNITS, activation="relu")(x), axis=1),
    "fixed decay *": partial(decaying_sum, by_input=False),
    INPUT_DECAY: partial(decaying_sum, by_input=True),
}

# %% [markdown]
# ### Which tasks ask for memory?
#
# Every step has a random number between 0 and 1 and a mark, which is 1 at two places, anywhere. **Adding** asks for the sum of the two marked numbers, the test of memory since the LSTM was born [6]. **First minus second** asks for their difference: now the order counts.
#
# ```text
# number   0.3  0.9  0.1  0.7  0.2  0.6  ...      adding               0.9 + 0.2 = 1.1
# mark      0    1    0    0    1    0   ...      first minus second   0.9 - 0.2 = 0.7
# ```

# %%
TASKS = {"adding": 1, "first minus second": -1}  # the sign of the second number


def sequences(sign, count, length, rng):
    """Numbers and marks (count, length, 2), and first plus sign times second."""
    numbers, marks = rng.random((count, length)), np.zeros((count, length))
    rows = np.arange(count)
    one = rng.integers(0, length, count)
    other = (one + rng.integers(1, length, count)) % length
    first, second = np.minimum(one, other), np.maximum(one, other)
    marks[rows, first] = marks[rows, second] = 1
    target = numbers[rows, first] + sign * numbers[rows, second]
    x = np.stack([numbers, marks], axis=-1).astype("float32")
    return x, target[:, None].astype("float32")


def memory_network(cure, length):
    """A cure with 32 features, a swish layer, and one number that starts small."""
    inputs = keras.Input((length, 2))
    features = layers.Dense(UNITS, activation="swish")(cure(inputs, length))
    small = keras.initializers.RandomNormal(stddev=0.01)
    return keras.Model(inputs, layers.Dense(1, kernel_initializer=small)(features))


# %% [markdown]
# ### Who feels the first number before training?
#
# **«?Identity and ReLU fully, spread memories faintly, LSTM and GRU hardly at all. And yet both learn (below): a gradient that fades at the start is no verdict.?»**
#
# The gradient of the loss by each input of a hundred steps, from eight first weights.

# %%
def felt(cure, length):
    """(starts, length) gradient of the loss by the input k steps back; 1 at k = 0."""
    x, target = sequences(1, 100, length, np.random.default_rng(0))
    x, curves = tf.constant(x), []
    for seed in STARTS:
        keras.utils.set_random_seed(int(seed))
        model = memory_network(cure, length)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum((model(x) - target) ** 2)
        sizes = np.linalg.norm(tape.gradient(loss, x), axis=-1).mean(axis=0)
        curves.append(sizes[::-1] / sizes[-1])
    return np.array(curves)


# %%
BACK = min(100, max(LENGTHS))
curves = {name: felt(cure, BACK) for name, cure in (LOOPS | SUMS).items()}
ends = pd.DataFrame({name: curve[:, -1] for name, curve in curves.items()})
ends = ends.agg(["min", "median", "max"]).T.map("{:.1e}".format)
ends.rename_axis(f"felt {BACK - 1} steps back")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
panels = [["simple RNN", "orthogonal start", "identity and ReLU"]]
panels.append(["LSTM", "GRU", "LSTM, spread memory *", "fading means (ours) *"])
colors = [["#949494", BROWN, PURPLE], ["black", WRONG, "#029E73", OURS]]
for ax, names, hues in zip(axes, panels, colors, strict=True):
    for name, hue in zip(names, hues, strict=True):
        low, middle, high = np.quantile(curves[name], [0, 0.5, 1], axis=0)
        ax.fill_between(range(BACK), low, high, color=hue, alpha=0.2)
        ax.plot(middle, color=hue, label=name)
    ax.set(yscale="log", xlabel="steps before the end", ylim=(1e-16, 1e3))
    ax.legend(loc="lower left")
axes[0].set(title="Simple RNNs", ylabel="gradient, 1 at the end")
axes[1].set_title("Gates and means")
fig.suptitle("Felt before training: median and range of eight starts")
fig.tight_layout()
plt.show()

# %% [markdown]
# «?A simple RNN may do anything: between two starts its curve ends a million times higher or lower. An orthogonal start narrows that, and fades all the same, since tanh shrinks what the matrix keeps.?» (A zero in the table is too small for float32.)
#
# ## Which cure helps?
#
# **«?The task decides. Adding needs no memory: a plain sum solves it at 1,000 steps. First minus second does, and at 1,000 steps only the decay set by the input solves it.?»**
#
# Who always says the mean errs by 0.167 (mean squared), in both tasks. A network trains on fresh sequences until 500 validation sequences err by less than 0.008; **solved** means that 2,000 others then err by less than 0.01. All have the same last layers, the same clipping and at most 1,500 updates. Each cure keeps the rate that served it best at the shortest length, over both tasks and all starts. Who solves a length from all three starts goes on to the next. Loops stop at 200 steps: they take too long.
#
# The control is the **plain sum**: the same features added up over time, no recurrence at all. What it solves needs no memory.

# %%
CHUNK = 25  # updates between two looks
BATCH = 64  # sequences of an update


def solve(model, cure, task, length, rate, seed):
    """A row: updates until validation is content, and the error on other sequences."""
    keras.utils.set_random_seed(int(seed))
    start_afresh(model, memory_network(cure, length))
    rng = np.random.default_rng([int(seed), length])
    valid, test = [sequences(TASKS[task], n, length, rng) for n in (500, 2000)]
    look = {"batch_size": 500, "verbose": 0}
    updates, error = 0, np.inf
    while updates == 0 or (updates < UPDATES and error > 0.008):
        model.optimizer.learning_rate = rate if updates >= 2 * CHUNK else rate / 10
        rows = sequences(TASKS[task], CHUNK * BATCH, length, rng)
        model.fit(*rows, batch_size=BATCH, shuffle=False, verbose=0)
        updates += CHUNK
        error = model.evaluate(*valid, **look)
    if not np.isfinite(error):  # diverged
        updates, error = np.inf, np.inf
    solved = error <= 0.008 and model.evaluate(*test, **look) < 0.01
    row = {"task": task, "length": length, "rate": rate, "seed": int(seed)}
    return row | {"solved": solved, "updates": updates, "error": error}


# %%
def climb(name, cure, lengths, by_loop):
    """Rows of a cure at ever longer lengths; a task is given up where a start fails."""
    rows, tasks, rates = [], list(TASKS), RATES
    for length in lengths:
        keras.utils.clear_session()
        model = memory_network(cure, length)
        adam = keras.optimizers.Adam(global_clipnorm=1.0)
        model.compile(adam, "mse", steps_per_execution=CHUNK, jit_compile=by_loop)
        settings = product(tasks, rates, TASK_SEEDS)
        tried = [solve(model, cure, task, length, *how) for task, *how in settings]
        tried = pd.DataFrame(tried).assign(cure=name)
        totals = tried.groupby("rate")[["solved", "updates", "error"]].sum()
        best = totals.sort_values(list(totals), ascending=[False, True, True]).index[0]
        tried["kept"] = tried["rate"] == best
        rows.append(tried)
        solved = tried[tried["kept"]].groupby("task")["solved"].all()
        tasks, rates = [task for task in tasks if solved[task]], [best]
        if not tasks:
            break
    return pd.concat(rows)


# %%
short = [length for length in LENGTHS if length <= LOOPS_UP_TO] or LENGTHS[:1]
results = [climb(name, cure, short, True) for name, cure in LOOPS.items()]
results += [climb(name, cure, LENGTHS, False) for name, cure in SUMS.items()]
results = pd.concat(results)


# %% [markdown]
# All ten memories on both tasks:

# %%
def verdicts(results, names):
    """Mean updates until all starts solved it, or how many did; a row per cure."""
    cells = {}
    kept = results[results["kept"]]
    for key, rows in kept.groupby(["cure", "task", "length"]):
        cells[key] = f"{rows['solved'].sum()} of {len(rows)}"
        if rows["solved"].all():
            cells[key] = f"{rows['updates'].mean():.0f}"
        elif np.isinf(rows["updates"]).all():
            cells[key] = "diverged"
    return pd.Series(cells).unstack([1, 2]).reindex(names).fillna("")


verdict = verdicts(results, list(LOOPS | SUMS))
verdict

# %% [markdown]
# A number is the mean of the updates until solved; "1 of 3" says how many starts solved it; empty cells were not tried. The rates at the shortest length, with mean updates over both tasks (a start that fails counts with all its updates):

# %%
tried = results[results["length"] == LENGTHS[0]]
rates = tried.pivot_table("updates", "cure", "rate").reindex(list(LOOPS | SUMS))
rates.round(0).replace(np.inf, "diverged")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 5), sharey=True)
for ax, task in zip(axes, TASKS, strict=True):
    texts = verdict[task].reindex(columns=LENGTHS, fill_value="")
    updates = texts.apply(pd.to_numeric, errors="coerce")
    failed = updates.isna() & (texts != "")
    ax.patch.set(hatch="///", edgecolor="#CCCCCC")
    style = {"ax": ax, "cbar": False, "linewidths": 1}
    sns.heatmap(failed, mask=~failed, cmap=[WRONG], alpha=0.5, **style)
    sns.heatmap(updates, cmap="Blues_r", vmin=0, vmax=1.5 * UPDATES, **style)
    for (row, column), text in np.ndenumerate(texts):
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=11)
    ax.set(title=task, xlabel="length of the sequences", ylabel="")
fig.suptitle("Updates until solved (hatched: not tried)")
fig.tight_layout()
plt.show()

# %% [markdown]
# Three levels of memory. **None**: adding hangs on no order, so the sum is enough; this famous test shows how far a gradient reaches, no more. **Fading** «?at a fixed pace: order leaves a trace, since the later number has faded less, but it is soon too faint?». **Told when**: «?at a mark, units that are cleared keep the second number only, units that hold keep both?».
#
# **Try it yourself.** In a new cell set `TASKS = {"adding": 1}` and run `climb(CONTROL, SUMS[CONTROL], [2000], False)` (two minutes): do twice as many numbers make a memory necessary?
#
# ## What makes our own cure work?
#
# **«?The spread of paces and ReLU: without either it fails. The zero start and the told length make no difference that we can see.?»**
#
# One ingredient is left out at a time. *Times not spread*: all units fade as slowly as the sequence is long. *Random matrix*: it starts orthogonal, not at zero. *tanh*: in place of ReLU. *Not told*: times up to 1,000 whatever the length.

# %%
RANDOM = {"recurrent_initializer": "orthogonal"}
VARIANTS = {
    "times not spread": lambda x, n: layers.RNN(FadingMeans(n, shortest=n))(x),
    "random matrix": lambda x, n: layers.RNN(FadingMeans(n, **RANDOM))(x),
    "tanh": lambda x, n: layers.RNN(FadingMeans(n, activation="tanh"))(x),
    "not told": lambda x, n: layers.RNN(FadingMeans(1000))(x),
}
variants = [climb(name, cure, short, True) for name, cure in VARIANTS.items()]
variants = pd.concat([results[results["cure"] == FADING], *variants])
verdicts(variants, [FADING, *VARIANTS])

# %% [markdown]
# «?Without the spread every unit is the same slow mean, which knows no order. With tanh, features cannot be switched off for unmarked steps.?» So of what we called ours, «?two ingredients would do?».

# %% [markdown]
# ## Scoreboard: how it compares
#
# All of it is ours, on the same months and sequences.

# %%
kept = results[results["kept"]]
whole = kept.groupby(["task", "cure", "length"])["solved"].all()
longest = whole[whole].reset_index().groupby(["task", "cure"])["length"].max()
box = f"{rmse(rivals['SARIMA'], TEST):.2f}"
scores = {
    "LSTM": rmse(single[CHOSEN], TEST).mean(),
    "ensemble": rmse(ensemble, TEST),
    "linear": rmse(lines[BEST_LAGS], TEST),
}
board = [
    (f"RMSE, one month ahead, {name}", f"{score:.2f}", box, "SARIMA, fitted here")
    for name, score in scores.items()
]

# %%
for task in TASKS:
    reached = {cure: longest.get((task, cure), 0) for cure in LOOPS | SUMS}
    row = f"{task}, longest length solved by all seeds"
    board.append((row, max(reached.values()), reached[CONTROL], "plain sum over time"))
pd.DataFrame(board, columns=["measure", "ours", "reference", "source"])

# %% [markdown]
# ## Conclusions
#
# 1. **What improves an LSTM's forecast.** Ask for the change: «?93.63?» thousand passengers become «?14.91?», and «?13.41?» where it only corrects a line ([What improves the forecast?](#What-improves-the-forecast?)).
# 2. **Is the network needed?** Not here. A straight line on the same input is as good, within the noise, whatever is asked ([What improves the forecast?](#What-improves-the-forecast?)); a year ahead «?a line errs least?» ([How far ahead can we see?](#How-far-ahead-can-we-see?)).
# 3. **LSTM in NumPy.** Two loops over time, four lines for the gates; it forecasts what Keras forecasts ([How does an LSTM work inside?](#How-does-an-LSTM-work-inside?)).
# 4. **Vanishing.** One factor a step. But «?LSTM and GRU learn, though at the start they feel the first number least?»: measure after training, not before ([Why does the gradient vanish?](#Why-does-the-gradient-vanish?)).
# 5. **Adding tests no memory.** A plain sum over time solves it at «?1,000?» steps, and fails first minus second at «?50?» ([Which cure helps?](#Which-cure-helps?)).
# 6. **Fading means (ours).** They solve adding at «?200?» steps, first minus second at «?100?». «?They need the spread of paces and ReLU, not the zero start?» ([What makes our own cure work?](#What-makes-our-own-cure-work?)).
# 7. **The strongest cure.** A decay that the input sets solves both at «?1,000?» steps. A memory must hold, and must be told when to start anew ([Which cure helps?](#Which-cure-helps?)).
#
# **What we chose after looking.** The questions, the thirteen months and the rate of the forecasting networks come from earlier work on this series, whose test months we had seen. The tasks, the cures, the grid of rates and the swish layer at the end of every memory (with ReLU there, single starts stuck) were settled on trial runs. Validation chose the rest.
#
# ## Выводы
#
# 1. **Что улучшило прогноз LSTM.** Спрашивать нужно изменение, а не само число: ошибка (RMSE) снижается с «?93,63?» до «?14,91?» тыс. пассажиров, а если сеть лишь поправляет линейный прогноз — до «?13,41?» ([раздел](#What-improves-the-forecast?)).
# 2. **Нужна ли здесь сеть.** Нет. Линейная модель на тех же входах прогнозирует не хуже, о чём бы мы ни спросили: разница в пределах случайного разброса ([раздел](#What-improves-the-forecast?)). На год вперёд «?меньше всех ошибается линейная модель?» ([раздел](#How-far-ahead-can-we-see?)).
# 3. **LSTM на NumPy.** Два цикла по времени и четыре строки на вентили. Градиенты проверены, прогноз тот же, что у Keras ([раздел](#How-does-an-LSTM-work-inside?)).
# 4. **Затухание градиента.** На каждом шаге назад градиент умножается ещё раз. Но затухание до обучения — не приговор: «?у LSTM и GRU оно самое сильное, а учатся они хорошо?» ([раздел](#Why-does-the-gradient-vanish?)).
# 5. **Сложение не проверяет память.** Простая сумма по времени решает эту задачу при длине «?1000?», а разность первого и второго числа не находит уже при длине «?50?» ([раздел](#Which-cure-helps?)).
# 6. **Наш вариант — затухающие средние:** скользящие средние с разной скоростью забывания, без вентилей. Сложение они решают при длине «?200?», разность — при «?100?». «?Нужны разброс скоростей и ReLU, а нулевая начальная матрица не нужна?» ([раздел](#What-makes-our-own-cure-work?)).
# 7. **Самый сильный вариант.** Если скорость забывания задаёт сам вход, обе задачи решаются при длине «?1000?». Память должна уметь хранить и знать, когда начинать заново ([раздел](#Which-cure-helps?)).
#
# ## References
#
# 1. G. Box, G. Jenkins. *Time Series Analysis*, 1970: the series, and SARIMA.
# 2. J. Brownlee. [Time series prediction with LSTM](https://machinelearningmastery.com/time-series-prediction-lstm-recurrent-neural-networks-python-keras/), 2016.
# 3. R. Pascanu et al. [On the difficulty of training recurrent networks](https://arxiv.org/abs/1211.5063), 2013: also the clipping.
# 4. A. Saxe et al. [Exact solutions](https://arxiv.org/abs/1312.6120), 2013.
# 5. Q. Le et al. [Initialising recurrent networks](https://arxiv.org/abs/1504.00941), 2015.
# 6. S. Hochreiter, J. Schmidhuber. Long short-term memory, 1997.
# 7. C. Tallec, Y. Ollivier. [Warping time](https://arxiv.org/abs/1804.11188), 2018.
# 8. K. Cho et al. [Learning phrase representations](https://arxiv.org/abs/1406.1078), 2014.
# 9. A. Orvieto et al. [Resurrecting recurrent networks](https://arxiv.org/abs/2303.06349), 2023.
# 10. L. Feng et al. [Were RNNs all we needed?](https://arxiv.org/abs/2410.01201), 2024.
# 11. A. Gu, T. Dao. [Mamba](https://arxiv.org/abs/2312.00752), 2023.
# 12. E. Martin, C. Cundy. [Parallelising linear recurrences](https://arxiv.org/abs/1709.04057), 2018.
# 13. F. Diebold, R. Mariano. Comparing predictive accuracy, 1995; D. Harvey et al., 1997.
# 14. T. Mikolov et al. [Learning longer memory](https://arxiv.org/abs/1412.7753), 2014.

# %%
print(f"Run all: {(time.perf_counter() - STARTED) / 60:.1f} minutes on {DEVICE}")
