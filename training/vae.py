"""The VAE: 64 px pictures to (4, 16, 16) latents and back. Run: ``python -m training.vae``, then ``--decoder-only``.

Most steps see 32 px crops, which cost a quarter; the last tenth sees whole pictures, as the model will be used.
"""

import argparse
import math
import sys
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training import checkpoint
from training.icons import WORK

SIDE, CROP = 64, 32
HELD_OUT = 1000
WHOLE_SHARE = 0.1
KL_WEIGHT = 1e-3


def new_vae() -> AutoencoderKL:
    """Return an untrained VAE: f = 4, 4 latent channels, 1.7 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def to_model(pictures: Tensor) -> Tensor:
    """Return ``(B, H, W, 3)`` bytes as ``(B, 3, H, W)`` floats in [-1, 1], channels last in memory."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def psnr(squared_error: float) -> float:
    """Return decibels for a mean squared error over values in [-1, 1]."""
    return 10 * math.log10(4 / squared_error)


class VaeStage:
    """Autoencoding with L1, squared, and gradient error and a small pull towards unit Gaussians."""

    def __init__(
        self, vae: AutoencoderKL, pictures: Tensor, *, steps: int, peak: float, seed: int, decoder_only: bool
    ) -> None:
        """Prepare training.

        Args:
            vae: trained in place; its device is where training runs.
            pictures: ``(N, 64, 64, 3)`` bytes on the CPU.
            steps: for the schedule.
            peak: learning rate at its highest.
            seed: of batches, crops and latent noise.
            decoder_only: leave the encoder, so that latents stay valid, and see whole pictures only.
        """
        self.vae, self.pictures, self.steps, self.peak, self.decoder_only = vae, pictures, steps, peak, decoder_only
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        self.trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=peak, betas=(0.9, 0.99), weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, step: int) -> Tensor:
        """Return 16 crops or, in the last tenth, 4 whole pictures: ``(B, 3, side, side)``."""
        whole = self.decoder_only or step >= (1 - WHOLE_SHARE) * self.steps
        index = torch.randint(len(self.pictures), (4 if whole else 16,), generator=self.generator)
        pictures = self.pictures[index]
        if not whole:
            corners = torch.randint(SIDE - CROP + 1, (len(index), 2), generator=self.generator).tolist()
            pictures = torch.stack([p[y : y + CROP, x : x + CROP] for p, (y, x) in zip(pictures, corners, strict=True)])
        return to_model(pictures).to(self.vae.device)

    def train_step(self, step: int) -> dict[str, float]:
        """See ``checkpoint.Stage``."""
        for group in self.optimizer.param_groups:
            group["lr"] = checkpoint.learning_rate(step, steps=self.steps, peak=self.peak, warmup=50)
        target = self.batch(step)
        with torch.autocast(self.vae.device.type, dtype=torch.bfloat16):
            latents = self.vae.encode(target).latent_dist
            noise = torch.randn(latents.mean.shape, generator=self.generator).to(latents.mean)
            drawn = self.vae.decode(latents.mean + latents.std * noise).sample
        error = drawn.float() - target
        squared = error.pow(2).mean()
        slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = latents.kl().float().mean() / latents.mean[0].numel()
        loss = error.abs().mean() + squared + 0.5 * slopes + KL_WEIGHT * kl
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return {"loss": loss.item(), "psnr": psnr(squared.item()), "kl": kl.item()}

    def state_dict(self) -> dict[str, Any]:
        """See ``checkpoint.Stage``."""
        return {
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``checkpoint.Stage``."""
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Return decibels over whole ``(N, 64, 64, 3)`` pictures, decoded from the latents' means."""
    squared = 0.0
    for chunk in pictures.split(50):
        target = to_model(chunk).to(vae.device)
        drawn = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
        squared += (drawn - target).pow(2).mean().item() * len(chunk) / len(pictures)
    return psnr(squared)


def main() -> None:
    """Train and write ``work/vae``; with ``--decoder-only``, go on from ``work/vae`` to ``work/vae-decoder``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder-only", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)  # the layers' initial values
    pictures = torch.from_numpy(np.load(WORK / "pictures.npz")["pictures"])
    vae = AutoencoderKL.from_pretrained(WORK / "vae") if args.decoder_only else new_vae()
    vae = vae.to(args.device, memory_format=torch.channels_last).train()
    name, peak = ("vae-decoder", 3e-4) if args.decoder_only else ("vae", 8e-4)
    stage = VaeStage(
        vae, pictures[:-HELD_OUT], steps=args.steps, peak=peak, seed=args.seed, decoder_only=args.decoder_only
    )

    def log(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def on_save(done: int) -> None:
        vae.save_pretrained(WORK / name)
        log(f"{done} held-out psnr {held_out_psnr(vae, pictures[-100:]):.2f}")

    checkpoint.run(stage, WORK / f"{name}.pt", steps=args.steps, log=log, on_save=on_save)


if __name__ == "__main__":
    main()
