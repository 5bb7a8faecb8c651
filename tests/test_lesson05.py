"""Lesson 5: forecasts, the NumPy LSTM, memories and tasks against statsmodels, Keras and plain loops."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.tsa.ar_model import AutoReg

LESSON = "lesson05_rnn"
SMALL = {
    "EPOCHS": 1,
    "SEEDS": [0, 1],
    "STEPS": 20,
    "LAGS": [12, 13],
    "PENALTIES": [1, 10],
    "STARTS": [0, 1],
    "LENGTHS": [6, 12],
    "LOOPS_UP_TO": 6,
    "TASK_SEEDS": [0, 1],
    "RATES": [0.01],
    "UPDATES": 50,
}
ONE = SMALL | {"SEEDS": [0], "STEPS": 10, "LAGS": [13], "PENALTIES": [1], "STARTS": [0]}
ONE |= {"LENGTHS": [6], "TASK_SEEDS": [0]}
DIVERGES = {"RATES": [0.01, 1e9]}
WRONG = {"SERIES": "data/my-sales.csv"}
SCOREBOARD = [
    "RMSE, one month ahead, LSTM",
    "RMSE, one month ahead, ensemble",
    "RMSE, one month ahead, linear",
    "adding, longest length solved by all seeds",
    "first minus second, longest length solved by all seeds",
]

months = np.arange(144)
y = np.exp(5 + 0.01 * months + 0.2 * np.sin(months * np.pi / 6))
y *= np.exp(np.random.default_rng(0).normal(0, 0.03, 144))


@pytest.fixture
def lesson5(code):
    """The lesson's definitions with what its top level would have bound."""
    code.MONTHS, code.passengers, code.truth = 144, y, y[60:]
    code.CUTS, code.ENDS, code.TEST_FROM = [60, 72, 84, 96], [72, 84, 96, 144], 96
    code.STEPS, code.SEEDS = 20, [0, 1]
    code.model = code.build()
    code.model.compile(keras.optimizers.Adam(0.003), "mse", steps_per_execution=code.LOOK)
    return code


# ---- the series and its forecasts


def csv(path, index, head="month,passengers"):
    lines = [f"{m},{v}" for m, v in zip(index, y, strict=False)]
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["%Y-%m", "%Y-%m-%d", "%b %Y"])
def test_months_are_read_in_order(code, tmp_path, form):
    periods = pd.period_range("1949-01", periods=144, freq="M")
    series = code.read_series(csv(tmp_path / "mine.csv", periods.strftime(form)))
    assert (series.index == periods).all()
    np.testing.assert_allclose(series, y)
    assert series.dtype == float


@pytest.mark.parametrize(("missing", "named"), [(14, "1950-03"), (1, "1949-02")])
def test_the_first_gap_is_named_with_the_file(code, tmp_path, missing, named):
    periods = pd.period_range("1949-01", periods=146, freq="M").delete(missing)
    with pytest.raises(AssertionError, match=f"mine.csv: {named} "):
        code.read_series(csv(tmp_path / "mine.csv", periods))


def test_a_series_too_short_is_refused(code, tmp_path):
    periods = pd.period_range("1949-01", periods=143, freq="M")
    with pytest.raises(AssertionError, match="143 months"):
        code.read_series(csv(tmp_path / "mine.csv", periods))


def test_rmse_is_of_a_part_and_infinite_where_a_training_diverged(code):
    code.truth = np.arange(84.0)
    forecasts = np.stack([code.truth + np.repeat([3, 4], [36, 48]), np.full(84, np.nan)])
    assert list(code.rmse(forecasts, code.VALIDATION)) == [3, np.inf]
    assert list(code.rmse(forecasts, code.TEST)) == [4, np.inf]


