"""Training goes on from a checkpoint as if it had never stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from training import checkpoint
from training.text import Captions, TextStage
from training.unet import UnetStage
from training.vae import VaeStage

STEPS = 6


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def tiny_text() -> CLIPTextModel:
    sizes = {"hidden_size": 128, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=50, bos_token_id=48, eos_token_id=49, pad_token_id=0, **sizes))


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=2,
        use_linear_projection=True,
        norm_num_groups=4,
    )


def pictures(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def captions(count: int) -> Captions:
    ids = torch.randint(1, 48, (9, 77), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    ids[:, 5], ids[:, 6:] = 49, 0
    return Captions(ids, torch.arange(count * 4).view(count, 4) % 9)


def new_vae_stage() -> VaeStage:
    torch.manual_seed(0)
    return VaeStage(tiny_vae(), pictures(20), steps=STEPS, peak=1e-3, seed=3, decoder_only=False)


def new_text_stage() -> TextStage:
    torch.manual_seed(0)
    return TextStage(tiny_text(), captions(1020), pictures(1020), steps=STEPS, batch=3, seed=3)


def new_unet_stage() -> UnetStage:
    torch.manual_seed(0)
    latents = {"means": torch.randn(1020, 4, 16, 16), "deviations": torch.full((1020, 4, 16, 16), 0.1)}
    empty_ids = torch.zeros(77, dtype=torch.long).index_fill(0, torch.tensor([0]), 49)
    unet, text = tiny_unet(), tiny_text()
    return UnetStage(unet, text, captions(1020), latents, empty_ids, steps=STEPS, text_steps=3, batch=2, seed=3)


class KilledError(Exception):
    """Stands for a kill between two steps."""


def train(stage: checkpoint.Stage, path: Path, *, kill_after: int = STEPS) -> list[str]:
    lines: list[str] = []

    def on_save(done: int) -> None:
        if done == kill_after < STEPS:
            raise KilledError

    checkpoint.run(stage, path, steps=STEPS, log=lines.append, on_save=on_save)
    return lines


@pytest.mark.parametrize("new_stage", [new_vae_stage, new_text_stage, new_unet_stage])
def test_a_killed_run_ends_in_the_same_weights_as_an_unbroken_one(
    new_stage: Callable[[], checkpoint.Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)
    unbroken = new_stage()
    train(unbroken, tmp_path / "unbroken.pt")
    with pytest.raises(KilledError):
        train(new_stage(), tmp_path / "killed.pt", kill_after=4)
    resumed = new_stage()
    lines = train(resumed, tmp_path / "killed.pt")
    assert lines[0] == "resumed at step 4"
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "stage.pt"
    checkpoint.save(path, {"steps_done": 1})

    def killed(state: object, file: object) -> None:
        raise KilledError

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KilledError):
        checkpoint.save(path, {"steps_done": 2})
    assert checkpoint.load(path) == {"steps_done": 1}


def test_nothing_saved_is_no_checkpoint(tmp_path: Path):
    assert checkpoint.load(tmp_path / "none.pt") is None


def test_training_the_decoder_alone_keeps_the_latents_valid():
    torch.manual_seed(0)
    vae = tiny_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    VaeStage(vae, pictures(8), steps=2, peak=1e-2, seed=3, decoder_only=True).train_step(1)
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_the_text_encoder_stays_as_it_is_after_its_share_of_the_steps():
    stage = new_unet_stage()
    stage.train_step(2)
    trained = {name: value.clone() for name, value in stage.text.state_dict().items()}
    stage.train_step(3)
    torch.testing.assert_close(dict(stage.text.state_dict()), trained, rtol=0, atol=0)


def test_the_learning_rate_warms_up_and_ends_at_its_floor():
    rates = [checkpoint.learning_rate(step, steps=1000, peak=1.0, warmup=100) for step in (0, 99, 500, 1000, 2000)]
    assert rates == pytest.approx([0.01, 0.977, 0.51, 0.02, 0.02], abs=2e-3)
