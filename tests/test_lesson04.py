"""Lesson 4: its counts, layers and measures against independent references."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import definitions
from scipy import stats

LESSON = definitions("lesson04_cnn")


def moved(image, down, right, mirrored):
    """The image mirrored, then shifted by whole pixels with zeros coming in: plain loops over pixels."""
    height, width = image.shape
    source = image[:, ::-1] if mirrored else image
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                out[row, column] = source[row - down, column - right]
    return out


def test_flip_shift_yields_only_whole_pixel_moves_of_the_image():
    rng = np.random.default_rng(0)
    image = rng.random((6, 5)).astype("float32")
    layer = LESSON["FlipShift"](flip=True, shift=1)
    out = np.asarray(layer(np.repeat(image[None, ..., None], 200, axis=0), training=True))[..., 0]
    moves = [moved(image, d, r, m) for d in (-1, 0, 1) for r in (-1, 0, 1) for m in (False, True)]
    which = [next(i for i, move in enumerate(moves) if np.allclose(move, one, atol=1e-6)) for one in out]
    assert set(which) == set(range(18))  # each of the 18 moves turns up in 200 draws, and nothing else does


def test_flip_shift_leaves_images_alone_outside_training():
    images = np.random.default_rng(1).random((3, 28, 28, 1)).astype("float32")
    assert np.array_equal(np.asarray(LESSON["FlipShift"](flip=True, shift=2)(images, training=False)), images)


@pytest.mark.parametrize(
    "shape",
    [
        {"width": 4},
        {"width": 3, "kernels": "5-3", "convs": 2},
        {"width": 2, "kernels": "7-5-3-3", "dense": "20-30"},
    ],
)
def test_the_formula_for_size_agrees_with_keras(shape):
    model = LESSON["build"]("cnn", **shape)
    assert LESSON["network_size"](**shape) == (model.count_params(), LESSON["multiply_adds"](model))


def test_layer_table_by_hand():
    table = LESSON["layer_table"](LESSON["build"]("cnn", width=16))
    assert table["multiply-adds"].tolist() == [
        28 * 28 * 7 * 7 * 16,
        0,
        14 * 14 * 5 * 5 * 16 * 32,
        0,
        7 * 7 * 3 * 3 * 32 * 64,
        0,
        3 * 3 * 64 * 128,
        128 * 10,
    ]
    assert table["receptive field"].tolist() == [7, 8, 16, 18, 26, 28, 28, 28]


def test_a_residual_block_passes_its_input_on():
    model = LESSON["build"]("cnn", width=2, kernels="3", convs=2, residual=True)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            shortcut = layer.name.startswith("shortcut")
            layer.kernel.assign(np.ones(layer.kernel.shape) if shortcut else np.zeros(layer.kernel.shape))
    image = np.random.default_rng(2).random((1, 28, 28)).astype("float32")
    pool = next(layer for layer in model.layers if type(layer).__name__ == "MaxPooling2D")
    maps = np.asarray(type(model)(model.inputs[0], pool.output)(image))
    assert np.allclose(maps[0, ..., 0], image.reshape(14, 2, 14, 2).max(axis=(1, 3)), atol=1e-6)


def test_closest_width():
    for target in (1, 37, 1_000, 40_000):
        found = LESSON["closest_width"](target, lambda width: width * width, high=300)
        assert found == min(range(1, 301), key=lambda width: abs(width * width - target))


def test_training_images_keep_the_number_of_updates():
    x, y = np.arange(50.0).reshape(50, 1), np.arange(50)
    few_x, few_y = LESSON["training_images"]({"train": (x, y)}, 7, seed=3)
    assert len(few_x) == 50 and len(set(few_y.tolist())) == 7 and np.array_equal(few_x[:, 0], few_y)
    again = LESSON["training_images"]({"train": (x, y)}, 7, seed=3)[1]
    other = LESSON["training_images"]({"train": (x, y)}, 7, seed=4)[1]
    assert np.array_equal(few_y, again) and set(other.tolist()) != set(few_y.tolist())


def test_paired_difference_is_the_t_interval_of_scipy():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.92, 0.01, 6), rng.normal(0.90, 0.01, 6)
    rows = pd.DataFrame({"label": ["a"] * 6 + ["b"] * 6, "seed": [*range(6)] * 2, "test": [*a, *b]})
    ours = LESSON["paired_difference"](rows, "a", "b")
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert ours["difference"] == pytest.approx((low + high) / 2)
    assert ours["half width"] == pytest.approx((high - low) / 2)
    assert ours["verdict"] == ("better" if low > 0 else "within the noise")


def test_images_needed():
    sizes, accuracy = [100, 1_000, 10_000], [0.5, 0.7, 0.9]
    assert LESSON["images_needed"](sizes, accuracy, 0.8) == pytest.approx(10**3.5)
    assert LESSON["images_needed"](sizes, accuracy, 0.4) == pytest.approx(100)
    assert np.isnan(LESSON["images_needed"](sizes, accuracy, 0.95))


def test_growth_per_doubling():
    rows = pd.DataFrame(
        {"width": [4, 8, 16] * 2, "seed": [0] * 3 + [1] * 3, "test": [0.5, 0.6, 0.65, 0.5, 0.7, 0.73]}
    )
    table = LESSON["growth_per_doubling"](rows)
    assert table["test gain"].tolist() == pytest.approx([0.15, 0.04])
    assert table["test standard error"].tolist() == pytest.approx([0.05, 0.01])


def test_occlusion_finds_the_one_spot_that_matters():
    image = np.zeros((28, 28), "float32")
    image[10:12, 20:22] = 1

    def predict(images):
        spot = images[:, 10:12, 20:22].mean(axis=(1, 2))
        return np.stack([1 - spot, spot], axis=1)

    fall = LESSON["occlusion_map"](predict, image, label=1, size=4, stride=2)
    assert fall.shape == (13, 13)
    assert {(2 * i, 2 * j) for i, j in np.argwhere(fall == 1)} == {(8, 18), (8, 20), (10, 18), (10, 20)}


def test_confusion_pairs_add_both_directions():
    pairs = LESSON["confusion_pairs"]({"net": np.array([[5, 2, 0], [3, 5, 1], [0, 4, 5]])}, ["a", "b", "c"])
    assert pairs["net"].to_dict() == {"a / b": 5, "a / c": 0, "b / c": 5}


def test_falling_kernels():
    assert [k for k in ("7-5-3", "5-3-3", "3-3-3", "3-5-7", "7-5-3-3") if LESSON["is_falling"](k)] == [
        "7-5-3",
        "5-3-3",
        "7-5-3-3",
    ]


def test_the_store_makes_each_run_once(tmp_path):
    calls, path = [], tmp_path / "cache" / "rows.csv"

    def function(width):
        calls.append(width)
        return {"test": width / 3}

    for width in (1, 2, 1):
        row = LESSON["run_once"](path, function, {"width": width}, {"code": "x"})
        assert row["test"] == pytest.approx(width / 3)
    assert calls == [1, 2]
    LESSON["run_once"](path, function, {"width": 1}, {"code": "y"})  # other code: the old row does not count
    assert calls == [1, 2, 1]


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])))
    assert LESSON["read_idx"](path).tolist() == [7, 8, 9]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        RuntimeError, match="train-images-idx3-ubyte.gz is truncated or corrupt.*delete this file"
    ):
        LESSON["read_idx"](path)


def test_two_logical_devices_train_the_same_network():
    """`MirroredStrategy` on two logical CPU devices against one device: the same losses, epoch by epoch."""
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command, losses = [sys.executable, "-c", LESSON["TWO_DEVICES"]], []
    for devices in ("1", "2"):
        done = subprocess.run(
            command + [devices], env=environment, capture_output=True, text=True, timeout=300
        )
        assert f"{devices} device(s)" in done.stdout, done.stderr[-2000:]
        losses.append([float(loss) for loss in done.stdout.split("epoch")[-1].split()])
    assert len(losses[0]) == 3 and losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)
