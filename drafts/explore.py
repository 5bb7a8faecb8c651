"""explore.py: what the final recipe of lesson 6 should be, and what a step costs. KERAS_HOME holds seven-lessons/stage1_train.zip.

python explore.py [LOG] [SECONDS]: lines go to stdout and LOG at once; no new training is begun that would end after SECONDS (default 460).
TINY=1 in the environment: a few images and updates, to see that it runs.
"""
import os, sys, time
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
STARTED = time.perf_counter()
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
import cv2
import keras
import numpy as np
from keras import layers
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian
from skimage.measure import label as connected
from skimage.metrics import contingency_table
from skimage.segmentation import watershed
from sklearn.model_selection import train_test_split

LOG = open(sys.argv[1] if len(sys.argv) > 1 else "explore.log", "a")
LIMIT = float(sys.argv[2]) if len(sys.argv) > 2 else 460
TINY = bool(os.environ.get("TINY"))
def say(*parts):
    line = f"[{time.perf_counter() - STARTED:6.1f}] " + " ".join(map(str, parts))
    print(line, flush=True); LOG.write(line + "\n"); LOG.flush()

GPU = [n for n in keras.distribution.list_devices() if "gpu" in n.lower()]
JIT = False if keras.backend.backend() == "tensorflow" and not GPU else "auto"
POLICY = os.environ.get("POLICY", "mixed_float16" if GPU else "float32")
KINDS = ["fluorescence", "stained", "bright field"]
cv2.setNumThreads(1)

