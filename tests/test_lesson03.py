"""Lesson 3's batched networks, optimisers, intervals and checks against independent references."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import definitions
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, mean_squared_log_error, r2_score, root_mean_squared_error
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def lesson():
    return definitions("lesson03_tensorflow")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(5, [1, 10, 0.1], size=(41, 3))
    y = 20 + x @ [1.0, 0.2, -3.0] + rng.normal(0, 0.5, 41)
    return x, y, list(KFold(4, shuffle=True, random_state=0).split(x))


def test_huber_and_log_cosh_match_keras(lesson):
    error = np.array([-50.0, -1.5, -0.3, 0.0, 0.7, 1.0, 40.0], "float32")
    for name, reference in (("huber", keras.losses.huber), ("log_cosh", keras.losses.log_cosh)):
        expected = [float(reference([0.0], [e])) for e in error]
        np.testing.assert_allclose(lesson[name](tf.constant(error)), expected, rtol=1e-5, atol=1e-6)


def test_corrected_interval_is_student_without_the_correction_and_wider_with_it(lesson):
    difference = np.random.default_rng(1).normal(0.3, 1, 30)
    mean, low, high = lesson["corrected_interval"](difference, 0)
    expected = stats.t.interval(0.95, 29, difference.mean(), stats.sem(difference))
    np.testing.assert_allclose((low, high), expected)
    wide_mean, wide_low, wide_high = lesson["corrected_interval"](difference, 1 / 9)
    assert wide_mean == mean
    np.testing.assert_allclose((wide_high - wide_low) / (high - low), np.sqrt((1 / 30 + 1 / 9) * 30))
    with pytest.raises(ValueError, match="at least 2"):
        lesson["corrected_interval"]([1.0], 0.1)


def test_fold_scores_match_scikit_learn(lesson, data):
    x, y, folds = data
    prediction = np.stack([y + 0.1 * i + np.sin(np.arange(41)) for i in range(len(folds))])
    scores = lesson["fold_scores"](prediction, y, folds)
    for fold, (_, score) in enumerate(folds):
        truth, guess = y[score], prediction[fold, score]
        expected = {
            "RMSE": root_mean_squared_error(truth, guess),
            "MAE": mean_absolute_error(truth, guess),
            "R2": r2_score(truth, guess),
            "RMSLE": np.sqrt(mean_squared_log_error(truth, guess)),
        }
        for name, value in expected.items():
            assert scores.loc[fold, name] == pytest.approx(value), name


def test_stack_runs_scales_by_the_training_rows_of_each_fold(lesson, data):
    x, y, folds = data
    stacked = lesson["stack_runs"](x, y, folds, copies=2)
    assert stacked["x"].shape == (8, 41, 3)
    for run in range(8):
        rows, score = folds[run // 2]
        expected = StandardScaler().fit(x[rows]).transform(x)
        np.testing.assert_allclose(stacked["x"][run], expected, atol=1e-4)
        assert stacked["train"][run].numpy()[rows].all() and not stacked["train"][run].numpy()[score].any()


@pytest.mark.parametrize("log_target", [False, True])
def test_predict_undoes_the_scaling_of_the_target(lesson, data, log_target):
    x, y, folds = data
    stacked = lesson["stack_runs"](x, y, folds, log_target=log_target)
    perfect = lesson["predict"](lambda x: stacked["y"], stacked, limit=False)
    np.testing.assert_allclose(perfect[:, 0], np.tile(y, (4, 1)), rtol=1e-5)
    limited = lesson["predict"](lambda x: 100 + stacked["y"], stacked)
    np.testing.assert_allclose(limited[:, 0, 0], [y[rows].max() for rows, _ in folds])


def test_many_networks_are_independent_dense_networks(lesson):
    net = lesson["ManyNetworks"](3, (4, 5, 1), "tanh", seed=1)
    x = np.random.default_rng(2).normal(size=(3, 7, 4)).astype("float32")
    out = net(tf.constant(x)).numpy()
    for run in range(3):
        (first, last), (a, b) = ([v[run].numpy() for v in part] for part in (net.kernels, net.biases))
        np.testing.assert_allclose(out[run], (np.tanh(x[run] @ first + a) @ last + b)[:, 0], atol=1e-5)
    assert not np.allclose(net.kernels[0][0], net.kernels[0][1])
    with pytest.raises(ValueError, match="choose one of relu"):
        lesson["ManyNetworks"](1, (2, 1), "rellu")


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_update_takes_the_steps_of_keras(lesson, name):
    ours = np.array([1.0, -2.0, 0.5], "float32")
    theirs, first, second = tf.Variable(ours), tf.zeros(3), tf.zeros(3)
    optimiser = lesson["OPTIMISERS"][name](0.1)
    for count in range(1, 6):
        gradient = tf.constant([0.3, -1.0, 2.0]) * count
        change, first, second = lesson["update"](
            name, tf.constant(ours), gradient, first, second, float(count), 0.1, 0.1
        )
        ours = ours + change.numpy()
        optimiser.apply([gradient], [theirs])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_update_refuses_an_unknown_optimiser(lesson):
    one = tf.ones(1)
    with pytest.raises(ValueError, match="choose one of sgd"):
        lesson["update"]("adagrad", one, one, one, one, 1.0, 0.1, 0.0)


def test_a_linear_network_trained_to_the_end_is_ordinary_least_squares(lesson, data):
    x, y, folds = data
    recipe = lesson["BASE"] | {"hidden": (), "batch": 0, "optimiser": "momentum", "rate": 0.05}
    run = lesson["fit_runs"](x, y, folds, recipe, epochs=400)
    ours = lesson["predict"](run["net"], run["data"], limit=False)[:, 0]
    for fold, (rows, _) in enumerate(folds):
        np.testing.assert_allclose(ours[fold], LinearRegression().fit(x[rows], y[rows]).predict(x), atol=1e-3)
    assert run["curves"].shape == (400, 2, 4)


def test_batched_training_equals_keras_fit(lesson, data):
    x, y, folds = data
    recipe = lesson["BASE"] | {"hidden": (8,), "batch": 10}
    assert lesson["difference_from_keras"](x, y, folds, recipe, epochs=3) < 1e-4


def test_rows_that_score_do_not_train(lesson, data):
    x, y, folds = data
    recipe = lesson["BASE"] | {"hidden": (8,), "batch": 10}
    spoiled = y.copy()
    spoiled[folds[0][1]] += 1000
    runs = [lesson["fit_runs"](x, aim, folds[:1], recipe, epochs=3) for aim in (y, spoiled)]
    for ours, theirs in zip(runs[0]["net"].variables, runs[1]["net"].variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_batch_larger_than_the_training_part_is_refused(lesson, data):
    x, y, folds = data
    with pytest.raises(ValueError, match="make it smaller"):
        lesson["fit_runs"](x, y, folds, lesson["BASE"] | {"batch": 40}, epochs=1)


def test_check_rows_says_what_is_wrong(lesson):
    columns = ["a", "b"]
    np.testing.assert_array_equal(lesson["check_rows"]([[1, 2]], columns), [[1.0, 2.0]])
    with pytest.raises(ValueError, match="expected 2 columns"):
        lesson["check_rows"]([[1.0]], columns)
    with pytest.raises(ValueError, match="row 1, column b"):
        lesson["check_rows"]([[1.0, 2.0], [1.0, np.nan]], columns)


@pytest.mark.parametrize("text", ["", "1,2,3\n" * 506, "a,b\n", "\x00\x01\x02"])
def test_a_damaged_file_is_refused_with_its_name(lesson, tmp_path, text):
    path = tmp_path / "housing.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"delete housing\.csv"):
        lesson["read_housing"](path)


def test_out_of_fold_uses_only_the_folds_in_which_a_row_scored(lesson, data):
    x, y, folds = data
    prediction = np.full((4, 41), np.nan)
    for fold, (_, score) in enumerate(folds):
        prediction[fold, score] = y[score]
    np.testing.assert_allclose(lesson["out_of_fold"](prediction, folds), y)


def test_resampled_rmse_draws_the_same_rows_for_the_same_seed(lesson):
    error = np.random.default_rng(3).normal(size=200)
    one, two = (lesson["resampled_rmse"](scale * error, 500, seed=1) for scale in (1, 2))
    np.testing.assert_allclose(two, 2 * one)
    assert np.percentile(one, 2.5) < np.sqrt(np.mean(error**2)) < np.percentile(one, 97.5)


def test_price_predictor_gives_the_lessons_own_predictions(lesson, data):
    x, y, folds = data
    run = lesson["fit_runs"](x, y, folds[:1], lesson["BASE"] | {"hidden": (8,), "batch": 10}, 2, copies=3)
    predictor = lesson["PricePredictor"](run["net"], run["data"])
    expected = lesson["predict"](run["net"], run["data"])[0].mean(0)
    np.testing.assert_allclose(predictor.predict(tf.constant(x, tf.float32)), expected, rtol=1e-4)
