"""Every lesson runs from first cell to last at small scale, alone, with no network and no cached data."""

import ast
import shutil

import checks
import papermill
import pytest
from conftest import LESSONS, ROOT

# What is injected into the parameters cell. A lesson without a row here is a failure, not a slow test.
SMALL = {
    "lesson01_basics": {
        "RUNS": 3,
        "EPOCHS": 30,
        "BEST_EPOCHS": 9,
        "LONGEST": 40,
        "DIGITS_EPOCHS": 2,
        "DIGITS_REPEATS": 1,
    },
    "lesson02_keras": {
        "SEEDS": [0],
        "EPOCHS": 2,
        "WIDTHS": [8, 16],
        "DEPTHS": [2, 3],
        "SIZES": [20_000],
        "REMEDIES": {
            "plain": {},
            "He + batch norm + residual": {"initializer": "he_normal", "batch_norm": True, "residual": True},
        },
        "LEARNING_RATES": {"SGD": [0.01, 0.1], "Adam": [0.001]},
        "CHANGES": {"averaged weights": {"ema": 0.99}, "label smoothing 0.1": {"label_smoothing": 0.1}},
        "FINAL_EPOCHS": 2,
        "NEIGHBOURS_OF": 20,
        "TIMED_EPOCHS": 2,
    },
    "lesson03_tensorflow": {
        "FOLDS": 2,
        "REPEATS": 1,
        "COPIES": 1,
        "EPOCHS": 1,
        "LINEAR_EPOCHS": 50,
        "TREES": 5,
        "KERAS_FOLDS": 1,
        "IMPORTANCE_REPEATS": 1,
        "BOOTSTRAP": 100,
        "CHECKED": [],
        "RATES": {"sgd": [0.1]},
    },
    "lesson04_cnn": {
        "SEEDS": [0],
        "EXTRA_SEEDS": [0],
        "TRAIN_IMAGES": 300,
        "VALIDATION_IMAGES": 100,
        "BATCH_SIZE": 100,
        "EPOCHS": 1,
        "BASE_WIDTH": 2,
        "WIDTHS": [2],
        "KERNEL_ORDERS": ["7-5-3"],
        "DEPTHS": ["7-5-3"],
        "DENSE_WIDTHS": [0],
        "DENSE_EPOCHS": 1,
        "CURVE_SIZES": [300],
        "EXTRAS_WIDTH": 2,
        "EXTRAS_EPOCHS": 1,
        "EXTRAS": {"reference": {}, "flip and shift": {"flip": True, "shift": 2}},
        "FINAL_CANDIDATES": {"7-5-3": [[2, 1, 0.1]]},
        "FINAL_EPOCHS": 1,
        "TIMED_EPOCHS": 1,
        "LARGE_BATCH": 200,
        "TRY_TWO_DEVICES": False,
    },
    "lesson05_rnn": {
        "SEEDS": [0],
        "TUTORIAL_EPOCHS": 1,
        "EPOCHS": 4,
        "CHECK_EVERY": 2,
        "SHAPES": 3,
        "COMPARED_STEPS": 3,
        "TIMED_STEPS": 2,
        "GRADIENT_LENGTH": 12,
        "LENGTHS": [6, 12],
        "ADDING_SEEDS": [0],
        "RATES": [0.01],
        "ADDING_UNITS": 4,
        "ADDING_BATCH": 5,
        "ADDING_STEPS": 4,
        "ADDING_CHECK": 2,
        "MORE_STEPS": 4,
        "MORE_LENGTHS": [6, 12],
    },
    "lesson06_unet": {
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
    },
    "lesson07_detection": {
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
    },
}


def test_every_lesson_has_small_parameters():
    assert set(SMALL) == {path.stem for path in LESSONS}


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder with nothing but data/, an empty Keras cache, and proxies that lead nowhere."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("KERAS_HOME", "TFHUB_CACHE_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "alone"
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("cache"))
    return folder


def test_lesson_runs_offline_at_small_scale(lesson, alone):
    copy = alone / lesson.name
    shutil.copy(lesson, copy)
    known = checks.read(lesson)
    (parameters,) = (c for c in checks.code_cells(known) if "parameters" in c.metadata.get("tags", []))
    names = {node.targets[0].id for node in ast.parse(parameters.source).body}
    assert set(SMALL[lesson.stem]) <= names, "an injected name is not in the parameters cell"
    papermill.execute_notebook(
        str(copy), str(copy), SMALL[lesson.stem], cwd=str(alone), kernel_name="python3", progress_bar=False
    )
    done = checks.read(copy)
    assert checks.no_error_output(done, copy) == []
    assert all(cell.execution_count for cell in checks.code_cells(done))
    said = "\n".join(checks.text_of(output) for output in checks.outputs(done)).lower()
    if any("get_file" in cell.source or "load_data(" in cell.source for cell in checks.code_cells(known)):
        assert "stand-in" in said, "the lesson does not say that it runs on a stand-in for its data"
