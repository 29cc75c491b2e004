#!/usr/bin/env bash
# torch 2.11.0: on a CPU, fused scaled_dot_product_attention answers a query that holds NaN with zeros where there
# are fewer keys than a vector register has lanes.
#
# With 16 lanes (fp32, bf16 and fp16 on AVX-512) that is for 1 to 15 keys, with 8 (AVX2, or fp64 on AVX-512) for 1 to
# 7: the row comes out as 0.0, finite. From that number of keys on, and with the "math" backend at every number, the
# row is NaN, as softmax and both products say. A NaN in a key or a value is never lost.
# Why it matters: a NaN is how a diverging network is noticed. Few keys are usual at the coarsest level of a small
# latent (2x2 is four tokens) and in cross attention to one pooled embedding; what a check for finite numbers behind
# such a layer sees then depends on the processor and on the picture's size.
#
# Installs torch in a temporary folder (5 GB); exit code 0 while it behaves as described.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check --no-cache-dir torch==2.11.0 numpy

cat > "$work/attend.py" <<'PY'
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def counts_that_hide_nan(backend, dtype):
    hidden = []
    for keys in range(1, 41):
        query, key, value = (torch.randn(1, 1, rows, 8).to(dtype) for rows in (3, keys, keys))
        query[0, 0, 1, 3] = float("nan")
        with sdpa_kernel(backend):
            row = F.scaled_dot_product_attention(query, key, value)[0, 0, 1]
        if not row.isnan().any():
            assert row.eq(0).all()
            hidden.append(keys)
    return hidden


torch.manual_seed(0)
lanes = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 8)
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}: {lanes} lanes of fp32")
for dtype, width in ((torch.float32, lanes), (torch.bfloat16, lanes), (torch.float64, lanes // 2)):
    fused = counts_that_hide_nan(SDPBackend.FLASH_ATTENTION, dtype)
    explicit = counts_that_hide_nan(SDPBackend.MATH, dtype)
    print(f"{dtype}: zeros for NaN with so many keys: fused {fused}, math {explicit}")
    assert fused == list(range(1, width)) and explicit == []
PY
"$work/venv/bin/python" "$work/attend.py"
