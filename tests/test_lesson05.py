"""Lesson 5's functions against Keras, statsmodels and cases worked out by hand."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from statsmodels.tsa.ar_model import AutoReg

LESSON = "lesson05_rnn"
SMALL = {
    "SEEDS": [0, 1],
    "EPOCHS": 1,
    "ROW_STEPS": 20,
    "TUTORIAL_EPOCHS": 1,
    "SHAPES": 2,
    "COMPARED_STEPS": 3,
    "TIMED_STEPS": 5,
    "LENGTHS": [6],
    "ADDING_SEEDS": [0],
    "RATES": [0.01],
    "STEPS": [50],
}
ONE = SMALL | {"SEEDS": [0], "SHAPES": 1}
DIVERGES = {"RATES": [0.01, 1e9]}
WRONG = {"SERIES": "data/my-sales.csv"}
SCOREBOARD = [
    "RMSE, one month ahead, LSTM",
    "RMSE, one month ahead, ensemble",
    "RMSE, one month ahead, linear",
    "adding, longest length solved by all seeds",
    "first minus second, longest length solved by all seeds",
]
PERIODS = pd.period_range("1949-01", periods=144, freq="M")
y = np.exp(5 + 0.01 * np.arange(144) + 0.2 * np.sin(np.arange(144) * np.pi / 6))
y *= np.exp(np.random.default_rng(0).normal(0, 0.03, 144))


def shift(values, months):
    return np.r_[np.full(months, np.nan), values[:-months]]


def give(code, series):
    """Puts a series where the lesson's functions look for it."""
    z = np.log(series)
    both = shift(z, 12) + shift(z, 1) - shift(z, 13)
    bases = {
        "passengers": 0 * z,
        "logarithms": 0 * z,
        "monthly": shift(z, 1),
        "yearly": shift(z, 12),
        "both": both,
    }
    vars(code).update(
        y=series, log_y=z, MONTHS=len(z), BASES=bases, TEST=96, CUTS=[60, 72, 84, 96], test=np.arange(96, 144)
    )


def lines(months, values=y, head="month,number"):
    return "\n".join([head] * bool(head) + [f"{m},{v}" for m, v in zip(months, values, strict=True)]) + "\n"


# ---- data


@pytest.mark.parametrize("head", ["Month,Passengers", ""])
@pytest.mark.parametrize("form", ["%Y-%m", "%Y-%m-%d", "%b %Y"])
def test_months_with_one_meaning_are_read_with_or_without_a_header(code, tmp_path, head, form):
    path = tmp_path / "mine.csv"
    path.write_text(lines(PERIODS.strftime(form), head=head), encoding="utf-8-sig")
    series = code.read_series(path)
    assert (series.index == PERIODS).all() and np.allclose(series, y)


@pytest.mark.parametrize("form", ["%b-%y", "%d.%m.%Y", "%m/%d/%Y", "%m.%Y"])
def test_ambiguous_months_are_refused_with_the_way_to_write_them(code, tmp_path, form):
    path = tmp_path / "mine.csv"
    path.write_text(lines(PERIODS.strftime(form)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2, .*1949-02,118 would be read"):
        code.read_series(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t + "International airline passengers: monthly totals\n", "line 146, 'International"),
        (lambda t: t.replace("1950-03,", "1950-03,-"), "line 16"),
        (lambda t: "".join(line for line in t.splitlines(True) if "1950-03" not in line), "143 months"),
        (lambda t: "<html>not found</html>\n", "0 months|line 1"),
    ],
)
def test_what_is_no_series_is_named_and_no_file_is_to_be_deleted(code, tmp_path, damage, message):
    path = tmp_path / "mine.csv"
    path.write_text(damage(lines(PERIODS.astype(str))), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        code.load_series(path)
    assert "delete" not in str(error.value)


def test_the_cache_is_asked_where_data_is_missing(code, tmp_path, monkeypatch):
    kept, asked = tmp_path / "kept.csv", []
    kept.write_text(lines(PERIODS.astype(str)), encoding="utf-8")
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **options: asked.append(options) or kept)
    assert len(code.load_series(tmp_path / "none.csv")) == 144
    assert asked[0]["cache_subdir"] == "seven-lessons" and asked[0]["file_hash"]


# ---- forecasts


def test_linear_forecast_agrees_with_statsmodels(code):
    give(code, y)
    fitted = AutoReg(np.log(y[:96]), lags=13).fit()
    assert np.allclose(code.linear_forecast(96)[13:96], fitted.fittedvalues)


@pytest.mark.parametrize(
    "options",
    [{"seen": s} for s in ("passengers", "logarithms", "monthly", "yearly", "both")] + [{"linear": True}],
)
def test_targets_give_the_series_back_and_know_no_future(code, options):
    give(code, y)
    x, goal, at, passengers = code.prepare(96, **options)
    assert np.allclose(passengers(goal[:, 0])[at], y[at]) and np.isnan(passengers(goal[:, 0])[: at[0]]).all()
    give(code, np.r_[y[:96], 3 * y[96:]])
    changed, _, _, after = code.prepare(96, **options)
    assert np.array_equal(changed[at <= 96], x[at <= 96]) and not np.allclose(changed[at > 97], x[at > 97])
    assert np.allclose(
        after(goal[:, 0])[at[at <= 96]], y[at[at <= 96]]
    )  # base and scale of month 96 are known before it


