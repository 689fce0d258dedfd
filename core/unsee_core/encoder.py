"""CLIP's text encoder in two parts: the frozen beginning, and the tail that adapters change.

One plain forward for both, which asks nothing of transformers but the names of the layers' parts.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig
from transformers.activations import ACT2FN

from unsee_core.lora import LoraFactors
from unsee_core.per_encoder import PerEncoder
from unsee_core.pipeline import Pipeline

KEY_PREFIX = "text_model."
SHARED_TAILS = 4  # of an encoder, in each thread


def tokenize(pipeline: Pipeline, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return the prompts' tokens, ``(B, max_tokens)`` long on the CPU, and of each the text that did not fit.

    Cuts and pads here rather than in the tokenizer, which would be changed by it and is shared by threads.
    """
    tokenizer, length = pipeline.tokenizer, pipeline.max_tokens
    rows, cut_off = [], []
    for ids in tokenizer(list(prompts), verbose=False).input_ids if prompts else ():
        kept = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
        cut_off.append(tokenizer.decode(ids[length - 1 : -1]) if len(ids) > length else "")
        rows.append(kept + [tokenizer.pad_token_id] * (length - len(kept)))
    return torch.tensor(rows), cut_off


def token_counts(pipeline: Pipeline, prompts: Sequence[str]) -> list[int]:
    """Return how many tokens the prompts have, with start and end, at most as many as the encoder reads."""
    return [min(len(ids), pipeline.max_tokens) for ids in pipeline.tokenizer(list(prompts), verbose=False).input_ids]


@torch.no_grad()
def hidden_before(pipeline: Pipeline, input_ids: Tensor, layer: int) -> Tensor:
    """Return the hidden states that enter ``layer``, ``(B, L, d)`` float32, from tokens ``(B, L)``.

    Computed in the resident encoder's dtype, on its device.
    """
    return hidden_from_vectors(pipeline, token_vectors(pipeline, input_ids), layer)


@torch.no_grad()
def hidden_from_vectors(pipeline: Pipeline, vectors: Tensor, layer: int) -> Tensor:
    """Return the hidden states that enter ``layer``, as ``hidden_before`` does, from tokens' vectors ``(B, L, d)``."""
    model, config = _text_model(pipeline), pipeline.text_encoder.config
    hidden = with_positions(pipeline, vectors.to(pipeline.device, pipeline.dtype))
    return _through(model.encoder.layers[:layer], hidden, config).float()


def token_vectors(pipeline: Pipeline, input_ids: Tensor) -> Tensor:
    """Return what the encoder looks up for tokens, ``(..., d)``, without positions; in its dtype, on its device."""
    vectors: Tensor = _text_model(pipeline).embeddings.token_embedding(input_ids.to(pipeline.device))
    return vectors


def end_vector(pipeline: Pipeline) -> Tensor:
    """Return the vector of the token that ends a prompt, ``(d,)`` float32."""
    return token_vectors(pipeline, torch.tensor(pipeline.tokenizer.eos_token_id)).float()


def with_positions(pipeline: Pipeline, vectors: Tensor) -> Tensor:
    """Return the hidden states that enter the first layer, ``(B, L, d)``, from tokens' vectors; gradients flow.

    Float32 where ``vectors`` are.
    """
    hidden: Tensor = _text_model(pipeline).embeddings(inputs_embeds=vectors)
    return hidden


