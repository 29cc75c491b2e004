"""CLIP tokenizers: random vocabularies, special tokens, folder layouts and texts, for parity.py.

A configuration is a seed and the few choices that decide which reference runs; everything else is
drawn from the seed. Where transformers itself cannot read the folder, d2g only must not crash.
With transformers 5 installed only folders are made that d2g reads as 5 does: with tokenizer.json
alone, or with a list of extra tokens beside it.
"""
import json
import random as random_module
import warnings

import numpy
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from parity import Refused

IS5 = int(transformers.__version__.split(".")[0]) >= 5

warnings.filterwarnings("ignore")

WORDS = ("a photo of the dark light cat cats standing in tokyo city hello masterpiece best word it's "
         "we're they've i'm you'll he'd don't rock'n'roll caf\u00e9 na\u00efve stra\u00dfe \u00e9t\u00e9 "
         "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u03bf\u03b4\u03c5\u03c3\u03c3\u03b5\u03c5\u03c3 \u65e5\u672c \u8a9e \ud55c\uad6d\uc5b4 \u0639\u0631\u0628\u064a "
         "1 2 2024 3.14 !!! ... <b> &amp; emoji \U0001f600 \u2764\ufe0f photo photos photograph").split()
FRAGMENTS = [
    "", " ", "  ", "a photo of a cat", "A PHOTO", "hello!", "!!!", "! !", "it's we're they've I'm you'll he'd",
    "'S 'RE 'Ll", "''s s' 't '\u017f", "rock'n'roll", "1234 a1b2c3 3.14", "<|startoftext|>",
    "<|endoftext|>", "<|STARTOFTEXT|>", "<|\u017ftartoftext|>", "< | endoftext | >", "<|endoftext",
    "!<|endoftext|>!", "&amp; &lt;b&gt; &#39;", "caf\u00e9 cafe\u0301", "\u1e9b\u0323 \u212b \u2126", "a\u0327\u0301\u0323 q\u0323\u0307",
    "\u4e00\u4e8c \u65e5\u672c\u8a9e\u3067\u3059", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab \u1112\u1161", "\u0422\u0415\u041a\u0421\u0422", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u0391\u03a3. \u0391\u03a3\u0301 \u03a3\u0391 \u03a3",
    "\u0130stanbul I\u0131 \u0130\u0307", "\u00df \u1e9e \u01c5 \u01c8 \u01f2 \u017f K", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f \U0001f3fb",
    "soft\u00adhyphen zero\u200bwidth \u200e\u200fmarks \u202ebidi\u202c", "nbsp\u00a0x\u3000y\u2003z\u205f\u1680\u180e\ufeff",
    "line\u2028sep\u2029par", "bell\u0007 esc\u001b vt\u000b ff\u000c fs\u001c gs\u001d\u001e\u001f nel\u0085 del\u007f", "\ufffd\ufffc",
    "\ue000 \U000e0001 \U000f0000", "\u0661\u0662\u0663 \u00bd \u2163 \u2460 \u00b2 \u3007 \U0001d7d8", "\uff21\uff22 \uff11", "\ufb01 \ufb03 \ufb06",
    "\u201cx\u201d \u2018y\u2019 \u00abz\u00bb \u2014 \u2026", "\u00e2\u20ac\u2122", "a_b-c+d=e*f/g\\h|i~j`k@l#m$n%o^p&q", "(((best))), [x:1.2], {y}",
    "[bracketed, list]", "[", "[]", "{}", "-dash", "--text", "--", "\u0915\u094d\u0937\u093f \u0e01\u0e33", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629\u064b", "\U00020000\U0002f800 \uf900",
    "t\u0378u", "'" * 20, "\u0301 lone", "a\u0344b \u0958 \u0345\u0345 !\u0345! x\u0345y", "x" * 300, "photo " * 90, "\u00e9" * 90, "\U00011935\U00011930",
    "\u0898\u0334\u0301 a\u0c3c\u0301", "\u0295\u03a3 \U0001171e\u03a3", "\u2c2f \ua7c0 \U00010d50", "tok TOK Tok extra", "\u2000\u2001", "</w> a</w>",
]
ADDED = ["tok", "Tok", "extra tok", "<new>", "<new1>", "cat", "photo", "!", "\u00e9", "ab", "abc", "bc", "b", " ",
         "  x", "<|extra|>", "ca", "</w>", "a</w>", "\u65e5", "word", "'s", "K", "\u00c9t\u00e9"]
