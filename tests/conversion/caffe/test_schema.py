"""The generated schema: regenerated here and compared, so that caffe.proto and caffe_pb2 never part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import conversion.caffe

FOLDER = Path(conversion.caffe.__file__).parent


def test_generated_files_are_those_of_the_schema(tmp_path: Path):
    """Regenerate with: python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. conversion/caffe/caffe.proto"""
    folder = tmp_path / "conversion" / "caffe"
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / "caffe.proto", folder)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--pyi_out=."]
    result = subprocess.run([*command, "conversion/caffe/caffe.proto"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in ("caffe_pb2.py", "caffe_pb2.pyi"):
        assert (FOLDER / name).read_bytes() == (folder / name).read_bytes(), name
