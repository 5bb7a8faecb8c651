"""Lesson 1's networks, optimisers, scalings and intervals against independent references."""

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import definitions
from scipy import special, stats
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler, normalize

SMALL = {"RUNS": 3, "EPOCHS": 20, "DIGIT_REPEATS": 1, "DIGIT_EPOCHS": 2}


@pytest.fixture(scope="module")
def lesson():
    return definitions("lesson01_basics")


@pytest.fixture
def splits(lesson):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 20)
    x = (
        np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])[labels]
        + 0.3 * rng.normal(size=(60, 3))
        + 3
    )
    orders = [rng.permutation(60) for _ in range(4)]
    return lesson["stack"](x, labels, [(o[:40], o[40:]) for o in orders])


def test_activations_match_scipy_and_do_not_overflow(lesson):
    z = np.array([[-1000.0, -3.0, 0.0, 2.0, 1000.0]])
    np.testing.assert_allclose(lesson["sigmoid"](z), special.expit(z), atol=1e-15)
    np.testing.assert_allclose(lesson["softmax"](z), special.softmax(z, axis=-1), atol=1e-15)


def test_cross_entropy_matches_scikit_learn(lesson):
    p = special.softmax(np.random.default_rng(1).normal(size=(1, 8, 3)), axis=-1)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 2])
    assert lesson["loss_value"](p, np.eye(3)[labels][None], "cross-entropy")[0] == pytest.approx(
        log_loss(labels, p[0])
    )


def test_networks_at_once_equal_the_plain_network(lesson, splits, monkeypatch):
    """The batched trainer with the lesson's settings is the plain one, run by run, from the same weights."""
    x, y = lesson["unit_rows"](splits["x"]), np.eye(3)[splits["labels"]]
    start = [w.astype(float) for w in lesson["init_params"]((3, 5, 3), 4, "uniform", 3)[::2]]
    config = lesson["LESSON"] | {"epochs": 20}
    batched = lesson["train"](splits, config, seed=3)[0][::2]
    for run in range(4):
        weights = iter([w[run].copy() for w in start])

        class Rng:
            uniform = staticmethod(lambda *_, weights=weights: next(weights))

        monkeypatch.setattr(np.random, "default_rng", lambda seed: Rng)  # noqa: B023
        w1, w2, _ = lesson["train_plain"](x[run], y[run], epochs=20)
        monkeypatch.undo()
        np.testing.assert_allclose(batched[0][run], w1, atol=1e-5)
        np.testing.assert_allclose(batched[1][run], w2, atol=1e-5)
        assert np.abs(w1 - start[0][run]).max() > 1e-3


def test_gradient_check_passes_and_notices_a_wrong_gradient(lesson, monkeypatch):
    check, right = lesson["gradient_error"], lesson["backward"]
    assert check("tanh", "cross-entropy") < 1e-6
    monkeypatch.setitem(check.__globals__, "backward", lambda *a: [1.001 * g for g in right(*a)])
    assert check("tanh", "cross-entropy") > 1e-4


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gradient descent", lambda: keras.optimizers.SGD(0.05)),
        ("momentum", lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
        ("adam", lambda: keras.optimizers.Adam(0.05)),
    ],
)
def test_optimisers_match_keras(lesson, name, theirs):
    rng, theirs = np.random.default_rng(2), theirs()
    start = rng.normal(size=(1, 3, 2)).astype("float32")
    params, state, variable = [start.copy()], {}, keras.Variable(start)
    for _ in range(30):
        gradient = rng.normal(size=start.shape).astype("float32")
        lesson["update"](params, [gradient], state, {"optimiser": name, "rate": 0.05, "decay": 0}, rows=1)
        theirs.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(params[0], keras.ops.convert_to_numpy(variable), atol=2e-5)


def test_rate_is_on_the_sum_over_rows_and_decay_spares_biases(lesson):
    params, config = [np.ones((1, 2, 2)), np.ones((1, 1, 2))], lesson["LESSON"] | {"rate": 0.1, "decay": 0.5}
    lesson["update"](params, [np.zeros((1, 2, 2)), np.ones((1, 1, 2))], {}, config, rows=4)
    np.testing.assert_allclose(params[0], 1 - 4 * 0.1 * 0.5)
    np.testing.assert_allclose(params[1], 1 - 4 * 0.1 * 1)


def test_scalings_match_scikit_learn_and_use_training_rows_only(lesson, splits):
    def prepared(**change):
        return lesson["prepare"](splits, lesson["LESSON"] | change, np.random.default_rng(0))

    x, _, x_test = prepared(scaling="standardised")
    for run in range(4):
        scaler = StandardScaler().fit(splits["x"][run])
        np.testing.assert_allclose(x[run], scaler.transform(splits["x"][run]), atol=1e-5)
        np.testing.assert_allclose(x_test[run], scaler.transform(splits["x_test"][run]), atol=1e-5)
    np.testing.assert_allclose(prepared()[0][0], normalize(splits["x"][0]), atol=1e-6)
    assert prepared(rows=0.25)[0].shape == (4, 10, 3)
    assert (prepared(wrong=1.0)[1] != splits["labels"]).all()
    assert (prepared(wrong=0.0)[1] == splits["labels"]).all()


def test_training_learns_and_reports_true_accuracy(lesson, splits):
    config = lesson["IMPROVED"] | {"epochs": 100}
    params, rows = lesson["train"](splits, config, at=(50,))
    assert sorted(rows.epoch.unique()) == [50, 100]
    x_test = lesson["prepare"](splits, config, np.random.default_rng(0))[2]
    guess = lesson["forward"](params, x_test, "tanh", "cross-entropy")[-1].argmax(axis=2)
    last = rows[rows.epoch == 100]["held out"]
    np.testing.assert_allclose(last, (guess == splits["labels_test"]).mean(axis=1))
    assert last.mean() > 0.9


def test_corrected_interval_is_nadeau_and_bengios(lesson):
    rng = np.random.default_rng(0)
    base, other = rng.normal(0.9, 0.02, 30), rng.normal(0.92, 0.02, 30)
    frames = [
        {"run": range(30), "change": c, "held out": a, "network": "n"}
        for c, a in (("", base), ("more", other))
    ]
    found = lesson["paired"](pd.concat(map(pd.DataFrame, frames)), "n", 0.5).loc["more"]
    gaps = 100 * (other - base)
    error = np.sqrt((1 / 30 + 0.5) * gaps.var(ddof=1))
    low, high = stats.t.interval(0.95, 29, gaps.mean(), error)
    assert found.points == pytest.approx(gaps.mean())
    assert found.half == pytest.approx((high - low) / 2)
    assert found["Holm p"] == pytest.approx(2 * stats.t.sf(abs(gaps.mean()) / error, 29))