def test_restart_is_a_new_start(code):
    model, fresh = code.build(), code.build()
    data = np.random.default_rng(0).normal(size=(20, 13, 1)), np.ones((20, 1))
    model.fit(*data, epochs=2, verbose=0)
    code.restart(model, fresh, 0.02)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), fresh.get_weights(), strict=True))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert sum(np.abs(v.numpy()).sum() for v in model.optimizer.variables) == pytest.approx(0.02)


def test_difference_is_paired_and_has_its_sign(code):
    give(code, y)
    good, bad = y + 1.0, y * 1.1
    assert code.difference(good, good) == (0, 0, 0)
    d, low, high = code.difference(good, bad)
    assert low < d < high < 0


# ---- LSTM, adding problem


@pytest.mark.parametrize("seed", range(100, 104))
def test_numpy_lstm_agrees_with_keras_and_differences(code, seed):
    case = code.random_case(seed)
    _, ours = code.numpy_loss(*case)
    for name, value in code.keras_loss(*case).items():
        assert np.allclose(ours[name], value, atol=1e-10), name
    numeric = code.central_difference(lambda: code.numpy_loss(*case), case[0]["recurrent"])
    assert np.abs(numeric - ours["recurrent"]).max() < 1e-6 * np.abs(numeric).max()


def test_numpy_training_follows_keras(code):
    x, goal = np.random.default_rng(0).normal(size=(9, 13, 1)), np.linspace(-1, 1, 9)[:, None]
    model, step = code.keras_and_numpy("float64")
    ours = [step(x, goal) for _ in range(10)]
    theirs = model.fit(x, goal, batch_size=9, epochs=10, shuffle=False, verbose=0).history["loss"]
    assert np.allclose(ours, theirs, atol=1e-5) and ours[-1] < ours[0]


def test_adding_problem(code):
    x, goal = code.adding_problem(300, 21, np.random.default_rng(0))
    assert (x[:, :10, 1].sum(axis=1) == 1).all() and (x[:, 10:, 1].sum(axis=1) == 1).all()
    assert np.allclose((x[..., 0] * x[..., 1]).sum(axis=1), goal[:, 0])


def test_cells_agree_with_a_plain_loop(code):
    x, relu = np.random.default_rng(0).normal(size=(2, 14, 2)).astype("float32"), lambda z: np.maximum(z, 0)
    skip, fading = keras.layers.RNN(code.SkipCell(skip=3)), keras.layers.RNN(code.FadingMeanCell(14))
    outputs = [layer(tf.constant(x)).numpy() for layer in (skip, fading)]
    (w, u, b), far = (v.numpy() for v in skip.cell.near.trainable_variables), skip.cell.far.numpy()
    kernel, recurrent, bias, logit = (v.numpy() for v in fading.cell.trainable_variables)
    times = 1 + np.exp(-logit)
    assert (
        times[0] == pytest.approx(1.1, rel=1e-4)
        and times[-1] == pytest.approx(14, rel=1e-4)
        and not recurrent.any()
    )
    h, past = np.zeros((2, 32)), [np.zeros((2, 32))] * 3
    for t in range(14):
        h = (1 - 1 / times) * h + relu(x[:, t] @ kernel + h @ recurrent + bias) / times
        past = [relu(x[:, t] @ w + b + past[0] @ u + past[2] @ far), *past[:2]]
    assert np.allclose(outputs[0], past[0], atol=1e-5) and np.allclose(outputs[1], h, atol=1e-5)


def test_spread_memory(code):
    layer = code.PROPOSALS["LSTM, spread memory"](80)
    layer.build((None, 80, 2))
    i, f, *rest = np.split(layer.get_weights()[2], 4)
    assert np.allclose(i, -f) and f.min() >= 0 and f.max() <= np.log(79) and f.max() > 2 and not np.any(rest)


def test_the_felt_gradient_is_float64_throughout(code):
    def felt(name, length):
        return code.felt(name, length, code.first_weights(name, length))

    curve = felt("identity and ReLU, clipped", 20)
    assert curve[0] == 1 and curve.dtype == "float64" and (curve > 0.3).all()  # an adder forgets nothing
    assert felt("LSTM", 20)[-1] < 0.05 and keras.config.dtype_policy().name == "float32"
    assert 0 < felt("GRU", 260)[-1] < 1e-45  # float32 knows no number between


def test_best_rate_prefers_seeds_that_got_there_then_speed_and_never_sees_the_test(code):
    rows = pd.DataFrame({"rate": [1, 1, 2, 2, 3, 3], "steps": [50, 900, 100, 300, 200, 300]})
    rows["reached"], rows["validation"] = [True, False, True, True, True, True], 0.1
    assert code.best_rate(rows) == 2
