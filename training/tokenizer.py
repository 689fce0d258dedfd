"""The tokenizer, byte-pair encoding in CLIP's form, learnt from captions and icon names.

Run: ``python -m training.tokenizer``.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.icons import HERE, ICON_SETS, WORK

POSITIONS = 77
MERGES = 1500
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Return at most ``count`` merges, most frequent first, over byte symbols with ``</w>`` ending each word."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + count,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges[:count]]


def write(directory: Path, merges: list[tuple[str, str]]) -> None:
    """Write CLIP's files: ids go bytes, bytes that end a word, merges, start, end; "!" is id 0 and pads, as in SD 2."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda letter: (letter != PAD, letter))
    symbols = [*letters, *(f"{letter}</w>" for letter in letters)]
    symbols = list(dict.fromkeys([*symbols, *(left + right for left, right in merges), START, END]))
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PAD}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": POSITIONS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def icon_names() -> list[str]:
    """Return every icon's name in the sets, as words."""
    names: set[str] = set()
    for icon_set in ICON_SETS:
        icons = json.loads((HERE / "node_modules/@iconify-json" / icon_set.name / "icons.json").read_text())["icons"]
        names.update(name.replace("-", " ") for name in icons)
    return sorted(names)


def main() -> None:
    """Write ``work/tokenizer`` from ``work/captions.json`` and check that transformers reads it."""
    captions = [text for texts in json.loads((WORK / "captions.json").read_text()) for text in texts[:1]]
    write(WORK / "tokenizer", learn_merges([*captions, *icon_names()], MERGES))
    tokenizer = CLIPTokenizer.from_pretrained(WORK / "tokenizer")
    ids = tokenizer(["a cat"], padding="max_length", truncation=True).input_ids[0]
    if len(ids) != POSITIONS or ids[-1] != 0:
        raise ValueError(f"tokenizer: {ids} does not pad to {POSITIONS} positions with id 0")


if __name__ == "__main__":
    main()
