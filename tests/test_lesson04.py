"""Lesson 4: its counts, moves, schedule and comparisons against independent references."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

LESSON = "lesson04_cnn"
SMALL = {"SCALE": "tiny"}
ONE = SMALL
WRONG = {"SCALE": "ful"}
SCOREBOARD = [
    "test accuracy, final network",
    "test accuracy, dense network",
    "test accuracy, permuted pixels, convolutional",
    "test accuracy, permuted pixels, dense",
]


def moved(image, down, right):
    """The image shifted by whole pixels, zeros coming in: plain loops over pixels."""
    out = np.zeros_like(image)
    for row, column in np.ndindex(image.shape):
        if 0 <= row - down < image.shape[0] and 0 <= column - right < image.shape[1]:
            out[row, column] = image[row - down, column - right]
    return out


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_shifted_yields_every_whole_pixel_move_and_nothing_else(code, pixels):
    image = np.random.default_rng(0).integers(1, 255, (6, 5)).astype("uint8")
    out = code.shifted(np.repeat(image[None], 400, axis=0), pixels, np.random.default_rng(1))
    steps = range(-pixels, pixels + 1)
    moves = [moved(image, down, right) for down in steps for right in steps]
    which = {next(i for i, move in enumerate(moves) if np.array_equal(move, one)) for one in out}
    assert out.dtype == np.uint8 and which == set(range(len(moves)))


def test_multiply_adds_by_hand(code):
    convolutions = 28 * 28 * 7 * 7 * 16 + 14 * 14 * 5 * 5 * 16 * 32 + 7 * 7 * 3 * 3 * 32 * 64
    assert code.multiply_adds(code.build(width=16)) == convolutions + 3 * 3 * 64 * 128 + 128 * 10
    assert code.multiply_adds(code.build(kernels=(), head=(20, 30))) == 784 * 20 + 20 * 30 + 30 * 10


@pytest.mark.parametrize("shape", [{}, {"convs": 2, "dropout": 0.1}, {"kernels": (), "head": (8, 8)}])
def test_no_layer_takes_xla_off_the_network(code, shape):
    model = code.build(width=2, **shape)
    assert all(layer.supports_jit for layer in model.layers)
    model.compile("sgd", "mse", jit_compile=True)
    assert np.isfinite(model.train_on_batch(np.ones((4, 28, 28, 1), "float32"), np.ones((4, 10), "float32")))


@pytest.mark.parametrize(
    "shape", [{}, {"kernels": (5, 3), "convs": 2, "width": 3}, {"kernels": (7, 5, 3, 3)}]
)
def test_sizes_agree_with_keras(code, shape):
    model = code.build(**shape)
    counted = {"parameters": model.count_params(), "multiply-adds": code.multiply_adds(model)}
    assert code.sizes(**shape) == counted


def test_matched_finds_the_closest_width(code):
    assert code.matched("parameters", 16) == 16
    for size, shape in [("parameters", {"kernels": (7,)}), ("multiply-adds", {"kernels": (3, 3, 3)})]:
        found = code.matched(size, 16, **shape)
        goal = code.sizes()[size]
        off = [abs(code.sizes(width=width, **shape)[size] - goal) for width in (found - 1, found, found + 1)]
        assert off[1] == min(off) and off[1] < 0.15 * goal


def test_one_cycle_peaks_at_a_quarter_and_ends_at_zero(code):
    rates = [float(code.one_cycle(0.008, 400)(step)) for step in range(401)]
    assert rates[0] == 0 and np.argmax(rates) == 100 and rates[100] == pytest.approx(0.008)
    assert rates[50] == pytest.approx(0.004) and rates[250] == pytest.approx(0.004)
    assert rates[400] == pytest.approx(0, abs=1e-9)


@pytest.fixture
def tiny(code):
    """A few random pictures under the lesson's names."""
    rng = np.random.default_rng(3)
    data = rng.integers(0, 255, (40, 28, 28)).astype("uint8"), rng.integers(0, 10, 40)
    vars(code).update(train=data, test=data, BATCH=20, class_names=code.CLASSES)
    code.parts = {"train": data, "validation": data, "test": data}