@pytest.mark.parametrize("lags", [1, 13])
def test_linear_agrees_with_statsmodels_and_knows_only_the_months_before_the_cut(code, lags):
    z = np.log(y)
    line = np.asarray(code.linear(pd.Series(z), 96, lags))
    results = AutoReg(z[:96], lags).fit()
    np.testing.assert_allclose(line[lags:], results.apply(z).fittedvalues)
    assert np.isnan(line[:lags]).all()
    spoiled = np.where(months < 96, z, 9)
    np.testing.assert_allclose(np.asarray(code.linear(pd.Series(spoiled), 96, lags))[:97], line[:97])


def test_questions_give_the_series_back_and_know_no_future(lesson5):
    for question in lesson5.QUESTIONS:
        x, target, forecast = lesson5.prepare(question, 96, y)
        assert x.shape == (144 - 26, 13, 1) and target.shape == (144 - 26, 1) and x.dtype == "float32"
        np.testing.assert_allclose(forecast(target[:, 0]), y[26:], rtol=1e-4)
        assert abs(target[: 96 - 26].mean()) < 0.6 and 0.6 < target[: 96 - 26].std() < 1.4
        later = np.where(months < 96, y, 3 * y)
        x_later, _, forecast_later = lesson5.prepare(question, 96, later)
        np.testing.assert_array_equal(x_later[:71], x[:71])  # up to that of the first unknown month
        np.testing.assert_allclose(forecast_later(target[:, 0])[:71], forecast(target[:, 0])[:71])
        x_next, _, forecast_next = lesson5.prepare(question, 96, np.append(y[:100], np.nan))
        np.testing.assert_allclose(x_next, x[: 101 - 26], rtol=1e-6)
        np.testing.assert_allclose(forecast_next(0.3), forecast(0.3)[: 101 - 26])


