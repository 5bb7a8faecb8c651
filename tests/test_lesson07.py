"""Lesson 7: boxes, measures, decoding, tiles and pictures against independent references."""

import gzip
import json
import math

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT, definitions

LESSON = definitions("lesson07_detection")
found = LESSON["found"]

SMALL = {
    "SEEDS": [0],
    "TRAIN_SCENES": 32,
    "VALIDATION_SCENES": 6,
    "TEST_SCENES": 12,
    "EPOCHS": 1,
    "BATCH_SIZE": 16,
    "BASE_WIDTH": 4,
    "LARGE_SCENES": 1,
    "COLLISION_SCENES": 1,
    "COUNTS": [1, 10, 100],
    "VALIDATION_WALLS": [101],
    "TEST_WALLS": [201],
}


def random_boxes(rng, n, size=60):
    """n boxes with whole corners and sides of at least one pixel."""
    corner = rng.integers(0, size - 1, (n, 2))
    return np.concatenate([corner, corner + rng.integers(1, size // 2, (n, 2))], axis=1).astype(float)


def plain_iou(a, b):
    """IoU of two boxes with whole corners, by counting pixels."""
    masks = np.zeros((2, 120, 120), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, np.array([a, b], int), strict=True):
        mask[y1:y2, x1:x2] = True
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def test_iou_counts_pixels():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 12), random_boxes(rng, 9)
    assert LESSON["iou"](a, b) == pytest.approx(np.array([[plain_iou(p, q) for q in b] for p in a]))
    assert LESSON["iou"](a, np.zeros((0, 4))).shape == (12, 0)


def test_match_takes_each_object_once_and_asks_for_the_class():
    truth = found([[0, 0, 10, 10], [20, 0, 30, 10]], ["cat", "cup"])
    said = found(
        [[0, 0, 10, 8], [0, 0, 10, 10], [20, 0, 30, 10], [21, 0, 31, 10], [0, 0, 4, 4]],
        ["cat", "cat", "cat", "cup", "cat"],
        [0.9, 0.8, 0.95, 0.5, 0.99],
    )
    assert LESSON["match"](said, truth).tolist() == [0, -1, -1, 1, -1]
    assert LESSON["match"](said, truth, 0.9).tolist() == [-1, 0, -1, -1, -1]
    assert LESSON["match"](found(), truth).tolist() == []
    assert LESSON["match"](said, found()).tolist() == [-1] * 5


def plain_ap(scores, right, true):
    """Average precision at 101 recall levels, level by level: the best precision at this recall or more."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    points, hits = [], 0
    for rank, k in enumerate(order, start=1):
        hits += right[k]
        points.append((hits / true, hits / rank))
    levels = [k / 100 for k in range(101)]
    best = [max((p for r, p in points if r >= level - 1e-12), default=0) for level in levels]
    return sum(best) / 101


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_level_by_level(seed):
    rng = np.random.default_rng(seed)
    scores, right = rng.random(40), rng.random(40) < 0.6
    true = int(right.sum()) + seed
    assert LESSON["average_precision"](scores, right, true) == pytest.approx(plain_ap(scores, right, true))


def test_mean_ap_of_cases_made_by_hand():
    two = found([[0, 0, 10, 10], [20, 0, 30, 10]], ["a", "b"])
    perfect = found(two.boxes, two.names, [0.3, 0.9])
    mean_ap = LESSON["mean_ap"]
    assert mean_ap([(perfect, two)]) == pytest.approx(1)
    assert mean_ap([(found(), two)]) == 0
    assert mean_ap([(found(two.boxes[:1], ["a"], [0.5]), two)]) == pytest.approx(0.5)  # class b is missed
    other = found([[0, 0, 10, 10]], ["a"])  # a second picture whose false box has the best score of all
    wrong = found([[40, 40, 50, 50]], ["a"], [0.99])
    expected = (
        (0.5 * 51 / 101) + 1
    ) / 2  # class a: false, right -> precision 1/2 up to recall 1/2; class b: 1
    assert mean_ap([(perfect, two), (wrong, other)], [0.5]) == pytest.approx(expected)
    shifted = found(two.boxes + [0, 0, 0, -2], two.names, [0.5, 0.6])  # IoU 0.8: right at 7 of the 10 levels
    assert mean_ap([(shifted, two)]) == pytest.approx(0.7)


def test_recall_and_precision_by_hand():
    truth = found([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], ["a"] * 3)
    said = found([[0, 0, 10, 10], [20, 0, 30, 10], [70, 0, 80, 10]], ["a"] * 3, [0.9, 0.4, 0.8])
    low = LESSON["recall_precision"]([(said, truth)], 0.3)
    high = LESSON["recall_precision"]([(said, truth)], 0.5)
    assert (low["recall"], low["precision"], low["detections"]) == pytest.approx((2 / 3, 2 / 3, 3))
    assert (high["recall"], high["precision"], high["F1"]) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert LESSON["best_threshold"]([[(said, truth)]])[1] == pytest.approx(2 / 3)


def test_figures_that_are_not_defined_are_nan():
    truth = found([[0, 0, 10, 10]], ["a"])
    nothing = LESSON["recall_precision"]([(found(), truth)], 0.5)
    assert (nothing["recall"], nothing["F1"], nothing["detections"]) == (0, 0, 0)
    assert math.isnan(nothing["precision"])
    empty = LESSON["recall_precision"]([(found([[0, 0, 1, 1]], ["a"]), found())], 0.5)
    assert math.isnan(empty["recall"]) and empty["precision"] == 0


def test_thresholds_reach_down_to_the_lowest_score_kept():
    assert LESSON["THRESHOLDS"] == sorted(set(LESSON["THRESHOLDS"]))
    assert LESSON["THRESHOLDS"][0] == LESSON["LEAST_SCORE"]
    truth = found([[0, 0, 10, 10]], ["a"])
    faint = found([[0, 0, 10, 10]], ["a"], [0.012])
    assert LESSON["best_threshold"]([[(faint, truth)]]) == (0.01, 1)
    assert LESSON["balanced_threshold"]([[(faint, truth)]]) == 0.01


def plain_nms(boxes, names, scores, least):
    """Greedy suppression, box by box."""
    left, stay = sorted(range(len(scores)), key=lambda k: -scores[k]), []
    for k in left:
        if all(names[k] != names[s] or plain_iou(boxes[k], boxes[s]) <= least for s in stay):
            stay.append(k)
    return stay


@pytest.mark.parametrize("seed", range(4))
def test_nms_is_greedy_within_each_class(seed):
    rng = np.random.default_rng(seed)
    said = found(random_boxes(rng, 60, 40), rng.choice(["a", "b"], 60), rng.permutation(60) / 60 + 0.01)
    ours = LESSON["nms"](said, 0.4)
    stay = plain_nms(said.boxes, said.names, said.scores, 0.4)
    assert sorted(ours.scores) == pytest.approx(sorted(said.scores[stay]))
    assert 0 < len(stay) < 60


def test_nms_inside_rule():
    said = found(
        [[0, 0, 20, 20], [2, 2, 8, 8], [2, 2, 8, 8], [16, 0, 26, 10]],
        ["a", "a", "b", "a"],
        [0.5, 0.9, 0.8, 0.4],
    )
    assert len(LESSON["nms"](said).scores) == 4
    kept = LESSON["nms"](said, inside=0.7)  # the better-scored of two nested boxes of a class stays
    assert sorted(kept.scores) == pytest.approx([0.4, 0.8, 0.9])
    assert len(LESSON["nms"](found(), inside=0.7).scores) == 0


def test_decoding_of_the_yolox_grid():
    """Every cell of the three grids, against loops over rows and columns."""
    size, rng = 64, np.random.default_rng(0)
    cells = [
        (stride, i, j) for stride in (8, 16, 32) for i in range(size // stride) for j in range(size // stride)
    ]
    output = rng.normal(0, 0.5, (len(cells), 85)).astype("float32")
    output[:, 4], output[:, 5:] = 0.9, 0.0
    classes = rng.integers(0, 80, len(cells))
    output[np.arange(len(cells)), 5 + classes] = rng.uniform(0.5, 1, len(cells))
    ours = LESSON["decode_yolox"](output, size)
    names = LESSON["COCO"].split(",")
    for row, (stride, i, j) in enumerate(cells):
        x, y = (output[row, 0] + j) * stride, (output[row, 1] + i) * stride
        w, h = math.exp(output[row, 2]) * stride, math.exp(output[row, 3]) * stride
        assert ours.boxes[row] == pytest.approx(
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-4, abs=1e-3
        )
        assert ours.names[row] == names[classes[row]]
        assert ours.scores[row] == pytest.approx(0.9 * output[row, 5 + classes[row]], rel=1e-5)


def test_yolox_maps_boxes_back_to_the_picture():
    """A network that always reports the same box; the picture is twice as large, and red is red."""

    class Net:
        def setInput(self, blob):
            self.blob = blob

        def forward(self):
            output = np.zeros((1, (64 // 8) ** 2 + (64 // 16) ** 2 + (64 // 32) ** 2, 85), "float32")
            output[0, 9] = 0  # row 1, column 1 of the stride-8 grid
            output[0, 9, :6] = 1.0, 1.0, math.log(2), math.log(1), 1.0, 0.8
            return output

    net, picture = Net(), np.zeros((96, 128, 3), "uint8")
    picture[..., 0] = 200  # red
    said = LESSON["yolox"](picture, net, 64)
    assert said.boxes.tolist() == pytest.approx(np.array([[16, 24, 48, 40]])), said
    assert said.names.tolist() == ["person"] and said.scores == pytest.approx([0.8])
    assert net.blob.shape == (1, 3, 64, 64) and net.blob[0, :, 10, 10].tolist() == [0, 0, 200]  # BGR
    assert net.blob[0, :, 60, 10].tolist() == [114, 114, 114]  # the padding is at the bottom


@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (30, 400), (16, 16)])
def test_letterbox(shape):
    picture = np.full((*shape, 3), 7, "uint8")
    square, scale = LESSON["letterbox"](picture, 80)
    inside = (square == 7).all(axis=2)
    assert square.shape == (80, 80, 3) and scale == pytest.approx(80 / max(shape))
    assert inside[0, 0] and inside.any(axis=1).sum() == max(1, round(shape[0] * scale))
    assert inside.any(axis=0).sum() == max(1, round(shape[1] * scale))
    assert (square[~inside] == 114).all()


def test_coco_numbers():
    name = LESSON["coco_name"]
    assert [name(n) for n in (1, 4, 17, 47, 90)] == ["person", "motorcycle", "cat", "cup", "toothbrush"]
    assert [name(n) for n in (0, 12, 26, 91)] == ["?"] * 4
    assert len({name(n) for n in range(1, 91)} - {"?"}) == 80


def test_ssd_outputs_are_turned_into_pixels():
    class Interpreter:
        def get_input_details(self):
            return [{"index": 0}]

        def get_output_details(self):
            return [{"index": k} for k in range(3)]

        def set_tensor(self, index, tensor):
            assert tensor.shape == (1, 300, 300, 3)

        def invoke(self):
            pass

        def get_tensor(self, index):
            boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [-0.1, 0.0, 1.2, 1.0]]])
            return [boxes, np.array([[1.0, 0.0]]), np.array([[0.7, 0.4]])][index]

    picture = np.zeros((200, 100, 3), "uint8")
    said = LESSON["ssd_v1"](picture, Interpreter(), ["person", "bicycle"])
    assert said.boxes == pytest.approx(np.array([[20, 20, 60, 100], [0, 0, 100, 200]]))
    assert said.names.tolist() == ["bicycle", "person"]

    def model(batch):
        assert batch.shape == (1, 200, 100, 3)
        return {
            "detection_boxes": [[[0.1, 0.2, 0.5, 0.6]]],
            "detection_classes": [[17.0]],
            "detection_scores": [[0.9]],
            "num_detections": [1.0],
        }

    said = LESSON["hub_detector"](picture, model)
    assert said.boxes == pytest.approx(np.array([[20, 20, 60, 100]])) and said.names.tolist() == ["cat"]


@pytest.mark.parametrize("side", [96, None])
def test_input_side_is_read_from_the_graph(side):
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8)])
        def __call__(self, picture):
            if side is None:  # keeps the picture's proportions
                return tf.image.resize(picture, tf.shape(picture)[1:3] // 2)
            small = tf.image.resize(picture, (side, side))
            return tf.image.resize(small, (24, 24)), tf.image.resize(small, (200, 10))

    model = Model()
    model.signatures = {"serving_default": model.__call__.get_concrete_function()}
    found_side = LESSON["input_side"](model)
    assert found_side == side if side else math.isnan(found_side)
    model.signatures = {}
    assert math.isnan(LESSON["input_side"](model))


def test_starts_cover_a_side_with_enough_overlap():
    for length, tile in ((1280, 256), (960, 640), (300, 256), (256, 256), (100, 256), (1000, 333)):
        begins = LESSON["starts"](length, tile, tile // 2)
        assert begins[0] == 0 and begins == sorted(set(begins))
        assert begins[-1] == max(0, length - tile)
        assert all(b - a <= tile // 2 for a, b in zip(begins, begins[1:], strict=False))


def seeing(picture):
    """A detector that boxes every connected blob of red pixels, cut ones too."""
    mask = (picture[..., 0] == 255).astype("uint8")
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]]
    return found(boxes, ["cat"] * len(boxes), [0.9] * len(boxes))


def test_tiles_give_back_every_object_once(monkeypatch):
    picture, rng = np.zeros((400, 500, 3), "uint8"), np.random.default_rng(0)
    truth = []
    for i in range(8):
        for j in range(10):
            x, y = 50 * j + rng.integers(3, 20), 50 * i + rng.integers(3, 20)
            w, h = rng.integers(8, 28, 2)
            picture[y : y + h, x : x + w, 0] = 255
            truth.append([x, y, x + w, y + h])
    truth = found(truth, ["cat"] * len(truth))
    said, cut = LESSON["hunt_tiles"](seeing, picture, 120)
    assert cut.any() and len(said.scores) > 2 * len(truth.scores)
    raw = LESSON["assemble"]([(said, cut)], False, False, False)
    merged = LESSON["assemble"]([(said, cut)], True, True, False)
    assert len(raw.scores) == len(said.scores)
    assert sorted(merged.boxes.tolist()) == sorted(truth.boxes.tolist())
    other, cut = LESSON["hunt_tiles"](seeing, picture, 120, mirrored=True)
    assert cut.any()
    mirrored = LESSON["assemble"]([(other, cut)], True, True, False)
    assert sorted(mirrored.boxes.tolist()) == sorted(truth.boxes.tolist())
    whole, cut = LESSON["hunt_tiles"](seeing, picture, 0)
    assert not cut.any() and sorted(whole.boxes.tolist()) == sorted(truth.boxes.tolist())
    plan = LESSON["Plan"]([120, 0], mirror=True)
    for times in (1, 2, 5):  # the same picture, taken with more pixels
        large = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST)
        monkeypatch.setitem(LESSON, "WALL_WIDTH", max(picture.shape))
        said = LESSON["hunt_in"](large, seeing, plan)
        assert np.allclose(sorted(said.boxes.tolist()), sorted((truth.boxes * times).tolist()))


def test_cut_counts_by_hand():
    boxes = [[10, 10, 20, 20], [45, 10, 60, 20], [20, 10, 180, 20], [100, 10, 150, 20]]
    truth = found(boxes, ["cat"] * 4)  # tiles 0-100, 50-150, 100-200 of a picture that is 100 pixels high
    assert LESSON["cut_counts"](truth.keep([0]), (100, 200, 3), 100) == (0, 0)
    assert LESSON["cut_counts"](truth.keep([1]), (100, 200, 3), 100) == (1, 0)  # cut by one, whole in another
    assert LESSON["cut_counts"](truth.keep([2]), (100, 200, 3), 100) == (1, 1)
    assert LESSON["cut_counts"](truth.keep([3]), (100, 200, 3), 100) == (0, 0)  # the borders only touch it
    assert LESSON["cut_counts"](truth, (100, 200, 3), 100) == (2, 1)
    assert LESSON["cut_counts"](truth, (100, 200, 3), 200) == (0, 0)


def test_walls_do_not_keep_step_with_the_tiles():
    for seed in (7, 101, 202):
        wall, truth = LESSON["make_wall"](100, seed)
        for tile in LESSON["TILES"]:
            cut, nowhere = LESSON["cut_counts"](truth, wall.shape, tile)
            assert cut > 20 and nowhere == 0
    shapes = {LESSON["make_wall"](10, seed)[0].shape[0] for seed in range(4)}
    assert len(shapes) > 1


def test_rules_can_be_left_out_one_by_one():
    said = found([[0, 0, 20, 20], [1, 0, 21, 20], [4, 4, 8, 8]], ["cat"] * 3, [0.9, 0.8, 0.7])
    part = [(said, np.array([False, False, True]))]
    sizes = {rules: len(LESSON["assemble"](part, *rules).scores) for rules in np.ndindex(2, 2, 2)}
    assert sizes[0, 0, 0] == 3 and sizes[1, 0, 0] == 2
    assert sizes[0, 1, 0] == 2 and sizes[0, 1, 1] == 1  # NMS takes the double, the inside rule the part
    assert sizes[0, 0, 1] == 1 and sizes[1, 1, 0] == sizes[1, 1, 1] == 1


def test_size_rule_measures_against_the_surer_boxes():
    boxes = [[0, 0, 20, 20], [30, 0, 54, 20], [60, 0, 68, 9], [80, 0, 87, 7], [0, 50, 200, 250]]
    said = found(boxes, ["cat", "cup", "cat", "cat", "cup"], [0.9, 0.6, 0.5, 0.44, 0.1])
    # the three surer boxes have sides 20, 21.9 and 8.5: the median is 20, the limit 8
    assert LESSON["of_usual_size"](said).scores.tolist() == [0.9, 0.6, 0.5, 0.1]
    part = [(said, np.zeros(5, bool))]
    assert len(LESSON["assemble"](part, True, True, True, True).scores) == 4
    assert len(LESSON["of_usual_size"](found()).scores) == 0
    single = found([[0, 0, 5, 5]], ["cat"], [0.2])
    assert len(LESSON["of_usual_size"](single).scores) == 1


def test_only_the_four_classes_are_hunted():
    said = found([[0, 0, 5, 5]] * 3, ["cat", "spoon", "person"], [0.5] * 3)
    assert LESSON["hunted"](said).names.tolist() == ["cat", "person"]


@pytest.mark.parametrize(("height", "width"), [(3, 5), (12, 4), (10, 10)])
def test_centre_radius_is_the_shift_with_iou_0_7(height, width):
    r = LESSON["centre_radius"](height, width)
    common = (height - r) * (width - r)
    assert 0 < r < min(height, width)
    assert common / (2 * height * width - common) == pytest.approx(0.7)


@pytest.mark.parametrize("stride", [4, 8])
def test_target_and_decoding_are_inverse(stride):
    names = ["a", "b", "c"]
    truth = found([[3, 5, 20, 31], [40, 10, 63, 30], [42, 44, 60, 50]], ["b", "a", "b"])
    target = LESSON["make_target"](truth, 64, stride, names)
    assert target.shape == (64 // stride, 64 // stride, 8) and (target[..., :3] == 1).sum() == 3
    heat = np.clip(target[..., :3], 1e-6, 1 - 1e-6)
    output = np.concatenate([np.log(heat / (1 - heat)), target[..., 3:7]], axis=-1)
    said = LESSON["decode_centernet"](output, stride, names)
    order = np.argsort(said.boxes[:, 0])
    assert said.boxes[order] == pytest.approx(truth.boxes[np.argsort(truth.boxes[:, 0])], abs=1e-3)
    assert sorted(said.names) == ["a", "b", "b"] and (said.scores > 0.99).all()
    everything = LESSON["decode_centernet"](output, stride, names, peaks=False, least=0.001)
    assert len(everything.scores) >= len(said.scores)
    assert len(LESSON["decode_centernet"](output, stride, names, top=2).scores) == 2


def test_peaks_leave_one_cell_of_a_hill():
    output = np.full((7, 7, 5), -9.0)
    output[2:5, 2:5, 0] = 1.0
    output[3, 3, 0] = 2.0
    output[..., 1:] = 1
    assert len(LESSON["decode_centernet"](output, 4, ["a"]).scores) == 1
    assert len(LESSON["decode_centernet"](output, 4, ["a"], peaks=False).scores) == 9


def test_loss_of_two_cells_by_hand():
    target = np.zeros((1, 1, 2, 6), "float32")
    target[0, 0, 0] = [1, 3, 2, 0.5, 0.25, 1]  # the centre: width 3, height 2, offset
    target[0, 0, 1, 0] = 0.5  # a cell on the slope of the Gaussian
    output = np.zeros((1, 1, 2, 5), "float32")
    output[0, 0, :, 0] = [math.log(3), math.log(1 / 3)]  # chances 0.75 and 0.25
    output[0, 0, 0, 1:] = [2.5, 2.5, 0.5, 0.0]
    expected = 0.25**2 * -math.log(0.75) + 0.5**4 * 0.25**2 * -math.log(0.75) + 0.5 * 1.0 + 0.25
    assert float(LESSON["centernet_loss"](target, output)) == pytest.approx(expected, rel=1e-5)
    assert LESSON["plain_loss"](target.astype(float), output) == pytest.approx(expected, rel=1e-5)


def test_network_strides():
    for stride in (4, 8):
        model = LESSON["build_centernet"](2, stride, 3)
        assert model(np.zeros((1, 64, 96, 1), "float32")).shape == (1, 64 // stride, 96 // stride, 7)


def scene(seed, count, size=128):
    rng = np.random.default_rng(seed)
    images = np.zeros((4, 28, 28), "uint8")
    images[:, 4:24, 8:20] = 200
    textures = [rng.integers(0, 255, (200, 150)).astype("uint8")]
    make = LESSON["make_scene"]
    return make(
        np.random.default_rng(seed),
        images,
        np.array([0, 1, 7, 8]),
        textures,
        size,
        count,
        ["t", "l", "s", "b"],
    )


def test_scenes_hold_what_the_truth_says():
    picture, truth = scene(0, 20)
    again, _ = scene(0, 20)
    assert picture.shape == (128, 128) and picture.dtype == np.uint8 and np.array_equal(picture, again)
    assert len(truth.scores) == 20 and set(truth.names) <= {"t", "l", "s", "b"}
    assert (truth.boxes[:, :2] >= 0).all() and (truth.boxes[:, 2:] <= 128).all()
    longer = (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1)
    assert (longer >= LESSON["SHORTEST"] - 1).all() and (longer <= LESSON["LONGEST"] + 1).all()
    for i, box in enumerate(truth.boxes):  # what later boxes hide, counted in pixels
        hidden = np.zeros((128, 128), bool)
        for x1, y1, x2, y2 in truth.boxes[i + 1 :].astype(int):
            hidden[y1:y2, x1:x2] = True
        x1, y1, x2, y2 = box.astype(int)
        assert hidden[y1:y2, x1:x2].mean() <= LESSON["MOST_HIDDEN"] + 1e-9


def test_collision_counts_by_hand():
    boxes = [[0, 0, 8, 8], [2, 2, 6, 6], [1, 1, 7, 7], [40, 40, 48, 48]]
    truth = found(boxes, ["a", "a", "b", "a"])
    assert LESSON["lost_to_collisions"]([truth], 8) == (1 / 4, 2 / 4)
    pairs = found([[0, 0, 10, 10], [3, 3, 7, 7], [20, 0, 30, 10], [23, 3, 27, 7]], ["a"] * 4)
    assert LESSON["both_found"](pairs, pairs) == 1
    assert LESSON["both_found"](pairs.keep([0, 1, 2]), pairs) == 0.5


def test_pairs_have_their_distance_and_lie_anywhere_in_a_cell(monkeypatch):
    monkeypatch.setitem(LESSON, "group_names", ["t", "l", "s", "b"])
    images = np.full((8, 28, 28), 200, "uint8")
    labels, rng = np.array([0, 1, 7, 8] * 2), np.random.default_rng(0)
    textures = [rng.integers(0, 255, (200, 150)).astype("uint8")]
    firsts = []
    for distance in (0, 5, 16):
        for same in (True, False):
            _, truth = LESSON["pair_scene"](rng, images, labels, textures, 128, distance, same)
            assert (truth.boxes >= 0).all() and (truth.boxes <= 128).all()
            centres = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
            assert centres[1::2] - centres[::2] == pytest.approx(np.tile([distance, 0.0], (4, 1)), abs=1)
            assert [a == b for a, b in truth.names.reshape(4, 2)] == [same] * 4
            firsts.append(centres[::2] % 8)
    assert len(np.unique(np.concatenate(firsts)[:, 0])) > 4


def test_recall_by_size():
    truth = found([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 70, 30]], ["a"] * 3)
    said = truth.keep([0, 2])
    table = LESSON["recall_by"]([(said, truth)], 0.5, LESSON["sides"], [0, 20, 40])
    assert table["recall"].tolist() == [0.5, 1.0] and table["objects"].tolist() == [2, 1]
    near = found([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]], ["a"] * 3)
    assert LESSON["neighbour"](near) == pytest.approx([1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("n", [1, 10, 25])
def test_wall_boxes_hold_the_objects_of_the_photos(n):
    """Inside each box the wall shows the object cut from its photo, mirrored or not, up to brightness."""
    wall, truth = LESSON["make_wall"](n, 3)
    assert len(truth.scores) == n and max(np.unique(truth.names.astype(str), return_counts=True)[1]) <= -(
        -n // 4
    )
    for box, name in zip(truth.boxes, truth.names, strict=True):
        x1, y1, x2, y2 = (int(round(edge)) for edge in box)
        shown = wall[y1:y2, x1:x2].astype(float)
        left, top, right, bottom = LESSON["PHOTO_BOXES"][name]
        source = LESSON["PHOTOS"][name][top:bottom, left:right]
        source = cv2.resize(source, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_AREA).astype(
            float
        )
        both = [np.corrcoef(shown.ravel(), s.ravel())[0, 1] for s in (source, source[:, ::-1])]
        assert max(both) > 0.9, (name, both)


@pytest.mark.parametrize("n", [10, 100])
def test_saved_walls_are_what_the_code_makes(n):
    picture, truth = LESSON["saved_wall"](n, ROOT / "data")
    wall, fresh = LESSON["make_wall"](n, LESSON["WALL_SEED"], LESSON["WALL_WIDTH"])
    assert picture.shape == wall.shape and np.abs(picture.astype(float) - wall).mean() < 4
    assert (
        truth.boxes == pytest.approx(fresh.boxes, abs=0.06) and truth.names.tolist() == fresh.names.tolist()
    )


def test_a_wall_is_made_where_there_is_no_file(tmp_path):
    picture, truth = LESSON["saved_wall"](10, tmp_path / "nowhere")
    assert picture.ndim == 3 and len(truth.scores) == 10 and not (tmp_path / "nowhere").exists()
    LESSON["saved_wall"](10, tmp_path)
    table = json.loads((tmp_path / "walls.json").read_text())
    assert len(table["wall-010.jpg"]["objects"]) == 10
    table["wall-010.jpg"]["objects"].pop()
    (tmp_path / "walls.json").write_text(json.dumps(table))
    with pytest.raises(RuntimeError, match="disagree: delete both"):
        LESSON["saved_wall"](10, tmp_path)


def test_drawing_leaves_the_picture_alone():
    picture = np.zeros((40, 40, 3), "uint8")
    drawn = LESSON["draw"](picture, found([[5, 5, 20, 20]], ["a"]), found([[5, 5, 20, 20]], ["a"]))
    assert drawn.any() and not picture.any()


def save(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def test_pictures_of_every_kind_become_rgb(tmp_path):
    read = LESSON["read_picture"]
    red = np.zeros((20, 30, 3), "uint8")
    red[..., 2] = 255  # OpenCV writes BGR
    assert read(save(tmp_path / "red.png", red))[0, 0].tolist() == [255, 0, 0]
    grey = read(save(tmp_path / "grey.png", np.full((20, 30), 90, "uint8")))
    assert grey.shape == (20, 30, 3) and (grey == 90).all()
    alpha = np.dstack([red, np.zeros((20, 30), "uint8")])
    alpha[:10, :, 3] = 255
    clear = read(save(tmp_path / "alpha.png", alpha))
    assert clear[0, 0].tolist() == [255, 0, 0] and clear[-1, 0].tolist() == [255, 255, 255]
    deep = read(save(tmp_path / "deep.png", np.full((20, 30), 65535, "uint16")))
    assert deep.dtype == np.uint8 and (deep == 255).all()
    assert read(np.full((20, 30), 0.5)).tolist() == np.full((20, 30, 3), 127).tolist()


def test_bad_pictures_get_a_clear_answer(tmp_path):
    read = LESSON["read_picture"]
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "nothing.jpg").write_bytes(b"")
    whole = cv2.imencode(".png", np.zeros((40, 40, 3), "uint8"))[1].tobytes()
    (tmp_path / "head.png").write_bytes(whole[:20])
    (tmp_path / "head.jpg").write_bytes(
        cv2.imencode(".jpg", np.zeros((40, 40, 3), "uint8"))[1].tobytes()[:20]
    )
    thin = save(tmp_path / "thin.png", np.zeros((50, 1, 3), "uint8"))
    cases = {
        tmp_path / "text.jpg": "text.jpg is not a picture.*save it there as JPEG or PNG",
        tmp_path / "nothing.jpg": r"nothing.jpg is empty \(0 bytes\): copy or download it again",
        tmp_path / "head.png": "head.png is not a picture.*copy or download it again",
        tmp_path / "head.jpg": "head.jpg is not a picture.*copy or download it again",
        thin: "thin.png is 1 x 50 pixels: take one with at least 16",
        tmp_path / "missing.jpg": "missing.jpg cannot be fetched.*check the path",
        "http://127.0.0.1:9/x.jpg": "x.jpg cannot be fetched",
    }
    for source, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read(source)
    for array in (np.zeros((0, 5, 3)), np.zeros((20, 20, 2)), np.zeros(7)):
        with pytest.raises(ValueError, match="empty or no picture"):
            read(array)
    for array in (np.full((20, 20), -1), np.full((20, 20), 256), np.full((20, 20), np.nan)):
        with pytest.raises(ValueError, match="holds values from .*: scale them to"):
            read(array)
    with pytest.raises(ValueError, match="my cat.jpg cannot be fetched"):
        read("http://127.0.0.1:9/my cat.jpg")


@pytest.mark.parametrize("dtype", ["int64", "float32", "int32"])
def test_arrays_of_0_to_255_keep_their_values_whatever_their_type(dtype):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    assert np.array_equal(LESSON["read_picture"](picture.astype(dtype)), picture)
    assert np.abs(LESSON["read_picture"]((picture / 255).astype("float64")) - picture.astype(int)).max() <= 1
    deep = (picture * 257).astype("uint16")
    assert np.array_equal(LESSON["read_picture"](deep), picture)


def test_broken_detector_files_are_named(tmp_path, monkeypatch):
    bad = tmp_path / "yolox_nano.onnx"
    bad.write_bytes(b"not a network")
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: str(bad))
    with pytest.raises(RuntimeError, match="yolox_nano.onnx is corrupt.*delete"):
        LESSON["load_yolox"]()
    with pytest.raises(RuntimeError, match="is corrupt.*delete"):
        LESSON["load_ssd_v1"]()
    with pytest.raises(RuntimeError, match="delete"):  # a broken file is an error, not a missing detector
        LESSON["load_detectors"]()


def test_missing_detectors_are_named_loudly(monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(keras.utils, "get_file", refuse)
    monkeypatch.setitem(LESSON, "load_hub", refuse)
    assert LESSON["load_detectors"]() == {}
    said = capsys.readouterr().out
    for name in ("YOLOX-Nano", "SSD MobileNet V1", "SSD MobileNet V2"):
        assert f"!!! {name} is missing" in said


def test_rebuilt_weights_never_pass_as_the_hub_model(tmp_path, monkeypatch):
    weights = LESSON["weights_of"]
    folder = tmp_path / "variables"
    folder.mkdir()
    (folder / "variables.data-00000-of-00001").write_bytes(b"abc")
    assert weights(str(tmp_path), "https://default") == LESSON["WEIGHTS"]["other"]
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of b"abc"
    monkeypatch.setitem(LESSON, "REBUILT_V2", digest)
    assert weights(str(tmp_path), "https://default").startswith("NOT the TF Hub model")
    assert weights("https://default", "https://default") == LESSON["WEIGHTS"]["hub"]


def test_face_sheet_knows_its_faces():
    patches = np.zeros((200, 25, 25), "uint8")
    patches[:100] = 255
    sheet, truth = LESSON["face_sheet"](0, patches)
    assert len(truth.scores) == 100
    for x1, y1, x2, y2 in truth.boxes.astype(int):
        assert (sheet[y1:y2, x1:x2] == 255).all()
    assert (sheet == 255).sum() == int(LESSON["areas"](truth.boxes).sum())


def test_the_store_makes_each_result_once(tmp_path, monkeypatch):
    monkeypatch.setitem(LESSON, "CACHE", tmp_path / "cache")
    calls = []

    def make(stem):
        calls.append(stem)
        return {"value": len(calls)}

    results = [LESSON["kept"]("x", {"a": a}, make)[0]["value"] for a in (1, 2, 1)]
    assert results == [1, 2, 1] and len(calls) == 2


def test_names_of_kept_results_follow_the_content():
    content = LESSON["content_hash"]
    picture = np.arange(12, dtype="uint8").reshape(3, 4)
    other = picture.copy()
    other[2, 3] = 0
    cases = [picture, other, picture.reshape(4, 3), picture.astype("int8"), picture.tolist()]
    assert len({content(case) for case in cases}) == len(cases)
    assert content(picture, [1.5, "a"]) == content(picture.copy(), [1.5, "a"]) != content(picture, [1.5, "b"])


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])))
    assert LESSON["read_idx"](path).tolist() == [7, 8, 9]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        RuntimeError, match="train-images-idx3-ubyte.gz is truncated or corrupt.*delete this file"
    ):
        LESSON["read_idx"](path)


def test_balanced_threshold_looks_at_the_worst_figure():
    truth = found([[0, 0, 10, 10], [20, 0, 30, 10]], ["a"] * 2)
    said = found([[0, 0, 10, 10], [20, 0, 30, 10], [70, 0, 80, 10]], ["a"] * 3, [0.9, 0.42, 0.32])
    assert LESSON["balanced_threshold"]([[(said, truth)]]) == pytest.approx(
        0.35
    )  # both found, the false one out
    lonely = found([[0, 0, 10, 10]], ["a"], [0.22])  # now recall 0 in a second group decides
    assert LESSON["balanced_threshold"]([[(said, truth)], [(lonely, truth.keep([0]))]]) <= 0.2


def test_averaged_networks_average_their_outputs():
    pictures = np.random.default_rng(0).integers(0, 255, (3, 32, 32)).astype("uint8")
    models = [LESSON["build_centernet"](2, 4, 3) for _ in range(2)]
    single = [LESSON["outputs_of"](model, pictures, batch=2) for model in models]
    assert LESSON["outputs_of"](models, pictures) == pytest.approx((single[0] + single[1]) / 2, abs=1e-4)