def test_start_sets_weights_random_streams_and_optimiser_back(code, tiny):
    shape = {"kernels": (3,), "width": 2, "dropout": 0.5}
    model = code.compiled(2, 0.01, 0.1, **shape)
    state = [code.keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    trained = []
    for _ in range(2):
        code.start(model, 5, state, **shape)
        fresh = [np.array(weight) for weight in model.get_weights()]
        assert all(np.array_equal(a, b) for a, b in zip(model.optimizer.variables, state, strict=True))
        model.fit(code.train[0], np.eye(10)[code.train[1]], batch_size=20, shuffle=False, verbose=0)
        trained.append([fresh, model.get_weights()])
    assert int(model.optimizer.iterations) == 2
    assert not all(np.array_equal(a, b) for a, b in zip(*trained[0], strict=True))
    for first, again in zip(*trained, strict=True):  # the same flips and the same dropout, too
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_run_gives_a_row_a_seed_and_the_seed_decides(code, tiny):
    rows = code.run([0, 1, 0], 2, 0.01, shift=0, kernels=(), head=(8,), flip=False)
    assert [row["seed"] for row in rows] == [0, 1, 0]
    assert np.array_equal(rows[0]["answers"], rows[2]["answers"])
    assert not np.array_equal(rows[0]["answers"], rows[1]["answers"])
    assert rows[0]["parameters"] == 784 * 8 + 8 * 4 + 8 * 10 + 10  # no bias before batch normalisation


class LeftBright:
    """A stand-in for a network: class 1 where the left half is brighter by more than a threshold."""

    def predict(self, images, **_):
        left = (images[:, :, :14].mean(axis=(1, 2)) - images[:, :, 14:].mean(axis=(1, 2))) / 10 - 0.5
        return np.stack([np.zeros_like(left), left], axis=1)


def test_two_views_add_the_mirror_image(code, tiny):
    images = np.zeros((2, 28, 28))
    images[0, :, :14] = 20  # seen as 1, its mirror image more surely as 0
    labels = np.array([1, 0])
    code.parts = dict.fromkeys(["train", "validation", "test"], (images, labels))
    row = code.measure(LeftBright(), views=True)
    assert row["test"] == 1 and row["test, two views"] == 0.5 and "train, two views" not in row
    assert "test, two views" not in code.measure(LeftBright())


def test_compare_is_welch_with_holm(code):
    rng = np.random.default_rng(5)
    values = {"a": rng.normal(0.92, 0.01, 5), "b": rng.normal(0.90, 0.01, 4), "c": rng.normal(0.91, 0.02, 5)}
    rows = pd.DataFrame([(name, v, v) for name, column in values.items() for v in column])
    rows.columns = ["network", "validation", "test"]
    table = code.compare(rows, [("a", "b"), ("a", "c")])
    found = [stats.ttest_ind(values["a"], values[name], equal_var=False) for name in "bc"]
    low, high = found[0].confidence_interval(0.95)
    assert table.loc["a − b", "test"] == f"{(low + high) / 2:+.4f} ± {(high - low) / 2:.4f}"
    assert low < values["a"].mean() - values["b"].mean() < high
    p = [one.pvalue for one in found]
    holm = [min(1, 2 * min(p)), max(2 * min(p), max(p))]
    assert sorted(map(float, table["test: Holm's p"])) == pytest.approx(holm, rel=0.06)


def test_confused_adds_both_directions(code, tiny):
    code.test = (None, np.array([0, 0, 1, 1, 2, 2]))
    rows = pd.DataFrame({"answers": [np.array([0, 1, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 1, 2])]})
    pairs = code.confused(rows)
    assert pairs["Trouser / T-shirt/top"] == 1.5 and pairs["Pullover / Trouser"] == 0.5
    assert len(pairs) == 45 and sum(pairs.values()) == 2