@pytest.mark.parametrize(("question", "months_ago"), [(2, [1]), (3, [12]), (4, [1, 12, 13])])
def test_windows_and_bases_are_what_the_table_says(lesson5, question, months_ago):
    x, target, forecast = lesson5.prepare(lesson5.QUESTIONS[question], 96, y)
    z = np.log(y)
    base = sum(np.roll(z, k) * (-1 if k == 13 else 1) for k in months_ago)
    change = (z - base)[max(months_ago) :]
    known = change[: 96 - max(months_ago)]
    seen = ((change - known.mean()) / known.std())[26 - max(months_ago) - 13 :]
    for row in (0, 1, 117):
        np.testing.assert_allclose(x[row, :, 0], seen[row : row + 13], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(forecast(0.0), np.exp(base[26:] + known.mean()), rtol=1e-6)


def test_the_rest_reads_double_differences_and_starts_from_the_line(lesson5):
    x, target, forecast = lesson5.prepare(lesson5.REST, 96, y)
    x_both, _, _ = lesson5.prepare(lesson5.BOTH, 96, y)
    np.testing.assert_array_equal(x, x_both)
    line = np.asarray(lesson5.linear(pd.Series(np.log(y)), 96, 13))
    np.testing.assert_allclose(forecast(0.0), np.exp(line[26:]), rtol=1e-6)


def test_passengers_are_forecast_as_they_are(lesson5):
    _, target, forecast = lesson5.prepare(lesson5.PASSENGERS, 96, y)
    np.testing.assert_allclose(forecast(1.0) - forecast(0.0), y[:96].std())
    np.testing.assert_allclose(forecast(0.0), y[:96].mean())


def test_a_network_that_starts_afresh_learns_what_a_new_one_learns(lesson5):
    x, target, _ = lesson5.prepare(lesson5.BOTH, 96, y)
    known = np.arange(26, 144) < 96
    lesson5.train(x, target, known, 0, 2)
    again = lesson5.train(x, target, known, 1, 3)
    keras.utils.set_random_seed(1)
    fresh = lesson5.build()
    fresh.compile(keras.optimizers.Adam(0.003), "mse")
    expected = []
    for _ in range(3):
        plan = {"batch_size": 70, "epochs": 10, "shuffle": False, "verbose": 0}
        fresh.fit(x[:70], target[:70], **plan)  # the months before the cut, and no others
        expected.append(fresh.predict(x, verbose=0)[:, 0])
    np.testing.assert_allclose(again, expected, rtol=1e-3, atol=1e-4)
    lesson5.start_afresh(lesson5.model, fresh)
    assert int(lesson5.model.optimizer.iterations) == 0
    assert float(lesson5.model.optimizer.learning_rate) == pytest.approx(0.003)


def test_answers_are_fitted_before_each_year(lesson5):
    asked = []

    def train(x, target, known, seed, looks):
        asked.append((known.sum(), seed, looks))
        return np.full((looks, len(x)), float(seed))

    lesson5.train, lesson5.PENALTIES = train, [0.5, 2]
    nothing, ridge, lstm = lesson5.answers(lesson5.BOTH)
    assert asked == [(cut - 26, seed, 2) for cut in lesson5.CUTS for seed in (0, 1)]
    assert nothing.shape == (84,) and ridge.shape == (2, 84) and lstm.shape == (2, 2, 84)
    for cut, end in zip(lesson5.CUTS, lesson5.ENDS, strict=True):
        x, target, forecast = lesson5.prepare(lesson5.BOTH, cut, y)
        here, year = slice(cut - 60, end - 60), slice(cut - 26, end - 26)
        np.testing.assert_allclose(nothing[here], forecast(0.0)[year])
        np.testing.assert_allclose(lstm[1, 1, here], forecast(1.0)[year])
        for row, penalty in enumerate([0.5, 2]):
            inputs, goal = x[: cut - 26, :, 0], target[: cut - 26, 0]
            center, aim = inputs.mean(axis=0), goal.mean()
            square = (inputs - center).T @ (inputs - center) + penalty * np.eye(13)
            weights = np.linalg.solve(square, (inputs - center).T @ (goal - aim))
            line = (x[..., 0] - center) @ weights + aim
            np.testing.assert_allclose(ridge[row, here], forecast(line)[year], rtol=1e-3)


def test_compare_is_diebold_and_mariano_with_harveys_correction_one_step_ahead(code):
    scores = pd.DataFrame(np.random.default_rng(1).exponential(1, (48, 3)), columns=[*"abc"])
    scores["a"] += 0.9
    pairs = [("a", "b"), ("c", "b")]
    table = code.compare(scores, pairs, 0)
    p = []
    for row, (one, two) in enumerate(pairs):
        d = (scores[one] - scores[two]).to_numpy()
        statistic = d.mean() / np.sqrt(np.mean((d - d.mean()) ** 2) / 48)
        statistic *= np.sqrt((48 + 1 - 2 + 0) / 48)  # Harvey, Leybourne and Newbold, h = 1
        p.append(2 * stats.t.sf(abs(statistic), 47))
        low, high = stats.t.interval(0.95, 47, d.mean(), stats.sem(d))
        assert table["difference"][row] == pytest.approx((low + high) / 2)
        assert table["±"][row] == pytest.approx((high - low) / 2)
    assert max(p) / 2 > min(p)  # Holm's correction leaves something to see
    np.testing.assert_allclose(table["p"], multipletests(p, method="holm")[1])


def test_a_year_ahead_networks_say_the_mean_of_what_keras_says(lesson5):
    keras.utils.set_random_seed(3)
    models = [lesson5.build(), lesson5.build()]
    path = lesson5.ahead(lesson5.BOTH, 96, 100, [model.get_weights() for model in models])
    known = y[:100]
    for _ in range(12):
        x, _, forecast = lesson5.prepare(lesson5.BOTH, 96, np.append(known, np.nan))
        said = np.mean([model.predict(x[-1:], verbose=0)[0, 0] for model in models])
        known = np.append(known, forecast(said)[-1])
    np.testing.assert_allclose(path, known[100:], rtol=1e-4)


# ---- the LSTM in NumPy


def random_case(seed):
    rng = np.random.default_rng(seed)
    shapes = [(3, 5, 2), (2, 16), (4, 16), (16,)]
    return [rng.normal(0, 0.8, shape) for shape in shapes], rng.normal(size=(3, 5, 4))


@pytest.mark.parametrize("seed", range(3))
def test_numpy_lstm_agrees_with_keras_and_with_differences(code, seed):
    arrays, weights = random_case(seed)
    x, *w = arrays
    layer = keras.layers.LSTM(4, return_sequences=True, dtype="float64", use_cudnn=False)
    layer.build(x.shape)
    layer.set_weights(w)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        states = layer(inputs)
        loss = tf.reduce_sum(weights * states)
    theirs = tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])
    ours, steps = code.lstm_forward(*arrays)
    np.testing.assert_allclose(ours, states, atol=1e-12)
    gradients = code.lstm_backward(weights, x, w[0], w[1], steps)
    moved = code.central_differences(arrays, weights)
    for one, two, three in zip(gradients, theirs, moved, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-10)
        np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-7)