# ---------- data
def decode(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image

def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        files = sorted(f for f in archive.namelist() if f.lower().endswith(".png") and not f.startswith("__MACOSX"))
        image_file = {f.split("/images/")[0]: f for f in files if "/images/" in f}
        masks = {n: [] for n in image_file}
        for f in files:
            if "/masks/" in f: masks[f.split("/masks/")[0]].append(f)
        def one(name):
            image = decode(archive.read(image_file[name]))
            image = image[..., 2::-1] if image.ndim == 3 else np.dstack([image] * 3)
            labels = np.zeros(image.shape[:2], np.uint16)
            for k, f in enumerate(masks[name], 1):
                mask = decode(archive.read(f))
                mask = mask[..., :3].max(-1) if mask.ndim == 3 else mask
                labels[mask > 0] = k
            return np.ascontiguousarray(image), labels
        names = list(image_file)
        if TINY: names = names[::12]
        with ThreadPoolExecutor(8) as pool: pairs = list(pool.map(one, names))
    return names, [p[0] for p in pairs], [p[1] for p in pairs]

def kind_of(image):
    if not (image == image[..., :1]).all(): return "stained"
    return "fluorescence" if image.mean() < 128 else "bright field"

def stretch(image):
    low, high = np.quantile(image, [0.005, 0.998])
    return np.clip((image - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)

def bright_nuclei(image):
    """The image, inverted where its ground is bright."""
    return 255 - image if np.median(image) > 127 else image

RING = np.array([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1] * 5, [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]])
def targets(labels):
    """0 background, 1 inside, 2 border (within two steps of something else)."""
    inside = (ndimage.maximum_filter(labels, footprint=RING) == labels) & (ndimage.minimum_filter(labels, footprint=RING) == labels)
    return np.where(labels > 0, np.where(inside, 1, 2), 0).astype(np.uint8)

# ---------- network
def convolutions(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return x

def unet(width=16, depth=4, skips=True, outputs=1):
    inputs = keras.Input((None, None, 3))
    x, kept = layers.Rescaling(1 / 255)(inputs), []
    for level in range(depth + 1):
        x = layers.MaxPooling2D()(x) if level else x
        x = convolutions(x, width * 2**level)
        kept.append(x)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2)(x)
        x = layers.Concatenate()([kept[level], x]) if skips else x
        x = convolutions(x, width * 2**level)
    return keras.Model(inputs, layers.Conv2D(outputs, 1, activation="sigmoid", dtype="float32")(x))

# ---------- batches
LEVELS, SAME = np.arange(256) / 255, np.arange(256, dtype=np.uint8)

class Crops(keras.utils.PyDataset):
    def __init__(self, pictures, codes, kinds, updates, size, seed, batch=16, flips=True, balance=False, light=False, scale=0.0, tint=False, border=False):
        super().__init__(workers=int(os.environ.get("WORKERS", 4 if GPU else 1)))
        self.updates, self.size, self.seed, self.batch = updates, size, seed, batch
        self.flips, self.light, self.scale, self.tint, self.border = flips, light, scale, tint, border
        side = int(np.ceil(size * 2**scale)) + 1
        pad = lambda a: np.pad(a, [(0, max(0, side - n)) for n in a.shape[:2]] + [(0, 0)], mode="reflect")
        grades = np.array([0, 255, 128], np.uint8)  # outside, inside, border: graded, so that it may be interpolated
        self.packed = [pad(np.dstack([p, grades[c]])) for p, c in zip(pictures, codes)]
        share = {"fluorescence": 0.6, "stained": 0.3, "bright field": 0.1}
        p = np.array([share[k] / kinds.count(k) for k in kinds]) if balance else np.ones(len(kinds))
        self.upto = np.cumsum(p) / p.sum()
    def __len__(self): return self.updates
    def crop(self, rng):
        packed = self.packed[min(np.searchsorted(self.upto, rng.random()), len(self.packed) - 1)]
        side = round(self.size * 2 ** rng.uniform(-self.scale, self.scale))
        y, x = (rng.integers(n - side + 1) for n in packed.shape[:2])
        crop = packed[y : y + side, x : x + side]
        crop = cv2.resize(crop, (self.size, self.size)) if side != self.size else crop
        if self.light:
            gamma, gain, shift = 2 ** rng.uniform(-0.6, 0.6), rng.uniform(0.7, 1.2), rng.uniform(-0.1, 0.1)
            gains = rng.uniform(0.85, 1.15, 3) if self.tint else np.ones(3)
            table = np.clip(255 * (LEVELS[:, None] ** gamma * gain + shift) * gains, 0, 255).astype(np.uint8)
            crop = cv2.LUT(crop, np.column_stack([table, SAME])[None])
        crop = np.ascontiguousarray(crop).view(np.uint32)[..., 0]  # a pixel is one number: turns are quick
        turn = rng.integers(8) if self.flips else 0
        crop = crop.T if turn & 1 else crop
        return crop[:: 1 - (turn & 2), :: 1 - (turn >> 1 & 2)]
    def __getitem__(self, step):
        rng = np.random.default_rng([self.seed, step])
        crops = np.stack([self.crop(rng) for _ in range(self.batch)])
        crops = crops.view(np.uint8).reshape(*crops.shape, 4)
        nucleus = crops[..., 3:] > 63
        y = np.concatenate([nucleus, nucleus & (crops[..., 3:] < 192)], axis=-1) if self.border else nucleus
        return np.ascontiguousarray(crops[..., :3]), y.astype(np.uint8)

class Same(keras.utils.PyDataset):
    """One batch again and again: what the step costs without the making of batches."""
    def __init__(self, batch, updates): super().__init__(); self.data, self.updates = batch, updates
    def __len__(self): return self.updates
    def __getitem__(self, step): return self.data

# ---------- training
ENTROPY, DICE = keras.losses.BinaryCrossentropy(), keras.losses.Dice(axis=(1, 2, 3))
LOSSES = {"entropy + Dice": lambda y, p: ENTROPY(y, p) + DICE(y, p), "Dice": lambda y, p: DICE(y, p), "entropy": lambda y, p: ENTROPY(y, p)}

@cache
def network_of(**shape):
    keras.config.set_dtype_policy(POLICY)
    network = unet(**shape)
    network.compile(jit_compile=JIT)
    keras.config.set_dtype_policy("float32")
    return network

@cache
def trainer(updates, rate, decay, loss, ema, **shape):
    """A model around the network of this shape, compiled, and the first state of its optimiser."""
    network = network_of(**shape)
    rise = max(1, updates // 5)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, updates - rise, warmup_target=rate, warmup_steps=rise)
    keras.config.set_dtype_policy(POLICY)  # of the trainer: it decides on the scaling of the loss
    model = keras.Model(network.inputs, network.outputs)
    keras.config.set_dtype_policy("float32")
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=decay, use_ema=True, ema_momentum=ema), LOSSES[loss], jit_compile=JIT)
    model.optimizer.build(model.trainable_variables)
    return model, [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]

def train(data, seed, rate, decay=1e-4, loss="entropy + Dice", ema=0.99, **shape):
    network = network_of(**shape)
    model, state = trainer(data.updates, rate, decay, loss, ema, **shape)
    keras.utils.set_random_seed(seed)
    network.set_weights(unet(**shape).get_weights())
    for variable, value in zip(model.optimizer.variables, state): variable.assign(value)
    history = model.fit(data, verbose=0, shuffle=False)
    return network, type(model.optimizer).__name__, history.history["loss"][-1]

