"""Lesson 2: networks, trainings, choices and comparisons against NumPy, SciPy, scikit-learn and Keras."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score
from statsmodels.stats.multitest import multipletests

LESSON = "lesson02_keras"
SMALL = {
    "SEEDS": [0, 1],
    "FEW_SEEDS": [0, 1],
    "TRIAL_SEEDS": [100],
    "EPOCHS": 1,
    "SHORT_EPOCHS": 1,
    "LENGTHS": [1, 2],
    "WIDTHS": [8, 16],
    "DEPTHS": [2, 3],
    "SIZE": 7_000,
    "PEAKS": [0.004],
    "CONSTANTS": [0.001],
    "RATES": {"SGD": [0.1], "Adam": [0.004]},
    "HALF_WIDTH": 16,
    "FINAL_WIDTH": 16,
}
ONE = SMALL | {
    "SEEDS": [0],
    "FEW_SEEDS": [0],
    "LENGTHS": [1],
    "WIDTHS": [8],
    "DEPTHS": [2],
    "RATES": {"Adam": [0.004]},
}
DIVERGES = {"RATES": {"SGD": [0.1, 1e30], "Adam": [0.004]}}
SCOREBOARD = ["test accuracy, final network", "test accuracy, five networks"]

rng = np.random.default_rng(0)
x = rng.integers(0, 256, (400, 28, 28), dtype="uint8")
y = np.arange(400) % 10


@pytest.fixture
def code(code):
    """The lesson's definitions, with random pictures in the place of its data."""
    code.x_train, code.y_train, code.x_test = x[:200], y[:200], x[300:]
    code.PARTS = {
        "train": (x[:200], y[:200]),
        "validation": (x[200:300], y[200:300]),
        "test": (x[300:], y[300:]),
    }
    code.BATCH = 64
    return code


def test_build_computes_what_numpy_does_with_skips_from_the_second_layer_on(code):
    for skips in (False, True):
        model = code.build(4, 12, skips=skips)
        weights = [w + 0.01 * rng.normal(size=w.shape) for w in model.get_weights()]
        model.set_weights(weights)
        h = x[:5].reshape(5, 784) / 255
        for layer in range(3):
            new = np.maximum(h @ weights[2 * layer] + weights[2 * layer + 1], 0)
            h = new + h if skips and layer else new
        z = np.exp(h @ weights[6] + weights[7])
        expected = z / z.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(model.predict(x[:5], verbose=0), expected, atol=1e-4)


def test_build_defaults_and_remedies(code):
    plain = code.build()
    assert plain.count_params() == 784 * 128 + 128 + 1290
    kinds = [type(layer).__name__ for layer in code.build(5, 8, normalise=True).layers]
    assert kinds.count("Dense") == 5 and kinds.count("BatchNormalization") == 4 and "Add" not in kinds
    assert [type(layer).__name__ for layer in code.build(5, 8, skips=True).layers].count("Add") == 3
    first = code.build(2, 400, start="he_normal").get_weights()[0]
    assert first.std() == pytest.approx(np.sqrt(2 / 784), rel=0.05)


@pytest.mark.parametrize("depth", [2, 3, 5, 10])
def test_depths_have_about_the_size_that_keras_counts(code, depth):
    width = code.width_for(depth, 97_500)
    misses = [abs(code.build(depth, width + change).count_params() - 97_500) for change in (-1, 0, 1)]
    assert min(misses) == misses[1]


def test_cycle_rises_for_a_fifth_and_ends_at_zero(code):
    rates = np.array([code.one_cycle(step / 100) for step in range(101)])
    np.testing.assert_allclose(rates[:21], np.linspace(0, 1, 21), atol=1e-7)
    fall = 0.5 * (1 + np.cos(np.linspace(0, np.pi, 81)))
    np.testing.assert_allclose(rates[20:], fall, atol=1e-6)
    np.testing.assert_allclose([code.falling(done) for done in np.linspace(0, 1, 81)], fall, atol=1e-6)


def test_callback_sets_the_rate_of_each_call_by_the_steps_of_the_whole_training(code):
    model = code.compiled(width=8)
    targets = keras.utils.to_categorical(y[:200], 10)
    used = []
    fit = {"x": x[:200], "y": targets, "batch_size": 8, "verbose": 0}  # 25 steps are three calls of 11
    model.fit(**fit, epochs=2, callbacks=[code.Schedule(0.02, lambda done: used.append(done) or 0.5)])
    np.testing.assert_allclose(used, np.array([0, 11, 22, 25, 36, 47]) / 50)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


def test_compiled_is_what_was_asked_for(code):
    for name, kind in {
        "SGD": "SGD",
        "SGD with momentum": "SGD",
        "RMSprop": "RMSprop",
        "Adam": "Adam",
    }.items():
        model = code.compiled(name, decay=0.05, width=8)
        assert type(model.optimizer).__name__ == kind
        assert model.optimizer.weight_decay == 0.05
        if kind == "SGD":
            assert model.optimizer.momentum == (0.9 if "momentum" in name else 0)
    assert code.compiled(depth=3, width=8).count_params() == code.build(3, 8).count_params()


