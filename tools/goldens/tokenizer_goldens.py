"""Builds small CLIP tokenizers and records what transformers makes of difficult prompts."""
import collections
import json
import pathlib

from transformers import CLIPTokenizer, CLIPTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

PROMPTS = [
    "", " ", "a", "A Photo of a DARK slim T-Shirt", "a  photo\tof\na\r\nbag", "hello!", "!!!", "! !",
    "it's we're they've I'm you'll he'd don't 'S 'RE", "rock'n'roll ''s s' 't", "1234 a1b2c3 3.14",
    "x" * 200, "word " * 50, "photo," * 30, "<|startoftext|>", "a <|endoftext|> b",
    "a<|endoftext|>b", "<|STARTOFTEXT|> x", "< | endoftext | >", "<|startoftext", "a </w> b</w>",
    "caf\u00e9 na\u00efve", "cafe\u0301 nai\u0308ve", "\u1e9b\u0323 \u212b \u2126", "a\u0327\u0301\u0323 q\u0323\u0307",
    "\u4e00\u4e8c\u4e09 \u65e5\u672c\u8a9e\u3067\u3059", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u1112\u1161", "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0422\u0415\u041a\u0421\u0422",
    "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u03a3 \u0391\u03a3. \u0391\u03a3\u0301 \u03a3\u0391", "\u0130stanbul I\u0131",
    "\u00df \u1e9e \u01c5 \u017f's 'Standard", "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "soft\u00adhyphen zero\u200bwidth joiner\u200d", "nbsp\u00a0here\u3000ideographic\u2003em",
    "line\u2028sep para\u2029sep", "bell\u0007 esc\u001b nul\u0000 vt\u000b ff\u000c fs\u001c nel\u0085 x",
    "\ufffd replacement", "\ue000 private \U000e0001 tag", "\u0661\u0662\u0663 \u00bd \u2163 \u2460 \u00b2", "fullwidth \uff21\uff22\uff23 \uff11",
    "\ufb01ligature \ufb03", "quotes \u201cx\u201d \u2018y\u2019 \u00abz\u00bb \u2014 \u2026", "&amp; &lt;b&gt; \u00e2\u20ac\u2122",
    "a_b-c+d=e*f/g\\h|i~j`k@l#m$n%o^p&q", "(((masterpiece))), [best:1.2], {x}", "\u0915\u094d\u0937\u093f \u0e01\u0e33 \u0e40\u0e01",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u064b", "\U00020000\U0002f800 \uf900", "  leading and trailing  ", "tok extra tokextra",
    "t\u0378unassigned", "\u01c4\u01c5\u01c6 \u1f88 \ua7ae", "\u00e9" * 100, "'" * 20, "\u0301 lone mark", "a\u0344b",
]
CORPUS = ("a photo of a picture of the dark light grey slim wide small big low tall t-shirt trouser "
          "pullover dress coat sandal shirt sneaker bag ankle boot hello masterpiece best word "
          "standard caf\u00e9 it's we're 's 're don't leading trailing emoji quotes photo photo "
          "extra token").split()


def build(merge_count):
    """Byte-pair encoding learnt from CORPUS."""
    symbols = bytes_to_unicode()
    alphabet = list(symbols.values())
    words = collections.Counter()
    for word in CORPUS:
        pieces = [symbols[b] for b in word.encode()]
        words[tuple(pieces[:-1] + [pieces[-1] + "</w>"])] += 1
    merges = []
    while len(merges) < merge_count:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((first, second))
        merged = collections.Counter()
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == (first, second):
                    out.append(first + second)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += count
        words = merged
    tokens = alphabet + [symbol + "</w>" for symbol in alphabet]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {}
    for token in tokens:
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary, merges


def files(folder, vocabulary, merges):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges))


def record(folder, tokenizer, fast=False):
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, padding="max_length", truncation=True,
                        max_length=tokenizer.model_max_length).input_ids
        cases.append({"prompt": prompt, "ids": ids})
    (folder / "golden.json").write_text(json.dumps({"fast": fast, "cases": cases}))


def write(out):
    """Writes one folder for each kind of tokenizer; returns the plain one."""
    vocabulary, merges = build(150)

    # As saved today: special tokens in added_tokens_decoder.
    folder = out / "saved"
    files(folder, vocabulary, merges)
    plain = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"),
                          model_max_length=20, do_lower_case=True)
    plain.save_pretrained(folder)
    record(folder, CLIPTokenizer.from_pretrained(folder))

    # Nothing but the two files.
    folder = out / "bare"
    files(folder, vocabulary, merges)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    record(folder, CLIPTokenizer.from_pretrained(folder))

    # As Stable Diffusion 2.1's: padded with "!", special tokens in a map of old form.
    folder = out / "pad_bang"
    files(folder, vocabulary, merges)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"model_max_length": 12, "do_lower_case": True, "pad_token": "<|endoftext|>",
         "tokenizer_class": "CLIPTokenizer"}))
    token = {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "single_word": False,
             "normalized": True}
    (folder / "special_tokens_map.json").write_text(json.dumps(
        {"bos_token": dict(token, content="<|startoftext|>"), "eos_token": token,
         "unk_token": token, "pad_token": "!"}))
    record(folder, CLIPTokenizer.from_pretrained(folder))

    # With tokens of the user's own.
    folder = out / "added"
    files(folder, vocabulary, merges)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"),
                              model_max_length=24)
    tokenizer.add_tokens(["tok", "tokextra"])
    tokenizer.save_pretrained(folder)
    record(folder, CLIPTokenizer.from_pretrained(folder))

    # The fast one.
    folder = out / "fast"
    files(folder, vocabulary, merges)
    fast = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"),
                             model_max_length=20)
    fast.save_pretrained(folder)
    record(folder, CLIPTokenizerFast.from_pretrained(folder), fast=True)
    return plain


if __name__ == "__main__":
    import sys
    write(pathlib.Path(sys.argv[1]))
