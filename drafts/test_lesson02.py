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


def test_depths_have_about_the_size_that_keras_counts(code):
    for depth in (2, 3, 5, 10):
        counts = [code.build(depth, w).count_params() for w in range(4, 16)]
        for size in (counts[3], counts[8] + 1):
            best = 4 + np.abs(np.array(counts) - size).argmin()
            assert code.width_for(depth, size) == best


def test_cycle_rises_for_a_fifth_and_ends_at_zero(code):
    schedule = code.one_cycle(0.02, 100)
    rates = np.array([float(schedule(step)) for step in range(101)])
    np.testing.assert_allclose(rates[:21], np.linspace(0, 0.02, 21), atol=1e-7)
    np.testing.assert_allclose(rates[20:], 0.01 * (1 + np.cos(np.linspace(0, np.pi, 81))), atol=1e-6)
    assert float(code.one_cycle(0.02, 2)(1)) == pytest.approx(0.02)


def test_compiled_is_what_was_asked_for(code):
    for name, kind in {"SGD": "SGD", "SGD with momentum": "SGD", "RMSprop": "RMSprop", "Adam": "Adam"}.items():
        model = code.compiled(2, name, 0.03, False, decay=0.05, width=8)
        assert type(model.optimizer).__name__ == kind
        assert float(model.optimizer.learning_rate) == pytest.approx(0.03)
        assert model.optimizer.weight_decay == 0.05
        if kind == "SGD":
            assert model.optimizer.momentum == (0.9 if "momentum" in name else 0)
    schedule = code.compiled(3, rate=0.02, width=8).optimizer._learning_rate
    steps = 3 * 4  # 200 pictures are four batches of 64
    assert float(schedule(steps // 5)) == pytest.approx(0.02)
    assert float(schedule(steps)) == pytest.approx(0, abs=1e-8) and float(schedule(steps - 1)) > 1e-5


def test_smoothed_labels_leave_a_hundredth_for_each_wrong_class(code):
    model = code.compiled(1, smoothing=0.1, width=8)
    targets = keras.utils.to_categorical(y[:100], 10)
    loss = model.evaluate(x[:100], targets, verbose=0)[0]
    p = model.predict(x[:100], verbose=0)
    smooth = 0.9 * targets + 0.01
    assert loss == pytest.approx(-(smooth * np.log(p)).sum(axis=1).mean(), rel=1e-3)


def test_seed_1_after_seed_0_is_a_fresh_seed_1(code):
    trained = code.compiled(2, width=8, normalise=True)
    targets = keras.utils.to_categorical(y[:200], 10)
    keras.utils.set_random_seed(0)
    trained.fit(x[:200], targets, batch_size=64, epochs=2, verbose=0)
    results = []
    for model in (trained, code.compiled(2, width=8, normalise=True)):
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


def test_a_constant_rate_survives_a_fresh_start(code):
    model = code.compiled(1, rate=0.02, cycle=False, width=8)
    code.start_afresh(model, keras.models.clone_model(model))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)


def test_measure_is_scikit_learns_accuracy_and_infinitely_bad_without_a_finite_loss(code):
    model = code.build(width=8)
    found = code.measure(model, 0.5)
    for part, (pictures, labels) in code.PARTS.items():
        named = model.predict(pictures, verbose=0).argmax(axis=1)
        assert found[part] == pytest.approx(accuracy_score(labels, named))
    assert set(code.measure(model, np.nan).values()) == {-np.inf}
    assert set(code.measure(model, np.inf).values()) == {-np.inf}


def test_train_gives_a_row_a_seed_and_the_same_for_the_same_seed(code):
    settings = {"epochs": 3, "rate": 0.01, "width": 8, "keep": True}
    rows = code.train("net", np.array([1, 0, 1]), **settings)
    assert list(rows["network"]) == ["net"] * 3 and list(rows["seed"]) == [1, 0, 1]
    assert (rows["rate"] == 0.01).all() and (rows["width"] == 8).all()
    assert (rows["parameters"] == 785 * 8 + 90).all()
    assert list(rows["curve"].map(len)) == [3, 3, 3]
    first, other, again = rows["probabilities"]
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_allclose(first.sum(axis=1), 1, atol=1e-5)
    for row in rows.to_dict("records"):
        assert row["test"] == pytest.approx(accuracy_score(y[300:], row["probabilities"].argmax(axis=1)))
    assert "probabilities" not in code.train("net", [0], **settings | {"keep": False})


def test_train_learns_from_changed_pictures_when_asked_to(code):
    plain = code.train("net", [0], epochs=2, rate=0.01, width=8)
    changed = code.train("net", [0], epochs=2, rate=0.01, width=8, augment=True)
    assert plain["curve"][0] != changed["curve"][0]
    learnt = code.train("net", [0], epochs=15, rate=0.01, width=64)
    assert learnt["train"][0] > 0.9  # 200 random pictures by heart
    by_changed = code.train("net", [0], epochs=15, rate=0.01, width=64, augment=True)
    assert by_changed["train"][0] < learnt["train"][0]


def test_a_training_that_diverges_is_infinitely_bad_and_named(code):
    rows = code.train("net", [0, 1], epochs=1, optimizer="SGD", rate=1e30, cycle=False, width=8)
    assert (rows[["train", "validation", "test"]] == -np.inf).all(axis=None)
    assert (code.summary(rows)[["train", "test"]] == "diverged").all(axis=None)


def fake(code, means):
    """Puts a stand-in for train into the lesson and returns the calls that it gets."""
    calls = []

    def train(network, seeds, rate, **settings):
        calls.append((network, list(seeds), rate, settings))
        validation = [means[rate] + 0.01 * k for k in range(len(seeds))]
        return pd.DataFrame({"network": network, "validation": validation})

    code.train = train
    return calls


def test_rates_are_tried_on_trial_seeds_and_the_best_trains_with_others(code):
    calls = fake(code, {0.1: 0.5, 0.2: 0.8, 0.4: -np.inf})
    scores = code.try_rates([0.1, 0.2, 0.4], width=8)
    assert scores.to_dict() == pytest.approx({0.1: 0.505, 0.2: 0.805, 0.4: -np.inf})
    assert [call[1] for call in calls] == [code.TRIAL_SEEDS] * 3
    rows = code.train_well("net", [7, 8, 9], [0.1, 0.2, 0.4], width=8)
    assert calls[-1] == ("net", [7, 8, 9], 0.2, {"width": 8}) and len(rows) == 3
    code.train_well("net", [7], [0.1, 0.2], [55], width=8)
    assert [call[1] for call in calls[-3:]] == [[55], [55], [7]]
    calls.clear()
    code.train_well("net", [7], [0.4], width=8)
    assert calls == [("net", [7], 0.4, {"width": 8})]  # one rate needs no trial
    assert not set(code.SEEDS) & set(code.TRIAL_SEEDS)


def table(**values):
    rows = [{"network": n, "seed": s, "test": v} for n, column in values.items() for s, v in enumerate(column)]
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
    targets = keras.utils.to_categorical(y[:200], 10)
    changed = code.Changed(x[:200], targets, seed=0)
    padded = np.pad(x[:200], [(0, 0), (1, 1), (1, 1)])
    order, seen = changed.order, []
    for step in range(len(changed)):
        pictures, labels = changed[step]
        for picture, label in zip(pictures, labels, strict=True):
            number = order[len(seen)]
            np.testing.assert_array_equal(label, targets[number])
            for flip in (False, True):
                upright = picture[:, ::-1] if flip else picture
                for place in np.ndindex(3, 3):
                    down, right = place
                    if np.array_equal(upright, padded[number, down : down + 28, right : right + 28]):
                        seen.append((flip, *place))
    assert len(seen) == 200 and sorted(order) == list(range(200))
    assert len(set(seen)) == 18 and 70 < sum(flip for flip, *_ in seen) < 130
    changed.on_epoch_end()
    assert sorted(changed.order) == list(range(200)) and (changed.order != order).any()
    again = code.Changed(x[:200], targets, seed=0)
    assert (again.order == order).all() and (code.Changed(x[:200], targets, seed=1).order != order).any()
