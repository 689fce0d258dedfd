"""A trainable copy of the text encoder's last layers: peft's low-rank factors, and the final norm where asked for."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from unsee_core.encoder import EncoderTail
from unsee_core.lora import LoraFactors, LoraPair, NormDelta
from unsee_core.pipeline import Pipeline

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_PEFT_NAME = "default"


class TailLora:
    """The encoder's last layers in float32, with factors that start as no change: A is drawn, B is zero.

    Args:
        pipeline: the resident model; copied from, never written.
        layers: how many of the last layers change.
        rank: of every factor; alpha is the same, so that a change is B A.
        train_final_norm: the final layer norm changes too.
        generator: draws every A, on the CPU.
    """

    def __init__(
        self, pipeline: Pipeline, *, layers: int, rank: int, train_final_norm: bool, generator: torch.Generator
    ) -> None:
        self.tail = EncoderTail(pipeline, pipeline.encoder_layers - layers)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), lora_dropout=0.0)
        inject_adapter_in_model(config, self.tail, adapter_name=_PEFT_NAME)
        self._norm = self.tail.final_layer_norm
        self._old_norm = {name: value.detach().clone() for name, value in self._norm.named_parameters()}
        self._has_norm = train_final_norm
        self._norm.requires_grad_(train_final_norm)
        self._loras = {name: module for name, module in self.tail.named_modules() if isinstance(module, LoraLayer)}
        for module in self._loras.values():
            _draw(module.lora_A[_PEFT_NAME].weight, generator)
            nn.init.zeros_(module.lora_B[_PEFT_NAME].weight)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the last hidden state, ``(B, 77, d)``, from the one that enters the first layer."""
        output: Tensor = self.tail(hidden)
        return output

    @property
    def first_layer(self) -> int:
        """Number of the first layer that changes."""
        return self.tail.first_layer

    def parameters(self) -> list[nn.Parameter]:
        """Return what trains, all float32."""
        return [parameter for parameter in self.tail.parameters() if parameter.requires_grad]

    def factors(self) -> LoraFactors:
        """Return the change so far, on the CPU."""
        pairs = {f"text_model.{name}": _pair(module) for name, module in self._loras.items()}
        return LoraFactors(pairs, self._norm_delta() if self._has_norm else None)

    def _norm_delta(self) -> NormDelta:
        changed = {name: _on_cpu(value - self._old_norm[name]) for name, value in self._norm.named_parameters()}
        return NormDelta(weight=changed["weight"], bias=changed["bias"])


def _pair(module: LoraLayer) -> LoraPair:
    return LoraPair(a=_on_cpu(module.lora_A[_PEFT_NAME].weight), b=_on_cpu(module.lora_B[_PEFT_NAME].weight))


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


@torch.no_grad()
def _draw(weight: nn.Parameter, generator: torch.Generator) -> None:
    """Fill ``(r, d_in)`` with normal numbers of variance ``1 / d_in``."""
    weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