def test_central_differences_leave_the_arrays_alone_and_find_a_wrong_gradient(code):
    arrays, weights = random_case(9)
    kept = [array.copy() for array in arrays]
    found = code.central_differences(arrays, weights)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, kept, strict=True))
    code.lstm_forward = lambda x, *w: (np.repeat((x**2).sum(axis=2)[..., None], 4, axis=2), None)
    moved = code.central_differences(arrays, weights)
    np.testing.assert_allclose(moved[0], 2 * arrays[0] * weights.sum(axis=2)[..., None], rtol=1e-6)
    assert not moved[1].any() and found[1].any()


# ---- memories


def sequence(length=14, seed=0):
    return np.random.default_rng(seed).normal(size=(2, length, 2)).astype("float32")


def test_fading_means_agree_with_a_plain_loop(code):
    x = sequence()
    layer = keras.layers.RNN(code.FadingMeans(50))
    found = layer(tf.constant(x)).numpy()
    weights = {v.path.rpartition("/")[2]: v.numpy() for v in layer.trainable_variables}
    times = 1 + np.exp(-layer.cell.fading.numpy())
    assert times[0] == pytest.approx(1.1, rel=1e-3) and times[-1] == pytest.approx(50, rel=1e-3)
    np.testing.assert_allclose(np.diff(np.log(times)), np.log(50 / 1.1) / 31, rtol=1e-3)
    kernel, recurrent, bias = (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias)
    assert not recurrent.numpy().any() and len(weights) == 4
    recurrent.assign(np.random.default_rng(1).normal(0, 0.2, (32, 32)))
    h = np.zeros((2, 32))
    for t in range(14):
        new = np.maximum(x[:, t] @ kernel.numpy() + h @ recurrent.numpy() + bias.numpy(), 0)
        h = (1 - 1 / times) * h + new / times
    assert not np.allclose(found, h, atol=1e-4)  # the matrix counts
    np.testing.assert_allclose(layer(tf.constant(x)), h, rtol=1e-3, atol=1e-5)


def test_an_ingredient_of_fading_means_can_be_left_out(code):
    cell = keras.layers.RNN(code.FadingMeans(80, shortest=80, activation="tanh"))
    cell(tf.constant(sequence()))
    np.testing.assert_allclose(1 + np.exp(-cell.cell.fading.numpy()), 80, rtol=1e-3)
    assert cell.cell.activation is keras.activations.tanh
    cell = keras.layers.RNN(code.FadingMeans(80, recurrent_initializer="orthogonal"))
    cell(tf.constant(sequence()))
    matrix = cell.cell.recurrent_kernel.numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(32), atol=1e-5)


