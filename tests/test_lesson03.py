"""Lesson 3: trainings, scores, losses, splits against scikit-learn, SciPy, Keras."""

from itertools import product

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.model_selection import KFold
from statsmodels.stats.multitest import multipletests

LESSON = "lesson03_tensorflow"
SMALL = {
    "FOLDS": 2,
    "COPIES": 2,
    "EPOCHS": 1,
    "RATES": [0.003, 0.01],
    "NESTED_RATES": [0.01],
    "BOOSTINGS": 2,
    "TREES": 5,
    "SPLITS": 2,
}
ONE = SMALL | {"FOLDS": 1, "COPIES": 1, "RATES": [], "NESTED_RATES": [], "BOOSTINGS": 1, "SPLITS": 1}
DIVERGES = {"RATES": [0.01, 1e9]}
WRONG = {"FOLDS": 0}
SCOREBOARD = [
    "RMSE, 30 folds, networks",
    "RMSE, 30 folds, networks and boosting",
    "RMSE, 20 published splits, networks",
    "RMSE, 20 published splits, networks and boosting",
    "MAE, 30 folds, networks",
]

rng = np.random.default_rng(0)
x = rng.normal(5, [1, 10, 0.1], size=(48, 3)).astype("float32")
y = (20 + x @ [1.0, 0.2, -3.0] + rng.normal(0, 0.5, 48)).astype("float32")
folds = list(KFold(4, shuffle=True, random_state=0).split(x))


@pytest.fixture
def lesson3(code):
    """The lesson's definitions with what its top level would have bound."""
    code.CAP, code.EPOCHS = 50.0, 3
    code.LOSSES["Tobit"] = code.tobit_loss
    return code


def test_compare_is_student_without_and_nadeau_and_bengio_with_the_correction(code):
    scores = pd.DataFrame(np.random.default_rng(1).normal(3, 1, (30, 3)), columns=[*"abc"])
    scores["a"] += 0.6
    scores["c"] -= 0.4
    pairs = [("a", "b"), ("c", "b")]
    plain, wide = code.compare(scores, pairs, 0), code.compare(scores, pairs, 1 / 9)
    p = []
    for row, (one, two) in enumerate(pairs):
        difference = scores[one] - scores[two]
        low, high = stats.t.interval(0.95, 29, difference.mean(), stats.sem(difference))
        assert plain["difference"][row] == pytest.approx((low + high) / 2)
        assert plain["±"][row] == pytest.approx((high - low) / 2)
        p.append(stats.ttest_rel(scores[one], scores[two]).pvalue)
    np.testing.assert_allclose(plain["p"], multipletests(p, method="holm")[1])
    assert max(p) < 0.4  # Holm leaves them below 1
    np.testing.assert_allclose(wide["±"] / plain["±"], np.sqrt(1 + 30 / 9))


def test_compare_of_one_split_or_of_nothing_has_no_interval(code):
    scores = pd.DataFrame({"a": [1.0], "b": [3.0]})
    assert list(code.compare(scores, [("a", "b")], 1 / 9)) == ["network", "against", "difference"]
    assert code.compare(pd.concat([scores, scores]), [], 1 / 9).empty


def test_fold_scores_are_scikit_learns_on_test_rows_and_infinite_if_training_diverged(code):
    guess = y + np.sin(np.arange(48)) * np.arange(1, 9).reshape(2, 4, 1)
    for metric in (root_mean_squared_error, mean_absolute_error):
        scores = code.fold_scores(guess, y, folds, metric)
        for fold, (_, test) in enumerate(folds):
            expected = [metric(y[test], copy[test]) for copy in guess[:, fold]]
            assert scores[fold] == pytest.approx(np.mean(expected))
    guess[1, 2, folds[2][1][0]] = np.nan
    assert list(np.isinf(code.fold_scores(guess, y, folds))) == [False, False, True, False]


def test_classical_models_are_trained_anew_in_each_fold_and_stay_below_the_cap(lesson3):
    lesson3.CAP = np.median(y)
    prices = lesson3.classical(LinearRegression(), x, y, folds)
    assert prices.shape == (1, 4, 48)
    for fold, (train, _) in enumerate(folds):
        expected = LinearRegression().fit(x[train], y[train]).predict(x)
        np.testing.assert_allclose(prices[0, fold], np.minimum(expected, lesson3.CAP))


@pytest.mark.parametrize(("layers", "weights"), [(0, 4), (1, 4 * 7 + 8), (3, 4 * 7 + 2 * 56 + 8)])
def test_build_has_the_layers_asked_for_and_one_more_weight_for_a_cap(code, layers, weights):
    settings = code.BASE | {"layers": layers, "neurons": 7, "activation": "tanh"}
    model = code.build(3, settings)
    assert model.count_params() == weights
    capped = code.build(3, settings | {"cap": 50})
    assert capped.count_params() == weights + 1
    outputs = keras.ops.convert_to_numpy(capped(x))
    np.testing.assert_allclose(outputs[:, 1], np.log(0.3), rtol=1e-5)
    capped.set_weights([*model.get_weights(), *capped.get_weights()[len(model.weights) :]])
    np.testing.assert_allclose(outputs.shape, (48, 2))
    np.testing.assert_allclose(capped(x)[:, :1], model(x), rtol=1e-5)


