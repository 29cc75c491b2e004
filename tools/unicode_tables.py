"""Writes worker/model/unicode_tables.inc: the character classes that CLIP's tokenizer needs.

Control characters, spaces, lower case and normalisation are those of Python's unicodedata, letters
and numbers those of the regex package, because that is what transformers asks.

    python tools/unicode_tables.py > worker/model/unicode_tables.inc
"""
import sys
import unicodedata

import regex

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


def matching(pattern):
    compiled = regex.compile(pattern)
    return ranges(lambda code: compiled.fullmatch(chr(code)) is not None)


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
    control = ranges(lambda c: unicodedata.category(chr(c)).startswith("C") and c not in (9, 10, 13))
    space = ranges(lambda c: chr(c).isspace())
    separator = ranges(lambda c: unicodedata.category(chr(c)) == "Zs")
    lower = [(c, *map(ord, chr(c).lower())) for c in CODES if chr(c).lower() != chr(c)]
    assert all(len(row) == 2 or row[0] == 0x130 for row in lower)
    lower = [row for row in lower if len(row) == 2]
    combining = {}
    for first, last in ranges(lambda c: unicodedata.combining(chr(c)) != 0):
        for code in range(first, last + 1):
            combining[code] = unicodedata.combining(chr(code))
    classes = []
    for code in sorted(combining):
        value = combining[code]
        if classes and classes[-1][1] == code - 1 and classes[-1][2] == value:
            classes[-1] = (classes[-1][0], code, value)
        else:
            classes.append((code, code, value))
    decompositions, compositions = [], []
    for code in CODES:
        text = unicodedata.decomposition(chr(code))
        if not text or text.startswith("<"):
            continue
        parts = [int(part, 16) for part in text.split()]
        decompositions.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
        if len(parts) == 2 and unicodedata.normalize("NFC", chr(parts[0]) + chr(parts[1])) == chr(code):
            compositions.append((parts[0], parts[1], code))

    print("// Made by tools/unicode_tables.py; do not edit. Included by unicode_tables.cc.")
    emit("CodeRange", "Letter", matching(r"\p{L}"))
    emit("CodeRange", "Number", matching(r"\p{N}"))
    emit("CodeRange", "Control", control)
    emit("CodeRange", "Space", space)
    emit("CodeRange", "Separator", separator)
    emit("CodeRange", "Cased", matching(r"\p{Cased}"))
    emit("CodeRange", "CaseIgnorable", matching(r"\p{Case_Ignorable}"))
    emit("CodePair", "Lower", lower)
    emit("CodeTriple", "CombiningClass", classes)
    emit("CodeTriple", "Decomposition", decompositions)
    emit("CodeTriple", "Composition", sorted(compositions))


if __name__ == "__main__":
    main()
