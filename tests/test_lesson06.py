"""Lesson 6: its reader, measures, crops, views, training and comparisons against independent references."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import f1_score, jaccard_score

LESSON = "lesson06_unet"
SMALL = {"SCALE": "tiny"}
ONE = SMALL
WRONG = {"SCALE": "ful"}
SCOREBOARD = [
    "IoU, split by mosaic",
    "Dice, split by mosaic",
    "mAP, split by mosaic",
    "IoU, random split",
    "leak of the random split, IoU",
]
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (20, 24, 3), dtype=np.uint8)
MASKS = np.zeros((2, 20, 24), np.uint8)
MASKS[0, 2:7, 3:9], MASKS[1, 10:15, 3:9] = 255, 255


def png(pixels, mode=None):
    """A PNG file's bytes."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, extra=()):
    """Images of four forms with two masks each, and what else a zip may hold."""
    grey, alpha = COLOUR[..., 0], np.full((20, 24, 1), 255, np.uint8)
    forms = {"a": COLOUR, "b": np.dstack([COLOUR, alpha]), "c": grey, "d": np.dstack([grey, alpha])}
    entries = [(f"top/{name}/images/{name}.PNG", png(pixels)) for name, pixels in forms.items()]
    for name, mode in {"a": None, "b": "RGBA", "c": "LA", "d": "1"}.items():
        entries += [(f"top/{name}/masks/{i}.png", png(mask, mode)) for i, mask in enumerate(MASKS)]
    other = [("top/a/masks/notes.txt", b"text"), ("__MACOSX/top/a/masks/._0.png", b"text"), ("x.png", b"")]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*entries, *other, *extra]:
            archive.writestr(name, data)


def test_the_zip_is_read_whatever_form_its_pictures_have(code, tmp_path):
    write_zip(tmp_path / "n.zip")
    images, labels = code.read_zip(tmp_path / "n.zip")
    grey = np.dstack([COLOUR[..., 0]] * 3)
    assert all(np.array_equal(a, b) for a, b in zip(images, [COLOUR, COLOUR, grey, grey], strict=True))
    assert all(np.array_equal(one, (MASKS[0] > 0) + 2 * (MASKS[1] > 0)) for one in labels)


def test_a_broken_member_costs_its_image(code, tmp_path, capsys, monkeypatch):
    path = tmp_path / "n.zip"
    broken = [(f"{name}/images/i.png", png(COLOUR)) for name in "ef"]
    write_zip(path, [*broken, ("e/masks/0.png", b"torn"), ("f/masks/0.png", png(np.ones((3, 3), np.uint8)))])
    monkeypatch.setattr(code.keras.utils, "get_file", lambda *args, **options: str(path))
    assert len(code.load_nuclei()[0]) == 4
    said = capsys.readouterr().out
    assert "left out, it cannot be read: e" in said and "left out, it cannot be read: f" in said


