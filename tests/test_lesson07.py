"""Lesson 7: boxes, measures, decoding, tiles and a reader's pictures against independent references."""

import hashlib
import io
import json
import math

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image, PngImagePlugin

LESSON = "lesson07_detection"
SMALL = {
    "VALIDATION_WALLS": [101],
    "TEST_WALLS": [201],
    "INPUTS": [416, 640],
    "TILES": [640],
    "TRAIN_SCENES": 24,
    "TEST_SCENES": 6,
    "EPOCHS": 1,
    "WIDTH": 4,
}
ONE = SMALL | {"INPUTS": [416]}
SCOREBOARD = [
    "photographs: right boxes with at most 26 false",
    "photographs: right boxes with at most 100 false",
    "photographs: recall, setting chosen on the others",
    "own CenterNet, apart: mAP at 0.5",
]


def random_boxes(rng, n, size=60):
    """n boxes with whole corners and sides of at least two pixels."""
    corner = rng.integers(0, size - 2, (n, 2))
    return np.concatenate([corner, corner + rng.integers(2, size // 2, (n, 2))], axis=1).astype(float)


def random_pairs(code, rng, pictures=6):
    """[(detections, truth), ...] of three classes: shifted truths and noise; a fifth of it is ignored."""
    pairs = []
    for _ in range(pictures):
        n = int(rng.integers(5, 15))
        truth = code.found(random_boxes(rng, n), rng.choice(["a", "b", "c"], n), rng.random(n) > 0.2)
        boxes = np.concatenate(
            [truth.boxes + rng.integers(-3, 4, (n, 4)) * [0, 0, 1, 1], random_boxes(rng, 8)]
        )
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        names = np.concatenate([truth.names, rng.choice(["a", "b", "c"], 8)])
        pairs.append((code.found(boxes, names, rng.permutation(n + 8) / 99 + 0.01), truth))
    return pairs


def evaluated(pairs):
    """faster-coco-eval's statistics of the same detections; what is ignored is a crowd there."""
    classes, truths, said = ["a", "b", "c"], [], []
    for image, (detections, truth) in enumerate(pairs, start=1):
        for target, rows in ((truths, truth), (said, detections)):
            for (x1, y1, x2, y2), name, score in zip(*rows, strict=True):
                row = {
                    "image_id": image,
                    "category_id": classes.index(name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "id": len(target) + 1,
                }
                target.append(
                    row
                    | {
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(target is truths and score == 0),
                        "score": float(score),
                    }
                )
    images = [{"id": k + 1, "width": 100, "height": 100} for k in range(len(pairs))]
    coco = COCO(
        {
            "info": {},
            "images": images,
            "annotations": truths,
            "categories": [{"id": k + 1, "name": c} for k, c in enumerate(classes)],
        }
    )
    run = COCOeval_faster(coco, coco.loadRes(said), "bbox", print_function=lambda *_: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats


@pytest.mark.parametrize("seed", range(4))
def test_map_is_that_of_coco(code, seed):
    pairs = random_pairs(code, np.random.default_rng(seed))
    stats = evaluated(pairs)
    assert 0.1 < stats[0] < 0.9
    assert code.mean_ap(pairs) == pytest.approx(stats[0], abs=1e-6)
    assert code.mean_ap(pairs, [0.5]) == pytest.approx(stats[1], abs=1e-6)


def test_all_classes_count_doubles_of_another_class_too(code):
    truth = code.found(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 90, 50]], ["cat", "cup", "person"], [1, 1, 0]
    )
    boxes = [
        [0, 0, 10, 10],
        [0, 0, 10, 10],
        [0, 1, 10, 10],
        [21, 0, 31, 10],
        [45, 5, 60, 20],
        [45, 5, 60, 20],
    ]
    said = code.found(boxes, ["cat", "dog", "cat", "cup", "person", "car"], [0.9, 0.8, 0.95, 0.4, 0.7, 0.6])
    assert code.match(said, truth).tolist() == [-1, -1, 0, 1, -2, -1]
    row = code.figures(*code.tally([(said, truth)]), 0.5)
    assert (row["objects"], row["found"], row["false"]) == (2, 1, 3)
    assert (row["recall"], row["precision"]) == (0.5, 0.25)
    assert code.nms(said, one_class=True).names.tolist() == ["cat", "person", "cup"]
    assert len(code.nms(said).names) == 5
    assert math.isnan(code.figures(*code.tally([(code.found(), truth)]), 0.5)["precision"])


def test_small_objects_and_small_false_boxes_can_be_left_out(code):
    truth = code.found([[0, 0, 10, 10], [20, 0, 80, 60]], ["a", "a"])
    said = code.found(
        [[0, 0, 10, 10], [20, 0, 80, 60], [90, 90, 99, 99], [0, 50, 40, 90]], ["a"] * 4, [0.9] * 4
    )
    assert code.figures(*code.tally([(said, truth)]), 0)["false"] == 2
    row = code.figures(*code.tally([(said, truth)], 32), 0)
    assert (row["objects"], row["found"], row["false"]) == (1, 1, 1)


def test_threshold_with_the_best_f1(code):
    truth = code.found([[0, 0, 10, 10], [20, 0, 30, 10]], ["a", "a"])
    said = code.found([[0, 0, 10, 10], [20, 0, 30, 10], [70, 0, 80, 10]], ["a"] * 3, [0.9, 0.42, 0.12])
    f1, threshold = code.best_threshold([(said, truth)])
    assert f1 == 1 and 0.12 < threshold <= 0.42


def test_truth_of_the_photographs_is_whole(code):
    table = json.loads((ROOT / "data" / "photos.json").read_text(encoding="utf-8"))
    assert set(table["photos"]) == set(code.PHOTOS) and len(code.NAMES) == len(code.PHOTOS) == 8
    objects = [o for photo in table["photos"].values() for o in photo["objects"] if not o["ignored"]]
    assert len(objects) > 100 and {o["class"] for o in objects} <= set(code.COCO.split(","))
    for photo in table["photos"].values():
        for x1, y1, x2, y2 in (o["box"] for o in photo["objects"]):
            assert 0 <= x1 < x2 <= photo["size"][0] and 0 <= y1 < y2 <= photo["size"][1]
    assert min(min(o["box"][2] - o["box"][0], o["box"][3] - o["box"][1]) for o in objects) >= 8


@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_decoding_of_the_yolox_grid(code, shape):
    """Every cell of the three grids, against loops over rows and columns."""
    cells = [(s, i, j) for s in (8, 16, 32) for i in range(shape[0] // s) for j in range(shape[1] // s)]
    rng, output = np.random.default_rng(0), np.zeros((len(cells), 85), "float32")
    output[:, :4], output[:, 4] = rng.normal(0, 0.5, (len(cells), 4)), 0.9
    classes = rng.integers(0, 80, len(cells))
    output[np.arange(len(cells)), 5 + classes] = rng.uniform(0.5, 1, len(cells))
    said = code.decode_yolox(output, *shape)
    for row, (s, i, j) in enumerate(cells):
        (x, y), (w, h) = (output[row, :2] + [j, i]) * s, np.exp(output[row, 2:4]) * s
        assert said.boxes[row] == pytest.approx(
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-4, abs=1e-3
        )
        assert said.names[row] == code.COCO.split(",")[classes[row]]


class OneCell:
    """A network that says: in cell (2, 3) of stride 16 a cat of 40 × 20 pixels; keeps what it was shown."""

    def setInput(self, blob):
        self.blob = blob

    def forward(self):
        height, width = self.blob.shape[2:]
        grids = {s: np.full((height // s, width // s, 85), -9.0, "float32") for s in (8, 16, 32)}
        for grid in grids.values():
            grid[..., 4:] = 0
        grids[16][2, 3, :4] = 0.5, 0.5, np.log(40 / 16), np.log(20 / 16)  # its centre is at (56, 40)
        grids[16][2, 3, 4], grids[16][2, 3, 5 + 15] = 0.9, 0.8
        return np.concatenate([grid.reshape(-1, 85) for grid in grids.values()])[None]


@pytest.mark.parametrize("times", [1, 2, 0.5])
def test_yolox_sees_bgr_and_its_boxes_come_back_to_the_picture(code, times):
    picture = np.zeros((int(96 * times), int(128 * times), 3), "uint8")
    picture[..., 0], picture[..., 2] = 200, 10
    net = OneCell()
    said = code.yolox(picture, 128, net)
    assert net.blob.shape == (1, 3, 96, 128)
    assert net.blob[0, :, 50, 50].tolist() == [10, 0, 200]
    assert said.boxes == pytest.approx(np.array([[36, 30, 76, 50]]) * times)
    assert said.names.tolist() == ["cat"] and said.scores[0] == pytest.approx(0.72)


def test_photographs_get_their_own_truth_and_keep_it_on_the_sheet(code, tmp_path, monkeypatch):
    """Eight made-up photographs, each of one colour, whose only object that counts is its bright corner."""
    table = {"readers": "made up", "photos": {}}
    for k, file in enumerate(code.PHOTOS):
        size = (60 + 10 * k, 40 + 5 * k)
        picture = Image.new("RGB", size, (20 * k, 0, 0))
        picture.paste((255, 255, 255), (8, 4, 24 + k, 20))
        picture.save(tmp_path / file, "PNG")  # whatever it is called
        boxes = [[8, 4, 24 + k, 20], [0, 0, 5, 5]]
        names = code.COCO.split(",")[k], "person"
        rows = zip(names, boxes, (False, True), strict=True)
        objects = [{"class": name, "box": box, "ignored": ignored} for name, box, ignored in rows]
        table["photos"][file] = {"size": size, "objects": objects}
    (tmp_path / "photos.json").write_text(json.dumps(table), encoding="utf-8")
    monkeypatch.setattr(keras.utils, "get_file", lambda name, *args, **options: str(tmp_path / name))
    photos = code.load_photos(tmp_path)
    assert list(photos) == code.NAMES
    for k, (picture, truth) in enumerate(photos.values()):
        assert picture.shape == (40 + 5 * k, 60 + 10 * k, 3) and picture[30, 2].tolist() == [20 * k, 0, 0]
        assert truth.names.tolist() == [code.COCO.split(",")[k], "person"]
        assert truth.scores.tolist() == [1, 0] and truth.boxes[0].tolist() == [8, 4, 24 + k, 20]
    sheet, truth = code.sheet_of(photos)
    assert sheet.shape == (4 * 75, 2 * 130, 3) and len(truth.names) == 16
    for x1, y1, x2, y2 in truth.boxes[::2].astype(int):
        assert (sheet[y1:y2, x1:x2] == 255).all() and (sheet[y1 - 1, x1:x2] < 255).any()
        assert (sheet[y1:y2, x2] < 255).any()


def test_numbers_of_coco_become_names(code):
    def model(batch):
        boxes = [[[0.1, 0.2, 0.5, 0.6], [-0.1, 0, 1.2, 1], [0, 0, 1, 1]]]
        return {
            "detection_boxes": boxes,
            "detection_classes": [[17.0, 90.0, 12.0]],
            "detection_scores": [[0.9, 0.5, 0.4]],
            "num_detections": [3.0],
            "raw": 0,
        }

    said = code.ssd(np.zeros((200, 100, 3), "uint8"), model=model)
    assert said.boxes.tolist() == pytest.approx(
        np.array([[20, 20, 60, 100], [0, 0, 100, 200], [0, 0, 100, 200]])
    )
    assert said.names.tolist() == ["cat", "toothbrush", "?"]


@pytest.fixture
def red_blobs(code):
    """A detector that boxes every connected red blob, cut ones too."""

    def detect(picture, size=None):
        red = (picture[..., 0] == 255).astype("uint8")
        *_, stats, _ = cv2.connectedComponentsWithStats(red, connectivity=8)
        boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]]
        return code.found(boxes, ["cat"] * len(boxes), [0.9] * len(boxes))

    return detect


@pytest.mark.parametrize("times", [1, 3])  # a large photograph is searched at its full size
def test_tiles_give_back_every_object_once(code, red_blobs, times):
    picture, rng, truth = np.zeros((400, 500, 3), "uint8"), np.random.default_rng(0), []
    for i in range(0, 400, 50):
        for j in range(0, 500, 50):
            (x, y), (w, h) = rng.integers(3, 20, 2) + [j, i], rng.integers(8, 28, 2)
            picture[y : y + h, x : x + w, 0] = 255
            truth.append([x * times, y * times, (x + w) * times, (y + h) * times])
    picture = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST)
    said = code.look(picture, red_blobs, 120 * times, None)
    assert len(said.names) > len(truth)
    assert sorted(code.nms(said).boxes.tolist()) == sorted(truth)
    assert sorted(code.look(picture, red_blobs, 0, None).boxes.tolist()) == sorted(truth)


def test_walls_have_as_many_objects_as_photos(code):
    for n in (10, 100):
        wall, truth = code.make_wall(n, 101)
        assert int(truth.scores.sum()) == n and wall.dtype == np.uint8
        assert (
            (truth.boxes[:, 2] <= wall.shape[1]).all()
            and (truth.boxes[:, 3] <= wall.shape[0]).all()
            and (truth.boxes >= 0).all()
        )
        assert set(truth.names[truth.scores == 0]) <= {
            "dining table",
            "bowl",
            "spoon",
            "bench",
            "bicycle",
            "bottle",
        }
    again = code.make_wall(10, 101)
    assert np.array_equal(again[0], code.make_wall(10, 101)[0]) and not np.array_equal(
        again[1].boxes, code.make_wall(10, 102)[1].boxes
    )


def bytes_of(image, kind="PNG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def test_pictures_are_turned_as_the_camera_was_held(code, tmp_path):
    colours = np.zeros((40, 80, 4), "uint8")
    colours[:, :40], colours[:, 40:] = (255, 0, 0, 255), (0, 0, 255, 0)  # the right half is transparent
    image = Image.fromarray(colours)
    image.getexif()[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "turned.png").write_bytes(bytes_of(image, exif=image.getexif()))
    picture = code.read_picture(tmp_path / "turned.png")
    assert picture.shape == (80, 40, 3)
    assert picture[5, 20].tolist() == [255, 0, 0] and picture[75, 20].tolist() == [255, 255, 255]


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pictures_do_not_come_out_black(code, tmp_path, bits, channels):
    values = np.linspace(0, 2**bits - 1, 64 * 70).reshape(64, 70, 1).astype("uint16").repeat(channels, axis=2)
    assert cv2.imwrite(str(tmp_path / "deep.png"), values)
    for source in (tmp_path / "deep.png", values):
        picture = code.read_picture(source)
        assert picture.shape == (64, 70, 3) and picture.min() == 0 and picture.max() == 255


def test_addresses_of_every_kind(code, tmp_path, monkeypatch):
    (tmp_path / "снимок 1.jpg").write_bytes(bytes_of(Image.new("RGB", (70, 80), "red"), "JPEG"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (
        "~/снимок 1.jpg",
        (tmp_path / "снимок 1.jpg").as_uri(),
        f"file://{tmp_path}/снимок 1.jpg",
        np.zeros((80, 70)),
    ):
        assert code.read_picture(source).shape == (80, 70, 3)


def test_what_is_done_to_a_picture_is_said(code, tmp_path, capsys):
    frames = [Image.new("RGB", (100, 90), colour) for colour in ("red", "green", "blue")]
    (tmp_path / "moves.gif").write_bytes(bytes_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert code.read_picture(tmp_path / "moves.gif").shape == (90, 100, 3)
    assert "the first of 3 frames" in capsys.readouterr().out
    assert code.read_picture(np.zeros((40, 50, 3), "uint8")).shape == (40, 50, 3)
    assert "50 × 40 pixels" in capsys.readouterr().out


def test_sides_in_extreme_ratio_are_no_error(code):
    class Net:
        def setInput(self, blob):
            self.cells = sum((blob.shape[2] // s) * (blob.shape[3] // s) for s in (8, 16, 32))

        def forward(self):
            return np.zeros((1, self.cells, 85), "float32")

    for shape in ((16, 9000, 3), (9000, 16, 3)):
        picture = code.read_picture(np.zeros(shape, "uint8"))
        for tile in (0, 640):
            assert len(code.look(picture, lambda p, size: code.yolox(p, size, Net()), tile, 416).names) == 0


def test_bad_pictures_get_a_clear_answer(code, tmp_path):
    whole = bytes_of(Image.effect_noise((90, 90), 50), "JPEG")
    for name, content in (("text.jpg", b"no picture"), ("nothing.jpg", b""), ("head.jpg", whole[:300])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is empty, broken or no picture"):
            code.read_picture(tmp_path / name)
    for source, message in (
        ("missing.jpg", "missing.jpg cannot be fetched"),
        (np.zeros((50, 3)), "3 × 50 pixels"),
        (np.full((20, 20), -1), "scale them"),
        (np.full((20, 20), np.nan), "scale them"),
    ):
        with pytest.raises(ValueError, match=message):
            code.read_picture(source)


@pytest.mark.parametrize("address", ["HTTPS://example.org/cat.jpg", "https://пример.рф/cat.jpg"])
def test_an_address_that_fails_is_named(code, monkeypatch, address):
    def refuse(request, **options):
        raise OSError("no network")

    monkeypatch.setattr(code.urllib.request, "urlopen", refuse)
    with pytest.raises(ValueError, match="cat.jpg"):
        code.read_picture(address)


@pytest.mark.xfail(reason="not rewritten yet", strict=True)
def test_a_picture_with_a_long_text_is_read_or_named(code, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    Image.new("RGB", (80, 70), "red").save(tmp_path / "text.png", pnginfo=text)
    try:
        assert code.read_picture(tmp_path / "text.png").shape == (70, 80, 3)
    except ValueError as error:
        assert "text.png" in str(error)


def test_a_broken_model_is_not_called_absent(code, tmp_path, monkeypatch):
    path = tmp_path / "модель.onnx"
    path.write_bytes(b"not a network")
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: str(path))
    with pytest.raises(RuntimeError, match="is broken or another network"):
        code.load_yolox()
    half = hashlib.sha1(code.TF_HUB.encode()).hexdigest()  # the name of the folder in TF Hub's cache
    (tmp_path / half / "variables").mkdir(parents=True)
    monkeypatch.delenv("SSD_MOBILENET_V2", raising=False)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"{half} is broken"):
        code.load_ssd()


def test_the_target_decodes_to_the_truth(code):
    truth = code.found([[8, 8, 30, 40], [60, 50, 90, 74], [11, 9, 29, 41]], ["top", "bag", "shoe"])
    target = code.target_of(truth)
    heat = np.clip(target[..., :4], 1e-6, 1 - 1e-6)
    said = code.decode(np.concatenate([np.log(heat / (1 - heat)), target[..., 4:-1]], axis=-1), least=0.9)
    assert (
        sorted(said.boxes.tolist())[1:] == pytest.approx(np.array(sorted(truth.boxes.tolist())[1:]), abs=1e-3)
        and len(said.names) == 3
    )


def test_loss_term_by_term(code):
    rng = np.random.default_rng(0)
    target = code.target_of(code.found([[8, 8, 30, 40], [60, 50, 90, 74]], ["top", "bag"]))[None]
    output, total = rng.normal(0, 1.5, (1, 32, 32, 8)), 0.0
    for t, o in zip(target.reshape(-1, 9).astype(float), output.reshape(-1, 8), strict=True):
        for y, z in zip(t[:4], o[:4], strict=True):
            p = 1 / (1 + math.exp(-z))
            total -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
        if t[-1]:
            wrong = np.abs(o[4:] - t[4:8])
            total += 0.5 * wrong[:2].sum() + wrong[2:].sum()
    loss = code.centernet_loss(
        keras.ops.convert_to_tensor(target), keras.ops.convert_to_tensor(output.astype("float32"))
    )
    assert float(loss) == pytest.approx(total / 2, rel=1e-3)


def test_crowded_scenes_overlap_and_parts_share_no_garment(code):
    images = np.zeros((20, 28, 28), "uint8")
    images[:, 4:24, 4:24] = 200
    code.train_images = code.test_images = (images, np.arange(20) % 10)
    code.TEXTURES = {part: [np.full((256, 256), 90, "uint8")] * 2 for part in ("train", "held out")}
    for hidden, low, high in ((0.1, 0.0, 0.12), (0.8, 0.4, 1.0)):
        _, truths = code.make_scenes(6, 0, "held out", [hidden])
        largest = max(
            (np.triu(code.iou(t.boxes, t.boxes), 1).max() for t in truths if len(t.boxes)), default=0
        )
        assert low <= largest <= high