# ---------- prediction and scores
def predict(network, pictures, views=1):
    maps = [None] * len(pictures)
    for low, side, batch in ((0, 368, 8), (368, 736, 2), (736, 1472, 1)):
        chosen = [i for i, p in enumerate(pictures) if low < max(p.shape[:2]) <= side]
        for start in range(0, len(chosen), batch):
            part = chosen[start : start + batch]
            canvas = np.zeros((batch, side, side, 3), np.uint8)
            for k, i in enumerate(part):
                h, w = pictures[i].shape[:2]
                canvas[k] = np.pad(pictures[i], [(0, side - h), (0, side - w), (0, 0)], mode="reflect")
            out = 0
            for view in range(views):
                seen = np.rot90(canvas, view % 4, (1, 2)); seen = seen[:, :, ::-1] if view > 3 else seen
                one = network.predict_on_batch(np.ascontiguousarray(seen))
                one = one[:, :, ::-1] if view > 3 else one
                out = out + np.rot90(one, -(view % 4), (1, 2)) / views
            for k, i in enumerate(part):
                maps[i] = out[k, : pictures[i].shape[0], : pictures[i].shape[1]].astype(np.float32)
    return maps

def iou(truth, found):
    either = (truth | found).sum()
    return (truth & found).sum() / either if either else 1.0

def dice(truth, found): return 2 * (truth & found).sum() / max(1, truth.sum() + found.sum())

def precision(truth, found):
    overlap = contingency_table(truth, found).toarray()
    areas, others = overlap.sum(1), overlap.sum(0)
    present = areas[1:] > 0, others[1:] > 0
    value = overlap[1:, 1:] / np.maximum(areas[1:, None] + others[None, 1:] - overlap[1:, 1:], 1)
    value = value[present[0]][:, present[1]]
    hits = np.array([(value > t).sum() for t in np.arange(0.5, 0.96, 0.05)])
    return hits / np.maximum(sum(value.shape) - hits, 1)

def drop_small(labels, smallest):
    kept = np.bincount(labels.ravel()) >= smallest; kept[0] = False
    return (np.cumsum(kept) * kept)[labels]

def nuclei(chance, threshold=0.5, distance=5, smallest=10):
    mask = chance[..., 0] > threshold
    if chance.shape[-1] == 2:
        seeds = connected(mask & (chance[..., 1] < 0.5))
        parts = connected(mask)
        lone = np.where(np.isin(parts, np.unique(parts[seeds > 0])), 0, parts)
        markers, height = np.where(lone > 0, lone + seeds.max(), seeds), -chance[..., 0]
    else:
        height = -gaussian(ndimage.distance_transform_edt(mask), 1)
        peaks = peak_local_max(-height, min_distance=distance, labels=connected(mask), exclude_border=False)
        markers = np.zeros(mask.shape, int); markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return drop_small(watershed(height, markers, mask=mask), smallest)

def report(name, network, S, views=1, instances=True, thresholds=(0.5,)):
    for part in ("validation", "test"):
        index = S["split"][part]
        begun = time.perf_counter()
        maps = predict(network, [S["pictures"][i] for i in index], views)
        spent = time.perf_counter() - begun
        truth = [S["labels"][i] > 0 for i in index]
        for t in thresholds:
            values = np.array([iou(a, m[..., 0] > t) for a, m in zip(truth, maps)])
            d = np.mean([dice(a, m[..., 0] > t) for a, m in zip(truth, maps)])
            by = " ".join(f"{k} {values[[S['kinds'][i] == k for i in index]].mean():.4f}" for k in KINDS)
            say(f"  {name} | {part} t={t} views={views} IoU {values.mean():.4f} Dice {d:.4f} | {by} | predict {spent:.1f} s")
        if instances:
            begun = time.perf_counter()
            with ThreadPoolExecutor(8) as pool:
                aps = np.array(list(pool.map(lambda im: precision(S["labels"][im[0]], nuclei(im[1])), zip(index, maps))))
            dark = [S["kinds"][i] == "fluorescence" for i in index]
            say(f"  {name} | {part} mAP {aps.mean():.4f} AP50 fluorescence {aps[dark, 0].mean():.4f} | scoring {time.perf_counter() - begun:.1f} s")

# ---------- main
path = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "seven-lessons" / "stage1_train.zip"
names, images, labels = read_zip(path)
say(f"{keras.backend.backend()} {GPU or 'CPU'} {POLICY}; {len(names)} images read")
kinds = [kind_of(i) for i in images]
pictures = [stretch(i) for i in images]
inverted = [bright_nuclei(p) for p in pictures]
codes = [targets(l) for l in labels]
say("prepared;", {k: kinds.count(k) for k in KINDS}, "inverted by kind", {k: sum(np.median(p) > 127 for p, q in zip(pictures, kinds) if q == k) for k in KINDS})
rest, test = train_test_split(np.arange(len(names)), test_size=0.2, stratify=None if TINY else kinds, random_state=0)
tr, va = train_test_split(rest, test_size=0.125, stratify=None if TINY else np.array(kinds)[rest], random_state=0)
split = {"train": np.sort(tr), "validation": np.sort(va), "test": np.sort(test)}
say({k: len(v) for k, v in split.items()})