if IS5:  # Which of two tokens with the same lower case it finds is drawn anew in each process.
    ADDED.remove("Tok")


def train(count, weights):
    """Merges learnt from WORDS, each as often as its weight."""
    symbols = bytes_to_unicode()
    words = {}
    for word, weight in zip(WORDS, weights):
        pieces = [symbols[b] for b in word.encode()]
        key = (*pieces[:-1], pieces[-1] + "</w>")
        words[key] = words.get(key, 0) + weight
    merges = []
    while len(merges) < count:
        pairs = {}
        for word, weight in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + weight
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = {}
        for word, weight in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(best[0] + best[1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + weight
        words = merged
    return merges


def random_merges(random, count):
    """Merges in no order that training would give."""
    symbols = bytes_to_unicode()
    known = [symbols[b] for b in b"abcdehoprst'!"] + [symbols[b] + "</w>" for b in b"abcdehoprst'!"]
    merges = []
    while len(merges) < count:
        first, second = random.choice(known), random.choice(known)
        if first.endswith("</w>") or len(first + second) > 14:
            continue
        merges.append((first, second))
        known.append(first + second)
    return merges


def vocabulary(random, complete):
    symbols = list(bytes_to_unicode().values())
    if random.random() < 0.3:
        merges = random_merges(random, random.randrange(80))
    else:
        merges = train(random.choice([0, 5, 60, 250]), [random.randrange(1, 9) for _ in WORDS])
    if random.random() < 0.3:
        random.shuffle(merges)
    if not complete and merges and random.random() < 0.2:
        merges += random.choices(merges, k=3)
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens))
    if not complete and random.random() < 0.3:
        tokens = [token for token in tokens if random.random() < 0.9]
    if random.random() < 0.9:
        tokens += ["<|startoftext|>", "<|endoftext|>"]
    if random.random() < 0.2:
        tokens += [token for token in ADDED if random.random() < 0.3 and token not in tokens]
    ids = list(range(len(tokens)))
    kind = random.random()
    if kind < 0.15:
        random.shuffle(ids)
    elif kind < 0.25:
        ids = [2 * i + 3 for i in ids]
    return dict(zip(tokens, ids)), merges


def write_base(random, folder, complete):
    folder.mkdir(parents=True)
    vocab, merges = vocabulary(random, complete)
    (folder / "vocab.json").write_text(
        json.dumps(vocab, ensure_ascii=random.random() < 0.3, indent=random.choice([None, 2])),
        encoding="utf-8")
    newline = random.choice(["\n", "\n", "\n", "\r\n"])
    header = random.choice(["#version: 0.2", "#version: 0.2", "\n#version: 0.2", "a b"])
    lines = [header] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_bytes((newline.join(lines) + newline).encode())
    return vocab, merges


def flags(random, special=None):
    drawn = {name: random.random() < 0.25 for name in ("lstrip", "rstrip", "single_word")}
    drawn["normalized"] = random.random() < 0.5
    if special is not None:
        drawn["special"] = special
    return drawn


def added_token(random, special=None):
    from transformers import AddedToken
    return AddedToken(random.choice(ADDED), **flags(random, special))


def length(random):
    return random.choice([77, 77, 77, 20, 9, 5, 3])


