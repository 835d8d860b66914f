"""Paths in a definition (`source:`, `mean_file:`, ...): never opened, whatever is read or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = {
    "Data": "data_param { source: '@' mean_file: '@' }",
    "ImageData": "image_data_param { source: '@' root_folder: '@' mean_file: '@' }",
    "HDF5Data": "hdf5_data_param { source: '@' }",
    "HDF5Output": "hdf5_output_param { file_name: '@' }",
    "WindowData": "window_data_param { source: '@' mean_file: '@' root_folder: '@' }",
    "InfogainLoss": "infogain_loss_param { source: '@' }",
    "ReLU": "transform_param { mean_file: '@' }",
}
OLD = """layers { layer { name: 'd' type: 'data' source: '@' meanfile: '@' cropsize: 4 } top: 'x' }
layers { layer { name: 'r' type: 'relu' } bottom: 'x' top: 'x' }"""

# Reports every file that is opened, by Python or by a library that tells it.
PROGRAM = """
import json, sys
from conversion.errors import DensecastError
from conversion import load_network
opened = []
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.system", "socket.connect"):
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
for path in sys.argv[1:]:
    try:
        load_network(path)
    except DensecastError:
        pass
print(json.dumps(opened))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """(the definitions, every path opened while they were read); each names the same secret."""
    folder = tmp_path_factory.mktemp("source")
    secret = folder / "secret"
    secret.write_text("secret")
    paths = []
    for kind, parameters in LAYERS.items():
        path = folder / f"{kind}.prototxt"
        text = f"layer {{ name: 'x' type: '{kind}' top: 'data' top: 'label' {parameters} }}"
        path.write_text(text.replace("@", str(secret)))
        paths.append(str(path))
    (folder / "old.prototxt").write_text(OLD.replace("@", str(secret)))
    paths.append(str(folder / "old.prototxt"))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    return paths, json.loads(run.stdout)


def test_no_source_is_opened(opened: tuple[list[str], list[str]]):
    paths, found = opened
    assert not [path for path in found if Path(path).name == "secret"]
    for path in paths:
        assert found.count(path) == 1, "the hook saw nothing, or a definition was read twice"


def test_nothing_else_of_that_folder_is_opened(opened: tuple[list[str], list[str]]):
    paths, found = opened
    folder = str(Path(paths[0]).parent)
    assert sorted(path for path in found if path.startswith(folder)) == sorted(paths)
