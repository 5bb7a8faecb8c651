"""Lesson 6: mosaics, splits, crops, networks, cutting and measures against independent references."""

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats
from scipy.optimize import linear_sum_assignment
from skimage import data
from sklearn.metrics import f1_score, jaccard_score
from statsmodels.stats.multitest import multipletests

LESSON = "lesson06_unet"
SMALL = {"SCALE": "tiny", "SEEDS": [0, 1], "DRAWS": [0, 1], "COUNTS": [6], "FOLDS": [0, 1]}
ONE = SMALL | {"SEEDS": [0], "DRAWS": [0], "FOLDS": [0]}
WRONG = {"SCALE": "ful"}
SCOREBOARD = [
    "IoU, split by mosaic",
    "Dice, split by mosaic",
    "mAP, split by mosaic",
    "IoU, random split",
    "leak of the random split, IoU",
]

rng = np.random.default_rng(0)
PLAIN = {"random": False, "flips": False, "invert": False, "by_kind": False, "light": False}
PLAIN |= {"crop": 16, "views": 1, "steps": 4}


def blocks(seed, shape=(40, 50), n=12):
    """A label map of rectangles that may touch and cover one another."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, np.uint16)
    for number in range(1, n + 1):
        y, x = rng.integers(0, shape[0] - 5), rng.integers(0, shape[1] - 5)
        labels[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = number
    return labels


@pytest.fixture
def code(code):
    """The lesson's definitions with twelve small images in the place of its data."""
    vars(code).update(WIDTH=2, DEPTH=1, BATCH=4, STEPS=4, EPOCHS=2, JIT=False)
    code.label_maps = [blocks(seed) for seed in range(12)]
    noise = rng.integers(0, 60, (12, 40, 50, 3))
    code.images = [np.uint8(n + 150 * (m > 0)[..., None]) for n, m in zip(noise, code.label_maps, strict=True)]
    code.dark = [255 - image for image in code.images]
    code.targets = [np.uint8(m > 0) for m in code.label_maps]
    code.kinds = np.array(["stained"] * 2 + ["fluorescence"] * 8 + ["bright field"] * 2)
    return code