def constructed(random, folder, fast):
    """A folder that save_pretrained wrote."""
    from transformers import CLIPTokenizer, CLIPTokenizerFast
    base = folder.parent / "base"
    write_base(random, base, complete=fast)
    kwargs = {"model_max_length": length(random)}
    if random.random() < 0.3:
        kwargs["pad_token"] = random.choice(["!", "<pad>", "a", "<|startoftext|>"])
    if random.random() < 0.15:
        kwargs["unk_token"] = random.choice(["<unk>", "a", "<|startoftext|>"])
    if random.random() < 0.1:
        kwargs["bos_token"] = random.choice(["<s>", "b</w>"])
    if random.random() < 0.1:
        kwargs["eos_token"] = random.choice(["</s>", added_token(random)])
    if random.random() < 0.3:
        kwargs["additional_special_tokens"] = [
            random.choice(ADDED) if random.random() < 0.5 else added_token(random)
            for _ in range(random.randrange(1, 4))]
    if random.random() < 0.1:
        kwargs["mask_token"] = random.choice(ADDED)
    if random.random() < 0.15:
        kwargs["padding_side"] = "left"
    if random.random() < 0.15:
        kwargs["truncation_side"] = "left"
    if random.random() < 0.15:
        kwargs["split_special_tokens"] = True
    if random.random() < 0.1:
        kwargs["extra_special_tokens"] = {"image_token": "<image>", "cat_token": "cat"}
    for key, value in (("do_lower_case", False), ("add_prefix_space", True), ("errors", "ignore"),
                       ("clean_up_tokenization_spaces", True)):
        if random.random() < 0.3:
            kwargs[key] = value
    made = (CLIPTokenizerFast if fast else CLIPTokenizer)(
        str(base / "vocab.json"), str(base / "merges.txt"), **kwargs)
    if random.random() < 0.5:
        made.add_tokens([random.choice(ADDED) if random.random() < 0.4 else added_token(random, False)
                         for _ in range(random.randrange(1, 6))])
    if random.random() < 0.2:
        made.add_special_tokens({"pad_token": random.choice(ADDED)})
    if random.random() < 0.2:
        made.add_tokens([added_token(random, True) for _ in range(2)], special_tokens=True)
    if fast:
        made.save_pretrained(folder, legacy_format=random.choice([None, None, False, True]))
    else:
        made.save_pretrained(folder)
    if random.random() < 0.2:
        (folder / "special_tokens_map.json").unlink()
    if random.random() < 0.2:  # As versions before 4.34 wrote it.
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop("added_tokens_decoder", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


def handmade(random, folder, fast):
    """A folder in the older layouts: any of the small files may be missing."""
    vocab, _ = write_base(random, folder, complete=fast)

    def token(config):
        content = random.choice(["<|endoftext|>", "<|startoftext|>", "!", "<pad>", *ADDED])
        if random.random() < 0.5:
            return content
        drawn = {"content": content, **flags(random)}
        if config:
            drawn["__type"] = "AddedToken"
        return drawn

    if random.random() < 0.8:
        config = {"tokenizer_class": random.choice(["CLIPTokenizer"] * 3 + ["CLIPTokenizerFast"])}
        if random.random() < 0.8:
            config["model_max_length"] = random.choice([length(random), 1e30, 10**30])
        for role in ("pad_token", "unk_token", "eos_token", "bos_token", "sep_token"):
            if random.random() < 0.2:
                config[role] = token(True)
        if random.random() < 0.2:
            config["additional_special_tokens"] = [token(True) for _ in range(2)]
        if random.random() < 0.2:
            config["added_tokens_decoder"] = {
                str(random.choice([random.randrange(len(vocab)), len(vocab) + i])): {
                    "content": content, **flags(random, random.random() < 0.5)}
                for i, content in enumerate(random.sample(ADDED, 3))}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if random.random() < 0.6:
        roles = {role: token(False) for role in ("bos_token", "eos_token", "unk_token", "pad_token")
                 if random.random() < 0.6}
        if random.random() < 0.3:
            roles["additional_special_tokens"] = [token(False) for _ in range(2)]
        (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    if random.random() < 0.4:
        names = random.sample(ADDED, 3)
        (folder / "added_tokens.json").write_text(json.dumps(
            {name: vocab.get(name, len(vocab) + i) for i, name in enumerate(sorted(names))}))


SPLIT_PREFIX5 = r"<\|startoftext\|>|<\|endoftext\|>|"


def saved_by_5(random, folder):
    """A folder that transformers 5 saved, with what else may lie in it."""
    from transformers import CLIPTokenizer
    vocab, merges = write_base(random, folder.parent / "base", complete=True)
    kwargs = {"model_max_length": length(random)}
    for chance, key, values in (
            (0.3, "pad_token", ["!", "<pad>", "a", "<|startoftext|>", added_token(random)]),
            (0.15, "unk_token", ["<unk>", "a", "<|startoftext|>"]),
            (0.1, "bos_token", ["<s>", "b</w>"]),
            (0.1, "eos_token", ["</s>", added_token(random)]),
            (0.1, "mask_token", ADDED), (0.15, "padding_side", ["left"]),
            (0.15, "truncation_side", ["left"]), (0.15, "split_special_tokens", [True]),
            (0.1, "image_token", ["<image>", added_token(random)]),
            (0.1, "extra_special_tokens", [{"image_token": "<image>", "cat_token": "cat"}]),
            (0.3, "add_prefix_space", [True]), (0.3, "do_lower_case", [False])):
        if random.random() < chance:
            kwargs[key] = random.choice(values)
    if random.random() < 0.3:
        kwargs[random.choice(["additional_special_tokens", "extra_special_tokens"])] = [
            random.choice(ADDED) if random.random() < 0.5 else added_token(random)
            for _ in range(random.randrange(1, 4))]
    made = CLIPTokenizer(vocab, merges, **kwargs)
    if random.random() < 0.5:
        made.add_tokens([random.choice(ADDED) if random.random() < 0.4 else added_token(random, False)
                         for _ in range(random.randrange(1, 6))])
    if random.random() < 0.2:
        made.add_special_tokens({"pad_token": random.choice(ADDED)})
    if random.random() < 0.2:
        made.add_tokens([added_token(random, True) for _ in range(2)], special_tokens=True)
    made.save_pretrained(folder)


def alter_5(random, folder):
    """Turns what transformers 5 saved into another layout of which only 5 makes a CLIPTokenizer.
    Returns whether the folder says so itself, whatever the class is called."""
    config_path, file_path = folder / "tokenizer_config.json", folder / "tokenizer.json"
    config = json.loads(config_path.read_text())
    file = json.loads(file_path.read_text())
    is_marked = True
    if random.random() < 0.2:  # As CLIPTokenizerFast of transformers 4 wrote it.
        pattern = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]
        pattern["Regex"] = pattern["Regex"].removeprefix(SPLIT_PREFIX5)
        is_marked = False
    if random.random() < 0.1:
        file["padding"] = {"strategy": {"Fixed": 9}, "direction": random.choice(["Left", "Right"]),
                           "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
                           "pad_token": "!"}
        file["truncation"] = {"direction": random.choice(["Left", "Right"]), "max_length": 9,
                              "strategy": "LongestFirst", "stride": 0}
    if random.random() < 0.2:
        config["added_tokens_decoder"] = {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in file["added_tokens"] if random.random() < 0.8}
    if random.random() < 0.2:
        config.setdefault("additional_special_tokens", random.sample(ADDED, 2))
    if random.random() < 0.2:
        roles = {role: random.choice([random.choice(ADDED), {
            "content": random.choice(ADDED), **flags(random)}])
                 for role in ("eos_token", "unk_token", "pad_token") if random.random() < 0.5}
        if random.random() < 0.5:
            roles[random.choice(["additional_special_tokens", "extra_special_tokens"])] = (
                random.sample(ADDED, 2))
        (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    if random.random() < 0.2:
        size = len(file["model"]["vocab"])
        (folder / "added_tokens.json").write_text(json.dumps(
            {name: file["model"]["vocab"].get(name, size + i)
             for i, name in enumerate(sorted(random.sample(ADDED, 3)))}))
    if isinstance(config.get("extra_special_tokens"), list) and random.random() < 0.5:
        for name in ("vocab.json", "merges.txt"):  # Saved over an older folder.
            (folder / name).write_bytes((folder.parent / "base" / name).read_bytes())
    for key in list(config):
        if key != "extra_special_tokens" and random.random() < 0.05:
            del config[key]
    config_path.write_text(json.dumps(config))
    file_path.write_text(json.dumps(file, ensure_ascii=random.random() < 0.5))
    return is_marked or isinstance(config.get("extra_special_tokens"), list)


def texts(random, count):
    planes = [(0x21, 0x7F), (0x80, 0x250), (0x250, 0x600), (0x600, 0x1100), (0x1100, 0x1200),
              (0x1200, 0x2000), (0x2000, 0x3000), (0x3000, 0xD800), (0xE000, 0x10000),
              (0x10000, 0x12000), (0x16000, 0x20000), (0x20000, 0x32000), (0xE0000, 0x110000)]
    drawn = []
    for _ in range(count):
        parts = []
        for _ in range(random.randrange(1, 7)):
            kind = random.random()
            if kind < 0.45:
                parts.append(random.choice(FRAGMENTS))
            elif kind < 0.6:
                parts.append(random.choice(ADDED))
            elif kind < 0.75:
                parts.append(random.choice(WORDS))
            else:
                parts.append("".join(chr(random.randrange(*random.choice(planes)))
                                     for _ in range(random.randrange(1, 9))))
            if random.random() < 0.2:
                parts[-1] = random.choice([str.upper, str.title, str.lower])(parts[-1])
        drawn.append(random.choice(["", " ", " ", "  "]).join(parts))
    return drawn


def make_folder(config, random, target):
    """Writes a tokenizer; returns the class that the model's index gives it."""
    name = "CLIPTokenizerFast" if config["fast"] else "CLIPTokenizer"
    everything = config["made"] == "all_unicode"
    if not IS5:
        if everything:
            write_base(random, target, complete=True)
        else:
            {"constructed": constructed, "handmade": handmade}[config["made"]](
                random, target, config["made_fast"])
    elif everything:
        transformers.CLIPTokenizer(*vocabulary(random, complete=True)).save_pretrained(target)
    else:
        saved_by_5(random, target)
        if config["made"] == "handmade" and not alter_5(random, target):
            name = "CLIPTokenizer"
    if everything:
        path = target / "tokenizer_config.json"
        options = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(dict(options, model_max_length=700)))
    return name


def cases(random):
    number = 0
    while True:
        fast = random.random() < 0.4
        made = random.choice(["constructed", "constructed", "handmade"])
        yield (f"{'fast' if fast else 'slow'}_{made}_{number}",
               {"seed": random.randrange(1 << 30), "made": made, "fast": fast,
                "made_fast": random.random() < (0.7 if fast else 0.3),
                "component": random.choice(["tokenizer", "tokenizer_2"])})
        number += 1


# Every code point that can stand in an argument, in texts of 64.
NAMED = [(f"all_unicode_{'fast' if fast else 'slow'}",
          {"seed": 1, "made": "all_unicode", "fast": fast, "made_fast": False,
           "component": "tokenizer"}) for fast in (False, True)]


def all_unicode():
    codes = [code for code in range(1, 0x110000)
             if not 0xD800 <= code < 0xE000 and not 0x3400 <= code < 0xA000
             and not 0x20000 <= code < 0xE0000 and not 0xE1000 <= code]
    return [" a".join(chr(code) for code in codes[i:i + 64]) for i in range(0, len(codes), 64)]


def ask(reference, prompts):
    limit = reference.model_max_length if reference.model_max_length < 1e20 else 77
    return reference(prompts, padding="max_length", max_length=limit, truncation=True).input_ids


def compare(config, folder, d2g):
    from safetensors.numpy import load_file
    from transformers import CLIPTokenizer, CLIPTokenizerFast
    random = random_module.Random(config["seed"])
    target = folder / config["component"]
    name = make_folder(config, random, target)
    prompts = all_unicode() if config["made"] == "all_unicode" else texts(random, 60)
    (folder / "model_index.json").write_text(json.dumps({config["component"]: ["transformers", name]}))
    try:
        reference = (CLIPTokenizerFast if config["fast"] else CLIPTokenizer).from_pretrained(target)
        theirs = numpy.array(ask(reference, prompts), dtype=numpy.int64)
    except Exception:  # transformers cannot read it or use it; d2g may, or refuses.
        theirs = None
    for first in range(0, len(prompts), 400):
        batch = prompts[first:first + 400]
        made = folder / "ids.safetensors"
        try:
            d2g.run("component", "--model", folder, "--component", config["component"],
                    "--outputs", made,
                    *(argument for prompt in batch for argument in ("--text", prompt)))
        except Refused as refused:
            if theirs is None and "exit code 3:" in str(refused):
                return
            raise
        if theirs is None:
            return
        ours = load_file(made)["input_ids"]
        expected = theirs[first:first + 400]
        for k, prompt in enumerate(batch):
            if ours.shape == expected.shape and not numpy.array_equal(ours[k], expected[k]):
                raise AssertionError(f"{prompt!r}\n  ours   {ours[k].tolist()}\n"
                                     f"  theirs {expected[k].tolist()}")
        yield "input_ids", ours, expected, 0
