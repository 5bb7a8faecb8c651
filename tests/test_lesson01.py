"""Lesson 1's network, optimisers, scalings and intervals against independent references."""

import numpy as np
import pytest
from conftest import definitions
from scipy import special, stats
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler, normalize


@pytest.fixture(scope="module")
def lesson():
    return definitions("lesson01_basics")


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    centres = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    labels = np.tile(np.arange(3), 20)
    x = centres[labels] + 0.3 * rng.normal(size=(60, 3)) + 3.0
    order = [rng.permutation(60) for _ in range(4)]
    return {
        "x_train": np.stack([x[o[:40]] for o in order]),
        "y_train": np.stack([labels[o[:40]] for o in order]),
        "x_test": np.stack([x[o[40:]] for o in order]),
        "y_test": np.stack([labels[o[40:]] for o in order]),
    }


def test_activations_match_scipy_and_do_not_overflow(lesson):
    z = np.array([[-1000.0, -3.0, 0.0, 2.0, 1000.0]])
    np.testing.assert_allclose(lesson["sigmoid"](z), special.expit(z), atol=1e-15)
    np.testing.assert_allclose(lesson["softmax"](z), special.softmax(z, axis=-1), atol=1e-15)


def test_cross_entropy_matches_scikit_learn(lesson):
    rng = np.random.default_rng(1)
    p = special.softmax(rng.normal(size=(1, 8, 3)), axis=-1)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 2])
    ours = lesson["loss_value"](p, np.eye(3)[labels][None], "cross-entropy")
    assert ours.shape == (1,)
    assert ours[0] == pytest.approx(log_loss(labels, p[0]), rel=1e-12)


def course_style_step(x, y, w1, w2, rate):
    """One step as in the course, for one run, two-dimensional arrays: sigmoids, squared error, no biases."""
    hidden = 1 / (1 + np.exp(-x @ w1))
    output = 1 / (1 + np.exp(-hidden @ w2))
    delta2 = (y - output) * output * (1 - output)
    delta1 = (delta2 @ w2.T) * hidden * (1 - hidden)
    return w1 + rate * x.T @ delta1, w2 + rate * hidden.T @ delta2


def test_all_runs_at_once_equal_the_course_loop_run_by_run(lesson, splits):
    params = lesson["init_params"]((3, 5, 3), 4, seed=3, dtype="float64")
    x, y = splits["x_train"], np.eye(3)[splits["y_train"]]
    alone = [[layer["w"][run].copy() for layer in params] for run in range(4)]
    step = lesson["make_step"](params, "gradient descent", 0.5, 0.0)
    for _ in range(20):
        step(lesson["backward"](params, lesson["forward"](params, x), y))
        alone = [course_style_step(x[r], y[r], *weights, rate=0.5 / 40) for r, weights in enumerate(alone)]
    for run, weights in enumerate(alone):
        for layer, w in zip(params, weights, strict=True):
            np.testing.assert_allclose(layer["w"][run], w, rtol=1e-10)


def test_gradient_check_passes_and_notices_a_wrong_gradient(lesson, monkeypatch):
    check = lesson["gradient_error"]
    assert check((4, 5, 3), "tanh", "cross-entropy", True, seed=0) < 1e-6
    right = lesson["backward"]

    def wrong(*arguments):
        gradients = right(*arguments)
        gradients[0]["w"] = gradients[0]["w"] * 1.001
        return gradients

    monkeypatch.setitem(check.__globals__, "backward", wrong)
    assert check((4, 5, 3), "tanh", "cross-entropy", True, seed=0) > 1e-4


@pytest.mark.parametrize("name", ["gradient descent", "momentum", "adam"])
def test_optimisers_match_keras(lesson, name):
    import keras

    theirs = {
        "gradient descent": lambda: keras.optimizers.SGD(0.05),
        "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(0.05),
    }[name]()
    rng = np.random.default_rng(2)
    start = rng.normal(size=(1, 3, 2)).astype("float32")
    params = [{"w": start.copy()}]
    variable = keras.Variable(start)
    step = lesson["make_step"](params, name, np.float32(0.05), 0.0)
    for _ in range(30):
        gradient = rng.normal(size=start.shape).astype("float32")
        step([{"w": gradient}])
        theirs.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(params[0]["w"], keras.ops.convert_to_numpy(variable), atol=2e-5)


def test_weight_decay_pulls_weights_but_not_biases(lesson):
    params = [{"w": np.ones((1, 2, 2)), "b": np.ones((1, 1, 2))}]
    lesson["make_step"](params, "gradient descent", 0.1, 0.5)(
        [{"w": np.zeros((1, 2, 2)), "b": np.zeros((1, 1, 2))}]
    )
    np.testing.assert_allclose(params[0]["w"], 0.95)
    np.testing.assert_allclose(params[0]["b"], 1.0)


