"""Lesson 2: the reusable functions against independent references."""

import gzip
import os
import struct

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import definitions
from sklearn.metrics import f1_score, precision_score, recall_score

SMALL = {
    "SEEDS": [0],
    "EPOCHS": 2,
    "WIDTHS": [8, 16],
    "DEPTHS": [2, 3],
    "SIZES": [20000],
    "REMEDIES": {
        "plain": {},
        "He + batch norm + residual": {"initializer": "he_normal", "batch_norm": True, "residual": True},
    },
    "LEARNING_RATES": {"SGD": [0.01, 0.1], "Adam": [0.001]},
    "CHANGES": {"averaged weights": {"ema": 0.99}, "label smoothing 0.1": {"label_smoothing": 0.1}},
    "FINAL_EPOCHS": 2,
    "NEIGHBOURS_OF": 20,
    "TIMED_EPOCHS": 2,
}


@pytest.fixture(scope="module")
def ns() -> dict:
    return definitions("lesson02_keras")


def toy_data(n=120, seed=0):
    """Random images with labels 0..9, as many of each."""
    rng = np.random.default_rng(seed)
    return rng.random((n, 28, 28)).astype("float32"), np.arange(n) % 10


# --- data ---


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 28, 28)])
def test_read_idx_reads_what_was_written(ns, tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(ns["read_idx"](file), array)


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "html", "short"])
def test_read_idx_names_the_file_to_delete(ns, tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (40, 28, 28)).astype("uint8")
    whole = gzip.compress(idx_bytes(noise))
    broken = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "flipped": whole[:300] + bytes([whole[300] ^ 255]) + whole[301:],
        "html": b"<html>log in first</html>",
        "short": gzip.compress(idx_bytes(noise)[:-100]),
    }[damage]
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(broken)
    with pytest.raises(RuntimeError, match=r"t10k-images-idx3-ubyte\.gz.*delete"):
        ns["read_idx"](file)


def test_no_network_gives_the_digits_and_says_so(ns, monkeypatch, capsys):
    def no_network(*args, **kwargs):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", no_network)
    (x, y), (x_test, y_test), names, data_name = ns["load_images"]()
    assert x.shape == (1437, 28, 28) and x_test.shape == (360, 28, 28) and x.dtype == np.uint8
    assert x.max() > 200 and len(names) == 10 and data_name != "Fashion-MNIST"
    assert "NOT Fashion-MNIST" in capsys.readouterr().out


def test_corrupt_file_in_the_cache_is_no_reason_for_the_stand_in(ns, monkeypatch, tmp_path):
    file = tmp_path / "broken.gz"
    file.write_bytes(b"nonsense")
    monkeypatch.setattr(keras.utils, "get_file", lambda *args, **kwargs: str(file))
    with pytest.raises(RuntimeError, match="broken.gz"):
        ns["load_images"]()


def test_split_is_stratified_disjoint_and_scaled(ns):
    y = np.repeat(np.arange(10), 30)
    x = np.broadcast_to(np.arange(300)[:, None, None] % 256, (300, 28, 28)).astype("uint8")
    (a, ya), (b, yb) = ns["split_images"](x, y, 200, 20, seed=0)
    assert len(a) == 200 and len(b) == 20 and a.dtype == np.float32
    assert (np.bincount(ya) == 20).all() and (np.bincount(yb) == 2).all()
    assert a.max() <= 1 and a.min() >= 0
    small_a, small_b = ns["split_images"](x, y, 55_000, 5_000, seed=0)
    assert len(small_b[0]) == 25 and len(small_a[0]) == 275


# --- networks ---


@pytest.mark.parametrize("depth, width", [(1, 5), (2, 7), (3, 20), (10, 11)])
def test_parameter_formula_agrees_with_keras(ns, depth, width):
    assert ns["count_parameters"](depth, width) == ns["build_network"](depth, width).count_params()


@pytest.mark.parametrize("size", [50_000, 400_000])
def test_matched_widths_differ_by_less_than_two_percent(ns, size):
    widths, spread = ns["matched_widths"]([2, 3, 5, 10], size)
    counts = [ns["build_network"](depth, width).count_params() for depth, width in widths.items()]
    assert max(counts) / min(counts) - 1 == pytest.approx(spread)
    assert spread < 0.02 and all(abs(count / size - 1) < 0.06 for count in counts)


def test_residual_connections_add_the_layer_s_input(ns):
    model = ns["build_network"](3, 6, residual=True)
    for layer in model.layers:  # a second hidden layer of zeros passes its input on
        if isinstance(layer, keras.layers.Dense) and layer.kernel.shape == (6, 6):
            layer.set_weights([np.zeros((6, 6)), np.zeros(6)])
    x, _ = toy_data(8)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    hidden = np.maximum(x.reshape(8, -1) @ np.asarray(dense[0].kernel), 0)
    logits = hidden @ np.asarray(dense[2].kernel)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ns["predict"](model, x), expected, atol=1e-5)