class EncoderTail(nn.Module):
    """The encoder's layers from ``first_layer`` on and its final norm: a float32 copy, without gradients.

    Layers keep their numbers, so that ``text_model.`` and a submodule's path make its key in an adapter.
    """

    def __init__(self, pipeline: Pipeline, first_layer: int) -> None:
        super().__init__()
        resident = _text_model(pipeline)
        self.first_layer = first_layer
        self._config = pipeline.text_encoder.config
        numbers = range(first_layer, pipeline.encoder_layers)
        with torch.device("meta"):  # no weights are drawn that are thrown away at once
            layers = nn.ModuleDict({str(i): _Layer(self._config) for i in numbers})
            self.encoder = nn.ModuleDict({"layers": layers})
            self.final_layer_norm = nn.LayerNorm(self._config.hidden_size, eps=_eps(self._config))
        weights = resident.state_dict()
        copies = {name: weights[name].to(torch.float32, copy=True) for name in self.state_dict()}
        self.load_state_dict(copies, assign=True)
        self.requires_grad_(False).to(pipeline.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the last hidden state after the final norm, ``(B, L, d)``, from the one entering ``first_layer``."""
        hidden = _through(self.encoder["layers"].children(), hidden, self._config)
        output: Tensor = self.final_layer_norm(hidden)
        return output

    @torch.no_grad()
    def states(self, hidden: Tensor) -> Iterator[Tensor]:
        """Yield what enters ``first_layer``, ``(B, L, d)``, then every layer's output, without the final norm."""
        yield hidden
        for layer, _ in self.encoder["layers"].named_children():
            hidden = self.output(int(layer), hidden)
            yield hidden

    def output(self, layer: int, hidden: Tensor) -> Tensor:
        """Return a layer's output, ``(B, L, d)``, from the hidden states that enter it."""
        return _through((self.get_submodule(f"encoder.layers.{layer}"),), hidden, self._config)

    @torch.no_grad()
    def normed(self, layer: int, hidden: Tensor) -> Tensor:
        """Return what enters a layer's attention, ``(..., d)``, from the hidden states that enter the layer."""
        inputs: Tensor = self.get_submodule(f"encoder.layers.{layer}.layer_norm1")(hidden)
        return inputs

    @torch.no_grad()
    def attention_inputs(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what enters a layer's attention, ``(B, L, d)``, its queries and its keys.

        These are ``(B, heads, L, d / heads)`` each.

        Args:
            layer: its number in the encoder.
            hidden: the hidden states that enter it, ``(B, L, d)`` float32.
        """
        module: Any = self.get_submodule(f"encoder.layers.{layer}")
        inputs = self.normed(layer, hidden)
        heads = self._config.num_attention_heads
        queries, keys = (
            _by_head(projection(inputs), heads) for projection in (module.self_attn.q_proj, module.self_attn.k_proj)
        )
        return inputs, queries, keys

    @torch.no_grad()
    def mlp_keys(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters the layer's ``fc2``, ``(B, L, d_ff)``, and the layer's output without ``fc2``'s part.

        Args:
            layer: its number in the encoder.
            hidden: the hidden states that enter it, ``(B, L, d)`` float32.
        """
        return _mlp_keys(self.get_submodule(f"encoder.layers.{layer}"), hidden, self._config)


class _Shared(threading.local):
    """A thread's tails: ``functional_call`` puts a change into a module's parameters until it returns."""

    def __init__(self) -> None:
        self.tails: PerEncoder[EncoderTail] = PerEncoder(SHARED_TAILS)


_shared = _Shared()


def shared_tail(pipeline: Pipeline, first_layer: int) -> EncoderTail:
    """Return the tail from a layer on that all share who only read it in this thread; the last four are kept."""
    return _shared.tails.get(pipeline.text_encoder, first_layer, lambda: EncoderTail(pipeline, first_layer))


@torch.no_grad()
def apply_factors(tail: EncoderTail, weighted: Sequence[tuple[LoraFactors, float]]) -> dict[str, Tensor]:
    """Return the tail's changed parameters for ``torch.func.functional_call``, float32; the tail itself stays.

    Args:
        tail: read, never written.
        weighted: changes with the factor on each; they add up. None begins before the tail's first layer.
    """
    changed: dict[str, Tensor] = {}
    parameters = dict(tail.named_parameters())

    def add(name: str, change: Tensor) -> None:
        changed[name] = changed.get(name, parameters[name]) + change

    for factors, weight in weighted:
        for key, pair in factors.pairs.items():
            device = tail.final_layer_norm.weight.device
            add(f"{key.removeprefix(KEY_PREFIX)}.weight", pair.b.to(device) @ pair.a.to(device) * weight)
        if factors.final_norm is not None:
            add("final_layer_norm.weight", factors.final_norm.weight.to(tail.final_layer_norm.weight) * weight)
            add("final_layer_norm.bias", factors.final_norm.bias.to(tail.final_layer_norm.bias) * weight)
    return changed


class _Layer(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        projections = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in projections})
        self.layer_norm1 = nn.LayerNorm(width, eps=_eps(config))
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.layer_norm2 = nn.LayerNorm(width, eps=_eps(config))


def _eps(config: CLIPTextConfig) -> float:
    return float(config.layer_norm_eps or 0.0)


def _text_model(pipeline: Pipeline) -> Any:
    """Return the module that holds embeddings and layers: a level of its own in transformers 4, not in 5."""
    encoder = pipeline.text_encoder
    return getattr(encoder, "text_model", encoder)


def _through(layers: Iterable[Any], hidden: Tensor, config: CLIPTextConfig) -> Tensor:
    """Return ``(B, L, d)`` after the layers: pre-norm attention, causal, and MLP, each with its residual."""
    for layer in layers:
        keys, attended = _mlp_keys(layer, hidden, config)
        hidden = attended + layer.mlp.fc2(keys)
    return hidden


def _mlp_keys(layer: Any, hidden: Tensor, config: CLIPTextConfig) -> tuple[Tensor, Tensor]:
    attended = hidden + _attention(layer.self_attn, layer.layer_norm1(hidden), config.num_attention_heads)
    keys = ACT2FN[config.hidden_act](layer.mlp.fc1(layer.layer_norm2(attended)))
    return keys, attended


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """Return ``(B, heads, L, d / heads)`` of ``(B, L, d)``."""
    split: Tensor = projected.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def _attention(attention: Any, hidden: Tensor, heads: int) -> Tensor:
    q, k, v = (
        _by_head(projection(hidden), heads) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    output: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return output