def test_build_uses_the_activation_and_the_dropout(code):
    model = code.build(3, code.BASE | {"activation": "tanh", "dropout": 0.25})
    kinds = {type(layer).__name__: layer for layer in model.layers}
    assert kinds["Dropout"].rate == 0.25
    assert model.layers[0].activation is keras.activations.tanh


def test_a_network_that_starts_afresh_learns_what_a_new_one_learns(code):
    settings = code.BASE | {"dropout": 0.3}

    def train(model, seed):
        keras.utils.set_random_seed(seed + 100)
        model.fit(x, y, epochs=2, batch_size=16, verbose=0)
        return model.get_weights()

    def new(seed):
        keras.utils.set_random_seed(seed)
        return code.build(3, settings)

    for optimizer in (keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.001, momentum=0.9)):
        used, fresh = new(0), new(1)
        used.compile(optimizer, "mse")
        train(used, 0)
        code.start_afresh(used, new(1))
        assert int(used.optimizer.iterations) == 0
        assert float(used.optimizer.learning_rate) > 0
        fresh.compile(optimizer.__class__.from_config(optimizer.get_config()), "mse")
        for one, two in zip(train(used, 1), train(fresh, 1), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_lines_in_the_loop_are_least_squares_in_each_fold(lesson3):
    lesson3.EPOCHS, lesson3.BATCH = 1000, 48
    ours = lesson3.predict(x, y, folds, copies=1, layers=0, rate=0.1)
    expected = lesson3.classical(LinearRegression(), x, y, folds)
    np.testing.assert_allclose(ours, expected, atol=0.03)


@pytest.mark.parametrize("changes", [{}, {"log_price": True}, {"loss": "Tobit", "cap": 21}])
def test_prices_of_test_rows_are_never_seen(lesson3, changes):
    train, test = folds[0]
    spoiled = y.copy()
    spoiled[test] = 1000
    one, two = (lesson3.predict(x, prices, folds[:1], 2, **changes) for prices in (y, spoiled))
    np.testing.assert_allclose(one, two, rtol=1e-4)
    assert one.shape == (2, 1, 48)
    assert not np.allclose(one[0], one[1])


def test_no_prediction_goes_above_the_cap(lesson3):
    lesson3.CAP = 1.0
    assert (lesson3.predict(x, y, folds[:1], copies=1) == 1).all()


@pytest.mark.parametrize("log_price", [False, True])
def test_every_row_is_trained_on_once_an_epoch_in_units_of_the_training_rows(lesson3, log_price):
    train, seen = folds[0][0], []

    class Watched:
        def fit(self, rows, **settings):
            seen.extend(rows.as_numpy_iterator())

        def __call__(self, inputs):
            return tf.zeros((len(inputs), 1))

    settings = lesson3.BASE | {"log_price": log_price, "cap": 30}
    prices = lesson3.train_and_predict(Watched(), x, y, train, settings)
    target = np.log(y) if log_price else y
    mean, spread = target[train].mean(), target[train].std()
    np.testing.assert_allclose(prices, np.exp(mean) if log_price else mean, rtol=1e-5)
    inputs, targets = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert len(inputs) == 3 * len(train)
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(inputs.std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(
        np.sort(targets[:, 0]), np.repeat(np.sort((target[train] - mean) / spread), 3), rtol=1e-4, atol=1e-5
    )
    if not log_price:
        np.testing.assert_allclose(targets[:, 1], (30 - mean) / spread, rtol=1e-4)


def test_upper_tail_is_scipys_and_has_a_gradient_everywhere(code):
    z = np.array([-30, -5, -1, 0, 1, 4.9, 5, 5.1, 8, 40], "float32")
    np.testing.assert_allclose(code.log_upper_tail(z), stats.norm.logsf(z), rtol=1e-4, atol=1e-6)
    with tf.GradientTape() as tape:
        points = tf.Variable(z)
        total = tf.reduce_sum(code.log_upper_tail(points))
    hazard = np.exp(stats.norm.logpdf(z) - stats.norm.logsf(z))
    np.testing.assert_allclose(tape.gradient(total, points), -hazard, rtol=1e-2, atol=1e-6)


def test_tobit_is_the_likelihood_of_scipy(code):
    price, cap = np.array([0.2, 1.0, -0.5, 1.0]), np.ones(4)
    mean, sigma = np.array([0.0, 0.5, 0.3, 3.0]), np.array([0.3, 0.3, 1.0, 0.5])
    targets, outputs = (np.stack([price, cap], axis=1), np.stack([mean, np.log(sigma)], axis=1))
    ours = code.tobit_loss(tf.constant(targets, "float32"), tf.constant(outputs, "float32"))
    expected = -stats.norm.logpdf(price, mean, sigma)
    expected[[1, 3]] = -stats.norm.logsf(1, mean, sigma)[[1, 3]]
    np.testing.assert_allclose(np.ravel(ours), expected, rtol=1e-3)


def test_tobit_sees_beyond_a_cut_where_the_squared_loss_does_not(lesson3):
    lesson3.EPOCHS, cut = 1000, np.median(y)
    everything = [(np.arange(48), np.arange(48))]
    line = {"copies": 1, "layers": 0, "rate": 0.03}
    squared = lesson3.predict(x, np.minimum(y, cut), everything, **line)
    tobit = lesson3.predict(x, np.minimum(y, cut), everything, loss="Tobit", cap=cut, **line)
    errors = [root_mean_squared_error(y[y > cut], prices[0, 0, y > cut]) for prices in (squared, tobit)]
    assert 2 * errors[1] < errors[0]


def test_out_of_fold_takes_what_was_not_trained_on(code):
    prices = np.full((2, 4, 48), np.nan)
    for fold, (_, test) in enumerate(folds[:3]):
        prices[:, fold, test] = [y[test] - 1, y[test] + 3]
    found = code.out_of_fold(prices, folds[:3])
    tested = np.sort(np.concatenate([test for _, test in folds[:3]]))
    np.testing.assert_allclose(found[tested], y[tested] + 1, rtol=1e-6)
    assert np.isnan(np.delete(found, tested)).all()


def test_contest_averages_each_side_and_then_the_two_averages(code):
    networks, boosting = rng.normal(size=(6, 4, 48)), rng.normal(size=(2, 4, 48))
    vectors, code.BOOSTINGS = rng.normal(size=(1, 4, 48)), 2
    code.rivals = {"boosting": boosting, "support vectors": vectors}
    asked = []
    code.classical = lambda rival, *data: asked.append(data) or rival
    found = code.contest(networks, x, y, folds)
    assert [len(data) for data in asked] == [4, 3] and asked[0][3] == 2
    assert found["one network"] is networks and found["one boosting"] is boosting
    np.testing.assert_allclose(found["networks"], [networks.mean(0)])
    np.testing.assert_allclose(found["boostings"], [boosting.mean(0)])
    half = found["networks and boosting"]
    np.testing.assert_allclose(half, [networks.mean(0) / 2 + boosting.mean(0) / 2])
    half = found["support vectors and boosting"]
    np.testing.assert_allclose(half, vectors / 2 + boosting.mean(0) / 2)


def test_starts_of_a_model_differ_by_their_random_state(lesson3):
    tree = GradientBoostingRegressor(n_estimators=3, subsample=0.5, random_state=7)
    found = lesson3.classical(tree, x, y, folds, starts=2)
    for start, (fold, (train, _)) in product(range(2), enumerate(folds)):
        expected = clone(tree).set_params(random_state=start).fit(x[train], y[train])
        np.testing.assert_allclose(found[start, fold], expected.predict(x))
    assert not np.allclose(found[0], found[1])
    assert tree.random_state == 7


def test_published_splits_are_those_of_the_benchmark(code):
    np.random.seed(1)  # as the published script does
    for train, test in code.published_splits(506, 20):
        order = np.random.permutation(506)
        np.testing.assert_array_equal(train, order[:455])
        np.testing.assert_array_equal(test, order[455:])


def test_told_is_the_mean_with_its_standard_error(code):
    scores = pd.Series([1.0, 2.0, 4.0])
    assert code.told(scores) == f"2.33 ± {stats.sem(scores):.2f}"
    assert code.told(scores[:1]) == "1.00"


def test_first_call_and_median_of_the_later_ones_are_timed(code, monkeypatch):
    clock = iter([0, 5, 6, 7, 9])
    monkeypatch.setattr(code.time, "perf_counter", lambda: next(clock))
    calls = []
    timed = code.milliseconds(lambda: calls.append(1), repeats=3)
    assert len(calls) == 4
    assert timed == {"first call, ms": 5000, "later calls, ms": 1000}


def test_gradient_and_pulls_of_rows_are_those_of_a_line(code):
    code.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    code.rows, code.prices = tf.constant(x), tf.constant(y)
    errors = (code.model(x)[:, 0] - y).numpy()
    weights, bias = code.gradient()
    np.testing.assert_allclose(bias, [2 * errors.mean()], rtol=1e-4)
    np.testing.assert_allclose(weights[:, 0], 2 * (errors[:, None] * x).mean(axis=0), rtol=1e-4)
    expected = 2 * abs(errors) * np.sqrt(1 + (x**2).sum(axis=1))
    pairs = (code.rows, code.prices)
    np.testing.assert_allclose(tf.vectorized_map(code.pull, pairs), expected, rtol=1e-3)
    np.testing.assert_allclose(tf.map_fn(code.pull, pairs, tf.float32), expected, rtol=1e-3)
