"""Lesson 4: networks, moves, counts, trainings, comparisons against NumPy, SciPy, scikit-learn, Keras."""

import time

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import signal, stats
from sklearn.metrics import accuracy_score
from statsmodels.stats.multitest import multipletests

LESSON = "lesson04_cnn"
SMALL = {
    "SCALE": "tiny",
    "SEEDS": [0, 1],
    "MORE_SEEDS": [0, 1],
    "TRIAL_SEEDS": [100],
    "RATES": [0.006],
    "LOW_RATES": [0.0015],
    "WIDTHS": [0.5, 1],
    "DEPTHS": {"4 poolings": {"kernels": [7, 5, 3, 3]}},
    "ORDERS": {},
}
ONE = SMALL | {"SEEDS": [0], "MORE_SEEDS": [0], "WIDTHS": [1], "DEPTHS": {}}
DIVERGES = {"RATES": [1e9]}
WRONG = {"SCALE": "ful"}
SCOREBOARD = [
    "test accuracy, final network",
    "test accuracy, dense network",
    "test accuracy, permuted pixels, convolutional",
    "test accuracy, permuted pixels, dense",
]

rng = np.random.default_rng(0)
x = rng.integers(0, 256, (400, 28, 28), dtype="uint8")
y = np.arange(400) % 10
SHAPE = {"width": 2, "kernels": (5, 3), "changes": ("flip", "shift", "erase"), "dropout": 0.3}