def test_gradient_norms_agree_with_automatic_differentiation(ns):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the reference needs the TensorFlow backend")
    x, y = toy_data(64)
    keras.utils.set_random_seed(0)
    model = ns["build_network"](4, 9)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    with tf.GradientTape() as tape:
        picked = tf.gather(model(x, training=True), y, batch_dims=1)
        loss = -tf.reduce_mean(tf.math.log(picked))
    expected = [np.linalg.norm(g) for g in tape.gradient(loss, [kernel.value for kernel in kernels])]
    np.testing.assert_allclose(ns["gradient_norms"](model, x, y), expected, rtol=1e-3)


def test_cosine_schedule_rises_then_falls_to_zero(ns):
    optimizer = ns["make_optimizer"]("AdamW", 0.01, 0.02, "cosine", 0.9, steps=200)
    schedule = optimizer._learning_rate
    rates = np.array([float(schedule(step)) for step in range(201)])
    assert rates.argmax() == 10 and rates.max() == pytest.approx(0.01)
    assert (np.diff(rates[10:]) <= 1e-9).all() and rates[-1] == pytest.approx(0, abs=1e-6)
    assert optimizer.weight_decay == 0.02 and optimizer.use_ema and optimizer.ema_momentum == 0.9


def test_default_rates_are_those_of_keras(ns):
    for name in ns["LEARNING_RATES"]:
        entry = ns["OPTIMIZERS"][name]
        optimizer = getattr(keras.optimizers, entry["class_name"])(**entry["config"])
        assert ns["default_rate"](name) == pytest.approx(float(optimizer.learning_rate))
        assert ns["default_rate"](name) in ns["LEARNING_RATES"][name]


# --- the row store ---


def counting_run():
    calls = []

    def run(stem, seed, **configuration):
        calls.append(seed)
        return {"value": 0.1 * seed, "history": '{"loss": [1.0, 0.5]}'}

    return run, calls


def test_a_run_is_made_once(ns, tmp_path):
    run, calls = counting_run()
    first = ns["run_once"](tmp_path / "s.csv", run, {"seed": 1}, {"version": 1})
    again = ns["run_once"](tmp_path / "s.csv", run, {"seed": 1}, {"version": 1})
    assert calls == [1] and first == again and first["value"] == pytest.approx(0.1)


@pytest.mark.parametrize("settings", [{"version": 2}, {"version": 1, "images": 10}])
def test_other_settings_never_reuse_a_row(ns, tmp_path, settings):
    run, calls = counting_run()
    ns["run_once"](tmp_path / "s.csv", run, {"seed": 1}, {"version": 1})
    ns["run_once"](tmp_path / "s.csv", run, {"seed": 1}, settings)
    assert calls == [1, 1]


@pytest.mark.parametrize("cut", [1, 4, 25])
def test_a_torn_last_line_costs_one_run(ns, tmp_path, cut):
    path = tmp_path / "s.csv"
    run, calls = counting_run()
    for seed in range(3):
        ns["run_once"](path, run, {"seed": seed}, {})
    text = path.read_text()
    path.write_text(text[:-cut])
    calls.clear()
    rows = [ns["run_once"](path, run, {"seed": seed}, {}) for seed in range(3)]
    assert calls == [2] and path.read_text() == text and [row["seed"] for row in rows] == [0, 1, 2]


def test_a_row_without_its_kept_files_is_run_again(ns, tmp_path):
    run, calls = counting_run()

    def keeps(stem, **configuration):
        np.savez(f"{stem}.npz", test=np.ones(3))
        return run(stem, **configuration)

    path, configuration = tmp_path / "s.csv", {"seed": 1, "keep": True}
    row = ns["run_once"](path, keeps, configuration, {})
    np.testing.assert_array_equal(ns["kept"](pd.DataFrame([row]), path, "test"), np.ones((1, 3)))
    os.remove(path.with_name(f"s_{row['key']}.npz"))
    ns["run_once"](path, keeps, configuration, {})
    assert calls == [1, 1]


def test_one_real_run_and_its_row(ns, tmp_path):
    data = {name: toy_data(seed=k) for k, name in enumerate(("train", "validation", "test"))}
    base = ns["BASE"] | {"width": 8, "epochs": 2, "patience": 2, "keep": True}
    row = ns["train_and_measure"](tmp_path / "r", data, seed=0, **base)
    model = keras.saving.load_model(tmp_path / "r.keras", compile=False)
    assert row["parameters"] == ns["count_parameters"](2, 8) == model.count_params()
    right = ns["predict"](model, data["test"][0]).argmax(axis=1) == data["test"][1]
    assert row["test"] == pytest.approx(right.mean())


# --- measures ---


