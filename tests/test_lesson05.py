"""Lesson 5's functions against Keras, statsmodels, scikit-learn, SciPy and cases worked out by hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import definitions
from scipy.optimize import approx_fprime
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error
from statsmodels.tsa.ar_model import AutoReg

L = SimpleNamespace(**definitions("lesson05_rnn", autograph=True))

SMALL = {
    "SEEDS": [0],
    "TUTORIAL_EPOCHS": 1,
    "EPOCHS": 4,
    "CHECK_EVERY": 2,
    "SHAPES": 3,
    "COMPARED_STEPS": 3,
    "TIMED_STEPS": 2,
    "GRADIENT_LENGTH": 12,
    "LENGTHS": [6, 12],
    "ADDING_SEEDS": [0],
    "RATES": [0.01],
    "ADDING_UNITS": 4,
    "ADDING_BATCH": 5,
    "ADDING_STEPS": 4,
    "ADDING_CHECK": 2,
    "MORE_STEPS": 4,
    "MORE_LENGTHS": [6, 12],
}


def monthly(values, start="1949-01"):
    return pd.Series(values, pd.period_range(start, periods=len(values), freq="M"))


def some_series(months=96, seed=0):
    t, rng = np.arange(months), np.random.default_rng(seed)
    return np.exp(5 + 0.01 * t + 0.2 * np.sin(2 * np.pi * t / 12) + rng.normal(0, 0.03, months))


# ------------------------------------------------------------------------------------------------ data


def test_a_good_series_comes_back():
    series = monthly(some_series())
    assert L.check_series(series) is series


def test_bad_series_are_refused_with_the_reason():
    good = monthly(some_series())
    with pytest.raises(ValueError, match="after 1949-05 the next row is not the next month"):
        L.check_series(good.drop(good.index[5]))
    for bad in (0.0, -3.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="1949-08 holds .* positive"):
            L.check_series(good.where(np.arange(96) != 7, bad))
    with pytest.raises(ValueError, match="59 months are too few"):
        L.check_series(good.iloc[:59])


def test_a_file_that_is_no_series_is_named(tmp_path):
    path = tmp_path / "broken.csv"
    path.write_text("<html>not found</html>\n", encoding="utf-8")
    with pytest.raises(ValueError, match="broken.csv is not a CSV with a month and a number"):
        L.read_series(path)


def test_loader_reads_the_file_then_the_cache_then_the_stand_in(tmp_path, monkeypatch, capsys):
    here = tmp_path / "series.csv"
    pd.DataFrame({"m": monthly(some_series()).index.astype(str), "v": some_series()}).to_csv(
        here, index=False
    )
    series, name = L.load_passengers(here)
    assert name == "airline passengers" and np.allclose(series, some_series())

    def unreachable(*args, **kwargs):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    series, name = L.load_passengers(tmp_path / "missing.csv")
    assert "stand-in" in name and len(series) == 144
    assert "!!! NOT airline passengers" in capsys.readouterr().out
    monkeypatch.setattr(keras.utils, "get_file", lambda *args, **kwargs: here)
    assert L.load_passengers(tmp_path / "missing.csv")[1] == "airline passengers"


# ------------------------------------------------------------------------------------ errors, baselines


def test_errors_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, forecast = rng.uniform(100, 600, 40), rng.uniform(100, 600, (3, 40))
    for row, r, m in zip(forecast, L.rmse(forecast, truth), L.mape(forecast, truth), strict=True):
        assert r == pytest.approx(root_mean_squared_error(truth, row))
        assert m == pytest.approx(100 * mean_absolute_percentage_error(truth, row))


def test_measure_looks_at_the_right_months():
    y = np.arange(144.0) + 1
    one = {k: y.copy() for k in L.VALIDATION_CUTS + list(L.TESTS)}
    far = {k: np.r_[y[k:], np.zeros(60)] for k in one}
    row = L.measure(one, far, y)
    assert all(value == 0 for value in row.values())
    one[60][71] += 12  # the last month of one validation year; a month later must not count
    one[60][72] += 99
    far[96][47] += 1
    far[96][48] += 99
    row = L.measure(one, far, y)
    assert row["valid"] == pytest.approx(np.sqrt(12**2 / 12) / 3)
    assert row["far test 48"] == pytest.approx(np.sqrt(1 / 48)) and row["far valid"] == 0


def test_linear_autoregression_agrees_with_statsmodels():
    log_y = np.log(some_series(144))
    fitted = AutoReg(log_y[:96], lags=13).fit()
    ours = L.fit_linear(log_y[:96])
    assert np.allclose(ours, np.r_[fitted.params[0], fitted.params[:0:-1]])  # lag 13 comes first in ours
    assert np.allclose(L.linear_forecast(log_y, ours)[13:96], fitted.fittedvalues)
    one, far = L.linear_baseline(np.exp(log_y), 96, 24)
    assert np.allclose(np.log(far), fitted.forecast(24))
    assert np.isnan(one[:13]).all() and np.isfinite(one[13:]).all()


def test_interval_of_a_difference():
    rng = np.random.default_rng(1)
    truth = rng.normal(300, 30, 48)
    good, bad = truth + rng.normal(0, 5, 48), truth + rng.normal(0, 30, 48)
    assert L.difference_interval(good, good, truth) == (0, 0, 0)
    difference, low, high = L.difference_interval(good, bad, truth)
    assert low < difference < high < 0


# ----------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("inputs", ["log", "difference", "seasonal", "both"])
def test_base_knows_only_the_past_and_gives_the_series_back(inputs):
    log_y = np.log(some_series())[None]
    z, base = L.transform(log_y, inputs)
    known = np.isfinite(base)
    assert np.allclose((z + base)[known], log_y[known])
    changed = log_y.copy()
    changed[:, 50:] += 1
    assert np.allclose(L.transform(changed, inputs)[1][:, :51], base[:, :51], equal_nan=True)
    assert not np.allclose(L.transform(changed, inputs)[0][:, 50], z[:, 50])


def test_both_differences_by_hand():
    log_y = np.log(some_series())
    z, _ = L.transform(log_y, "both")
    expected = np.diff(log_y[12:] - log_y[:-12])
    assert np.isnan(z[:13]).all() and np.allclose(z[13:], expected)


def test_windows_end_before_the_month_they_forecast():
    series = np.arange(20.0) + 100 * np.arange(2)[:, None]
    at = np.array([5, 9])
    x = L.windows(L.BASE | {"window": 3}, series, at, np.tile(at, (2, 1)))
    assert x.shape == (3, 2, 2, 1)
    assert x[:, 0, 0, 0].tolist() == [2, 3, 4] and x[:, 1, 1, 0].tolist() == [106, 107, 108]
    x = L.windows(L.BASE | {"window": 3, "month": True}, series, at, np.tile(at, (2, 1)))
    assert np.allclose(x[-1, 0, :, 1], np.sin(2 * np.pi * np.array([4, 8]) / 12), atol=1e-6)
    with pytest.raises(ValueError, match="a window of 6 months is longer than the 5 months"):
        L.windows(L.BASE | {"window": 6}, series, at, np.tile(at, (2, 1)))


def test_recursion_with_silent_networks_is_the_linear_forecast():
    y, cuts = some_series(144), np.array([96, 120])
    log_y = np.tile(np.log(y), (2, 1))
    linear = np.stack([L.fit_linear(np.log(y[:k])) for k in cuts])
    c = L.BASE | {"linear": True}
    scale = {"seen": (np.zeros((2, 1)), np.ones((2, 1))), "target": (np.zeros((2, 1)), np.ones((2, 1)))}
    far = L.recursive(c, lambda x: tf.zeros((2, 1)), log_y, cuts, linear, scale, 24)
    for row, k in zip(far, cuts, strict=True):
        assert np.allclose(row, L.linear_baseline(y, k, 24)[1])


def test_recursion_never_sees_the_future():
    y, cuts = some_series(144), np.array([96])
    scale = {"seen": (np.zeros((1, 1)), np.ones((1, 1))), "target": (np.zeros((1, 1)), np.ones((1, 1)))}
    changed = np.r_[y[:96], 5 * y[96:]]
    results = [
        L.recursive(
            L.BASE, lambda x: tf.reduce_mean(x, 0)[..., 0] * 0.1, np.log(s)[None], cuts, None, scale, 20
        )
        for s in (y, changed)
    ]
    assert np.array_equal(*results)


# ------------------------------------------------------------------------------------- many networks


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("seeds", [[3], [0, 1, 2]])
def test_two_layers_of_many_networks_agree_with_keras(cell, seeds):
    c = L.PLAIN | {"cell": cell, "layers": 2, "units": 5}
    w = L.initial_weights(c, 2, 11, seeds)
    x = np.random.default_rng(0).normal(size=(11, len(seeds), 4, 2)).astype("float32")
    ours = L.forward(c, w, tf.constant(x)).numpy()
    for n in range(len(seeds)):
        states = x[:, n].swapaxes(0, 1)
        for layer in range(2):
            reference = L.KERAS_LAYERS[cell](5, return_sequences=True)
            reference.build((None, 11, states.shape[-1]))
            bias = w[f"bias {layer}"][n, 0]
            if cell == "gru":
                bias = np.stack([bias, w[f"recurrent bias {layer}"][n, 0]])
            reference.set_weights([w[f"kernel {layer}"][n], w[f"recurrent {layer}"][n], bias])
            states = reference(states).numpy()
        assert np.allclose(ours[n], states[:, -1] @ w["out kernel"][n] + w["out bias"][n], atol=1e-5)


def slow_rnn(c, w, x):
    """One network (weights (rows, columns)) on one sequence (length, inputs), step by step in NumPy."""
    states = []
    for t, entering in enumerate(x @ w["kernel 0"] + w["bias 0"]):
        h = states[-1] if states else np.zeros(c["units"])
        z = entering + h @ w["recurrent 0"]
        if c["skip"] and t >= c["skip"]:
            z = z + states[t - c["skip"]] @ w["skip 0"]
        if c["norm"]:
            z = (z - z.mean()) / np.sqrt(z.var() + 1e-3) * w["scale 0"][0]
        new = np.tanh(z)
        if c["leak"]:
            rate = 1 / (1 + np.exp(-w["leak 0"][0]))
            new = (1 - rate) * h + rate * new
        states.append(new)
    states = np.array(states)
    if not c["attention"]:
        return states[-1] @ w["out kernel"] + w["out bias"][0]
    score = np.exp(states @ w["query"])
    return (score / score.sum() * states).sum(axis=0) @ w["out kernel"] + w["out bias"][0]


@pytest.mark.parametrize("change", [{}, {"skip": 3}, {"norm": True}, {"leak": True}, {"attention": True}])
@pytest.mark.parametrize("seeds", [[3], [0, 1]])
def test_proposals_agree_with_a_plain_loop(change, seeds):
    c = L.PLAIN | {"cell": "rnn", "units": 6} | change
    w = L.initial_weights(c, 2, 10, seeds)
    x = np.random.default_rng(1).normal(size=(10, len(seeds), 3, 2)).astype("float32")
    ours = L.forward(c, w, tf.constant(x)).numpy()
    for n in range(len(seeds)):
        one = {name: value[n].astype("float64") for name, value in w.items()}
        for b in range(3):
            assert np.allclose(ours[n, b], slow_rnn(c, one, x[:, n, b]), atol=1e-5)


def test_time_constants_are_spread_over_the_sequence():
    w = L.initial_weights(L.PLAIN | {"cell": "rnn", "leak": True}, 1, 200, [0])
    constants = 1 + np.exp(-w["leak 0"][0, 0])
    assert constants[0] == pytest.approx(1.1, rel=1e-5) and constants[-1] == pytest.approx(200, rel=1e-4)
    assert np.allclose(np.diff(np.log(constants)), np.diff(np.log(constants))[0], atol=1e-4)


def test_first_recurrent_weights():
    rng = np.random.default_rng(0)
    for gates in (1, 4):
        u = L.recurrent_init("orthogonal", 6, gates, rng)
        assert u.shape == (6, 6 * gates) and np.allclose(u @ u.T, np.eye(6))
    assert np.array_equal(L.recurrent_init("identity", 3, 1, rng), np.eye(3))
    assert np.abs(L.recurrent_init("glorot", 8, 1, rng)).max() <= np.sqrt(6 / 16)


def test_trainer_is_keras_adam_with_a_rate_for_each_network():
    start = np.random.default_rng(0).normal(size=(2, 3, 1)).astype("float32")
    weights, rates = {"w": tf.Variable(start)}, [0.01, 0.1]
    L.make_trainer(lambda w: tf.reduce_sum((w["w"] - 1) ** 4, axis=(1, 2)), weights, rates)(tf.constant(20))
    for n, rate in enumerate(rates):
        variable, optimizer = keras.Variable(start[n]), keras.optimizers.Adam(rate)
        for _ in range(20):
            gradient = 4 * (variable.value - 1) ** 3
            optimizer.apply([gradient], [variable])
        assert np.allclose(weights["w"][n], variable.numpy(), atol=1e-5)


def test_clipping_limits_each_network_by_itself():
    seen = {}
    for clip in (0.0, 1.0):
        weights = {"w": tf.Variable(np.zeros((2, 2, 1), "float32"))}
        slopes = tf.constant([[[30.0], [40.0]], [[0.3], [0.4]]])
        L.make_trainer(lambda w, s=slopes: tf.reduce_sum(s * w["w"], axis=(1, 2)), weights, [0.1, 0.1], clip)(
            1
        )
        seen[clip] = weights["w"].numpy()
    # Adam's first step has the size of the rate whatever the gradient: clipping must not change it ...
    assert np.allclose(seen[0.0], seen[1.0], atol=1e-5)
    # ... but a later step remembers: a spike that is clipped leaves the second moment small
    sizes = {}
    for clip in (0.0, 1.0):
        weights, spike = {"w": tf.Variable(np.zeros((1, 1, 1), "float32"))}, tf.Variable(100.0)
        train = L.make_trainer(
            lambda w, s=spike: tf.reduce_sum(s * w["w"], axis=(1, 2)), weights, [0.1], clip
        )
        train(1)
        spike.assign(1.0)
        before = weights["w"].numpy()
        train(1)
        sizes[clip] = float(np.abs(weights["w"].numpy() - before).max())
    assert sizes[1.0] == pytest.approx(0.1, rel=1e-3) and sizes[0.0] < 0.09


def test_fit_networks_learns_and_keeps_shapes():
    y = some_series(144)
    one, far, seconds = L.fit_networks({"window": 3, "units": 2}, y, [96, 120], [0, 1], 60, 20, 6)
    assert one.shape == (3, 2, 2, 144) and far.shape == (3, 2, 2, 6) and seconds > 0
    assert np.isnan(one[..., :13]).all() and np.isfinite(one[..., 20:]).all() and np.isfinite(far).all()
    assert L.rmse(one[-1, :, :, 20:96], y[20:96]).mean() < L.rmse(y[19:95], y[20:96])


@pytest.mark.parametrize("window", [47, 90, 200])
def test_a_window_longer_than_the_months_before_a_cut_is_refused(window):
    with pytest.raises(ValueError, match=f"a window of {window} months needs more than {window + 13} months"):
        L.fit_networks({"window": window}, some_series(144), [60, 96], [0], 2, 2, 6)


# ---------------------------------------------------------------------------------------- NumPy LSTM


@pytest.mark.parametrize("seed", range(100, 106))
def test_numpy_lstm_agrees_with_keras_and_its_gradients(seed):
    assert max(L.keras_errors(seed, "float64").values()) < 1e-10
    assert max(L.keras_errors(seed, "float32").values()) < 1e-4


@pytest.mark.parametrize("seed", range(200, 204))
def test_numpy_lstm_gradients_agree_with_scipy(seed):
    weights, values, sequences, loss = L.random_case(np.random.default_rng(seed))
    lstm = L.NumpyLSTM(*weights, return_sequences=sequences)
    lstm.forward(**values)
    analytic = lstm.backward(loss)
    arrays = lstm.weights | values
    for name, array in arrays.items():

        def total(flat, name=name, array=array):
            changed = arrays | {name: flat.reshape(array.shape)}
            other = L.NumpyLSTM(*(changed[k] for k in lstm.weights), return_sequences=sequences)
            return np.sum(loss * other.forward(*(changed[k] for k in values)))

        numeric = approx_fprime(array.ravel(), total, 1e-7)
        assert np.allclose(analytic[name].ravel(), numeric, atol=1e-5), name


def test_numpy_lstm_keeps_float32_and_refuses_wrong_shapes():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s).astype("float32") for s in ((2, 12), (3, 12), (12,))]
    lstm = L.NumpyLSTM(*weights)
    h = lstm.forward(rng.normal(size=(4, 5, 2)).astype("float32"))
    assert h.shape == (4, 3) and h.dtype == np.float32
    assert {g.dtype for g in lstm.backward(h).values()} == {np.dtype("float32")}
    x = np.zeros((4, 5, 2), "float32")
    with pytest.raises(ValueError, match=r"x has the shape \(4, 5, 3\), expected \(4, 5, 2\)"):
        lstm.forward(np.zeros((4, 5, 3), "float32"))
    for state in (np.zeros(3), np.zeros((1, 3))):  # NumPy would broadcast both
        with pytest.raises(ValueError, match="h0 has the shape"):
            lstm.forward(x, h0=state)
        with pytest.raises(ValueError, match="c0 has the shape"):
            lstm.forward(x, c0=state)
    lstm.forward(x)
    with pytest.raises(ValueError, match="dh has the shape"):
        lstm.backward(np.zeros(3))
    for wrong in ((weights[0][:, :-1], *weights[1:]), (*weights[:2], weights[2][:1])):
        with pytest.raises(ValueError, match="has the shape"):
            L.NumpyLSTM(*wrong)


def test_numpy_adam_is_keras_adam():
    start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    ours, theirs, optimizer = start.copy(), keras.Variable(start), keras.optimizers.Adam(0.03)
    adam = L.NumpyAdam({"w": ours}, 0.03)
    for _ in range(25):
        adam.update({"w": np.sin(3 * ours)})
        optimizer.apply([tf.sin(3 * theirs.value)], [theirs])
    assert np.allclose(ours, theirs.numpy(), atol=1e-5)


def test_numpy_step_follows_keras():
    rng = np.random.default_rng(0)
    x, goal = rng.normal(size=(9, 5, 1)), rng.normal(size=(9, 1))
    model = L.keras_network(4, 5, "float64", jit_compile=False)
    lstm, adam = L.numpy_network(model, L.RATE)
    ours = [L.numpy_step(lstm, adam, x, goal) for _ in range(12)]
    theirs = model.fit(x, goal, batch_size=9, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert np.allclose(ours, theirs, atol=1e-6) and ours[-1] < ours[0]  # Keras averages the loss in float32


# ------------------------------------------------------------------------------------ vanishing gradient


def test_adding_problem():
    keras.utils.set_random_seed(0)
    x, target = (v.numpy() for v in L.adding_batch(2, 400, 21))
    values, marks = x[..., 0], x[..., 1]
    assert x.shape == (21, 2, 400, 2) and target.shape == (2, 400, 1)
    assert (marks[:10].sum(axis=0) == 1).all() and (marks[10:].sum(axis=0) == 1).all()
    assert np.allclose((values * marks).sum(axis=0), target[..., 0], atol=1e-6)
    assert np.mean((target - 1) ** 2) == pytest.approx(1 / 6, abs=0.02)  # what always answering 1 costs


@pytest.mark.parametrize("networks", [1, 2])
def test_gradient_of_a_known_network(networks):
    c = L.PLAIN | {"cell": "rnn", "activation": "relu", "units": 3, "recurrent": "identity", "gain": 0.8}
    w = L.initial_weights(c, 2, 12, list(range(networks)))
    w["kernel 0"][:] = 0
    w["bias 0"][:] = (
        1  # all units stay positive: the network is linear and the gradient shrinks by 0.8 a step
    )
    curve = L.gradient_by_lag(c, w, 12, batch=5)
    assert curve.shape == (12, networks)
    assert np.allclose(curve, 0.8 ** np.arange(12)[:, None], rtol=1e-4)


def test_best_rate_prefers_solved_seeds_then_speed():
    curve = np.full((3, 3, 2), 0.1)  # looks, rates, seeds
    curve[2, 0] = 0.001  # both seeds, late
    curve[0:, 1, 0] = 0.001  # one seed, early
    curve[1:, 2] = 0.001  # both seeds, earlier
    rate, steps = L.best_rate(curve, 100)
    assert rate == 2 and steps.tolist() == [200, 200]
    nothing = np.full((2, 2, 2), 0.2)
    nothing[:, 0] = np.nan  # a network that diverged is never the better one
    rate, steps = L.best_rate(nothing, 100)
    assert rate == 1 and np.isnan(steps).all()


def test_run_adding_reports_what_it_trained():
    result = L.run_adding({"cell": "rnn", "clip": 1.0}, 6, [0, 1], [0.001, 0.01], 4, 8, 40, 20)
    assert result["curve"].shape == (2, 2, 2) and result["test"].shape == (2, 2)
    assert result["parameters"] == 2 * 4 + 4 * 4 + 4 + 4 + 1
    assert result["curve"][-1].mean() < 2 and np.isfinite(result["test"]).all()