def test_smoothed_labels_leave_a_hundredth_for_each_wrong_class(code):
    model = code.compiled(smoothing=0.1, width=8)
    targets = keras.utils.to_categorical(y[:100], 10)
    loss = model.evaluate(x[:100], targets, verbose=0)[0]
    p = model.predict(x[:100], verbose=0)
    smooth = 0.9 * targets + 0.01
    assert loss == pytest.approx(-(smooth * np.log(p)).sum(axis=1).mean(), rel=1e-3)


def test_seed_1_after_seed_0_is_a_fresh_seed_1(code):
    trained = code.compiled(width=8, normalise=True)
    targets = keras.utils.to_categorical(y[:200], 10)
    keras.utils.set_random_seed(0)
    trained.fit(x[:200], targets, batch_size=64, epochs=2, verbose=0)
    results = []
    for model in (trained, code.compiled(width=8, normalise=True)):
        keras.utils.set_random_seed(1)
        code.start_afresh(model, keras.models.clone_model(model))
        before = model.get_weights()
        assert int(model.optimizer.iterations) == 0
        assert all(not np.any(v.numpy()) for v in model.optimizer.variables if "learning_rate" not in v.path)
        model.fit(x[:200], targets, batch_size=64, epochs=2, verbose=0)
        results.append([*before, *model.get_weights()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    keras.utils.set_random_seed(1)
    for a, b in zip(results[0], code.build(width=8, normalise=True).get_weights(), strict=False):
        np.testing.assert_array_equal(a, b)


def test_measure_is_scikit_learns_accuracy_and_infinitely_bad_without_a_finite_loss(code):
    model = code.build(width=8)
    found = code.measure(model, 0.5)
    for part, (pictures, labels) in code.PARTS.items():
        named = model.predict(pictures, verbose=0).argmax(axis=1)
        assert found[part] == pytest.approx(accuracy_score(labels, named))
    np.testing.assert_allclose(found["probabilities"], model.predict(x[300:], verbose=0), atol=1e-5)
    for loss in (np.nan, np.inf):
        assert {code.measure(model, loss)[part] for part in code.PARTS} == {-np.inf}


def test_train_gives_a_row_a_seed_and_the_same_for_the_same_seed(code):
    model = code.compiled(width=8)
    rows = code.train("net", model, np.array([1, 0, 1]), 0.01, epochs=3)
    assert list(rows["network"]) == ["net"] * 3 and list(rows["seed"]) == [1, 0, 1]
    assert (rows["rate"] == 0.01).all() and (rows["parameters"] == 785 * 8 + 90).all()
    assert list(rows["curve"].map(len)) == [3, 3, 3]
    first, other, again = rows["probabilities"]
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert np.abs(first - other).max() > 1e-3
    for row in rows.to_dict("records"):
        assert row["test"] == pytest.approx(accuracy_score(y[300:], row["probabilities"].argmax(axis=1)))


@pytest.mark.filterwarnings("error:.*shuffle")
def test_train_follows_its_rate_its_schedule_and_its_pictures(code):
    code.BATCH = 8  # three calls an epoch
    model = code.compiled(width=64)
    plain = code.train("net", model, [0], 0.002, epochs=20, share=None)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    cycle = code.train("net", model, [0], 0.002, epochs=20)
    assert 0 < float(model.optimizer.learning_rate) < 0.0002
    assert cycle["train"][0] > 0.9  # 200 random pictures by heart
    assert plain["curve"][0] != cycle["curve"][0]
    assert code.train("net", model, [0], 1e-9, epochs=2, share=None)["train"][0] < 0.3
    by_changed = code.train("net", model, [0], 0.002, epochs=20, augment=True)
    assert by_changed["train"][0] < cycle["train"][0]
    assert len(by_changed["curve"][0]) == 20
    assert int(model.optimizer.iterations) <= 20 * 33  # 25 steps an epoch, in calls of 11


def test_a_training_that_diverges_is_infinitely_bad_and_named(code):
    model = code.compiled("SGD", width=8)
    rows = code.train("net", model, [0, 1], 1e30, epochs=1, share=None)
    assert (rows[["train", "validation", "test"]] == -np.inf).all(axis=None)
    assert (code.summary(rows)[["train", "test"]] == "diverged").all(axis=None)
    again = code.train("net", model, [0], 0.01, epochs=1, share=None)
    assert np.isfinite(again["test"]).all()  # the next start knows nothing of it


def fake(code, means):
    """Puts a stand-in for train into the lesson and returns the calls that it gets."""
    calls = []

    def train(network, model, seeds, rate, **how):
        calls.append((network, model, list(seeds), rate, how))
        validation = [means[rate] + 0.01 * k for k in range(len(seeds))]
        return pd.DataFrame({"network": network, "validation": validation})

    code.train = train
    return calls


def test_rates_are_tried_on_trial_seeds_and_the_best_trains_with_others(code):
    calls = fake(code, {0.1: 0.5, 0.2: 0.8, 0.4: -np.inf})
    scores = code.try_rates("model", [0.1, 0.2, 0.4], share=None)
    assert scores.to_dict() == pytest.approx({0.1: 0.505, 0.2: 0.805, 0.4: -np.inf})
    assert [call[2] for call in calls] == [code.TRIAL_SEEDS] * 3
    rows = code.train_well("net", "model", [7, 8, 9], [0.1, 0.2, 0.4], share=None)
    assert calls[-1] == ("net", "model", [7, 8, 9], 0.2, {"share": None}) and len(rows) == 3
    assert [call[2] for call in calls[-4:]] == [code.TRIAL_SEEDS[:1]] * 3 + [[7, 8, 9]]
    calls.clear()
    code.train_well("net", "model", [7], [0.4])
    assert calls == [("net", "model", [7], 0.4, {})]  # one rate needs no trial
    assert not set(code.SEEDS) & set(code.TRIAL_SEEDS)


def table(**values):
    rows = [
        {"network": n, "seed": s, "test": v} for n, column in values.items() for s, v in enumerate(column)
    ]
    return pd.DataFrame(rows)


def test_compare_is_welch_with_holm(code):
    values = {n: rng.normal(0.9, 0.01 * k, 5 - k % 2) for k, n in enumerate("abcd", start=1)}
    pairs = [("a", "b"), ("a", "c"), ("d", "b")]
    found = code.compare(table(**values), pairs)
    tests = [stats.ttest_ind(values[a], values[b], equal_var=False) for a, b in pairs]
    for row, ((a, b), test) in enumerate(zip(pairs, tests, strict=True)):
        low, high = test.confidence_interval(0.95)
        assert (found["network"][row], found["against"][row]) == (a, b)
        assert found["difference"][row] == pytest.approx(values[a].mean() - values[b].mean())
        assert found["±"][row] == pytest.approx((high - low) / 2)
    p = multipletests([test.pvalue for test in tests], method="holm")[1]
    np.testing.assert_allclose(found["p"], p)
    other = code.compare(table(**values).rename(columns={"test": "train"}), pairs, "train")
    pd.testing.assert_frame_equal(found, other)


def test_compare_of_one_seed_or_of_nothing_has_no_interval(code):
    found = code.compare(table(a=[0.5], b=[0.25]), [("a", "b")])
    assert list(found) == ["network", "against", "difference"] and found["difference"][0] == 0.25
    assert code.compare(table(a=[0.5, 0.6]), []).empty
    assert list(code.compare(table(a=[0.5, 0.6], b=[0.2]), [("a", "b")])) == list(found)
    assert "p" in code.compare(table(a=[0.5, 0.6], b=[0.4, 0.45]), [("a", "b")])


def test_summary_has_means_and_the_samples_spread(code):
    rows = table(b=[0.1, 0.2, 0.3], a=[0.5, 0.5, 0.8]).assign(
        parameters=7, rate=0.1, train=lambda t: t["test"] + 0.1, validation=0.4
    )
    found = code.summary(rows)
    assert list(found.index) == ["b", "a"]
    assert found["train"].tolist() == pytest.approx([0.3, 0.7])
    assert found["test, sd"]["b"] == pytest.approx(0.1)
    assert "test, sd" not in code.summary(rows[rows["seed"] == 0])


def test_draw_shows_a_dot_a_seed_and_the_means(code):
    rows = table(b=[0.1, 0.2, 0.3], a=[0.5, 0.5, 0.8]).assign(train=0.9, validation=0.4)
    code.draw(rows, "title", "x")
    ax = plt.gcf().axes[0]
    assert ax.get_title() == "title" and ax.get_xlabel() == "x"
    lines = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    assert any(np.allclose(line, [0.2, 0.6]) for line in lines)
    assert sum(len(dots.get_offsets()) for dots in ax.collections) >= 18
    plt.close("all")


def test_changed_pictures_come_once_an_epoch_flipped_and_moved(code):
    padded = np.pad(x[:200], [(0, 0), (1, 1), (1, 1)])
    batches = code.changed(x[:200], np.arange(200), seed=0)  # labels that tell which picture it is
    orders, seen = [], []
    for _ in range(2):
        order = []
        for size in (64, 64, 64, 8):
            pictures, numbers = next(batches)
            assert len(pictures) == size
            order.extend(numbers)
            for picture, number in zip(pictures, numbers, strict=True):
                for flip in (False, True):
                    upright = picture[:, ::-1] if flip else picture
                    for down, right in np.ndindex(3, 3):
                        if np.array_equal(upright, padded[number, down : down + 28, right : right + 28]):
                            seen.append((flip, down, right))
        assert sorted(order) == list(range(200))
        orders.append(order)
    assert orders[0] != orders[1] and len(seen) == 400
    assert len(set(seen)) == 18 and 150 < sum(flip for flip, *_ in seen) < 250
    again = next(code.changed(x[:200], np.arange(200), seed=0))[1]
    assert list(again) == orders[0][:64]
    assert list(next(code.changed(x[:200], np.arange(200), seed=1))[1]) != orders[0][:64]
