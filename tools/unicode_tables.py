"""Writes model/tokenizer/unicode_tables.inc: the character classes that CLIP's tokenizer needs.

Every table is asked of what transformers itself asks, because they follow different versions of
Unicode. The slow tokenizer drops what Python's unicodedata calls control or unassigned, so its
later questions (letters and numbers of the regex package, lower case of Python) only concern
characters that all versions know; there they agree with the tokenizers package, which is checked
here, and one table serves both. Normalisation differs: the tokenizers package knows fewer marks.

    python tools/unicode_tables.py > model/tokenizer/unicode_tables.inc
"""
import sys
import unicodedata

import regex
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

CODES = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF]


def ranges(belongs):
    found, start, previous = [], None, None
    for code in CODES:
        if belongs(code):
            if start is None:
                start = code
            previous = code
        elif start is not None:
            found.append((start, previous))
            start = None
    if start is not None:
        found.append((start, previous))
    return found


def fast_matching(pattern):
    """The code points that the tokenizers package's regular expressions match."""
    remove = normalizers.Replace(Regex(pattern), "")
    found = set()
    for first in range(0, len(CODES), 4096):
        chunk = CODES[first:first + 4096]
        kept = set(remove.normalize_str("".join(map(chr, chunk))))
        found.update(code for code in chunk if chr(code) not in kept)
    return found


def word_characters():
    """What may not stand beside an added token that must be a single word."""
    tokenizer = Tokenizer(models.WordLevel({"other": 0}, unk_token="other"))
    tokenizer.add_tokens([AddedToken("Z", single_word=True, normalized=False)])
    encoded = tokenizer.encode_batch([chr(code) + "Z" for code in CODES])
    return {code for code, encoding in zip(CODES, encoded) if len(encoding.ids) == 1}


def newer_marks():
    """Marks that the tokenizers package's normalisation takes for ordinary characters."""
    nfd = normalizers.NFD().normalize_str
    marks = set()
    for code in CODES:
        mark = chr(code)
        if unicodedata.combining(mark) == 0:
            continue
        probes = [mark + "\u0334", "\u0345" + mark]
        if any(nfd(probe) != unicodedata.normalize("NFD", probe) for probe in probes):
            assert all(nfd(probe) == probe for probe in probes)
            marks.add(code)
    return marks


def emit(kind, name, rows):
    print(f"const {kind} k{name}Table[] = {{")
    line = "   "
    for row in rows:
        item = " {" + ", ".join(hex(value) for value in row) + "},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")
    print(f"const size_t k{name}Count = std::size(k{name}Table);\n")


def main():
    control = {c for c in CODES if unicodedata.category(chr(c)).startswith("C")}
    letter, number = fast_matching(r"\p{L}"), fast_matching(r"\p{N}")
    lowercase = normalizers.Lowercase().normalize_str
    for code in set(CODES) - control:
        assert (regex.fullmatch(r"\p{L}", chr(code)) is not None) == (code in letter)
        assert (regex.fullmatch(r"\p{N}", chr(code)) is not None) == (code in number)
        assert lowercase(chr(code)) == chr(code).lower()
    space = ranges(lambda c: chr(c).isspace())
    assert fast_matching(r"\s") == {c for c in CODES if chr(c).isspace()} - set(range(0x1C, 0x20))
    separator = ranges(lambda c: unicodedata.category(chr(c)) == "Zs")
    # A capital sigma after a cased letter lowers to the final form, which shows what Python takes
    # for cased and what for ignorable.
    cased = {c for c in CODES if (chr(c) + "\u03a3").lower().endswith("\u03c2")}
    ignorable = {c for c in CODES if ("A" + chr(c) + "\u03a3").lower().endswith("\u03c2")} - cased
    lower = [(c, *map(ord, lowercase(chr(c)))) for c in CODES if lowercase(chr(c)) != chr(c)]
    assert all(len(row) == 2 or row[0] == 0x130 for row in lower)
    lower = [row for row in lower if len(row) == 2]
    classes = []
    for code in CODES:
        value = unicodedata.combining(chr(code))
        if value and classes and classes[-1][1] == code - 1 and classes[-1][2] == value:
            classes[-1] = (classes[-1][0], code, value)
        elif value:
            classes.append((code, code, value))
    decompositions, compositions, newer = [], [], newer_marks()
    for code in CODES:
        text = unicodedata.decomposition(chr(code))
        if not text or text.startswith("<"):
            continue
        parts = [int(part, 16) for part in text.split()]
        decompositions.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
        if normalizers.NFD().normalize_str(chr(code)) == chr(code):
            newer.add(code)
        if len(parts) == 2 and unicodedata.normalize("NFC", chr(parts[0]) + chr(parts[1])) == chr(code):
            compositions.append((parts[0], parts[1], code))

    print("// Made by tools/unicode_tables.py; do not edit. Included by unicode_tables.cc.")
    emit("CodeRange", "Letter", ranges(letter.__contains__))
    emit("CodeRange", "Number", ranges(number.__contains__))
    emit("CodeRange", "Control", ranges((control - {9, 10, 13}).__contains__))
    emit("CodeRange", "Space", space)
    emit("CodeRange", "Separator", separator)
    emit("CodeRange", "Word", ranges(word_characters().__contains__))
    emit("CodeRange", "Cased", ranges(cased.__contains__))
    emit("CodeRange", "CaseIgnorable", ranges(ignorable.__contains__))
    emit("CodeRange", "NewerNormalization", ranges(newer.__contains__))
    emit("CodePair", "Lower", lower)
    emit("CodeTriple", "CombiningClass", classes)
    emit("CodeTriple", "Decomposition", decompositions)
    emit("CodeTriple", "Composition", sorted(compositions))


if __name__ == "__main__":
    main()
