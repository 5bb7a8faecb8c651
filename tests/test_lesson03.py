"""Lesson 3: the networks side by side, folds, intervals and splits against independent references."""

import keras
import numpy as np
import pytest
from conftest import definitions
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, mean_squared_log_error, r2_score, root_mean_squared_error
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

SMALL = {
    "FOLDS": 2,
    "REPEATS": 1,
    "COPIES": 1,
    "EPOCHS": 1,
    "RATES": {"adam": [0.01], "rmsprop": [0.003], "sgd": [0.03]},
    "STRENGTHS": [1],
    "TREES": 5,
    "SPLITS": 2,
}
L = definitions("lesson03_tensorflow") | {"test_share": 1 / 9}
L["train_runs"].__globals__.update(L, EPOCHS=3)
rng = np.random.default_rng(0)
x = rng.normal(5, [1, 10, 0.1], size=(41, 3))
y = 20 + x @ [1.0, 0.2, -3.0] + rng.normal(0, 0.5, 41)
folds = list(KFold(4, shuffle=True, random_state=0).split(x))


def test_corrected_interval_is_student_without_the_correction_and_wider_with_it():
    difference = np.random.default_rng(1).normal(0.3, 1, 30)
    mean, half, p = L["corrected_interval"](difference, 0)
    low, high = stats.t.interval(0.95, 29, difference.mean(), stats.sem(difference))
    np.testing.assert_allclose((mean - half, mean + half), (low, high))
    assert p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    wide = L["corrected_interval"](difference, 1 / 9)
    assert wide[1] / half == pytest.approx(np.sqrt((1 / 30 + 1 / 9) * 30))


def test_fold_scores_match_scikit_learn():
    guess = np.stack([y + 0.1 * i + np.sin(np.arange(41)) for i in range(4)])
    scores = L["fold_scores"](guess[:, None], y, folds)
    for fold, (_, test) in enumerate(folds):
        pair = y[test], guess[fold, test]
        expected = root_mean_squared_error(*pair), mean_absolute_error(*pair), r2_score(*pair)
        np.testing.assert_allclose(scores.loc[fold, ["RMSE", "MAE", "R²"]].astype(float), expected)
        assert scores.RMSLE[fold] == pytest.approx(np.sqrt(mean_squared_log_error(*pair)))


def test_stack_scales_by_the_training_rows_and_gives_no_weight_to_what_fills_up():
    inputs, targets, rows, weights, centre, scale = L["stack"](x, y, folds, 2, 0)
    assert rows.shape == weights.shape == (31, 8)
    for run in range(8):
        train, _ = folds[run // 2]
        np.testing.assert_allclose(inputs[:, run], StandardScaler().fit(x[train]).transform(x))
        np.testing.assert_allclose(targets[:, run] * scale[run] + centre[run], y)
        assert sorted(rows[weights[:, run] == 1, run]) == list(train)
        assert set(rows[:, run]) == set(train)


def test_networks_side_by_side_are_independent_and_start_as_dense_layers_do():
    keras.utils.set_random_seed(0)
    model = L["build"](50, 12, (40, 30), "tanh")
    weights, data = model.get_weights(), np.random.default_rng(1).normal(size=(7, 50, 12)).astype("float32")
    h = data[:, 9]
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        before = h @ kernel[9] + bias[9]
        h = np.tanh(before)
        dense = keras.layers.Dense(kernel.shape[2])
        dense.build((None, kernel.shape[1]))
        expected = np.sqrt(2 / sum(kernel.shape[1:]))  # Glorot's standard deviation
        assert kernel.std() == pytest.approx(expected, rel=0.05)
        assert np.abs(dense.kernel).max() <= np.sqrt(3) * expected * 1.0001
        assert np.abs(kernel).max() <= np.sqrt(3) * expected * 1.0001
    np.testing.assert_allclose(model(data)[:, 9], before, atol=1e-5)


def test_linear_networks_in_one_fit_are_least_squares_in_each_fold(monkeypatch):
    monkeypatch.setitem(L["train_runs"].__globals__, "EPOCHS", 400)
    # a loss that is a mean over the twelve runs would make the rate twelve times too small to get there
    ours = L["predict"](x, y, folds, 3, hidden=(), optimizer="sgd", rate=0.005)
    for (train, _), guess in zip(folds, ours, strict=True):
        expected = LinearRegression().fit(x[train], y[train]).predict(x).clip(y[train].min(), y[train].max())
        np.testing.assert_allclose(guess, np.tile(expected, (3, 1)), atol=0.02)


@pytest.mark.parametrize("log_target", [False, True])
def test_targets_of_test_rows_change_nothing(log_target):
    train, test = folds[0]
    spoiled = y.copy()
    spoiled[test] = 1000
    one, two = (L["predict"](x, aim, folds[:1], 2, rate=0.01, log_target=log_target) for aim in (y, spoiled))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert y[train].min() <= one.min() and one.max() <= y[train].max()
    assert not np.allclose(one[0, 0], one[0, 1])


def test_inner_folds_divide_the_training_rows():
    for number, (a, b) in enumerate(L["inner_folds"](folds)):
        train = folds[number // 2][0]
        assert sorted([*a, *b]) == sorted(train) and len(b) == np.ceil(len(train) / 10)


def test_candidates_are_every_rate_and_strength():
    L["candidates"].__globals__.update({"RATES": {"adam": [1, 2]}, "STRENGTHS": [0.5, 1]})
    assert L["candidates"]({}) == [{"rate": 1}, {"rate": 2}]
    found = L["candidates"]({"dropout": 0.2, "hidden": (8,)})
    assert [(c["rate"], c["dropout"]) for c in found] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    assert L["middle"]({"dropout": 0.2}) == {"dropout": 0.1, "rate": 2}


def test_published_splits_are_those_of_the_benchmark():
    np.random.seed(1)  # as the published script does
    for train, test in L["published_splits"](506, 20):
        order = np.random.permutation(506)
        np.testing.assert_array_equal(train, order[:455])
        np.testing.assert_array_equal(test, order[455:])


def test_compare_is_paired_and_out_of_fold_uses_unseen_rows_only():
    guess = np.where([np.isin(range(41), test) for _, test in folds], y, np.nan)
    np.testing.assert_allclose(L["out_of_fold"](guess, folds), y)
    a = L["fold_scores"](np.stack([[y + 1.0]] * 4), y, folds)
    b = L["fold_scores"](np.stack([[y + np.cos(np.arange(41))]] * 4), y, folds)
    table = L["compare"]({"ab": (a, b), "ba": (b, a)})
    assert table.difference["ab"] == -table.difference["ba"] == (a.RMSE - b.RMSE).mean() > 0
    np.testing.assert_allclose(table.holm, np.minimum(1, 2 * table.p))


def test_loader_keeps_to_its_own_folder_and_only_a_missing_network_leads_to_the_stand_in(monkeypatch, capsys):
    asked = {}

    def fails(error):
        def get_file(*_, **settings):
            asked.update(settings)
            raise error

        monkeypatch.setattr(keras.utils, "get_file", get_file)

    for error in (Exception("URL fetch failure on ...: None"), TimeoutError(), ConnectionResetError()):
        fails(error)
        frame, unit = L["load_data"]()
        assert asked["cache_subdir"] == "seven-lessons" and len(asked["file_hash"]) == 64
        assert "STAND-IN" in capsys.readouterr().out and unit == "points" and frame.columns[-1] == "target"
    fails(ValueError("corrupted"))
    with pytest.raises(ValueError, match="corrupted"):
        L["load_data"]()
