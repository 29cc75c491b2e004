#!/usr/bin/env bash
# transformers 5.24.0: CLIPTokenizer no longer takes "<|ENDOFTEXT|>" in capitals for the end token.
#
# Both of 4.57.6's classes (CLIPTokenizer, CLIPTokenizerFast) lowercase the text and look for the token
# without regard to case: "a <|ENDOFTEXT|> b" has the end token in the middle. CLIPTokenizer of 5.24.0, which
# reads the same folder without a word, spells it out letter by letter.
# Why it matters: the end token is where CLIP's pooled embedding is taken from, so the two versions embed such
# a prompt differently, and captions that were scraped do hold these words in any case.
#
# Installs both versions in a temporary folder; exit code 0 while both behave as described.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}

cat > "$work/encode.py" <<'PY'
import json
import pathlib
import sys

import transformers

# Every byte as a letter and as the end of a word, and CLIP's two tokens; no merges.
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
letters = {byte: chr(byte) for byte in printable}
for number, byte in enumerate(b for b in range(256) if b not in printable):
    letters[byte] = chr(256 + number)
words = list(letters.values()) + [letter + "</w>" for letter in letters.values()]
vocabulary = {word: number for number, word in enumerate(words + ["<|startoftext|>", "<|endoftext|>"])}

folder = pathlib.Path(sys.argv[1]) / "tokenizer"
folder.mkdir(exist_ok=True)
(folder / "vocab.json").write_text(json.dumps(vocabulary))
(folder / "merges.txt").write_text("#version: 0.2\n")
(folder / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "model_max_length": 77}))
for name in sys.argv[2:]:
    tokenizer = getattr(transformers, name).from_pretrained(folder)
    counts = [tokenizer(text)["input_ids"].count(vocabulary["<|endoftext|>"])
              for text in ("a <|endoftext|> b", "a <|ENDOFTEXT|> b")]
    print(f"{name}: end tokens with small letters {counts[0]}, with capitals {counts[1]}")
PY

seen() {
  local version=$1
  shift
  "$python" -m venv "$work/$version"
  "$work/$version/bin/pip" install -q --disable-pip-version-check "transformers==$version"
  HF_HUB_OFFLINE=1 "$work/$version/bin/python" "$work/encode.py" "$work" "$@" 2>/dev/null
}

old=$(seen 4.57.6 CLIPTokenizer CLIPTokenizerFast)
new=$(seen 5.24.0 CLIPTokenizer)
printf 'transformers 4.57.6\n%s\ntransformers 5.24.0\n%s\n' "$old" "$new"
[ "$old" = "CLIPTokenizer: end tokens with small letters 2, with capitals 2
CLIPTokenizerFast: end tokens with small letters 2, with capitals 2" ]
[ "$new" = "CLIPTokenizer: end tokens with small letters 2, with capitals 1" ]
