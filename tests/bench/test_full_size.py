"""The full-size bench: what it writes, on the embedded model; that its random weights have the published shapes."""

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from bench import full_size


def test_it_times_erasures_and_pictures_and_counts_bytes_and_memory(emoji: Path, tmp_path: Path):
    chosen = ["--device", "cpu", "--repeats", "1", "--steps", "1", "--picture-size", "32", "--batches", "1", "2"]
    arguments = ["--model", str(emoji), "--methods", "closed_form", "--no-images", *chosen, "--results", str(tmp_path)]
    assert full_size.main(arguments) == 0
    found = json.loads((tmp_path / "full_size.json").read_text())
    (erased,) = found["erased"]
    assert erased["method"] == "closed_form"
    assert 0 < erased["median"] <= erased["slowest"]
    assert erased["report"] > 0
    assert 80_000 < erased["size_bytes"] < 110_000
    assert [one["batch"] for one in found["drawn"]] == [1, 2]
    assert found["peak_bytes"] > 100 * 2**20
    table = (tmp_path / "full_size.md").read_text()
    assert "| erase by closed_form |" in table
    assert "32 pixels, 1 steps" in table


@pytest.mark.slow
def test_random_weights_are_written_in_the_published_architecture():
    with full_size.random_model("2-base") as folder:
        counts = {path.parent.name: weights_in(path) for path in folder.glob("*/*.safetensors")}
        sample_size = json.loads((folder / "unet" / "config.json").read_text())["sample_size"]
    assert counts == {"text_encoder": 340_387_840, "unet": 865_910_724, "vae": 83_653_863}
    assert sample_size == 64
    assert not folder.exists()


def weights_in(path: Path) -> int:
    """Return how many numbers a file of weights holds."""
    with safe_open(path, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
