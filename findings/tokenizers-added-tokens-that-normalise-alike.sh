#!/usr/bin/env bash
# tokenizers 0.23.3: when two added tokens become the same text under the normaliser, the id that this
# text gets is drawn anew in every process. 0.22.2 always gave the id of the token that was added first.
#
# Seen with 0.23.3: "tok" is encoded as [6] in some processes and as [7] in others, for one and the same
# tokenizer. Seen with 0.22.2: [6] in every process.
# Why it matters: two ranks, or a rank and the program that made a data set, embed one prompt differently,
# and no run repeats another. The normaliser of CLIP's tokenizers lowercases, too.
#
# Installs both versions in a temporary folder; exit code 0 while both behave as described.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}

cat > "$work/encode.py" <<'PY'
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase

tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate("abxyc ")}, []))
tokenizer.normalizer = Lowercase()
tokenizer.add_tokens([AddedToken("tok"), AddedToken("Tok")])
print(tokenizer.encode("tok").ids)
PY

# The different answers of 24 processes.
answers() {
  local version=$1
  "$python" -m venv "$work/$version"
  "$work/$version/bin/pip" install -q --disable-pip-version-check "tokenizers==$version"
  for _ in $(seq 24); do "$work/$version/bin/python" "$work/encode.py"; done | sort | uniq -c
}

old=$(answers 0.22.2)
new=$(answers 0.23.3)
printf 'tokenizers 0.22.2, 24 processes:\n%s\ntokenizers 0.23.3, 24 processes:\n%s\n' "$old" "$new"
[ "$(wc -l <<<"$old")" = 1 ] && [ "$(wc -l <<<"$new")" = 2 ] && grep -q '\[6\]' <<<"$old"
