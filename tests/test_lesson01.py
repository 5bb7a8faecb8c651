"""Lesson 1: the network, its data, its choices and its intervals against independent references."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats
from sklearn.datasets import load_iris
from sklearn.metrics import accuracy_score, mean_squared_error
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler, normalize

LESSON = "lesson01_basics"
SMALL = {"EPOCHS": 100, "MORE_EPOCHS": [150, 200], "SPLITS": 2, "REPEATS": 1, "STARTS": 2}
SMALL |= {"NEURONS": [2, 5], "RATES": [0.005, 0.015]}
ONE = SMALL | {"MORE_EPOCHS": [], "SPLITS": 1, "STARTS": 1, "NEURONS": [5], "RATES": [0.015]}
SCOREBOARD = ["Iris, held out", "digits, held out", "digits, only the width changed"]

rng = np.random.default_rng(0)
IRIS = load_iris()
SPLITS = list(StratifiedKFold(3, shuffle=True, random_state=0).split(IRIS.data, IRIS.target))


@pytest.fixture(autouse=True)
def flowers(code):
    code.DATA, code.TEST_SHARE, code.EPOCHS = {"flowers": (IRIS, SPLITS)}, {"flowers": 0.5}, 40


def test_activations_and_their_slopes(code):
    z = np.array([-1000.0, -3.0, -0.1, 0.2, 2.0, 1000.0])
    np.testing.assert_allclose(code.sigmoid(z), special.expit(z), atol=1e-15)
    np.testing.assert_allclose(code.relu(z), [0, 0, 0, 0.2, 2, 1000])
    for f, slope in ((code.sigmoid, code.sigmoid_slope), (code.relu, code.relu_slope)):
        np.testing.assert_allclose(slope(f(z)), (f(z + 1e-6) - f(z - 1e-6)) / 2e-6, atol=1e-6)
    a = code.sigmoid(z)
    np.testing.assert_allclose(code.slipped_slope(a), special.expit(a) * (1 - special.expit(a)))


@pytest.mark.parametrize("name", ["sigmoid", "relu"])
def test_gradient_is_that_of_scipy(code, name):
    x, y = rng.normal(size=(7, 4)), np.eye(3)[rng.integers(3, size=7)]
    activation, slope = getattr(code, name), getattr(code, f"{name}_slope")
    shapes = [(4, 5), (5, 6), (6, 3)]
    ends = np.cumsum([a * b for a, b in shapes])[:-1]
    flat = rng.normal(size=4 * 5 + 5 * 6 + 6 * 3)

    def weights(flat):
        return [w.reshape(shape) for w, shape in zip(np.split(flat, ends), shapes, strict=True)]

    def loss(flat):
        h = x
        for w in weights(flat)[:-1]:
            h = special.expit(h @ w) if name == "sigmoid" else np.maximum(h @ w, 0)
        return 0.5 * np.sum((special.expit(h @ weights(flat)[-1]) - y) ** 2)

    outputs = code.forward(weights(flat), x, activation)
    assert [o.shape for o in outputs] == [(7, 4), (7, 5), (7, 6), (7, 3)]
    found = np.concatenate([g.ravel() for g in code.backward(weights(flat), outputs, y, slope)])
    np.testing.assert_allclose(found, optimize.approx_fprime(flat, loss, 1e-7), atol=1e-5)


def test_gradient_check_finds_the_slip(code):
    x, y = rng.normal(size=(9, 4)), np.eye(3)[rng.integers(3, size=9)]
    assert code.gradient_error(x, y) < 1e-7
    assert code.gradient_error(x, y, output_slope=code.slipped_slope) > 0.01
    assert code.gradient_error(x, y, slope=code.slipped_slope) > 0.01
    right = code.backward

    def double_one(*arguments, **slopes):
        gradients = right(*arguments, **slopes)
        gradients[0][1, 2] *= 2
        return gradients

    code.backward = double_one
    assert code.gradient_error(x, y) > 1e-4


def test_training_is_the_loop_of_the_first_network(code):
    x, labels = normalize(IRIS.data), IRIS.target
    trained = code.train(x, labels, epochs=50, rate=0.01, seed=3, decay=0.002)
    start = np.random.default_rng(3)
    w1, w2 = start.uniform(-1, 1, (4, 5)), start.uniform(-1, 1, (5, 3))
    for _ in range(50):
        hidden = special.expit(x @ w1)
        output = special.expit(hidden @ w2)
        delta = (output - np.eye(3)[labels]) * output * (1 - output)
        back = delta @ w2.T * hidden * (1 - hidden)
        w2 -= 0.01 * (hidden.T @ delta + 0.002 * 150 * w2)
        w1 -= 0.01 * (x.T @ back + 0.002 * 150 * w1)
    np.testing.assert_allclose(trained[0], w1, atol=1e-4)
    np.testing.assert_allclose(trained[1], w2, atol=1e-4)


def test_training_goes_on_from_weights_and_starts_as_told(code):
    x, labels = normalize(IRIS.data), IRIS.target
    once = code.train(x, labels, epochs=30, hidden=(4, 2))
    twice = code.train(x, labels, epochs=20, weights=code.train(x, labels, epochs=10, hidden=(4, 2)))
    assert [w.shape for w in once] == [(4, 4), (4, 2), (2, 3)]
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_array_equal(a, b)
    wide = np.abs(code.train(x, labels, epochs=0, hidden=(100,), spread=10.0)[0])
    assert wide.max() <= 10 and wide.mean() == pytest.approx(5, rel=0.2)
    assert np.abs(code.train(x, labels, epochs=0, spread=0.0)[0]).max() == 0


def test_evaluation_is_that_of_scikit_learn(code):
    x, labels = normalize(IRIS.data), IRIS.target
    weights = code.train(x, labels, epochs=200, rate=0.05)
    output = code.forward(weights, x)[-1]
    accuracy, squared = code.evaluate(weights, x, labels)
    assert accuracy == accuracy_score(labels, output.argmax(axis=1)) > 0.5
    assert squared == pytest.approx(mean_squared_error(np.eye(3)[labels], output))
    weights[0][0, 0] = np.nan
    assert code.evaluate(weights, x, labels)[1] == np.inf


def test_data_are_scaled_by_their_training_rows(code):
    inside, outside = SPLITS[1]
    x, y, x_test, y_test = code.prepare("flowers", 1)
    np.testing.assert_allclose(x, normalize(IRIS.data[inside]), atol=1e-6)
    np.testing.assert_allclose(x_test, normalize(IRIS.data[outside]), atol=1e-6)
    assert (y == IRIS.target[inside]).all() and (y_test == IRIS.target[outside]).all()
    scaler = StandardScaler().fit(IRIS.data[inside])
    x, _, x_test, _ = code.prepare("flowers", 1, standardised=True)
    np.testing.assert_allclose(x, scaler.transform(IRIS.data[inside]), atol=1e-5)
    np.testing.assert_allclose(x_test, scaler.transform(IRIS.data[outside]), atol=1e-5)
    assert x.dtype == "float32"


def test_biases_and_a_split_inside(code):
    x, _, x_test, _ = code.prepare("flowers", 0, bias=True)
    assert x.shape == (100, 5) and (x[:, 4] == 1).all() and (x_test[:, 4] == 1).all()
    x, _, x_test, _ = code.prepare("flowers", 0)
    inner, labels, valid, _ = code.prepare("flowers", 0, inside=True)
    assert (len(inner), len(valid), len(x_test)) == (80, 20, 50)
    assert {tuple(row) for row in np.vstack([inner, valid])} == {tuple(row) for row in x}
    assert abs(np.bincount(labels) - 80 / 3).max() < 1


def test_rate_with_the_best_accuracy_inside_is_chosen(code):
    code.RATES, asked = [0.3, 0.1, 0.2], {}

    def measure(data, networks):
        asked.update(networks)
        held_out = [0.1, 0.9, 0.8, 0.8, 0.9, 0.5]
        return pd.DataFrame({"network": [0.3, 0.3, 0.1, 0.1, 0.2, 0.2], "held out": held_out})

    code.measure, half = measure, {"bias": True}
    settings = {"stops": (30, 60), "starts": 3, "preparation": half, "hidden": (3,)}
    assert code.choose_rate("flowers", **settings) == 0.1
    tried = {"rate": 0.1, "stops": (30,), "starts": 1, "preparation": half | {"inside": True}}
    assert asked[0.1] == tried | {"hidden": (3,)} and half == {"bias": True}
    code.choose_rate("flowers", stops=(90,))
    assert asked[0.1]["stops"] == (40,)  # EPOCHS


def test_score_has_a_row_for_each_start_and_stop(code):
    rows = pd.DataFrame(code.score("flowers", 1, 0.02, (30, 60), 2, hidden=(3,)))
    assert rows["epochs"].tolist() == [30, 60, 30, 60] and set(rows["rate"]) == {0.02}
    x, y, x_test, y_test = code.prepare("flowers", 1)
    weights = code.train(x, y, (3,), 60, 0.02, seed=[0, 1, 1])
    training, squared = code.evaluate(weights, x, y)
    expected = [training, squared, code.evaluate(weights, x_test, y_test)[0]]
    last = rows.iloc[3]
    inside = code.score("flowers", 1, 0.02, (9,), 1, {"inside": True})
    assert inside[0]["rate"] == 0.025  # fewer rows, the same step
    assert [last[c] for c in ("training", "squared error", "held out")] == pytest.approx(expected)


def test_rows_get_the_name_of_their_network(code):
    code.choose_rate = lambda data, hidden, **settings: 0.02 if hidden == (2,) else 0.03
    networks = {"small": {"rate": 0.01}, "large": {"hidden": (2,)}}
    rows = code.measure("flowers", {name: n | {"starts": 1} for name, n in networks.items()})
    assert rows["network"].tolist() == ["small"] * 3 + ["large"] * 3
    assert rows["rate"].tolist() == [0.01] * 3 + [0.02] * 3
    assert rows["split"].tolist() == [0, 1, 2] * 2


def test_interval_is_nadeau_and_bengios_with_holms_p(code):
    scores = pd.DataFrame(rng.normal([0.9, 0.95, 0.91], 0.05, (30, 3)), columns=["a", "b", "c"])
    table = code.compare(scores, [("b", "a"), ("c", "a")], 0)
    gaps = (scores["b"] - scores["a"], scores["c"] - scores["a"])
    plain = [stats.ttest_1samp(gap, 0) for gap in gaps]
    for row, test, gap in zip(table.itertuples(), plain, gaps, strict=True):
        low, high = test.confidence_interval(0.95)
        assert row.difference == pytest.approx(gap.mean())
        assert row[4] == pytest.approx((high - low) / 2)
    small, large = sorted(test.pvalue for test in plain)
    assert sorted(table["p"]) == pytest.approx([min(1, 2 * small), max(large, 2 * small)])
    wide = code.compare(scores, [("b", "a"), ("c", "a")], 0.5)
    np.testing.assert_allclose(wide["±"] / table["±"], np.sqrt((1 / 30 + 0.5) * 30))


def test_one_split_no_pair_and_no_difference(code):
    scores = pd.DataFrame({"a": [0.5, 0.5], "b": [0.5, 0.5]})
    assert code.compare(scores, [("a", "b")], 0.5)["p"].tolist() == [1]
    assert "±" not in code.compare(scores[:1], [("a", "b")], 0.5)
    assert code.compare(scores, [], 0.5).empty


def test_table_of_networks_against_one_of_them(code):
    rows = pd.DataFrame({"network": ["x", "x", "y", "y"] * 2, "split": [0, 1, 0, 1] * 2, "rate": 0.1})
    rows["training"], rows["held out"] = 0.9, [0.5, 0.6, 0.8, 0.7, 0.5, 0.8, 0.8, 0.9]
    table = code.against("x", rows, "flowers")
    assert table["held out"].tolist() == pytest.approx([0.6, 0.8])
    assert table["difference"]["y"] == pytest.approx(0.2)
    # the starts of a split are averaged first: the splits' differences are 0.3 and 0.1
    spread = np.std([0.3, 0.1], ddof=1) * stats.t.ppf(0.975, 1)
    assert table["±"]["y"] == pytest.approx(spread, abs=1e-3)
