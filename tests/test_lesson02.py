"""Lesson 2: what is worth reusing, against independent references."""

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats

LESSON = "lesson02_keras"
SMALL = {
    "SEEDS": [0, 1],
    "EPOCHS": 1,
    "WIDTHS": [8, 16],
    "DEPTHS": [2, 3],
    "SIZE": 7_000,
    "RATES": [4],
    "FINAL_EPOCHS": 1,
    "FINAL_WIDTH": 16,
}
ONE = SMALL | {"SEEDS": [0], "WIDTHS": [8], "DEPTHS": [2]}
DIVERGES = {"RATES": [4, 1e9]}
SCOREBOARD = ["test accuracy, final network", "test accuracy, five networks"]


@pytest.fixture
def code(code):
    """The lesson's definitions, with 400 random images in the place of its data."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (400, 28, 28), dtype="uint8"), (np.arange(400) % 10).astype("uint8")
    code.parts = {
        "train": (x[:200], y[:200]),
        "validation": (x[200:300], y[200:300]),
        "test": (x[300:], y[300:]),
    }
    code.BATCH = 64
    return code


def fashion(n_train, n_test, classes=10):
    """Noise under Fashion-MNIST's names."""
    return tuple((np.zeros((n, 28, 28), "uint8"), np.arange(n) % classes) for n in (n_train, n_test))


@pytest.mark.parametrize("data", [fashion(120, 20), fashion(60_000, 10_000, 5), fashion(60_000, 1_000)])
def test_other_images_under_the_same_names_are_refused(code, monkeypatch, data):
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: data)
    with pytest.raises(ValueError, match="70,000 images"):
        code.load_data()


def test_ten_equal_classes_are_accepted(code, monkeypatch):
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: fashion(60_000, 10_000))
    assert code.load_data()[2][6] == "Shirt"


def test_depths_have_equal_parameters_as_keras_counts_them(code):
    networks = [{"layers": d, "width": code.matched(d, code.SIZE)} for d in code.DEPTHS]
    counts = [code.build(**network).count_params() for network in networks]
    assert counts == [code.parameters(**network) for network in networks]
    assert max(counts) / min(counts) < 1.01


def test_batches_show_every_image_once_mirrored_and_moved(code):
    x, y = code.parts["train"]
    plain = code.Batches(x, y, flip=0.0, shift=0, seed=0)
    order = plain.order
    epoch = [plain[step] for step in range(len(plain))]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in epoch]), x[order])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in epoch]), y[order])
    plain.on_epoch_end()
    assert sorted(order) == list(range(len(x))) and (plain.order != order).any()
    mirrored = code.Batches(x, y, flip=1.0, shift=0, seed=0)
    np.testing.assert_array_equal(mirrored[0][0], x[mirrored.order[:64], :, ::-1])
    moved = code.Batches(x, y, flip=0.0, shift=1, seed=0)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)])
    places = [
        [np.array_equal(image, padded[i, a : a + 28, b : b + 28]) for a in range(3) for b in range(3)]
        for image, i in zip(moved[0][0], moved.order, strict=False)
    ]
    assert np.sum(places) == 64 and np.any(places, axis=0).all()


def test_cycle_rises_for_a_fifth_and_ends_at_zero(code):
    model, _ = code.compiled(100, rate=0.02, width=8)
    rates = np.array([float(model.optimizer._learning_rate(step)) for step in range(101)])
    assert (
        rates.argmax() == 20
        and rates.max() == pytest.approx(0.02)
        and rates[100] == pytest.approx(0, abs=1e-8)
    )


def test_a_seed_gives_the_same_run_whatever_ran_before(code):
    settings = {"epochs": 1, "width": 8, "dropout": 0.2, "average": True, "flip": 0.5, "keep": True}
    first = code.run(seed=1, **settings)
    other = code.run(seed=0, **settings)
    again = code.run(seed=1, **settings)
    np.testing.assert_allclose(first["test answers"], again["test answers"], atol=1e-5)
    assert np.abs(first["test answers"] - other["test answers"]).max() > 1e-3


def test_start_forgets_training(code):
    model, state = code.compiled(10, width=8)
    keras.utils.set_random_seed(0)
    code.start(model, state)
    before = model.get_weights()
    x, y = code.parts["train"]
    model.fit(x, keras.utils.to_categorical(y, 10), verbose=0)
    assert int(model.optimizer.iterations) == 7
    keras.utils.set_random_seed(0)
    code.start(model, state)
    assert int(model.optimizer.iterations) == 0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_views_are_the_images_moved_and_mirrored(code):
    x = code.parts["test"][0]
    views = code.views(x)
    assert len(views) == 10
    np.testing.assert_array_equal(views[0], x)
    moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    for view, mirrored, move in zip(views[:5], views[5:], moves, strict=True):
        rolled = np.roll(x, move, axis=(1, 2))
        np.testing.assert_array_equal(view[:, 1:-1, 1:-1], rolled[:, 1:-1, 1:-1])
        np.testing.assert_array_equal(mirrored, view[:, :, ::-1])
    assert (views[1][:, 0] == 0).all() and (views[4][:, :, -1] == 0).all()


def test_answers_are_probabilities_of_every_view(code):
    keras.utils.set_random_seed(0)
    model, x = code.build(width=8), code.parts["test"][0]
    answers = code.probabilities(model, x)
    np.testing.assert_allclose(answers.sum(axis=-1), 1, atol=1e-5)
    assert answers.shape == (10, len(x), 10)
    np.testing.assert_allclose(answers[5], code.probabilities(model, x[:, :, ::-1])[0], atol=1e-5)


def test_compare_is_welch_with_holm(code):
    rng = np.random.default_rng(5)
    values = {"a": rng.normal(0.92, 0.01, 5), "b": rng.normal(0.90, 0.01, 4), "c": rng.normal(0.91, 0.02, 5)}
    rows = pd.DataFrame([(name, v, v) for name, column in values.items() for v in column])
    rows.columns = ["width", "validation", "test"]
    table = code.compare(rows, "width", [("a", "b"), ("a", "c")])
    found = [stats.ttest_ind(values["a"], values[name], equal_var=False) for name in "bc"]
    low, high = found[0].confidence_interval(0.95)
    assert table.loc["a − b", "test"] == f"{(low + high) / 2:+.4f} ± {(high - low) / 2:.4f}"
    p = [one.pvalue for one in found]
    holm = [min(1, 2 * min(p)), max(2 * min(p), max(p))]
    assert sorted(map(float, table["test: Holm's p"])) == pytest.approx(holm, rel=0.06)


def test_spread_is_the_sample_s(code):
    rows = pd.DataFrame({"width": [8, 8, 8], "train": [0.1, 0.2, 0.3], "validation": 0.5, "test": 0.5})
    assert code.mean_sd(rows, "width").loc[8, "train"] == "0.2000 ± 0.1000"
