#!/usr/bin/env bash
# torch 2.11.0: on a CPU, fused scaled_dot_product_attention without a mask answers a query that holds NaN with zeros
# where there are fewer keys than a vector register has lanes.
#
# With 16 lanes (fp32, bf16 and fp16 on AVX-512) that is for 1 to 15 keys, with 8 (AVX2, or fp64 on AVX-512) for 1 to
# 7: the row comes out as 0.0, finite. So does every row where all keys hold NaN. From that number of keys on, with
# any mask (one of zeros will do), and with the "math" backend, the row is NaN, as softmax and both products say.
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


def counts_that_hide_nan(backend, dtype, poison, masked=False):
    hidden = []
    for keys in range(1, 41):
        query, key, value = (torch.randn(1, 1, rows, 8).to(dtype) for rows in (3, keys, keys))
        (query[0, 0, 1] if poison == "query" else key)[..., 3] = float("nan")
        mask = torch.zeros(3, keys, dtype=dtype) if masked else None
        with sdpa_kernel(backend):
            row = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0, 0, 1]
        if not row.isnan().any():
            assert row.eq(0).all()
            hidden.append(keys)
    return hidden


torch.manual_seed(0)
capability = torch.backends.cpu.get_cpu_capability()
lanes = {"AVX512": 16, "AVX2": 8}.get(capability, 8)
print(f"torch {torch.__version__}, {capability}: {lanes} lanes of fp32; zeros for NaN with so many keys:")
for dtype, width in ((torch.float32, lanes), (torch.bfloat16, lanes), (torch.float16, lanes),
                     (torch.float64, lanes // 2)):
    for poison in ("query", "all keys"):
        fused = counts_that_hide_nan(SDPBackend.FLASH_ATTENTION, dtype, poison)
        masked = counts_that_hide_nan(SDPBackend.FLASH_ATTENTION, dtype, poison, masked=True)
        explicit = counts_that_hide_nan(SDPBackend.MATH, dtype, poison)
        print(f"{dtype}, {poison}: fused {fused}, with a mask {masked}, math {explicit}")
        assert fused == list(range(1, width)) and masked == [] and explicit == []
PY
"$work/venv/bin/python" "$work/attend.py"
