"""Encodes every picture once, for the U-Net to train on. Run: ``python -m training.latents`` after ``training.vae``."""

import argparse
import sys

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.icons import WORK
from training.vae import to_model


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the latents' means and standard deviations, each ``(N, 4, 16, 16)`` float16, unscaled."""
    means, deviations = [], []
    for chunk in pictures.split(200):
        with torch.autocast(vae.device.type, dtype=torch.bfloat16):
            latents = vae.encode(to_model(chunk).to(vae.device)).latent_dist
        means.append(latents.mean.half().cpu())
        deviations.append(latents.std.half().cpu())
    return torch.cat(means), torch.cat(deviations)


def main() -> None:
    """Write ``work/latents.pt`` and the latents' scale into ``work/vae``'s configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(WORK / "vae").to(args.device, memory_format=torch.channels_last)
    means, deviations = encode(vae, torch.from_numpy(np.load(WORK / "pictures.npz")["pictures"]))
    torch.save({"means": means, "deviations": deviations}, WORK / "latents.pt")
    scale = 1 / means.float().std().item()
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(WORK / "vae")
    sys.stdout.write(f"{len(means)} pictures, scaling factor {scale:.4f}\n")


if __name__ == "__main__":
    main()
