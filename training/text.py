"""The text encoder, first trained to tell which caption belongs to which picture. Run: ``python -m training.text``."""

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import checkpoint
from training.icons import WORK
from training.tokenizer import POSITIONS

WIDTH = 128
HELD_OUT = 1000


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text encoder in SD 2's layout: 6 layers, width 128, 77 positions, 1.5 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        hidden_act="gelu",
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return CLIPTextModel(config)


@dataclass(frozen=True)
class Captions:
    """Tokenised captions of all pictures.

    Attributes:
        ids: ``(captions, 77)`` int16, each different caption once.
        of_picture: ``(pictures, 4)`` rows of ``ids``.
    """

    ids: Tensor
    of_picture: Tensor

    def draw(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return one caption for each picture, ``(B, 77)`` int64."""
        which = torch.randint(self.of_picture.shape[1], (len(pictures),), generator=generator)
        return self.ids[self.of_picture[pictures, which]].long()


def load_captions(tokenizer: CLIPTokenizer) -> Captions:
    """Return the captions of ``work/captions.json`` as token ids."""
    texts: list[list[str]] = json.loads((WORK / "captions.json").read_text())
    different = sorted({text for captions in texts for text in captions})
    row = {text: index for index, text in enumerate(different)}
    ids = tokenizer(different, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return Captions(ids.to(torch.int16), torch.tensor([[row[text] for text in captions] for captions in texts]))


class PictureEncoder(nn.Module):
    """Pictures ``(B, 3, 32, 32)`` in [-1, 1] to embeddings ``(B, 128)``; used in this stage only."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(channels, out, 3, 2, 1), nn.GroupNorm(8, out), nn.SiLU()]
            layers += [nn.Conv2d(out, out, 3, 1, 1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(channels * 16, WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return embeddings ``(B, 128)``."""
        embeddings: Tensor = self.project(self.layers(pictures).flatten(1))
        return embeddings


class TextStage:
    """Contrastive training of text encoder and picture encoder, symmetric, with a learnt temperature."""

    def __init__(
        self, text: CLIPTextModel, captions: Captions, pictures: Tensor, *, steps: int, batch: int, seed: int
    ) -> None:
        """Prepare training.

        Args:
            text: trained in place; its device is where training runs.
            captions: of the pictures.
            pictures: ``(N, 64, 64, 3)`` bytes on the CPU.
            steps: for the schedule.
            batch: pictures a step, all told apart from one another.
            seed: of batches and captions.
        """
        self.captions, self.pictures, self.steps, self.batch = captions, pictures, steps, batch
        self.model = nn.ModuleDict(
            {"text": text, "pictures": PictureEncoder(), "project": nn.Linear(WIDTH, WIDTH, bias=False)}
        ).to(text.device)
        self.log_scale = nn.Parameter(torch.tensor(2.5, device=text.device))
        self.trained = [*self.model.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3, weight_decay=0.02)
        self.generator = torch.Generator().manual_seed(seed)

    def similarities(self, index: Tensor) -> Tensor:
        """Return scaled cosines of pictures and captions, ``(B, B)``."""
        device = self.log_scale.device
        ids = self.captions.draw(index, self.generator).to(device)
        longest = int((ids != 0).sum(1).max())  # attention is causal: what pads come after changes nothing before
        pictures = self.pictures[index].to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, dtype=torch.bfloat16):
            seen = self.model["pictures"](functional.avg_pool2d(pictures, 2))
            read = self.model["project"](self.model["text"](ids[:, :longest]).pooler_output)
        cosines = functional.normalize(seen.float(), dim=-1) @ functional.normalize(read.float(), dim=-1).T
        return cosines * self.log_scale.exp().clamp(max=50)

    def train_step(self, step: int) -> dict[str, float]:
        """See ``checkpoint.Stage``."""
        for group in self.optimizer.param_groups:
            group["lr"] = checkpoint.learning_rate(step, steps=self.steps, peak=1e-3, warmup=80)
        index = torch.randint(len(self.pictures) - HELD_OUT, (self.batch,), generator=self.generator)
        logits = self.similarities(index)
        target = torch.arange(self.batch, device=logits.device)
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return {"loss": loss.item(), "top1": (logits.argmax(1) == target).float().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """See ``checkpoint.Stage``."""
        return {
            "model": self.model.state_dict(),
            "log_scale": self.log_scale.detach(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``checkpoint.Stage``."""
        self.model.load_state_dict(state["model"])
        self.log_scale.data.copy_(state["log_scale"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


def main() -> None:
    """Train and write ``work/text``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)  # the layers' initial values
    tokenizer = CLIPTokenizer.from_pretrained(WORK / "tokenizer")
    text = new_text_encoder(tokenizer).to(args.device)
    pictures = torch.from_numpy(np.load(WORK / "pictures.npz")["pictures"])
    stage = TextStage(text, load_captions(tokenizer), pictures, steps=args.steps, batch=args.batch, seed=args.seed)

    def log(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def on_save(done: int) -> None:
        with torch.no_grad():
            logits = stage.similarities(torch.arange(len(pictures) - args.batch, len(pictures)))
        right = (logits.argmax(1).cpu() == torch.arange(args.batch)).float().mean().item()
        log(f"{done} held-out top1 {right:.3f}")
        text.save_pretrained(WORK / "text")

    checkpoint.run(stage, WORK / "text.pt", steps=args.steps, log=log, on_save=on_save)


if __name__ == "__main__":
    main()
