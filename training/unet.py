"""The U-Net, trained together with the text encoder to predict v. Run: ``python -m training.unet``."""

import argparse
import copy
import sys
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from training import checkpoint
from training.icons import WORK
from training.text import HELD_OUT, WIDTH, Captions, load_captions

NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
EMPTY_SHARE = 0.1
UNET_RATE, TEXT_RATE = 1e-3, 3e-4
AVERAGE = 0.999


def new_unet() -> UNet2DConditionModel:
    """Return an untrained U-Net with cross-attention at its two inner levels, 10.9 M parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4, 6),
        use_linear_projection=True,
        norm_num_groups=16,
    )


class UnetStage:
    """v-prediction on latents; the weights that are kept are a moving average."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        captions: Captions,
        latents: dict[str, Tensor],
        empty_ids: Tensor,
        *,
        steps: int,
        text_steps: int,
        batch: int,
        seed: int,
    ) -> None:
        """Prepare training.

        Args:
            unet: trained in place; its device is where training runs.
            text: trained in place at a third of the rate, on the same device.
            captions: of the pictures.
            latents: "means" and "deviations", each ``(N, 4, 16, 16)``, unscaled, on the CPU.
            empty_ids: ``(77,)`` ids of the empty prompt, which replaces one caption in ten for guidance.
            steps: for the schedule.
            text_steps: how many of them, from the first, train the text encoder too; it costs as much as half a U-Net.
            batch: pictures a step.
            seed: of batches, captions, noise and timesteps.
        """
        self.unet, self.text, self.captions, self.empty_ids = unet, text, captions, empty_ids
        self.means, self.deviations = latents["means"], latents["deviations"]
        self.scale = 1 / self.means.float().std()
        self.steps, self.text_steps, self.batch = steps, text_steps, batch
        self.average = copy.deepcopy(torch.nn.ModuleDict({"unet": unet, "text": text})).requires_grad_(False)
        self.noising = DDPMScheduler(**NOISE)
        groups = [
            {"params": list(unet.parameters()), "peak": UNET_RATE, "steps": steps},
            {"params": list(text.parameters()), "peak": TEXT_RATE, "steps": text_steps},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=UNET_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled latents ``(B, 4, 16, 16)``, timesteps ``(B,)`` and token ids ``(B, 77)``.

        Timesteps lean towards noise (density ~ t^(1/3)): the last details are the decoder's.
        """
        means, deviations = self.means[index].float(), self.deviations[index].float()
        latents = (means + deviations * torch.randn(means.shape, generator=self.generator)) * self.scale
        timesteps = (1000 * torch.rand(len(index), generator=self.generator) ** 0.75).long().clamp(max=999)
        ids = self.captions.draw(index, self.generator)
        empty = torch.rand(len(index), generator=self.generator) < EMPTY_SHARE
        return latents, timesteps, torch.where(empty[:, None], self.empty_ids, ids)

    def loss(self, index: Tensor) -> Tensor:
        """Return the mean squared error of v for these pictures."""
        latents, timesteps, ids = (part.to(self.unet.device) for part in self.draw(index))
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        noisy = self.noising.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        target = self.noising.get_velocity(latents, noise, timesteps)
        with torch.autocast(latents.device.type, dtype=torch.bfloat16):
            predicted = self.unet(noisy, timesteps, self.text(ids).last_hidden_state).sample
        return functional.mse_loss(predicted.float(), target)

    def train_step(self, step: int) -> dict[str, float]:
        """See ``checkpoint.Stage``."""
        for group in self.optimizer.param_groups:
            group["lr"] = checkpoint.learning_rate(step, steps=group["steps"], peak=group["peak"], warmup=100)
        self.text.requires_grad_(step < self.text_steps)
        index = torch.randint(len(self.means) - HELD_OUT, (self.batch,), generator=self.generator)
        loss = self.loss(index)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        torch.nn.utils.clip_grad_norm_(self.text.parameters(), 1.0)
        self.optimizer.step()
        self._follow(min(AVERAGE, (1 + step) / (15 + step)))
        return {"loss": loss.item()}

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for name, model in (("unet", self.unet), ("text", self.text)):
            torch._foreach_lerp_(list(self.average[name].parameters()), list(model.parameters()), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """See ``checkpoint.Stage``."""
        return {
            "unet": self.unet.state_dict(),
            "text": self.text.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``checkpoint.Stage``."""
        for name in ("unet", "text", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])


def main() -> None:
    """Train and write ``work/unet`` and ``work/unet-text``, the averaged weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--text-steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)  # the layers' initial values
    tokenizer = CLIPTokenizer.from_pretrained(WORK / "tokenizer")
    text = CLIPTextModel.from_pretrained(WORK / "text").to(args.device).train()
    unet = new_unet().to(args.device, memory_format=torch.channels_last)
    empty_ids = tokenizer([""], padding="max_length", return_tensors="pt").input_ids[0]
    latents = torch.load(WORK / "latents.pt", weights_only=True)
    captions = load_captions(tokenizer)
    stage = UnetStage(
        unet,
        text,
        captions,
        latents,
        empty_ids,
        steps=args.steps,
        text_steps=args.text_steps,
        batch=args.batch,
        seed=args.seed,
    )

    def log(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def on_save(done: int) -> None:
        stage.average["unet"].save_pretrained(WORK / "unet")
        stage.average["text"].save_pretrained(WORK / "unet-text")

    checkpoint.run(stage, WORK / "unet.pt", steps=args.steps, log=log, on_save=on_save)


if __name__ == "__main__":
    main()