@pytest.mark.parametrize("by_input", [True, False])
def test_decaying_sum_is_the_recurrence_step_by_step(code, by_input):
    x, inputs = sequence(30), keras.Input((30, 2))
    model = keras.Model(inputs, code.decaying_sum(inputs, 30, by_input))
    by_shape = {(w.shape, w.path.rpartition("/")[2]): w for w in model.weights}
    kernel, bias = by_shape[(2, 32), "kernel"].numpy(), by_shape[(1, 32), "kernel"]
    pace, *rest = [w.numpy() for w in model.weights if w.shape == (32,) and w.numpy().any()]
    np.testing.assert_allclose(np.exp(-pace), np.geomspace(1, 30, 32), rtol=1e-4)
    assert not rest
    h = np.zeros((2, 32))
    for t in range(30):
        u = np.maximum(x[:, t] @ kernel, 0)
        r = np.exp(np.minimum(pace + by_input * x[:, t, 1:] @ bias.numpy(), 3))
        h = np.exp(-r) * h + np.sqrt(1 - np.exp(-2 * r)) * u
    np.testing.assert_allclose(model(x), h, rtol=1e-2, atol=1e-3)
    assert 2 < bias.numpy().std() < 4


def test_spread_lstm_starts_as_tallec_and_ollivier_have_it(code):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((80, 2))
    model = keras.Model(inputs, code.spread_lstm(inputs, 80))
    i, f, *rest = np.split(model.layers[-1].get_weights()[2], 4)
    np.testing.assert_allclose(i, -f)
    assert f.min() >= 0 and 3 < f.max() <= np.log(79) and not np.any(rest)
    assert 15 < np.exp(f).mean() < 65  # uniform in time, not in its logarithm