def test_scalings_match_scikit_learn_and_use_training_rows_only(lesson, splits):
    train, test = lesson["prepare"](splits, "standardised", "float64")
    for run in range(4):
        scaler = StandardScaler().fit(splits["x_train"][run])
        np.testing.assert_allclose(train[run], scaler.transform(splits["x_train"][run]), atol=1e-12)
        np.testing.assert_allclose(test[run], scaler.transform(splits["x_test"][run]), atol=1e-12)
    unit, _ = lesson["prepare"](splits, "unit rows", "float64")
    np.testing.assert_allclose(unit[0], normalize(splits["x_train"][0]), atol=1e-12)


def test_flipped_labels_are_always_wrong_and_as_many_as_asked(lesson):
    labels = np.random.default_rng(0).integers(0, 3, (50, 100))
    flip = lesson["flip_labels"]
    assert (flip(labels, 0.0, 3, np.random.default_rng(1)) == labels).all()
    assert (flip(labels, 1.0, 3, np.random.default_rng(1)) != labels).all()
    assert (flip(labels, 0.2, 3, np.random.default_rng(1)) != labels).mean() == pytest.approx(0.2, abs=0.02)


def test_training_learns_and_reports_true_accuracy(lesson, splits):
    config = {**lesson["BEST"], "epochs": 100}
    params, history = lesson["train"](splits, config, at=(0, 50))
    assert sorted(history.epoch.unique()) == [0, 50, 100]
    last = history[history.epoch == 100].sort_values("run")
    x_test = lesson["prepare"](splits, config["scaling"])[1]
    guess = lesson["forward"](params, x_test, "tanh", "cross-entropy")[-1].argmax(axis=2)
    np.testing.assert_allclose(last["test accuracy"], (guess == splits["y_test"]).mean(axis=1))
    assert last["test accuracy"].mean() > 0.9


def test_paired_interval_is_the_t_interval_of_scipy(lesson, splits):
    config = {**lesson["BEST"], "epochs": 5}
    table = lesson["effects"](splits, config, {"fewer neurons": {"hidden": (1,)}})
    one = lesson["train"](splits, {**config, "hidden": (1,)})[1]["test accuracy"].to_numpy()
    base = lesson["train"](splits, config)[1]["test accuracy"].to_numpy()
    low, high = stats.ttest_rel(100 * one, 100 * base).confidence_interval(0.95)
    assert table.effect.iloc[0] == pytest.approx((low + high) / 2)
    assert table.interval.iloc[0] == pytest.approx((high - low) / 2)
    assert table["for new data"].iloc[0] == pytest.approx((high - low) / 2 * np.sqrt(1 + 4 * 20 / 40))


def test_inner_folds_hold_only_the_training_part(lesson):
    rng = np.random.default_rng(0)
    outer = lesson["make_splits"](rng.normal(size=(150, 2)), np.arange(150) % 3, 2, 1 / 3, seed=0)
    inner = lesson["inner_folds"](outer, 5)
    assert inner["x_train"].shape == (10, 80, 2) and inner["x_test"].shape == (10, 20, 2)
    for run in range(10):
        known = {tuple(row) for row in outer["x_train"][run // 5]}
        rows = np.concatenate([inner["x_train"][run], inner["x_test"][run]])
        assert {tuple(row) for row in rows} == known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "sigmoid, tanh, relu"),
        ({"optimiser": "sgd"}, "gradient descent, momentum, adam"),
        ({"loss": "hinge"}, "squared error, cross-entropy"),
        ({"scaling": "robust"}, "raw, unit rows, unit rows x 8, standardised"),
        ({"init": "ones"}, "zeros, uniform"),
        ({"hidden": (0,)}, "1 or more neurons"),
        ({"epochs": 0}, "above 0"),
        ({"learning_rate": -1.0}, "above 0"),
        ({"neurons": 3}, "unknown setting 'neurons'"),
    ],
)
def test_bad_settings_say_what_is_accepted(lesson, splits, change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        lesson["train"](splits, {**lesson["LESSON"], "epochs": 1, **change})


def test_bad_data_say_what_is_wrong(lesson):
    x, labels = np.ones((6, 2)), np.array([0, 1, 0, 1, 0, 1])
    check = lesson["check_table"]
    check(x, labels)
    holed = x.copy()
    holed[4, 1] = np.nan
    for bad, message in [
        ((holed, labels), "first row 4"),
        ((x[0], labels), r"expected x \(rows, d\)"),
        ((x, labels[:-1]), r"labels \(rows,\)"),
        ((x, labels.astype(float)), "class numbers"),
        ((x, labels - 1), "class numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(*bad)