def tiles_of(picture, side):
    """Tiles in random order, and their rows and columns."""
    cells = list(np.ndindex(picture.shape[0] // side, picture.shape[1] // side))
    cells = [cells[k] for k in np.random.default_rng(1).permutation(len(cells))]
    return [picture[side * r : side * r + side, side * c : side * c + side] for r, c in cells], np.array(cells)


@pytest.mark.parametrize("grey", [False, True])
def test_mosaics_are_found_in_the_tiles_of_a_picture(code, grey):
    picture = np.uint8(ndimage.gaussian_filter(data.astronaut()[:384, :384].astype(float), (2, 2, 0)))
    picture = picture.mean(axis=2, keepdims=True).repeat(3, axis=2).astype("uint8") if grey else picture
    tiles, cells = tiles_of(picture, 128)
    found = code.all_seams(tiles)
    steps = cells[found["other"]] - cells[found["one"]]
    assert len(found) == 12 and np.array_equal(steps, np.eye(2, dtype=int)[found["axis"]])
    place = code.places(found, 4)
    assert all(np.array_equal(place[k] - place[0], cells[k] - cells[0]) for k in range(9))


def test_no_mosaics_in_strangers_nor_backwards(code):
    tiles, _ = tiles_of(data.astronaut()[:384, :384], 128)
    assert len(code.all_seams(tiles, reverse=True)) == 0
    shuffled = [np.random.default_rng(k).permutation(t.reshape(-1, 3)).reshape(t.shape) for k, t in enumerate(tiles)]
    assert len(code.all_seams(shuffled)) == 0
    strangers = [tiles[0], data.coffee()[:128, :128], data.cat()[:128, :128], np.zeros((128, 128, 3), "uint8")]
    assert len(code.all_seams(strangers)) == 0


def test_pictures_of_other_sizes_are_no_neighbours(code):
    picture = data.astronaut()[:384, :384]
    upper, lower = picture[:128], picture[128:]  # they fit, but a mosaic has tiles of one size
    assert len(code.all_seams([upper, lower])) == 0 and len(code.all_seams([upper, picture[128:256]])) == 1


def test_a_jump_that_is_larger_than_usual_is_no_seam(code):
    picture = data.astronaut()[:256, :256]
    brighter = np.uint8(picture[128:] / 2 + 100)  # lines correlate, levels differ
    assert len(code.all_seams([picture[:128], brighter])) == 0


def test_mosaics_stay_whole_and_every_image_is_tested_once(code):
    mosaic = np.repeat(np.arange(100), rng.integers(1, 5, 100))
    kinds = np.repeat(["a", "b"], [70, 30])[mosaic]
    tested = []
    for fold in range(5):
        part = code.parts(fold, kinds, mosaic)
        assert sorted(np.concatenate(list(part.values()))) == list(range(len(kinds)))
        groups = [set(mosaic[index]) for index in part.values()]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        sizes = {name: len(index) / len(kinds) for name, index in part.items()}
        assert sizes == pytest.approx({"test": 0.2, "validation": 0.1, "train": 0.7}, abs=0.05)
        assert np.mean(kinds[part["test"]] == "b") == pytest.approx(np.mean(kinds == "b"), abs=0.06)
        tested += list(part["test"])
    assert sorted(tested) == list(range(len(kinds)))


def test_crossover_is_balanced(code):
    sizes = np.r_[np.full(40, 1), np.full(40, 4), np.full(9, 2), 12, 12, 9]
    mosaic = np.repeat(np.arange(len(sizes)), sizes)
    kinds = np.where(mosaic % 3 == 0, "a", "b")
    table = code.crossover(mosaic, kinds).sort_index()
    assert np.array_equal(table["mosaic"], mosaic) and np.array_equal(table["kind"], kinds)
    assert np.array_equal(table["tiles"], sizes[mosaic])
    assert (table.groupby("mosaic")["half"].nunique() == 1).all()
    several = table[table["tiles"] > 1]
    assert (several.groupby("mosaic")["tested"].sum() == 1).all()
    counts = several.groupby(["kind", "half"])["mosaic"].nunique().unstack()
    assert (counts["A"] - counts["B"]).abs().max() <= 1
    trained = several[~several["tested"]].groupby("half").size()
    assert abs(trained["A"] - trained["B"]) <= 12
    alone = table[table["tiles"] == 1]
    assert 12 <= alone["tested"].sum() <= 14 and alone[alone["tested"]]["half"].nunique() == 2
    other = code.crossover(mosaic, kinds, seed=1).sort_index()
    assert not np.array_equal(other["tested"], table["tested"])


def slow_precision(truth, found, threshold):
    """TP / (TP + FP + FN) by loops over masks and an optimal assignment."""
    true, other = ([m == n for n in np.unique(m[m > 0])] for m in (truth, found))
    hit = np.array([[(t & f).sum() / (t | f).sum() > threshold for f in other] for t in true])
    tp = hit[linear_sum_assignment(~hit)].sum()
    return tp / (len(true) + len(other) - tp)


@pytest.mark.parametrize("seed", range(4))
def test_measures_agree_with_scikit_learn_and_an_optimal_assignment(code, seed):
    rng, truth = np.random.default_rng(seed), blocks(seed)
    found = np.where(rng.random(truth.shape) < 0.93, np.roll(truth, rng.integers(0, 2), axis=1), 0)
    a, b = truth > 0, found > 0
    assert code.iou(a, b) == pytest.approx(jaccard_score(a.ravel(), b.ravel()))
    slow = [slow_precision(truth, found, threshold) for threshold in np.linspace(0.5, 0.95, 10)]
    scores = code.nuclei_scores(truth, found)
    assert scores["mAP"] == pytest.approx(np.mean(slow)) and scores["nuclei"] == len(np.unique(truth)) - 1
    code.label_maps[3] = truth
    row = code.score(3, b[..., None].astype("float32"))
    assert row["Dice"] == pytest.approx(f1_score(a.ravel(), b.ravel())) and row["image"] == 3


def test_nothing_in_both_is_perfect_and_nothing_found_is_nothing(code):
    empty, full = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert code.iou(empty > 0, empty > 0) == 1 and code.nuclei_scores(empty, empty)["mAP"] == 1
    for pair in ((empty, full), (full, empty)):
        assert code.nuclei_scores(*pair)["mAP"] == 0


def test_merged_and_split_nuclei_are_counted(code):
    truth, found = np.zeros((2, 30, 40), int)
    truth[0:5, 0:10], truth[0:5, 10:20] = 1, 2  # found as one
    found[0:5, 0:20] = 1
    truth[10:15, 0:20] = 3  # found as two
    found[10:15, 0:10], found[10:15, 10:20] = 2, 3
    truth[20:25, 0:20], found[20:25, 0:18] = 4, 4
    scores = code.nuclei_scores(truth, found)
    assert scores["merged"] == 2 and scores["split"] == 1 and scores["nuclei"] == 4


def discs(*centres, radius=9, shape=(48, 64)):
    y, x = np.indices(shape)
    labels = np.zeros(shape, int)
    for number, (row, column) in enumerate(centres, start=1):
        labels[(np.hypot(y - row, x - column) < radius) & (labels == 0)] = number
    return labels


def test_touching_discs_are_cut_and_lone_ones_kept(code):
    truth = discs((15, 15), (15, 31))
    truth[36:40, 5:9] = 3  # a small one
    truth[44:46, 44:46] = 4  # a speck
    found = code.separate(np.float32(truth > 0)[..., None], 5)
    pairs = {(t, f) for t, f in zip(truth.ravel(), found.ravel(), strict=True) if t and f}
    assert len(np.unique(found)) == 4 and not found[truth == 4].any()
    assert code.nuclei_scores(np.where(truth == 4, 0, truth), found)["mAP"] > 0.9 and len(pairs) <= 6
    assert len(np.unique(code.separate(np.float32(truth > 0)[..., None], 20))) == 3  # too far apart for two


def test_a_border_class_cuts_where_it_says(code):
    truth = discs((15, 15), (15, 31))
    inside = np.zeros_like(truth, bool)
    for number in (1, 2):
        inside |= ndimage.binary_erosion(truth == number, iterations=2)
    border = (truth > 0) & ~inside
    border[14, 6:9] = False  # a few pixels of the rim that are surely inside: no nucleus of their own
    chance = np.dstack([truth > 0, 0.6 * border]).astype("float32")
    found = code.separate(chance, 0.5)
    assert code.nuclei_scores(truth, found)["mAP"] > 0.9 and len(np.unique(found)) == 3
    assert len(np.unique(code.separate(chance, 0.7))) == 2  # nowhere border enough


@pytest.mark.parametrize("change", [{}, {"random": True}, {"flips": True}, {"light": True}])
def test_image_and_target_change_together(code, change):
    mask = np.kron(rng.integers(0, 2, (5, 6)), np.ones((8, 8))).astype("uint8")
    image = np.dstack([100 + 100 * mask] * 3)
    settings, seen = PLAIN | change, set()
    for k in range(60):
        x, y = code.changed(image, mask, np.random.default_rng(k), settings)
        assert x.shape == (16, 16, 3) and y.shape == (16, 16)
        if y.any() and not y.all():
            assert len(np.unique(x[y == 1])) == 1 and x[y == 1].min() > x[y == 0].max()
        seen.add((x.tobytes(), y.tobytes()))
    assert len({y for _, y in seen}) <= 6 if change in ({}, {"light": True}) else len(seen) > 12
    assert change != {"light": True} or len(seen) > 30


def test_flips_and_turns_make_all_eight_and_only_those(code):
    image = rng.integers(0, 255, (16, 16, 3), dtype="uint8")
    eight = {np.rot90(side, k).tobytes() for side in (image, image[:, ::-1]) for k in range(4)}
    crops = [code.changed(image, image[..., 0], np.random.default_rng(k), PLAIN | {"flips": True}) for k in range(150)]
    assert {x.tobytes() for x, _ in crops} == eight
    assert all(np.array_equal(x[..., 0], y) for x, y in crops)


def test_crops_have_the_targets_that_the_network_asks_for(code):
    code.targets = [np.uint8(m > 0) + np.uint8(m > 5) for m in code.label_maps]
    index = np.arange(12)
    one, two, three = (next(code.crops(index, 3, PLAIN, outputs)) for outputs in (1, 2, 3))
    assert one[0].shape == (4, 16, 16, 3) and one[1].shape == (4, 16, 16, 1) and one[1].dtype == "float32"
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1][..., :1])
    assert two[1].shape[-1] == 2 and (two[1][..., 1] <= two[1][..., 0]).all() and two[1][..., 1].any()
    np.testing.assert_allclose(three[1], three[0] / 255, atol=1e-6)
    other = next(code.crops(index, 4, PLAIN, 1))
    assert not np.array_equal(one[0], other[0])
    inverted = next(code.crops(index, 3, PLAIN | {"invert": True}, 1))
    assert np.array_equal(inverted[0], 255 - one[0]) and np.array_equal(inverted[1], one[1])