def test_the_control_knows_no_order(code):
    x, inputs = sequence(9), keras.Input((9, 2))
    model = keras.Model(inputs, (code.LOOPS | code.SUMS)[code.CONTROL](inputs, 9))
    np.testing.assert_allclose(model(x), model(x[:, ::-1]), rtol=1e-4)
    kernel = model.layers[1].get_weights()[0]
    mine = np.maximum(x @ kernel, 0).sum(axis=1) / 3  # the root of nine steps
    np.testing.assert_allclose(model(x), mine, rtol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_two_marks_anywhere_and_their_sum_or_difference(code, sign):
    x, target = code.sequences(sign, 2000, 7, np.random.default_rng(0))
    assert x.dtype == target.dtype == "float32" and (x[..., 1].sum(axis=1) == 2).all()
    assert x[..., 0].min() >= 0 and 0.98 < x[..., 0].max() <= 1
    places = np.array([np.flatnonzero(row) for row in x[..., 1]])
    assert len(np.unique(places, axis=0)) == 21  # every pair
    values = np.take_along_axis(x[..., 0], places, axis=1)
    np.testing.assert_allclose(target[:, 0], values[:, 0] + sign * values[:, 1], atol=1e-6)
    assert np.mean((target - target.mean()) ** 2) == pytest.approx(1 / 6, abs=0.02)


def test_memory_network_ends_in_a_small_number(code):
    keras.utils.set_random_seed(0)
    model = code.memory_network(code.LOOPS["GRU"], 6)
    assert model.output_shape == (None, 1) and model.layers[-2].activation is keras.activations.silu
    assert 0.003 < model.layers[-1].get_weights()[0].std() < 0.03


# ---- the gradient, and who solves what


def test_felt_is_the_gradient_relative_to_the_last_step(code):
    def last_weighs_eight(x, length):
        weights = np.full((length, 2), 2.0, "float32")
        weights[-1] = 8
        total = keras.ops.sum(x * weights, axis=1)
        return keras.layers.Dense(4, use_bias=False, kernel_initializer="ones")(total)

    code.STARTS = [0, 1, 2]
    curves = code.felt(last_weighs_eight, 5)
    np.testing.assert_allclose(curves, [[1, 0.25, 0.25, 0.25, 0.25]] * 3, rtol=1e-4)
    halves = code.felt(lambda x, n: keras.layers.GRU(4)(x), 40)
    assert halves.shape == (3, 40) and (halves[:, -1] < 1e-3).all() and len(np.unique(halves[:, -1])) == 3


class Fake:
    """A model whose validation error follows a list, and whose test error is given."""

    def __init__(self, errors, test):
        self.errors, self.test, self.rates, self.rows = list(errors), test, [], 0
        self.optimizer = self

    def fit(self, x, y, **plan):
        self.rates.append(self.learning_rate)
        self.rows += len(x)

    def predict_on_batch(self, x):
        assert len(x) == 500
        return np.sqrt(self.test if x[0] else self.errors.pop(0)) * np.ones((500, 1))


@pytest.mark.parametrize(
    ("errors", "test", "expected"),
    [
        ([0.1, 0.02, 0.007], 0.0099, (True, 150, 0.007)),
        ([0.1, 0.007], 0.0101, (False, 100, 0.007)),
        ([0.1, 0.009, 0.0079], 0.009, (True, 150, 0.0079)),
        ([0.1, 0.009, 0.0081, 0.001], 0.009, (False, 150, 0.0081)),
        ([0.1, np.nan], 0.009, (False, np.inf, np.inf)),
    ],
)
def test_solved_is_under_the_limit_on_new_sequences_within_the_updates(code, errors, test, expected):
    drawn = iter([False, True, True, True, True])  # validation, four times others

    def sequences(sign, count, length, rng):
        assert (sign, length) == (-1, 6)
        return np.full(count, next(drawn, True)), np.zeros((count, 1))

    code.sequences, code.UPDATES, code.WARM_UP = sequences, 150, 100
    code.start_afresh = code.memory_network = lambda *a: None
    model = Fake(errors, test)
    row = code.solve(model, None, 6, "first minus second", 0.5, np.int64(3))
    assert (row["solved"], row["updates"]) == expected[:2]
    assert row["error"] == pytest.approx(expected[2])
    assert (row["length"], row["rate"], row["seed"]) == (6, 0.5, 3)
    assert model.rates == [0.25, 0.5, 0.5][: len(model.rates)]  # warming up
    assert model.rows == 50 * 64 * len(model.rates)


def test_climb_chooses_a_rate_once_and_gives_up_a_task_where_a_start_fails(code):
    asked = []

    def solve(model, cure, length, task, rate, seed):
        asked.append((task, length, rate))
        solved = rate > 0.1 and (task == "adding" or length < 20 or seed == 0)
        updates = 100 * rate if solved else 1500
        return {"task": task, "length": length, "rate": rate, "seed": seed} | {
            "solved": solved,
            "updates": updates,
            "error": 0.1,
        }

    code.solve, code.RATES, code.TASK_SEEDS = solve, [0.1, 0.4, 0.2], [0, 1]
    rows = code.climb("x", code.LOOPS["GRU"], [5, 20, 40], False)
    assert {rate for _, length, rate in asked if length > 5} == {0.2}
    assert {(task, length) for task, length, _ in asked} == {
        ("adding", 5), ("adding", 20), ("adding", 40), ("first minus second", 5), ("first minus second", 20)
    }  # fmt: skip
    assert len(asked) == 12 + 4 + 2 and (rows["cure"] == "x").all()
    assert rows["kept"].sum() == 4 + 4 + 2
    text = code.verdicts(rows, ["x"])
    assert text.loc["x", ("adding", 40)] == "20" and text.loc["x", ("first minus second", 20)] == "1 of 2"


def test_verdicts_say_who_diverged_and_what_was_not_tried(code):
    rows = pd.DataFrame({"cure": ["a", "a", "b"], "task": "adding", "length": [5, 5, 9]})
    rows["solved"], rows["kept"] = [False, False, True], True
    rows["updates"] = [np.inf, np.inf, 75]
    text = code.verdicts(rows, ["b", "a"])
    assert text["adding"].to_dict("list") == {5: ["", "diverged"], 9: ["75", ""]}


def test_a_cure_that_needs_no_memory_is_learned_in_a_moment(code):
    code.UPDATES, code.RATES, code.TASK_SEEDS = 400, [0.02], [0]
    rows = code.climb("sum", code.SUMS[code.CONTROL], [10], False)
    solved = rows.set_index("task")["solved"]
    assert solved["adding"] and not solved["first minus second"]
