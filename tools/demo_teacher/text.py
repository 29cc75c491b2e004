"""The tokenizer (CLIP's byte-level BPE with merges learned from the captions) and the text encoder."""
import json
from collections import Counter

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from . import captions
from .workspace import work_path

MAX_LENGTH, WIDTH = 16, 96
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(texts):
    """Merges the most frequent pair (ties: alphabetically) until every word is one token."""
    counts = Counter(word for text in texts for word in text.replace("-", " - ").split())
    words = {word: tuple(word[:-1]) + (word[-1] + "</w>",) for word in sorted(counts)}
    merges = []
    while True:
        pairs = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in words.items():
            merged, i = [], 0
            while i < len(parts):
                if parts[i:i + 2] == best:
                    merged.append("".join(best))
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            words[word] = tuple(merged)


def tokenizer():
    folder = work_path("tokenizer")
    if not (folder / "vocab.json").exists():
        folder.mkdir(exist_ok=True)
        symbols = list(bytes_to_unicode().values())
        merges = learn_merges(captions.prompts())
        entries = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        (folder / "vocab.json").write_text(json.dumps({e: i for i, e in enumerate(entries)}, ensure_ascii=False))
        CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=END, bos_token=START,
                      eos_token=END, pad_token=END, model_max_length=MAX_LENGTH).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def encode(tok, texts):
    return torch.tensor(tok(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True).input_ids)


def build_encoder(tok):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tok), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_LENGTH, projection_dim=WIDTH, hidden_act="quick_gelu",
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id))
