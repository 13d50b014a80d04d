"""What a training run of open_clip leaves becomes ours."""

import json
from pathlib import Path

import open_clip
import pytest
import torch

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import from_open_clip
from tests.support.peers import CLIP_TEXTS, TEXT_TOWER, VISION, assert_bit_equal, stir

VISION_TOWER = {"layers": 2, "width": 32, "head_width": 16, **VISION}
FIELDS = {"embed_dim": 24, "vision_cfg": VISION_TOWER, "text_cfg": {**TEXT_TOWER, **CLIP_TEXTS}}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint as open_clip's training writes it with several processes."""
    torch.manual_seed(0)
    peer = stir(open_clip.CLIP(**FIELDS))
    optimizer = torch.optim.AdamW(peer.parameters())
    state = {f"module.{name}": weight for name, weight in peer.state_dict().items()}
    kept = {"epoch": 1, "name": "my_run", "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(kept, tmp_path / "epoch_1.pt")
    return tmp_path / "epoch_1.pt"


def write_config(folder: Path):
    """As docs/conversion.md does it, for a small model."""
    config = {"model_cfg": FIELDS, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def test_a_checkpoint_of_a_run_is_converted_with_its_configuration_beside_it(checkpoint):
    write_config(checkpoint.parent)
    target = checkpoint.parent / "ours"
    assert main(["convert", str(checkpoint), str(target)]) == 0
    peer = open_clip.CLIP(**FIELDS)
    open_clip.load_checkpoint(peer, str(checkpoint))
    assert_bit_equal(ClipVitModel.from_pretrained(target), from_open_clip(peer))


def test_weights_that_are_loaded_next_are_not_said_to_be_missing(checkpoint, caplog):
    write_config(checkpoint.parent)
    from_open_clip(checkpoint)
    assert not caplog.messages


def test_a_checkpoint_of_a_run_without_a_configuration_names_the_section(checkpoint, capsys):
    assert main(["convert", str(checkpoint), str(checkpoint.parent / "ours")]) == 1
    section = "From a run of open_clip"
    assert f"'{section}' in docs/conversion.md" in capsys.readouterr().err
    assert f"\n## {section}\n" in Path("docs/conversion.md").read_text()