def blocks(rng, shape=(40, 50), n=12):
    """A label map of rectangles that may touch and cover one another."""
    labels = np.zeros(shape, np.uint16)
    for number in range(1, n + 1):
        y, x = rng.integers(0, shape[0] - 5), rng.integers(0, shape[1] - 5)
        labels[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = number
    return labels


def slow_precision(truth, found, threshold):
    """TP / (TP + FP + FN) by loops over masks and an optimal assignment."""
    true, other = ([m == n for n in np.unique(m[m > 0])] for m in (truth, found))
    hit = np.array([[(t & f).sum() / (t | f).sum() > threshold for f in other] for t in true])
    tp = hit[linear_sum_assignment(~hit)].sum()
    return tp / (len(true) + len(other) - tp)


def test_measures_agree_with_scikit_learn_and_an_optimal_assignment(code):
    code.THRESHOLDS = np.linspace(0.5, 0.95, 10)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = blocks(rng)
        found = np.where(rng.random(truth.shape) < 0.93, np.roll(truth, rng.integers(0, 2), axis=1), 0)
        a, b = truth.ravel() > 0, found.ravel() > 0
        expected = {"IoU": jaccard_score(a, b), "Dice": f1_score(a, b)}
        assert code.pixel_scores(a, b) == pytest.approx(expected)
        slow = [slow_precision(truth, found, threshold) for threshold in code.THRESHOLDS]
        scores = code.nuclei_scores(truth, found)
        assert (scores["mAP"], scores["AP50"]) == pytest.approx((np.mean(slow), slow[0]))
    empty = np.zeros((4, 4), int)
    assert code.pixel_scores(empty > 0, empty > 0) == {"IoU": 1, "Dice": 1}
    assert code.nuclei_scores(empty, empty)["mAP"] == 1


def test_targets_by_loops_and_touching_nuclei_are_cut(code):
    labels = blocks(np.random.default_rng(2), (24, 26), 6)
    target, places = code.graded(labels), list(np.ndindex(labels.shape))
    for y, x in places:
        near = {labels[v, u] for v, u in places if abs(v - y) + abs(u - x) <= 2}
        assert target[y, x] == (0 if not labels[y, x] else 255 if near == {labels[y, x]} else 128)
    two = np.zeros((30, 50), np.uint16)
    two[5:20, 5:20], two[5:20, 20:35], two[25:28, 40:46] = 1, 2, 3  # the third is all border
    target = code.graded(two)
    chance = np.dstack([target > 63, (target > 63) & (target < 192)]).astype("float32")
    found = code.nuclei_of(chance)
    assert found.max() == 3 and code.overlaps(two, found).max(axis=1).min() > 0.85


def test_a_nucleus_stays_whole_where_specks_of_its_rim_are_sure(code):
    """Where the chance of border is low in a few pixels of the rim, they must not take part of the ring."""
    y, x = np.indices((40, 40))
    far = np.hypot(y - 20, x - 20)
    nucleus, border = far < 14, (far >= 10) & (far < 14)
    border[(far >= 12.5) & np.isin(y, (12, 20)) | (far >= 12.5) & (x == 20)] = False  # four specks
    found = code.nuclei_of(np.dstack([0.9 * nucleus, 0.8 * border]).astype("float32"))
    assert found.max() == 1 and np.array_equal(found > 0, nucleus)


@pytest.mark.parametrize("how", [{}, {"light": True}, {"flips": False}])
def test_image_and_target_change_together(code, how):
    mask = np.kron(RNG.integers(0, 2, (12, 12)), np.ones((8, 8))) * 255
    packed = np.dstack([mask] * 4).astype(np.uint8)
    crops = [code.changed(packed, np.random.default_rng(k), 32, **how) for k in range(40)]
    assert all(crop.shape == (32, 32, 4) for crop in crops) and len({crop.tobytes() for crop in crops}) > 30
    for crop in crops:  # what is bright is a nucleus still
        assert np.corrcoef(crop[..., 0].ravel(), crop[..., 3].ravel())[0, 1] > 0.97


def test_views_are_eight_and_whole_images_are_predicted_in_place(code):
    class Brightness:  # a stand-in for a network
        def predict_on_batch(self, canvas):
            return canvas[..., :1] / 255

    code.S = {"canvases": (32, 64)}
    pictures = [RNG.integers(0, 255, (*s, 3), dtype=np.uint8) for s in ((20, 32), (33, 10), (64, 64), (7, 9))]
    views = [code.turned(pictures[0], view) for view in range(8)]
    assert len({view.tobytes() for view in views}) == 8
    assert all(np.array_equal(code.turned(v, k, back=True), pictures[0]) for k, v in enumerate(views))
    for maps in (code.predict(Brightness(), pictures), code.predict_views(Brightness(), pictures, 8)):
        assert all(np.allclose(m, p[..., :1] / 255) for m, p in zip(maps, pictures, strict=True))


@pytest.mark.parametrize("skips", [True, False])
def test_the_network_compiles_with_xla_and_keeps_the_size(code, skips):
    network = code.unet(2, depth=2, skips=skips, outputs=2)
    assert all(layer.supports_jit for layer in network.layers)
    network.compile("sgd", "mse", jit_compile=True)
    assert network.predict_on_batch(np.zeros((1, 16, 24, 3))).shape == (1, 16, 24, 2)
    assert np.isfinite(network.train_on_batch(np.ones((2, 16, 16, 3)), np.ones((2, 16, 16, 2))))


def test_the_seed_decides_a_training_and_an_encoder_is_taken_over(code):
    shape = {"width": 2, "depth": 1, "skips": True, "outputs": 1}
    code.BASE = shape | {"loss": "Dice", "updates": 3, "crop": 16}
    vars(code).update(S={"batch": 4}, JIT=False, GPU=[])
    vars(code).update(LOSSES={"Dice": code.keras.losses.Dice(axis=(1, 2, 3))}, parts={"train": np.arange(12)})
    vars(code).update(images=[COLOUR] * 12, kinds=np.array(["stained"] * 12))
    code.targets = [code.graded(MASKS[0].astype(np.uint16))] * 12
    runs = [[np.array(w) for w in code.fit({}, seed)[0].get_weights()] for seed in (0, 1, 0)]
    same = [all(np.allclose(a, b, atol=1e-5) for a, b in zip(runs[0], r, strict=True)) for r in runs]
    assert same == [True, False, True]
    encoder = [layer.get_weights() for layer in code.unet(2, depth=1, skips=False).layers[:3]]
    code.BASE["updates"] = 2  # which move a weight by no more than the rate
    taken = code.fit({}, 0, encoder=encoder)[0].layers[2].get_weights()
    assert np.allclose(taken[0], encoder[2][0], atol=0.01)


def test_against_is_two_way_analysis_of_variance_with_holm(code):
    rng = np.random.default_rng(1)
    places = [(name, seed) for name in "abc" for seed in range(4)]
    rows = pd.DataFrame(places, columns=["network", "seed"]).assign(part="test")
    rows["IoU"] = 0.8 + 0.02 * rows["seed"] + 0.01 * (rows["network"] == "c") + rng.normal(0, 0.004, 12)
    model = smf.ols("IoU ~ C(network, Treatment('a')) + C(seed)", rows).fit()
    found, terms = code.against(rows, "a", "test"), [f"C(network, Treatment('a'))[T.{n}]" for n in "bc"]
    low, high = model.conf_int().loc[terms].to_numpy().T
    assert found["gain"].to_numpy() == pytest.approx(model.params[terms].to_numpy())
    assert found["half"].to_numpy() == pytest.approx((high - low) / 2)
    p = sorted(model.pvalues[terms])
    assert sorted(found["p"]) == pytest.approx([min(1, 2 * p[0]), max(2 * p[0], p[1])])