def batches(polar=False, **how):
    chosen = inverted if polar else pictures
    return Crops([chosen[i] for i in split["train"]], [codes[i] for i in split["train"]], [kinds[i] for i in split["train"]], **how)

GOOD = {"polar": True, "balance": True, "light": True}
W = 4 if TINY else 32
W2 = 2 if TINY else 16
UP = 4 if TINY else 1

# (a) times
def timing(name, width, outputs, **how):
    how.pop('polar', 0)
    n = 6 if TINY else 150
    data = batches(updates=n, seed=0, **how)
    begun = time.perf_counter()
    for s in range(20): data[s]
    make = (time.perf_counter() - begun) / 20
    keras.config.set_dtype_policy(POLICY); network = unet(width, outputs=outputs); keras.config.set_dtype_policy("float32")
    network.compile(keras.optimizers.AdamW(1e-3, use_ema=True), LOSSES["entropy + Dice"], jit_compile=JIT)
    def fit(data):
        begun = time.perf_counter(); network.fit(data, verbose=0, shuffle=False); spent = time.perf_counter() - begun
        network.set_weights(network.get_weights())  # JAX: weights and their averages must not share a buffer
        return spent
    compiling, bare, full, line = fit(Same(data[0], 2)), fit(Same(data[0], n)) / n, fit(data) / n, ""
    for workers in (2, 4):
        more = batches(updates=n, seed=0, **how); more._workers = workers
        line += f", {workers} workers {1000 * fit(more) / n:.1f}"
    say(f"time {name}: ms a step bare {1000 * bare:.1f}, with batches {1000 * full:.1f}{line}; a batch alone {1000 * make:.1f} ms; compile {compiling:.1f} s; {type(network.optimizer).__name__}")
timing("reference width 16, 128", W2, 1, size=128)
timing("final width 32, 256, all", W, 2, size=64 if TINY else 256, scale=0.5, border=True, **GOOD)

# (b) variants of the final recipe, most important first
SIZE = 64 if TINY else 256
def variant(name, updates, width, size, rate=2e-3, outputs=2, polar=True, views=(1,), thresholds=(0.5,), estimate=0, **how):
    train_how = {k: how.pop(k) for k in ("decay", "loss", "ema", "seed", "skips") if k in how}
    seed = train_how.pop("seed", 0)
    if time.perf_counter() - STARTED + estimate > LIMIT:
        return say(f"-- no time for {name}")
    updates = UP if TINY else updates
    data = batches(polar, updates=updates, size=size, seed=seed, border=outputs == 2, **how)
    begun = time.perf_counter()
    network, optimizer, last = train(data, seed, rate, width=width, outputs=outputs, **train_how)
    say(f"* {name}: {updates} updates, width {width}, crops {size}, rate {rate}: {time.perf_counter() - begun:.0f} s with compiling, last loss {last:.4f}, {optimizer}")
    S = {"split": split, "pictures": inverted if polar else pictures, "labels": labels, "kinds": kinds}
    for v in views:
        report(name, network, S, v, thresholds=thresholds)

BEST = {"balance": True, "light": True}
SMALL = 64 if TINY else 128
THRESHOLDS = (0.4, 0.5, 0.6)
variant("A everything, 6000", 6000, W, SIZE, scale=0.5, estimate=120, views=(1, 8), thresholds=THRESHOLDS, **BEST)
variant("B reference width 16", 2000, W2, SMALL, outputs=1, polar=False, estimate=30)
variant("C everything", 3000, W, SIZE, scale=0.5, estimate=70, thresholds=THRESHOLDS, **BEST)
variant("D no inverting", 3000, W, SIZE, scale=0.5, polar=False, estimate=45, **BEST)
variant("E with tint", 3000, W, SIZE, scale=0.5, tint=True, estimate=45, **BEST)
variant("F no scale", 3000, W, SIZE, estimate=45, **BEST)
variant("G crops 128, 6000", 6000, W, SMALL, scale=0.5, estimate=70, **BEST)
variant("H rate 5e-3", 3000, W, SIZE, rate=5e-3, scale=0.5, estimate=60, **BEST)
variant("I rate 1e-3", 3000, W, SIZE, rate=1e-3, scale=0.5, estimate=60, **BEST)
variant("J no skips width 16", 2000, W2, SMALL, outputs=1, polar=False, estimate=30, skips=False)
variant("K one output", 3000, W, SIZE, scale=0.5, outputs=1, estimate=60, **BEST)
variant("L decay 0.05", 3000, W, SIZE, decay=0.05, scale=0.5, estimate=60, **BEST)
say("done")
