"""Every lesson runs to its end at small scale with no network: under a reader's settings, and as in Colab."""

import ast
import shutil

import checks
import pytest
from conftest import LESSONS, ROOT, small

WITH_KERAS = [path for path in LESSONS if "import keras" in path.read_text(encoding="utf-8")]


def test_small_parameters_are_parameters(lesson):
    (cell,) = (
        c for c in checks.code_cells(checks.read(lesson)) if "parameters" in c.metadata.get("tags", [])
    )
    assert set(small(lesson)) <= {node.targets[0].id for node in ast.parse(cell.source).body}


def test_lesson_runs_offline_at_small_scale(lesson, alone, run_small, keras_json, monkeypatch):
    """Without a network, under a keras.json that is not the default, and each under one more hardship."""
    keras_json(floatx="float16", image_data_format="channels_first")
    number, own = checks.number_of(lesson), alone.parent / "KERAS_HOME" / "datasets" / "housing.csv"
    if number == 1:  # nowhere to write: root writes through any mode, a plain file stops it too
        for name in ("cache", "images"):
            shutil.rmtree(alone / "data" / name, ignore_errors=True)
            (alone / "data" / name).write_text("not a folder")
    if number == 3:  # the reader has a file of that name
        own.parent.mkdir()
        own.write_text("mine\n")
    if number == 5:  # a locale that knows ASCII only
        for setting in ("LANG=C", "LC_ALL=C", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0"):
            monkeypatch.setenv(*setting.split("="))
    said = run_small(lesson).lower()
    assert number != 3 or own.read_text() == "mine\n"
    code = "\n".join(cell.source for cell in checks.code_cells(checks.read(lesson)))
    if number != 5 and ("get_file" in code or "load_data(" in code):  # the series of lesson 5 lies in data/
        assert "stand-in" in said, "the lesson does not say that it runs on a stand-in for its data"


@pytest.mark.parametrize("lesson", WITH_KERAS, ids=lambda path: path.stem)
def test_lesson_runs_as_on_a_gpu_and_without_data_as_in_colab(lesson, alone, run_small):
    shutil.rmtree(alone / "data")
    startup = alone.parent / "IPYTHONDIR" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "as_gpu.py", startup / "00-as-gpu.py")
    run_small(lesson)
