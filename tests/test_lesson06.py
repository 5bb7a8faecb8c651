"""Lesson 6: its measures, targets, windows, loss and store against independent references."""

import io
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import definitions
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

LESSON = definitions("lesson06_unet")
LESSON["SHAPE_DISTANCE"] = 5  # chosen on validation images when the lesson runs

SMALL = {
    "SEEDS": [0],
    "STAND_IN_IMAGES": 60,
    "WIDTH": 2,
    "DEPTH": 2,
    "CROP": 32,
    "BATCH": 2,
    "STEPS": 2,
    "LADDER_ROWS": 2,
    "CHANGES_LEFT_OUT": [
        "half the width",
        "crops of half the side",
        "crops of twice the side",
        "depth 2",
        "depth 3",
        "depth 5",
        "twice the width",
        "loss: cross-entropy only",
        "loss: Dice only, no border class",
        "loss: focal",
        "border weights instead",
        "no augmentation",
        "flips and quarter turns only",
        "no contrast inversion",
        "no batch normalisation",
        "constant learning rate",
        "grey images",
    ],
    "FINAL_SEEDS": [0],
    "FINAL_CANDIDATES": {"width 2": {"width": 2, "depth": 2}},
    "FINAL_CROP": 32,
    "FINAL_BATCH": 2,
    "FINAL_STEPS": 2,
    "FINAL_PRECISION": "float32",
    "CODER_STEPS": 2,
    "FEW_IMAGES": [2],
    "FEW_SEEDS": [0],
    "FEW_STEPS": [2],
    "TILE": 96,
    "OVERLAP": 16,
    "BOOTSTRAP": 50,
    "TIMED_STEPS": 1,
}