def random_probabilities(runs=3, n=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    logits = rng.normal(size=(runs, n, 10))
    logits[:, np.arange(n), labels] += 1.5
    p = np.exp(logits)
    return p / p.sum(axis=-1, keepdims=True), labels


def test_reliability_by_hand(ns):
    p, labels = random_probabilities()
    table, ece = ns["reliability"](p[0], labels, bins=10)
    expected = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (p[0].max(1) >= low) & (p[0].max(1) < low + 0.1)
        if inside.any():
            right = (p[0].argmax(1) == labels)[inside].mean()
            expected += inside.mean() * abs(right - p[0].max(1)[inside].mean())
    assert ece == pytest.approx(expected, abs=1e-9) and table["images"].sum() == len(labels)


def test_certain_and_right_is_perfectly_calibrated(ns):
    assert ns["reliability"](np.eye(10), np.arange(10))[1] == 0
    assert ns["reliability"](np.eye(10), (np.arange(10) + 1) % 10)[1] == 1


def test_class_scores_agree_with_sklearn(ns):
    p, labels = random_probabilities(runs=2)
    names = [f"c{k}" for k in range(10)]
    scores = ns["class_scores"](p, labels, names).loc[names]
    functions = {"precision": precision_score, "recall": recall_score, "f1-score": f1_score}
    for column, function in functions.items():
        expected = np.mean([function(labels, q.argmax(1), average=None) for q in p], axis=0)
        np.testing.assert_allclose(scores[column], expected)
    matrix = ns["confusion"](p, labels)  # rows are true classes
    np.testing.assert_allclose(np.diag(matrix) / matrix.sum(axis=1), scores["recall"])
    assert ns["class_scores"](p, labels, names)["f1-score"].is_monotonic_increasing


def test_difference_interval(ns):
    p, labels = random_probabilities(n=2000)
    difference, low, high = ns["difference_interval"](p, p, labels)
    assert difference == 0 and low <= 0 <= high
    better = np.eye(10)[np.where(np.arange(2000) < 1800, labels, (labels + 1) % 10)][None]
    worse = np.eye(10)[np.where(np.arange(2000) < 1600, labels, (labels + 1) % 10)][None]
    difference, low, high = ns["difference_interval"](better, worse, labels)
    spread = 1.96 * np.sqrt(0.1 * 0.9 / 2000)  # 200 of 2,000 images differ, all one way
    assert difference == pytest.approx(0.1)
    assert low == pytest.approx(0.1 - spread, abs=0.003) and high == pytest.approx(0.1 + spread, abs=0.003)


def test_neighbour_purity_of_two_clusters(ns):
    x = np.concatenate([np.zeros((20, 28, 28)), np.ones((20, 28, 28))])
    pure, mixed = np.repeat([0, 1], 20), np.tile([0, 1], 20)
    np.testing.assert_allclose(ns["neighbour_purity"]((x, pure), (x, pure), 5, k=10), [1, 1])
    np.testing.assert_allclose(ns["neighbour_purity"]((x, mixed), (x, mixed), 5, k=20), [0.5, 0.5])


def test_learning_curves_unpack_histories(ns):
    history = '{"val_accuracy": [0.5, 0.6], "loss": [1.0, 0.9], "seconds": [2.0, 1.0]}'
    curves = ns["learning_curves"](pd.DataFrame({"history": [history], "optimizer": ["Adam"], "seed": [0]}))
    assert curves["second"].tolist() == [2.0, 3.0] and curves["epoch"].tolist() == [1, 2]


def test_effects_of_a_group_against_itself_are_zero(ns):
    p, labels = random_probabilities()
    groups = {"reference": {"test": p}, "ensemble": {"test": p.mean(axis=0, keepdims=True)}}
    table = ns["effects"](groups, "reference", {"test": labels})
    assert table.loc["reference", "test change"] == 0 and table["runs"].tolist() == [3, 1]
    expected = (p.mean(axis=0).argmax(axis=1) == labels).mean() - (p.argmax(axis=-1) == labels).mean()
    assert table.loc["ensemble", "test change"] == pytest.approx(expected)


def test_standard_error_of_the_test_set(ns):
    assert ns["standard_error"](0.9, 10_000) == pytest.approx(0.003)


def test_doublings_and_summary(ns):
    rows = pd.DataFrame({"width": [8, 8, 16, 16], "test": [0.80, 0.82, 0.84, 0.86], "seconds": 1.0})
    step = ns["doublings"](rows, "test")
    assert step["test gain"].tolist() == pytest.approx([0.04])
    assert step["test se"].tolist() == pytest.approx([np.sqrt(2 * np.var([0.80, 0.82], ddof=1) / 2)])
    summary = ns["summarise"](rows.assign(train=0.9, validation=0.85, parameters=10), "width")
    assert summary.loc[16, "test"] == pytest.approx(0.85) and summary.loc[8, "gap"] == pytest.approx(0.09)
