"""How well the U-Net denoises given pictures under given embeddings: what textual inversion minimises."""

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from unsee_core.images import to_pixels
from unsee_core.pipeline import Pipeline


@torch.no_grad()
def encode_latents(pipeline: Pipeline, images: Sequence[Image.Image]) -> Tensor:
    """Return the pictures as ``(n, C, h, w)`` float32 latents of the model's default size, on its device.

    The mean of the VAE's posterior, scaled as the U-Net expects it.
    """
    vae = pipeline.vae
    pixels = to_pixels(images, pipeline.default_size).to(pipeline.device, vae.dtype)
    latents: Tensor = vae.encode(pixels).latent_dist.mode().float() * vae.config.scaling_factor
    return latents


class Denoiser:
    """The U-Net on latents that are noised at will; gradients flow to what it reads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._unet, self._dtype, self._device = pipeline.unet, pipeline.dtype, pipeline.device
        self._noising = DDPMScheduler.from_config(pipeline.scheduler_config)
        self._prediction_type = pipeline.prediction_type

    @property
    def num_timesteps(self) -> int:
        """Timesteps that the model was trained with."""
        return int(self._noising.config.num_train_timesteps)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return ``(B, C, h, w)`` float32 latents with the noise of their timesteps; arguments as of ``ImageLoss``."""
        noisy: Tensor = self._noising.add_noise(latents, noise.to(self._device), timesteps.to(self._device))
        return noisy

    def predicted(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """Return what the U-Net predicts of noised latents, ``(B, C, h, w)`` float32: noise or velocity."""
        timesteps, embeddings = timesteps.to(self._device), embeddings.to(self._dtype)
        predicted: Tensor = self._unet(noisy.to(self._dtype), timesteps, embeddings).sample
        return predicted.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what a perfect U-Net would predict, ``(B, C, h, w)`` float32; arguments as of ``ImageLoss``."""
        noise, timesteps = noise.to(self._device), timesteps.to(self._device)
        if self._prediction_type == "epsilon":
            return noise
        velocity: Tensor = self._noising.get_velocity(latents, noise, timesteps)
        return velocity


class ImageLoss:
    """The U-Net's squared error on noised latents; gradients flow to embeddings and latents that ask for them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._denoiser = Denoiser(pipeline)

    @property
    def num_timesteps(self) -> int:
        """Timesteps that the model was trained with."""
        return self._denoiser.num_timesteps

    def timesteps_between(self, least: float, most: float, count: int) -> Tensor:
        """Return timesteps ``(count,)``, in order, evenly between two shares of all of them."""
        shares = least + (torch.arange(count) + 0.5) / count * (most - least)
        return (shares * self.num_timesteps).long()

    def __call__(self, latents: Tensor, noise: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """Return each row's mean squared error, ``(B,)`` float32.

        Args:
            latents: ``(B, C, h, w)`` float32, without noise.
            noise: as ``latents``; standard normal, on any device.
            timesteps: ``(B,)`` long, on any device.
            embeddings: ``(B, 77, d)``; cast to the U-Net's dtype.
        """
        noisy = self._denoiser.noised(latents, noise, timesteps)
        error = self._denoiser.predicted(noisy, timesteps, embeddings) - self._denoiser.target(
            latents, noise, timesteps
        )
        return error.square().mean(dim=(1, 2, 3))


def embedding_gradient(loss: Tensor, embeddings: Tensor, latents: Tensor) -> Tensor:
    """Return the gradient of a mean over latents' elements, shaped as ``embeddings``.

    A mean over a picture has gradients that would vanish in a U-Net of 16 bits: they are scaled on their way.

    Args:
        loss: a scalar that depends on ``embeddings`` through the U-Net.
        embeddings: what the U-Net read; requires gradients.
        latents: ``(B, C, h, w)``; only the size of a row is read.
    """
    scale = latents[0].numel()
    (gradient,) = torch.autograd.grad(loss * scale, embeddings)
    return gradient / scale