def test_by_kind_draws_rare_kinds_more_often(code):
    code.images = [np.full((16, 16, 3), k, "uint8") for k in range(12)]
    code.targets = [np.zeros((16, 16), "uint8")] * 12
    for by_kind, expected in {False: 2 / 12, True: 2**0.5 / (2 * 2**0.5 + 8**0.5)}.items():
        batches = code.crops(np.arange(12), 0, PLAIN | {"by_kind": by_kind}, 1)
        drawn = np.concatenate([next(batches)[0][:, 0, 0, 0] for _ in range(400)])
        assert np.mean(drawn < 2) == pytest.approx(expected, abs=0.04)


def test_whole_images_are_predicted_in_place(code):
    code.images = [rng.integers(0, 255, (h, w, 3), dtype="uint8") for h, w in [(20, 33), (32, 16), (20, 33), (7, 9)]]
    code.dark = [255 - image for image in code.images]

    def network(x, training):
        assert x.shape[1] % 16 == 0 and x.shape[2] % 16 == 0 and not training
        return x[..., :1] / 255

    for views in (1, 4):
        maps = code.predict(network, [2, 0, 3, 1], PLAIN | {"views": views})
        for i, found in zip([2, 0, 3, 1], maps, strict=True):
            np.testing.assert_allclose(found, code.images[i][..., :1] / 255, atol=1e-6)
    inverted = code.predict(network, [1], PLAIN | {"invert": True})
    np.testing.assert_allclose(inverted[0], code.dark[1][..., :1] / 255, atol=1e-6)


