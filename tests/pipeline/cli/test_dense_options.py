"""The options that shape a network, on the command line: every command takes them the same way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from conversion import load_network, read_metadata, save
from conversion.errors import ConversionError, OptionError
from pipeline.cli.commands.model import cast, convert, inspect, verify
from tests.support.field import FIELD, caffe_files
from tests.support.field_definitions import seeded


def invoke(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("command", [convert, inspect, verify, cast], ids=lambda command: command.name)
def test_four_commands_take_them(command: click.Command):
    flags = {flag for option in command.params for flag in option.opts}
    assert flags >= {
        "--crop",
        "--stage",
        "--level",
        "--output-blob",
        "--output-stride",
        "--pooling-rounding",
        "--dialect",
    }


def test_a_stage_and_a_finer_map_together(tmp_path: Path):
    """The cost was computed without the stage: "unknown bottom blob 'data'"."""
    done = invoke(
        convert, *caffe_files("a33_digits"), "-o", tmp_path / "m", "--stage", "deploy", "--output-stride", 1, "--json"
    )
    assert done.exit_code == 0, done.output
    # conv1 costs the same; the classifier has 4 * 49 taps and 5 classes: 17 * 17 cells in place of 9 * 9, and 13 more.
    assert "an image of 32x32 pixels costs 0.0 GMAC at stride 1, " in done.stderr
    assert "as much as at the net's own stride of 2" in done.stderr
    assert json.loads(done.stdout)["options"]["stages"] == ["deploy"]
    assert read_metadata(tmp_path / "m").geometry.y.stride == 1
    definition, weights = caffe_files("a33_digits")
    done = invoke(verify, tmp_path / "m", "--definition", definition, "--weights", weights)
    assert "blobs at 3 sizes agree" in done.stdout


def test_a_dialect_is_read_and_recorded(tmp_path: Path):
    """The Crop of this definition states no offset: in Caffe it is 0, in the fork it is where the maps meet."""
    definition = FIELD / "definitions" / "fcn_16s_dialect.prototxt"
    weights = tmp_path / "net.caffemodel"
    save(seeded(definition), tmp_path / "net.prototxt", weights)
    done = invoke(convert, definition, weights, "-o", tmp_path / "m", "--mean", "0", "--dialect", "fcn")
    assert done.exit_code == 0, done.output
    metadata = read_metadata(tmp_path / "m")
    assert metadata.options is not None
    assert metadata.options.dialect == "fcn"
    text = (tmp_path / "m" / "network.prototxt").read_text()
    assert [int(found) for found in re.findall(r"offset: (\d+)", text)] == [5, 27]
    plain = json.loads(invoke(inspect, definition, "--json").stdout)
    crops = json.loads(invoke(inspect, definition, "--dialect", "fcn", "--json").stdout)
    assert plain["geometry"] != crops["geometry"]
    with pytest.raises(OptionError, match="no dialect 'x'") as caught:
        invoke(inspect, definition, "--dialect", "x")
    assert "the dialects are caffe, " in caught.value.why


def test_inspect_says_which_blob_is_the_map(tmp_path: Path):
    definition, _ = caffe_files("b01_heads")
    report = json.loads(invoke(inspect, definition, "--output-blob", "pa", "--json").stdout)
    assert (report["output_blob"], report["refusal"]) == ("pa", None)
    assert {layer["name"] for layer in report["layers"]} == {"data", "c", "relu_c", "p", "fa-conv", "pa"}
    text = invoke(inspect, definition).stdout
    assert "blob pb: the last of several heads" in text
    assert "--output-blob pb" in text


def test_cast_writes_what_the_options_say(tmp_path: Path):
    definition, weights = caffe_files("b01_heads")
    out = tmp_path / "dense.prototxt", tmp_path / "dense.caffemodel"
    files = ("--output-prototxt", out[0], "--output-weights", out[1])
    done = invoke(cast, definition, weights, *files, "--output-blob", "pa")
    assert "note: the map is blob 'pa': asked for by its name" in done.stderr
    assert load_network(*out).outputs == ("pa",)
    done = invoke(cast, caffe_files("a41_reduction")[0], *files[:2], "--overwrite", "--pooling-rounding", "floor")
    assert "note: round_mode: FLOOR on 'pool'" in done.stderr
    assert out[0].read_text().count("round_mode: FLOOR") == 1
    done = invoke(cast, caffe_files("a41_reduction")[0], *files[:2], "--overwrite")
    assert "note: not every image fits: layer 'cat' (Concat): on an image of 16x16" in done.stderr


def test_cast_writes_nothing_that_caffe_cannot_express(tmp_path: Path):
    definition, _ = caffe_files("a36_clip")
    text = definition.read_text().replace('bottom: "p" top: "f"', 'bottom: "q" top: "f"')
    pool = 'layer { name: "q" type: "Pooling" bottom: "p" top: "q" pooling_param { kernel_size: 2 } }\n'
    path = tmp_path / "net.prototxt"
    path.write_text(text.replace('layer { name: "f"', pool + 'layer { name: "f"'))
    with pytest.raises(ConversionError, match="dilated poolings: p, q"):
        invoke(cast, path, "--output-prototxt", tmp_path / "out.prototxt", "--output-stride", 1)
    assert not (tmp_path / "out.prototxt").exists()
