"""Writes model/tokenizer/unicode_tables.inc: where CLIP's tokenizers differ from utf8proc.

transformers asks four libraries, which follow different versions of Unicode: the slow tokenizer
asks Python, the fast one the tokenizers package, whose regular expressions, lower case and
normalisation come from three crates of different age. Each is asked here about every code point,
and so is utf8proc; a table holds the code points about which utf8proc says something else.

The slow tokenizer drops what Python's unicodedata calls control or unassigned, so its later
questions (letters and numbers of the regex package, lower case of Python) only concern characters
that all versions know; there they agree with the tokenizers package, which is checked here, and
one table serves both.

    python tools/unicode_tables.py > model/tokenizer/unicode_tables.inc
"""
import ctypes
import sys
import unicodedata

import regex
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

CODES = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF]


class Property(ctypes.Structure):
    """The beginning of utf8proc_property_t."""
    _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16),
                ("bidi_class", ctypes.c_int16)]


UTF8PROC = ctypes.CDLL("libutf8proc.so.2")
UTF8PROC.utf8proc_category_string.restype = ctypes.c_char_p
UTF8PROC.utf8proc_unicode_version.restype = ctypes.c_char_p
UTF8PROC.utf8proc_get_property.restype = ctypes.POINTER(Property)
CATEGORY = {c: UTF8PROC.utf8proc_category_string(c).decode() for c in CODES}
STABLE, COMPOSE, DECOMPOSE = 1 << 1, 1 << 3, 1 << 4


def utf8proc_normalize(text, options):
    text = text.encode()
    out = ctypes.POINTER(ctypes.c_char)()
    size = UTF8PROC.utf8proc_map(text, len(text), ctypes.byref(out), options | STABLE)
    assert size >= 0
    return ctypes.string_at(out, size).decode()


def ranges(codes):
    found = []
    for code in sorted(codes):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def of_categories(*names):
    """The code points whose general category, as utf8proc knows it, begins with one of the names."""
    return {code for code in CODES if CATEGORY[code].startswith(names)}


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


def newer_normalization():
    """What utf8proc orders or takes apart and the tokenizers package leaves as it is."""
    nfd = normalizers.NFD().normalize_str
    newer = set()
    for code in CODES:
        text = chr(code)
        probes = [text]
        if UTF8PROC.utf8proc_get_property(code).contents.combining_class != 0:
            probes += [text + "\u0334", "\u0345" + text]
        if any(nfd(probe) != utf8proc_normalize(probe, DECOMPOSE) for probe in probes):
            assert all(nfd(probe) == probe for probe in probes)
            newer.add(code)
    return newer


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


def emit_more(name, wanted, known, concerned):
    """The code points that belong to `wanted` and that utf8proc does not know to belong."""
    assert (known - wanted) & concerned == set(), (name, ranges((known - wanted) & concerned))
    emit("CodeRange", name, ranges((wanted - known) & concerned))


def main():
    every = set(CODES)
    control = {c for c in CODES if unicodedata.category(chr(c)).startswith("C")}
    seen_by_slow = every - control
    letter, number = fast_matching(r"\p{L}"), fast_matching(r"\p{N}")
    lowercase = normalizers.Lowercase().normalize_str
    for code in seen_by_slow:
        assert (regex.fullmatch(r"\p{L}", chr(code)) is not None) == (code in letter)
        assert (regex.fullmatch(r"\p{N}", chr(code)) is not None) == (code in number)
        assert lowercase(chr(code)) == chr(code).lower()
        assert (utf8proc_normalize(chr(code), COMPOSE) == unicodedata.normalize("NFC", chr(code)))
        assert (UTF8PROC.utf8proc_get_property(code).contents.combining_class ==
                unicodedata.combining(chr(code)))
    space = {c for c in CODES if chr(c).isspace()}
    assert fast_matching(r"\s") == space - set(range(0x1C, 0x20))
    # White space and the separators of segments and paragraphs, as bidirectional classes.
    assert space == of_categories("Zs") | {
        c for c in CODES if UTF8PROC.utf8proc_get_property(c).contents.bidi_class in (16, 17, 18)}
    assert of_categories("Zs") == {c for c in CODES if unicodedata.category(chr(c)) == "Zs"}
    # A capital sigma after a cased letter lowers to the final form, which shows what Python takes
    # for cased and what for ignorable.
    cased = {c for c in CODES if (chr(c) + "\u03a3").lower().endswith("\u03c2")}
    ignorable = {c for c in CODES if ("A" + chr(c) + "\u03a3").lower().endswith("\u03c2")} - cased
    lower = {c: lowercase(chr(c)) for c in CODES if lowercase(chr(c)) != chr(c)}
    assert lower.pop(0x130) == "i\u0307"
    known_lower = {c: chr(UTF8PROC.utf8proc_tolower(c)) for c in CODES if c != 0x130}
    assert all(lower.get(c, chr(c)) == small for c, small in known_lower.items() if small != chr(c))

    print("// Made by tools/unicode_tables.py; do not edit. Included by unicode_tables.cc.")
    print("const char kUtf8procUnicodeVersion[] = "
          f'"{UTF8PROC.utf8proc_unicode_version().decode()}";\n')
    emit_more("MoreLetters", letter, of_categories("L"), every)
    emit_more("MoreNumbers", number, of_categories("N"), every)
    emit_more("MoreControls", control, of_categories("C"), every)
    emit_more("MoreWord", word_characters(), of_categories("L", "M", "Nd", "Nl", "Pc"), every)
    emit_more("MoreCased", cased, of_categories("Lu", "Ll", "Lt"), seen_by_slow)
    emit_more("MoreCaseIgnorable", ignorable, of_categories("Mn", "Me", "Cf", "Lm", "Sk") - cased,
              seen_by_slow)
    emit("CodeRange", "NewerNormalization", ranges(newer_normalization()))
    emit("CodePair", "MoreLower",
         [(c, ord(small)) for c, small in sorted(lower.items()) if known_lower[c] != small])


if __name__ == "__main__":
    main()