def test_four_views_are_the_mean_over_both_mirrors(code):
    code.images = [rng.integers(0, 255, (16, 16, 3), dtype="uint8")]
    ramp = np.arange(16.0)[:, None] + 100 * np.arange(16.0)
    found = code.predict(lambda x, training: 0 * x[..., :1] + ramp[None, ..., None], [0], PLAIN | {"views": 4})
    mean = sum(np.flip(ramp, axes) for axes in [(), (0,), (1,), (0, 1)]) / 4
    np.testing.assert_allclose(found[0][..., 0], mean)


def test_the_loss_by_hand(code):
    truth = rng.integers(0, 2, (3, 8, 8, 2)).astype("float32")
    found = rng.uniform(0.05, 0.95, truth.shape).astype("float32")
    entropy = -(truth * np.log(found) + (1 - truth) * np.log(1 - found)).mean(axis=(1, 2, 3))
    dice = 1 - 2 * (truth * found).sum(axis=(1, 2, 3)) / (truth.sum(axis=(1, 2, 3)) + found.sum(axis=(1, 2, 3)))
    loss = keras.ops.convert_to_numpy(code.entropy_and_dice(truth, found))
    np.testing.assert_allclose(loss, entropy + dice, rtol=1e-4)


@pytest.mark.parametrize("skips", [True, False])
def test_the_network_keeps_the_size_and_compiles_with_xla(code, skips):
    code.DEPTH = 2
    network = code.unet(2, skips=skips, outputs=2)
    joins = [layer for layer in network.layers if isinstance(layer, keras.layers.Concatenate)]
    assert len(joins) == 2 * skips and all(layer.supports_jit for layer in network.layers)
    filters = [layer.filters for layer in network.layers if type(layer) is keras.layers.Conv2D]
    assert filters == [2, 2, 4, 4, 8, 8, 4, 4, 2, 2, 2]
    assert network(np.zeros((1, 16, 24, 3))).shape == (1, 16, 24, 2)
    assert network.get_layer("code").output.shape[-1] == 8
    network.compile("sgd", code.entropy_and_dice, jit_compile=True)
    assert np.isfinite(network.train_on_batch(np.ones((2, 16, 16, 3)), np.ones((2, 16, 16, 2))))


def test_without_skips_a_detail_must_pass_through_the_code(code):
    """With the code's maps set to zero only a network with skip connections still sees its image."""
    for skips in (True, False):
        network = code.unet(2, skips=skips)
        up = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2DTranspose))
        up.kernel.assign(0 * up.kernel)
        a, b = (np.array(network(rng.integers(0, 255, (1, 8, 8, 3)))) for _ in range(2))
        assert np.allclose(a, b) is not skips


@pytest.mark.parametrize("average", [True, False])
def test_the_seed_decides_a_training_however_often_it_starts_afresh(code, average):
    model, runs = code.compiled(2, average=average), []
    for seed in (0, 1, 0):
        code.fit(model, seed, PLAIN, np.arange(12))
        runs.append([np.array(w) for w in model.weights])
    same = [all(np.allclose(a, b, atol=1e-5) for a, b in zip(runs[0], r, strict=True)) for r in runs]
    assert same == [True, False, True]