def blocks(rng, shape=(40, 50), n=12):
    """A label map of `n` rectangles that may touch and cover one another, numbered 1.. without gaps."""
    labels = np.zeros(shape, int)
    for number in range(1, n + 1):
        y, x = rng.integers(0, shape[0] - 5), rng.integers(0, shape[1] - 5)
        labels[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = number
    return np.unique(labels, return_inverse=True)[1].reshape(shape)


def test_pixel_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        a, b = rng.random((20, 30)) < share, rng.random((20, 30)) < 0.4
        ours = LESSON["pixel_scores"](a, b)
        assert ours["iou"] == pytest.approx(jaccard_score(a.ravel(), b.ravel()))
        assert ours["dice"] == pytest.approx(f1_score(a.ravel(), b.ravel()))
        assert ours["accuracy"] == pytest.approx(accuracy_score(a.ravel(), b.ravel()))
    nothing = np.zeros((3, 3), bool)
    assert LESSON["pixel_scores"](nothing, nothing) == {"iou": 1.0, "dice": 1.0, "accuracy": 1.0}
    with pytest.raises(ValueError, match="shape"):
        LESSON["pixel_scores"](nothing, np.zeros((3, 4), bool))


def slow_precision(truth, found, threshold):
    """TP / (TP + FP + FN) by loops over masks and an optimal assignment."""
    true_ids, found_ids = (np.unique(m[m > 0]) for m in (truth, found))
    hit = np.array(
        [
            [
                ((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum() > threshold
                for f in found_ids
            ]
            for t in true_ids
        ]
    ).reshape(len(true_ids), len(found_ids))
    rows, columns = linear_sum_assignment(~hit)
    tp = hit[rows, columns].sum()
    total = len(true_ids) + len(found_ids) - tp
    return tp / total if total else 1.0


def test_average_precision_agrees_with_an_optimal_assignment_of_masks():
    rng = np.random.default_rng(1)
    for _ in range(5):
        truth = blocks(rng)
        found = np.where(rng.random(truth.shape) < 0.93, np.roll(truth, rng.integers(0, 2), axis=1), 0)
        ours = LESSON["average_precision"](truth, found, thresholds=[0.5, 0.7, 0.9])
        assert ours == pytest.approx([slow_precision(truth, found, t) for t in (0.5, 0.7, 0.9)])
    assert LESSON["average_precision"](truth, truth) == pytest.approx(np.ones(10))
    empty = np.zeros((4, 4), int)
    assert LESSON["average_precision"](empty, empty) == pytest.approx(np.ones(10))
    assert LESSON["average_precision"](blocks(rng, (4 + 16, 20), 2), np.zeros((20, 20), int)).max() == 0
    with pytest.raises(ValueError, match="several matches"):
        LESSON["average_precision"](empty, empty, thresholds=[0.4])


def test_gaps_in_the_numbers_do_not_count_as_nuclei():
    truth, found = np.zeros((2, 6, 6), int)
    truth[:2, :2], found[:2, :2], found[4:, 4:] = 7, 3, 9
    scores = LESSON["instance_scores"](truth, found)
    assert (scores["nuclei"], scores["found"]) == (1, 2)
    assert scores["map"] == pytest.approx(0.5)


def test_targets_by_loops_over_pixels():
    labels = blocks(np.random.default_rng(2), (24, 26), 6).astype(np.uint16)
    code = LESSON["make_code"](labels)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            near, close = set(), set()
            for v in range(max(0, y - 3), min(height, y + 4)):
                for u in range(max(0, x - 3), min(width, x + 4)):
                    close |= {labels[v, u]} - {0}
                    if abs(v - y) + abs(u - x) <= 2:
                        near.add(labels[v, u])
            expected = 0 if labels[y, x] == 0 else (1 if near == {labels[y, x]} else 2)
            assert code[y, x] == expected + (4 if len(close) > 1 else 0)


def test_nuclei_that_touch_are_cut_apart_by_the_border_class():
    labels = np.zeros((40, 60), np.uint16)
    labels[5:25, 5:25], labels[5:25, 25:45], labels[30:34, 50:53] = (
        1,
        2,
        3,
    )  # two that touch, one without inside
    probabilities = np.eye(3, dtype=np.float32)[LESSON["make_code"](labels) % 4]
    mask, found = LESSON["find_nuclei"](probabilities)
    assert np.array_equal(mask, labels > 0)
    assert LESSON["iou_matrix"](labels, found).max(axis=1) == pytest.approx([1, 1, 1], abs=0.06)
    joined, _ = LESSON["pixel_scores"](labels > 0, mask), None
    assert joined["iou"] == 1 and found.max() == 3


def test_otsu_finds_nuclei_of_either_contrast_and_the_watershed_cuts_discs():
    y, x = np.mgrid[:60, :90]
    discs = ((y - 30) ** 2 + (x - 30) ** 2 < 200) | ((y - 30) ** 2 + (x - 54) ** 2 < 200)
    for image in (np.where(discs, 200, 20), np.where(discs, 60, 230)):
        mask = LESSON["otsu_mask"](np.repeat(image.astype(np.uint8)[..., None], 3, axis=-1))
        assert jaccard_score(discs.ravel(), mask.ravel()) > 0.95
    parts = LESSON["split_by_shape"](discs, min_distance=5)
    assert parts.max() == 2 and parts[30, 25] != parts[30, 59]


@pytest.mark.parametrize("size", [(70, 100), (128, 33), (31, 57)])
def test_windows_put_every_pixel_back_in_its_place(size):
    image = np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)

    class Same:
        """Returns its input, so that what comes back is where the windows put it."""

        output = np.zeros((1, 1, 1, 3))

        def predict_on_batch(self, block):
            return block

    found = LESSON["predict_windows"](Same(), [image, image[:20]], tile=48, overlap=8)
    assert np.abs(found[0] * 255 - image).max() < 0.2 and np.abs(found[1] * 255 - image[:20]).max() < 0.2
    flipped = LESSON["predict_flipped"](Same(), [image], tile=48, overlap=8)
    assert np.abs(flipped[0] * 255 - image).max() < 0.2
    with pytest.raises(ValueError, match="core"):
        LESSON["windows_of"](image, 16, 8)


def test_multiply_adds_and_the_skips():
    shape = {"width": 2, "depth": 1, "batch_norm": False, "channels": 2}
    with_skips = LESSON["build_unet"](**shape, skips=True, side=8)
    down = 64 * 9 * (3 * 2 + 2 * 2)
    code = 16 * 9 * (2 * 4 + 4 * 4)
    up = 64 * 2 * 4 + 64 * 9 * (4 * 2 + 2 * 2)
    assert LESSON["multiply_adds"](with_skips) == down + code + up + 64 * 2 * 2
    without = LESSON["build_unet"](**shape, skips=False, side=8)
    assert LESSON["multiply_adds"](with_skips) - LESSON["multiply_adds"](without) == 64 * 9 * 2 * 2
    keras.utils.set_random_seed(0)
    image = np.random.default_rng(0).random((1, 8, 8, 3)).astype("float32")
    for network in (with_skips, without):
        for layer in network.layers:
            if layer.name == "up0_double":  # nothing may come through the code
                layer.kernel.assign(np.zeros(layer.kernel.shape))
        varies = np.ptp(np.asarray(network(image))[0, 2:-2, 2:-2], axis=(0, 1)).max() > 1e-4
        assert varies == (network is with_skips)


def test_losses_by_hand():
    p = np.array([[[[0.8, 0.2], [0.3, 0.7]]]], "float32")  # one image of 1 x 2 pixels, two classes
    code = np.array([[[[0.0], [5.0]]]], "float32")  # background; inside, and close to two nuclei
    packed = np.concatenate([p, code], axis=-1)

    def loss(kind, border):
        return float(LESSON["segmentation_loss"](kind, border)(None, packed))

    a, b = -np.log(0.8), -np.log(0.7)
    dice = 1 - (2 * 0.7 + 1) / (0.2 + 0.7 + 1 + 1)
    assert loss("ce", "none") == pytest.approx((a + b) / 2, abs=1e-5)
    assert loss("ce", "weights") == pytest.approx((a + 5 * b) / 6, abs=1e-5)
    assert loss("focal", "none") == pytest.approx((0.2**2 * a + 0.3**2 * b) / 2, abs=1e-5)
    assert loss("dice", "none") == pytest.approx(dice, abs=1e-5)
    assert loss("ce+dice", "none") == pytest.approx((a + b) / 2 + dice, abs=1e-5)
    with pytest.raises(ValueError, match="no such loss"):
        LESSON["segmentation_loss"]("mse", "none")


def test_flips_and_quarter_turns_are_the_eight_symmetries_for_image_and_target_alike():
    keras.utils.set_random_seed(0)
    one = np.random.default_rng(4).integers(0, 256, (6, 6, 4)).astype(np.uint8)
    out = np.asarray(LESSON["Augment"]("flips")(np.repeat(one[None], 100, axis=0), training=True))
    one = one.astype(float) / [255, 255, 255, 1]
    symmetries = [np.rot90(m, k) for m in (one, one[:, ::-1]) for k in range(4)]
    which = [next(i for i, s in enumerate(symmetries) if np.allclose(s, o, atol=1e-2)) for o in out]
    assert set(which) == set(range(8))
    still = np.asarray(
        LESSON["Augment"]("full")((one * [255, 255, 255, 1])[None].astype(np.uint8), training=False)
    )
    assert np.allclose(still[0, ..., :3], one[..., :3], atol=1 / 254)
    with pytest.raises(ValueError, match="augmentation"):
        LESSON["Augment"]("strong")


def test_full_augmentation_moves_the_target_with_the_image():
    keras.utils.set_random_seed(1)
    disc = ((np.mgrid[:64, :64] - np.array([24, 40])[:, None, None]) ** 2).sum(axis=0) < 120
    packed = np.repeat(np.dstack([255 * disc] * 3 + [disc])[None].astype(np.uint8), 16, axis=0)
    out = np.asarray(LESSON["Augment"]("no inversion")(packed, training=True))
    for image, code in zip(out[..., 0], out[..., 3], strict=True):
        bright = image > (image.min() + image.max()) / 2
        assert jaccard_score(bright.ravel(), (code > 0.5).ravel()) > 0.85
    assert len({int(c.sum()) for c in out[..., 3]}) > 8  # the scale changes


def test_crops_are_parts_of_their_image_and_the_same_for_the_same_seed():
    image = np.arange(40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    code = np.arange(40 * 30).reshape(40, 30).astype(np.uint8)
    make = LESSON["Crops"]
    batch, zeros = make([image], [code], 16, 5, 3, seed=0)[1]
    packed = np.dstack([image, code])
    places = [packed[y : y + 16, x : x + 16] for y in range(25) for x in range(15)]
    assert batch.shape == (5, 16, 16, 4) and zeros.shape == (5, 1)
    assert all(any(np.array_equal(crop, place) for place in places) for crop in batch)
    assert np.array_equal(batch, make([image], [code], 16, 5, 3, seed=0)[1][0])
    assert not np.array_equal(batch, make([image], [code], 16, 5, 3, seed=1)[1][0])
    assert make([image], [code], 64, 1, 1, seed=0)[0][0].shape == (1, 64, 64, 4)


def test_kept_weights_come_back_and_an_encoder_is_copied(tmp_path):
    keras.utils.set_random_seed(0)
    coder, path = LESSON["build_coder"](2, 2, False), tmp_path / "coder.npz"
    LESSON["save_weights"](coder, path)
    again = LESSON["load_weights"](LESSON["build_coder"](2, 2, False), path)
    image = np.random.default_rng(0).random((1, 16, 16, 3)).astype("float32")
    assert np.array_equal(np.asarray(coder(image)), np.asarray(again(image)))
    unet = LESSON["build_unet"](2, 2, True, True, 3)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in unet.weights}
    LESSON["copy_encoder"](path, unet)
    kept = {w.path: keras.ops.convert_to_numpy(w) for w in coder.weights}
    for weight in unet.weights:
        encoder = weight.path.startswith(("down", "code"))
        assert np.array_equal(keras.ops.convert_to_numpy(weight), (kept if encoder else before)[weight.path])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RuntimeError, match="coder.npz is truncated or corrupt.*delete this file"):
        LESSON["load_weights"](again, path)
    LESSON["STORE"] = tmp_path / "rows.csv"
    with pytest.raises(FileNotFoundError, match="other.npz is missing: delete rows.csv"):
        LESSON["load_weights"](again, tmp_path / "other.npz")


def write_zip(path):
    """A zip in the layout of the data set: one colour image with two nuclei, one grey image with one."""

    def png(array):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "png")
        return buffer.getvalue()

    rng, images, maps = np.random.default_rng(5), {}, {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, n in (("b", 2), ("a", 1)):
            image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
            image = image if name == "b" else np.repeat(image[..., :1], 3, axis=-1)
            archive.writestr(
                f"{name}/images/{name}.png", png(np.dstack([image, np.full((20, 24), 255, np.uint8)]))
            )
            images[name], maps[name] = image, np.zeros((20, 24), int)
            for i in range(n):
                mask = np.zeros((20, 24), np.uint8)
                mask[2 + 8 * i : 7 + 8 * i, 3:9] = 255
                maps[name][mask > 0] = i + 1
                archive.writestr(f"{name}/masks/m{i}.png", png(mask))
    return images, maps


def test_the_zip_is_read_and_kept_and_a_corrupt_file_is_named(tmp_path):
    path = tmp_path / "stage1_train.zip"
    images, maps = write_zip(path)
    names, read, labels = LESSON["read_zip"](path)
    assert names == ["a", "b"] and read[0].ndim == 2 and read[1].ndim == 3
    assert np.array_equal(read[0], images["a"][..., 0]) and np.array_equal(read[1], images["b"])
    assert all(np.array_equal(m, maps[n]) for n, m in zip(names, labels, strict=True))
    compact = tmp_path / "lesson06.npz"
    LESSON["save_compact"](compact, names, read, labels)
    kept = LESSON["load_compact"](compact)
    assert kept[0] == names and all(
        np.array_equal(a, b) for a, b in zip(kept[1] + kept[2], read + labels, strict=True)
    )
    for file, function in ((path, "read_zip"), (compact, "load_compact")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(RuntimeError, match=f"{file.name} is truncated or corrupt.*delete this file"):
            LESSON[function](file)
    with pytest.raises(ValueError, match="mask 1"):
        LESSON["join_masks"]([np.ones((3, 3))], (3, 4))


def test_the_stand_in_has_every_kind_and_nuclei_that_touch():
    names, images, maps = LESSON["draw_stand_in"](15, seed=1)
    assert {LESSON["kind_of"](image) for image in images} == set(LESSON["KINDS"])
    assert all(np.array_equal(np.unique(m), np.arange(m.max() + 1)) and m.max() >= 2 for m in maps)
    assert any(((m[:, 1:] != m[:, :-1]) & (m[:, 1:] > 0) & (m[:, :-1] > 0)).any() for m in maps)
    assert all(
        np.array_equal(a, b) for a, b in zip(images, LESSON["draw_stand_in"](15, seed=1)[1], strict=True)
    )


def test_the_split_keeps_the_kinds_and_never_shares_an_image():
    kinds = np.array(["dark"] * 100 + ["stain"] * 50 + ["bright"] * 20)
    split = LESSON["split_by_kind"](kinds, 0)
    together = np.concatenate(list(split.values()))
    assert sorted(together) == list(range(170))
    assert [len(split[p]) for p in ("train", "validation", "test")] == [119, 17, 34]
    assert (kinds[split["test"]] == "bright").sum() == 4
    with pytest.raises(ValueError, match="ten images"):
        LESSON["split_by_kind"](kinds[:155], 0)


def test_bootstrap_and_verdicts():
    rng = np.random.default_rng(0)
    values = rng.normal(0.02, 0.1, 400)
    low, high = LESSON["bootstrap_interval"](values, 4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    base = rng.random((2, 400))
    compare = LESSON["compare"]
    assert compare(base + 0.02 + rng.normal(0, 0.01, (2, 400)), base, 500)["verdict"] == "better"
    assert compare(base - 0.02, base, 500)["verdict"] == "worse"
    assert compare(base + [[0.05], [-0.01]], base, 500)["verdict"] == "within the noise"  # seeds disagree
    assert compare(base + rng.normal(0, 0.3, (2, 400)) * 0.1, base, 500)["verdict"] == "within the noise"
    assert compare(base + 0.02, base, 500, spread=0.011)["verdict"] == "within the noise"  # 2 sd sqrt(2 / 2)
    assert compare(base + 0.02, base, 500, spread=0.009)["verdict"] == "better"


def test_spread_over_seeds_is_that_of_the_two_labels_but_never_below_the_typical_one():
    values = {"a": [0.1, 0.2], "b": [0.5, 0.5], "c": [0.3, 0.32], "d": [0.3, 0.32]}
    rows = pd.DataFrame([{"label": k, "test plain iou": v} for k, vs in values.items() for v in vs])
    wide, typical = np.var([0.1, 0.2], ddof=1), np.var([0.3, 0.32], ddof=1)
    assert LESSON["seed_spread"](rows, "iou", ("a", "b")) == pytest.approx(np.sqrt(wide / 2))
    assert LESSON["seed_spread"](rows, "iou", ("b", "c")) == pytest.approx(np.sqrt(typical))


def test_gains_are_paired_by_seed_and_image():
    rows = []
    for label, bonus in (("reference", 0.0), ("change", 0.1)):
        for seed in (1, 0):
            row = {"label": label, "seed": seed, "validation plain iou": 0.5 + bonus / 2}
            for m in ("iou", "map"):
                values = np.random.default_rng(seed).random(60) / 2 + bonus
                row |= {f"test plain {m}": values.mean(), f"test plain {m} list": " ".join(map(str, values))}
            rows.append(row)
    rows = pd.DataFrame(rows).sample(frac=1, random_state=0)
    line = LESSON["gains"](rows, [(("change", "plain"), ("reference", "plain"))], 200).loc["change"]
    assert line["validation iou gain"] == pytest.approx(0.05)
    assert (line["iou gain"], line["iou low"], line["map high"]) == pytest.approx((0.1, 0.1, 0.1))


def test_the_plan_changes_one_thing_at_a_time():
    base = {"width": 4, "depth": 2, "crop": 32, "batch": 8, "steps": 10}
    plan = LESSON["comparison_plan"]([0, 1], base, 11, ["depth 2"])
    first = {e["label"]: e for e in plan["additive"] + plan["single"]}
    reference = first["reference"]
    seeds = pd.Series([e["label"] for e in plan["single"]]).value_counts()
    assert seeds["depth 3"] == seeds["depth 5"] == 2 and "depth 2" not in seeds
    for name, changes in LESSON["CHANGES"].items():
        if name == "depth 2":
            continue
        differing = {k for k in reference if first[name][k] != reference[k]} - {"label", "flips", "seed"}
        assert differing == (set(changes) - {"flips"}) | ({"batch"} if "crop" in changes else set())
    for entry in plan["additive"] + plan["single"]:
        assert entry["batch"] * entry["crop"] ** 2 == 8 * 32**2
    assert {k: v for k, v in first["+ border class"].items() if k != "label"} == {
        k: v for k, v in reference.items() if k != "label"
    }


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
    text = path.read_text()
    path.write_text(text + "torn,line")
    assert len(LESSON["read_rows"](path)) == 3


def test_noise_is_one_value_for_all_channels_of_a_pixel():
    LESSON["NOISE"] = 0.1
    crops = np.random.default_rng(0).random((3, 40, 40, 3)).astype(np.float32)
    noise = LESSON["noisy"](crops, 5) - crops
    assert np.ptp(noise, axis=-1).max() < 1e-6 and noise.std() == pytest.approx(0.1, rel=0.05)
    assert LESSON["psnr"](crops, crops + noise) == pytest.approx([20] * 3, abs=0.5)


def test_peak_signal_to_noise_ratio():
    clean = np.zeros((2, 4, 4, 3))
    assert LESSON["psnr"](clean, clean + 0.1) == pytest.approx([20, 20])
    table = pd.DataFrame({"found": [3, 5, 8], "nuclei": [4, 5, 4]})
    assert LESSON["count_errors"](table) == {"count error": pytest.approx(5 / 3), "count error %": 25}


def test_the_busiest_window_holds_most_of_the_mask():
    mask = np.random.default_rng(6).random((50, 70)) < 0.1
    mask[30:38, 5:13] = True
    window = LESSON["busiest"](mask, 20)
    most = max(mask[y : y + 20, x : x + 20].sum() for y in range(31) for x in range(51))
    assert mask[window].shape == (20, 20) and mask[window].sum() >= 0.9 * most
    assert mask[LESSON["busiest"](mask, 60)].shape == (50, 60)