@pytest.fixture
def code(code):
    """The lesson's definitions, with random pictures in the place of its data."""
    code.x_train, code.x_valid, code.x_test = x[:200], x[200:300], x[300:]
    code.y_train, code.y_valid, code.y_test = y[:200], y[200:300], y[300:]
    code.PARTS = {
        "train": (x[:200], y[:200]),
        "validation": (x[200:300], y[200:300]),
        "test": (x[300:], y[300:]),
    }
    code.BATCH = 100
    return code


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_a_block_is_convolutions_and_a_pooling_and_twice_as_wide_as_the_last(code):
    model = code.build(3, (7, 5, 3), convs=2, dropout=0.25)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [c.filters for c in convolutions] == [3, 3, 6, 6, 12, 12]
    assert [c.kernel_size[0] for c in convolutions] == [7, 7, 5, 5, 3, 3]
    block = ["Conv2D", "BatchNormalization", "ReLU"] * 2 + ["MaxPooling2D", "Dropout"]
    assert kinds(model) == ["Rescaling", *3 * block, "AveragePooling2D", "Flatten", "Dense"]
    assert {layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"} == {0.25}
    defaults = code.build(3)
    assert kinds(defaults).count("Conv2D") == 3 and model.output_shape == (None, 10)
    assert all(layer.rate == 0 for layer in defaults.layers if type(layer).__name__ == "Dropout")
    assert not {"RandomFlip", "RandomShift", "RandomErasing"} & set(kinds(defaults))


@pytest.mark.parametrize(("poolings", "places"), [(1, 9), (2, 9), (3, 9), (4, 1)])
def test_every_depth_ends_in_nine_places_or_in_the_last_one(code, poolings, places):
    model = code.build(3, (3,) * poolings)
    assert model.layers[-1].kernel.shape == (places * 3 * 2 ** (poolings - 1), 10)


def test_dense_layers_follow_the_blocks_or_stand_alone(code):
    head = code.build(2, hidden=1, normalise=False)
    assert head.layers[-3].units == 128 and "BatchNormalization" not in kinds(head)
    assert "Flatten" in kinds(head) and "AveragePooling2D" not in kinds(head)
    dense = code.build(7, kernels=(), hidden=3)
    assert [layer.units for layer in dense.layers if hasattr(layer, "units")] == [7, 7, 7, 10]
    assert kinds(dense).count("BatchNormalization") == 3 and kinds(dense).count("ReLU") == 3


def test_a_small_network_computes_what_scipy_does(code):
    model = code.build(2, (5,), normalise=False)
    weights = [w + 0.1 * rng.normal(size=w.shape) for w in model.get_weights()]
    model.set_weights(weights)
    kernel, bias, dense, last = weights
    picture = x[0] / 255
    maps = [signal.correlate2d(picture, kernel[:, :, 0, k], "same") + bias[k] for k in range(2)]
    pooled = np.maximum(maps, 0).reshape(2, 14, 2, 14, 2).max(axis=(2, 4))
    places = pooled[:, :12, :12].reshape(2, 3, 4, 3, 4).mean(axis=(2, 4))  # nine for each map
    z = np.exp(np.moveaxis(places, 0, 2).ravel() @ dense + last)
    np.testing.assert_allclose(code.probabilities(model, x[:1])[0], z / z.sum(), atol=1e-4)


def test_a_shift_is_every_move_by_at_most_a_pixel_in_training_only(code):
    layer, picture = code.RandomShift(), np.arange(1, 785).reshape(28, 28).astype("float32")
    many = np.repeat(picture[None, :, :, None], 300, axis=0)
    padded, moves = np.pad(picture, 1), {}
    for down in range(3):
        for right in range(3):
            moves[down, right] = padded[down : down + 28, right : right + 28]
    moved = keras.ops.convert_to_numpy(layer(many, training=True))[..., 0]
    found = [[key for key, move in moves.items() if np.array_equal(move, one)] for one in moved]
    assert all(len(keys) == 1 for keys in found) and {keys[0] for keys in found} == set(moves)
    np.testing.assert_array_equal(layer(many), many)
    np.testing.assert_array_equal(layer(many, training=False), many)


def test_changes_are_made_in_training_only_and_erase_half_of_the_pictures(code):
    model = code.build(2, changes=("flip", "shift", "erase"))
    assert kinds(model)[:4] == ["RandomFlip", "RandomShift", "RandomErasing", "Rescaling"]
    np.testing.assert_allclose(code.probabilities(model, x[:20]), code.probabilities(model, x[:20]))
    ones = np.full((600, 28, 28, 1), 300, "float32")  # brighter than any noise
    erased = keras.ops.convert_to_numpy(code.CHANGES["erase"]()(ones, training=True)) < 300
    assert 0.4 < erased.any(axis=(1, 2, 3)).mean() < 0.6
    flipped = code.CHANGES["flip"]()(np.repeat(x[:1, :, :, None], 100, axis=0), training=True)
    assert {tuple(np.ravel(one)) for one in keras.ops.convert_to_numpy(flipped)} == {
        tuple(x[0].ravel().astype("float32")), tuple(x[0, :, ::-1].ravel().astype("float32"))
    }  # fmt: skip


@pytest.mark.parametrize("shape", [SHAPE, {"width": 8, "kernels": (), "hidden": 2}])
def test_no_layer_takes_xla_off_the_network(code, shape):
    model = code.build(**shape)
    assert all(layer.supports_jit for layer in model.layers)
    model.compile("sgd", "mse", jit_compile=True)
    assert np.isfinite(model.train_on_batch(x[:4, :, :, None], np.eye(10)[:4]))


def test_multiply_adds_by_hand(code):
    convolutions = 28**2 * 49 * 16 + 14**2 * 25 * 16 * 32 + 7**2 * 9 * 32 * 64
    assert code.multiply_adds(code.build(16)) == convolutions + 9 * 64 * 10
    assert code.multiply_adds(code.build(16, hidden=1)) == convolutions + 9 * 64 * 128 + 128 * 10
    assert code.multiply_adds(code.build(20, kernels=(), hidden=2)) == 784 * 20 + 20 * 20 + 20 * 10


@pytest.mark.parametrize("shape", [{"kernels": (7,)}, {"convs": 2}, {"kernels": (), "hidden": 3}])
def test_width_for_is_the_closest_width(code, shape):
    for count in (code.multiply_adds, keras.Model.count_params):
        goal = count(code.build(6, **shape)) + 1
        assert code.width_for(count, goal, **shape) == 6
        sizes = np.array([count(code.build(width, **shape)) for width in range(1, 9)])
        goal = int(0.45 * sizes[4] + 0.55 * sizes[5])
        assert code.width_for(count, goal, **shape) == 1 + np.abs(sizes - goal).argmin()


def test_cycle_rises_for_a_fifth_to_a_peak_that_may_change(code):
    peak = keras.Variable(0.02, trainable=False)
    schedule = code.one_cycle(peak, 100)
    for top in (0.02, 0.5):
        peak.assign(top)
        rates = np.array([float(schedule(step)) for step in range(101)])
        np.testing.assert_allclose(rates[:21], np.linspace(0, top, 21), atol=1e-6)
        np.testing.assert_allclose(rates[20:], top * (1 + np.cos(np.linspace(0, np.pi, 81))) / 2, atol=1e-6)
    assert float(code.one_cycle(0.02, 2)(1)) == pytest.approx(0.02)


def test_compiled_has_a_cycle_as_long_as_the_training_or_a_constant_rate(code):
    code.x_train = x[:250]  # three steps an epoch, the last one smaller
    for cycle in (True, False):
        model = code.compiled(4, cycle, width=2, kernels=(3,))
        code.PEAK.assign(0.03)
        rates = []
        for step in range(13):
            model.optimizer.iterations.assign(step)
            rates.append(float(model.optimizer.learning_rate))
        expected = [float(code.one_cycle(0.03, 12)(step)) for step in range(13)] if cycle else [0.03] * 13
        np.testing.assert_allclose(rates, expected, atol=1e-6)
    assert model.optimizer.weight_decay == 0.05
    assert "cycle" not in model.name and float(code.compiled(4, width=2).optimizer.learning_rate) == 0


def test_smoothed_labels_leave_a_hundredth_for_each_wrong_class(code):
    targets = np.eye(10)[y[:100]]
    for smoothing in (0, 0.1):
        model = code.compiled(1, smoothing=smoothing, width=2, kernels=(3,))
        loss = model.evaluate(x[:100], targets, verbose=0)[0]
        smooth = (1 - smoothing) * targets + smoothing / 10
        p = code.probabilities(model, x[:100])
        assert loss == pytest.approx(-(smooth * np.log(p)).sum(axis=1).mean(), rel=1e-3)


def test_seed_1_after_seed_0_is_a_fresh_seed_1(code):
    settings = {"epochs": 2} | SHAPE
    targets, results = np.eye(10)[y[:200]], []
    trained = code.compiled(**settings)
    keras.utils.set_random_seed(0)
    code.PEAK.assign(0.05)
    trained.fit(x[:200], targets, batch_size=100, epochs=2, verbose=0)
    for model in (trained, code.compiled(**settings)):
        keras.utils.set_random_seed(1)
        code.start_afresh(model, code.compiled(**settings))
        fresh = [v.numpy() for v in model.variables]
        assert int(model.optimizer.iterations) == 0
        assert all(not np.any(v.numpy()) for v in model.optimizer.variables if "learning_rate" not in v.path)
        model.fit(x[:200], targets, batch_size=100, epochs=2, verbose=0)
        results.append([*fresh, *(v.numpy() for v in model.variables)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    keras.utils.set_random_seed(1)
    for a, b in zip(results[0], code.build(**SHAPE).variables, strict=False):
        np.testing.assert_array_equal(a, b)


def test_a_constant_rate_survives_a_fresh_start(code):
    model = code.compiled(1, cycle=False, width=2, kernels=(3,))
    code.start_afresh(model, code.compiled(1, cycle=False, width=2, kernels=(3,)))
    code.PEAK.assign(0.02)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)


def test_probabilities_come_in_the_order_of_the_pictures(code):
    model = code.build(4, kernels=(), hidden=1)
    many = np.concatenate([x, x, x])  # more than two batches
    np.testing.assert_allclose(code.probabilities(model, many), model.predict(many, verbose=0), atol=1e-5)


def test_train_gives_a_row_a_seed_and_what_scikit_learn_counts(code):
    settings = {"epochs": 3, "width": 6, "kernels": (), "hidden": 1}
    model = code.compiled(**settings)
    begun = time.perf_counter()
    rows = code.train("net", model, [0, 1, 0], 0.01, settings, code.PARTS, keep=True)
    assert 0 < rows["seconds"].min() and rows["seconds"].sum() < time.perf_counter() - begun
    assert list(rows["network"]) == ["net"] * 3 and set(rows["rate"]) == {0.01}
    assert set(rows["parameters"]) == {model.count_params()}
    assert set(rows["multiply-adds"]) == {784 * 6 + 60}
    for _, row in rows.iterrows():
        assert row["test"] == accuracy_score(y[300:], row["probabilities"].argmax(axis=1))
        assert len(row["curves"]["accuracy"]) == len(row["curves"]["val_accuracy"]) == 3
    p = code.probabilities(model, x[:300]).argmax(axis=1)  # the last seed's weights are still there
    last = rows.iloc[2]
    assert last["train"] == accuracy_score(y[:100], p[:100])  # as many as the test has
    assert last["validation"] == accuracy_score(y[200:300], p[200:])
    np.testing.assert_allclose(rows["probabilities"][0], rows["probabilities"][2], atol=1e-3)
    assert np.abs(rows["probabilities"][0] - rows["probabilities"][1]).max() > 0.01
    plain = code.train("net", model, [0], 0.01, settings, code.PARTS)
    assert "curves" not in plain and plain["validation"][0] == rows["validation"][0]


def test_a_training_that_diverges_is_infinitely_bad_and_never_chosen(code):
    settings = {"epochs": 2, "width": 4, "kernels": (), "hidden": 1, "normalise": False}
    rows = code.train_well("net", [0], settings, [1e30, 0.001])
    assert set(rows["rate"]) == {0.001} and np.isfinite(rows["test"]).all()
    rows = code.train_well("net", [0], settings, [1e30])
    assert (rows[["train", "validation", "test"]] == -np.inf).all(axis=None)
    assert (code.summary(rows)[["train", "validation", "test"]] == "diverged").all(axis=None)


def test_train_well_chooses_on_validation_with_the_trial_seeds_only(code, monkeypatch):
    calls = []

    def train(network, model, seeds, rate, settings, parts, keep=False):
        calls.append((list(seeds), rate, keep))
        assert ("test" in parts) == (list(seeds) != [7, 8])
        good = {0.1: 0.5, 0.2: 0.9, 0.3: 0.7}[rate]
        return pd.DataFrame({"network": network, "rate": rate, "validation": [good], "test": [1 - good]})

    code.train, code.TRIAL_SEEDS = train, [7, 8]
    settings = {"epochs": 1, "width": 2, "kernels": ()}
    assert set(code.train_well("net", [0, 1], settings, [0.1, 0.2, 0.3], keep=True)["rate"]) == {0.2}
    assert calls == [([7, 8], 0.1, False), ([7, 8], 0.2, False), ([7, 8], 0.3, False), ([0, 1], 0.2, True)]
    calls.clear()
    code.train_well("net", [0], settings, [0.3])
    assert calls == [([0], 0.3, False)]


def test_other_parts_are_used_for_training_and_measuring(code):
    settings = {"epochs": 1, "width": 2, "kernels": (), "hidden": 1}
    parts = {
        "train": (x[:100], np.full(100, 4)),
        "validation": (x[:50], np.full(50, 4)),
        "test": (x[:60], y[:60]),
    }
    rows = code.train_well("net", [0], settings | {"epochs": 30}, [0.05], parts)
    assert rows["train"][0] > 0.9 and rows["validation"][0] > 0.9 and rows["test"][0] < 0.5


@pytest.fixture
def rows():
    """Three networks with four, four and five seeds."""
    random = np.random.default_rng(5)
    frames = []
    for name, mean, seeds in (("a", 0.92, 4), ("b", 0.90, 4), ("c", 0.915, 5)):
        frame = pd.DataFrame({"network": name, "test": random.normal(mean, 0.01, seeds)})
        frames.append(frame.assign(validation=frame["test"] - 0.3, train=0.99, rate=0.1, parameters=7))
    rows = pd.concat(frames)
    return rows.assign(seconds=np.arange(13) + 1.26, **{"multiply-adds": 9})


def test_compare_is_welch_with_holm(code, rows):
    pairs = [("a", "b"), ("c", "b")]
    table, p = code.compare(rows, pairs), []
    scores = dict(list(rows.groupby("network")["test"]))
    for row, (first, second) in enumerate(pairs):
        found = stats.ttest_ind(scores[first], scores[second], equal_var=False)
        low, high = found.confidence_interval(0.95)
        assert table["difference"][row] == pytest.approx((low + high) / 2)
        assert table["±"][row] == pytest.approx((high - low) / 2)
        p.append(found.pvalue)
    np.testing.assert_allclose(table["p"], multipletests(p, method="holm")[1])
    shifted = code.compare(rows.assign(validation=rows["test"] * 2), pairs, "validation")
    np.testing.assert_allclose(shifted["difference"], 2 * table["difference"])


def test_compare_of_single_seeds_or_of_nothing_has_no_interval(code, rows):
    single = rows.groupby("network").head(1)
    assert list(code.compare(single, [("a", "b")])) == ["network", "against", "difference"]
    assert code.compare(rows, []).empty
    equal = code.compare(rows.assign(test=0.5), [("a", "b")])
    assert equal["difference"][0] == 0 and equal["p"][0] == 1


def test_summary_has_means_spread_and_the_fastest_seconds(code, rows):
    table = code.summary(rows)
    assert list(table.index) == ["a", "b", "c"]
    a = rows.loc[rows["network"] == "a", "test"]
    assert table.loc["a", "test"] == pytest.approx(a.mean())
    assert table.loc["a", "test, sd"] == pytest.approx(a.std())
    assert list(table["seconds"]) == [1.3, 5.3, 9.3]
    assert "test, sd" not in code.summary(rows.groupby("network").head(1))


def test_confusions_add_both_directions_and_take_the_mean(code):
    code.y_test = np.array([0, 0, 1, 1, 2, 2])
    answers = [[0, 1, 0, 1, 2, 2], [0, 1, 1, 1, 1, 2]]
    rows = pd.DataFrame({"probabilities": [np.eye(10)[one] for one in answers]})
    pairs = code.confusions(rows)
    assert pairs["T-shirt, trouser"] == 1.5 and pairs["trouser, pullover"] == 0.5
    assert len(pairs) == 45 and pairs.sum() == 2