def test_averaging_starts_from_the_first_step_and_keeps_a_share(code):
    code.EPOCHS, settings = 1, PLAIN | {"steps": 1}
    weights = []
    for average in (True, False):
        model = code.compiled(2, average=average)
        for _ in range(2):  # also when it starts afresh
            code.fit(model, 0, settings, np.arange(12))
        weights.append([np.array(w) for w in model.trainable_weights])
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(*weights, strict=True))


def test_an_encoder_is_taken_over(code):
    coder = code.compiled(2, skips=False, outputs=3, loss="mse", average=False)
    code.fit(coder, 5, PLAIN, np.arange(12))
    encoder = keras.Model(coder.input, coder.get_layer("code").output)
    before = [np.array(w) for w in encoder.weights]
    code.PEAK = 0.0
    model = code.compiled(2, average=False)
    code.fit(model, 0, PLAIN, np.arange(12), encoder)
    begun = keras.Model(model.input, model.get_layer("code").output)
    for layer, old in zip(begun.trainable_weights, encoder.trainable_weights, strict=True):
        assert layer.path.split("/")[-1] == old.path.split("/")[-1]
        np.testing.assert_allclose(layer, old, atol=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(before, encoder.weights, strict=True))


def test_one_cycle_rises_for_a_fifth_and_falls_to_zero(code):
    code.EPOCHS = 100
    rates = np.array([code.one_cycle(epoch) for epoch in range(100)])
    assert rates.argmax() in (19, 20) and rates.max() == pytest.approx(code.PEAK, rel=0.05)
    assert (np.diff(rates[:20]) > 0).all() and (np.diff(rates[20:]) < 0).all()
    assert rates[59:61].mean() == pytest.approx(code.PEAK / 2, rel=0.05) and 0 <= rates[-1] < 0.001 * code.PEAK


def test_rows_name_the_network_the_seed_the_image_and_the_cut(code):
    rows = code.train("n", code.compiled(2), [0, 3], PLAIN, np.arange(8), [9, 10], (3, 5))
    assert sorted(zip(rows["seed"], rows["image"], rows["cut"], strict=True)) == [
        (seed, image, cut) for seed in (0, 3) for image in (9, 10) for cut in (3, 5)
    ]
    assert (rows["network"] == "n").all() and rows[["IoU", "mAP", "ms"]].notna().all(axis=None)


def test_stretched_between_its_own_quantiles(code):
    picture = rng.integers(20, 60, (50, 50, 3), dtype="uint8")
    low, high = np.quantile(picture, [0.005, 0.998])
    expected = np.clip((picture.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(code.stretched(picture) - expected).max() <= 1
    assert not code.stretched(np.full((4, 4, 3), 7, "uint8")).any()


def test_interval_is_a_bootstrap_over_mosaics(code):
    values = rng.normal(size=60)
    found = code.interval(values, np.arange(60))
    expected = stats.bootstrap((values,), np.mean, rng=0, method="percentile").confidence_interval
    assert found["mean"] == pytest.approx(values.mean()) and found["images"] == 60
    assert (found["from"], found["to"]) == pytest.approx(tuple(expected), abs=0.03)
    twins = code.interval(np.repeat(values, 4), np.repeat(np.arange(60), 4))  # no new mosaics: no narrower
    assert twins["to"] - twins["from"] == pytest.approx(found["to"] - found["from"], rel=0.05)


def test_compare_is_welch_with_holm(code):
    rows = pd.DataFrame({"network": np.repeat(list("abc"), 4), "IoU": rng.normal(size=12) / 9})
    rows["IoU"] += np.repeat([0, 0.3, 0.31], 4)
    pairs = [("b", "a"), ("c", "b")]
    found = code.compare(rows, pairs)
    groups = {name: group.to_numpy() for name, group in rows.groupby("network")["IoU"]}
    tests = [stats.ttest_ind(groups[a], groups[b], equal_var=False) for a, b in pairs]
    assert found["difference"].to_numpy() == pytest.approx([groups[a].mean() - groups[b].mean() for a, b in pairs])
    assert found["p"].to_numpy() == pytest.approx(multipletests([t.pvalue for t in tests], method="holm")[1])
    for half, test in zip(found["±"], tests, strict=True):
        low, high = test.confidence_interval()
        assert half == pytest.approx((high - low) / 2)
    assert list(code.compare(rows[::4], pairs)) == ["network", "against", "difference"]
