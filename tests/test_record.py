""".ci/record on a small made-up lesson: what it drops, keeps and writes into the page."""

import subprocess
import sys

import checks
import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_notebook

NOISE = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796065147.123477    6584 port.cc:153] oneDNN custom operations are on.
2026-01-01 10:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary is optimized
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
E0000 00:00:1796065150.638109    6584 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)
2026-01-01 10:00:00.123456: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:467] Unable to register
W0000 00:00:1796065150.638109    6584 computation_placer.cc:177] computation placer already registered.
I0000 00:00:1796065150.638109    6584 gpu_device.cc:2019] Created device /device:GPU:0 with 138000 MB memory
I0000 00:00:1796065150.638109    6584 device_compiler.h:196] Compiled cluster using XLA!
"""
KEPT = """UserWarning: a layer has no name
W0000 00:00:1796065150.638109    6584 bfc_allocator.cc:310] ran out of memory
"""
FIGURES = """from matplotlib import pyplot as plt

for titles in (["one"], ["left", "right"]):
    fig, axes = plt.subplots(1, len(titles), squeeze=False, figsize=(1, 1))
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    plt.show()
fig, ax = plt.subplots(figsize=(1, 1))
ax.set_title("a panel")
fig.suptitle("the whole\\nfigure")
plt.show()"""


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Function: the made-up lesson of some cells after .ci/record, and what the command said."""
    monkeypatch.delenv("MPLBACKEND", raising=False)
    (tmp_path / "data" / "cache").mkdir(parents=True)

    def run(*sources, **metadata):
        path = tmp_path / "lesson09_tiny.ipynb"
        cells = [new_code_cell(source, metadata={"papermill": {"duration": 1}}) for source in sources]
        nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
        before = path.read_bytes()
        command = [sys.executable, str(ROOT / ".ci" / "record"), str(path.with_suffix(""))]
        done = subprocess.run(command, capture_output=True, text=True)
        return checks.read(path), done, path.read_bytes() == before

    return run


def test_page_is_recorded(record, tmp_path):
    (tmp_path / "data" / "cache" / "old").write_text("a result of yesterday")
    lines = f"import sys\nsys.stderr.write({NOISE + KEPT!r})\nprint('10 %\\r50 %\\r100 %\\ndone\\rDO')"
    where = "from pathlib import Path\nprint(Path('data/cache/old').exists())"
    nb, done, _ = record(lines, FIGURES, where, papermill={"version": "2"})
    assert done.returncode == 0, done.stderr
    said = {output.name: output.text for output in nb.cells[0].outputs}
    assert said == {"stderr": KEPT, "stdout": "100 %\nDOne\n"}
    alt = [output.metadata["image/png"]["alt"] for output in nb.cells[1].outputs]
    assert alt == ["one", "left; right", "the whole figure"]
    assert nb.cells[2].outputs[0].text == "False\n"
    assert checks.executed_in_order(nb, None) == []
    assert set(nb.metadata.language_info) == {"name", "version", "file_extension"}
    assert "papermill" not in nb.metadata and all(list(c.metadata) == ["execution"] for c in nb.cells)


def test_failing_cell_leaves_the_page_as_it_was(record):
    _, done, untouched = record("print('before')", "1 / 0")
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr
    assert untouched
