#!/usr/bin/env bash
# Unpacks the parts of the PyPI wheels that d2g links: tools/libtorch.sh cpu|cuda DIR
# cpu: libtorch_cpu, libc10 and the two small CUDA libraries that they are linked to.
# cuda: also torch_cuda, NCCL, cuDNN, cuBLAS and the rest.
set -euo pipefail
flavour=${1:?usage: tools/libtorch.sh cpu|cuda DIR}
dir=${2:?usage: tools/libtorch.sh cpu|cuda DIR}
here=$(cd "$(dirname "$0")" && pwd)
[ ! -e "$dir/.complete" ] || exit 0
mkdir -p "$(dirname "$dir")"
tmp=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

pinned() { grep -E "^$1==" "$here/requirements.txt"; }
wheels=("$(pinned torch)" "$(pinned nvidia-cuda-runtime)" "$(pinned nvidia-cuda-cupti)")
if [ "$flavour" = cuda ]; then
  mapfile -t more < <(grep -E '^(nvidia|cuda-toolkit)' "$here/requirements.txt")
  wheels+=("${more[@]}")
fi
echo "fetching LibTorch ($flavour): ${wheels[*]}"
/usr/bin/python3 -m pip download -q --no-deps -d "$tmp/wheels" "${wheels[@]}"
/usr/bin/python3 - "$flavour" "$tmp" <<'PY'
import os, sys, zipfile, glob
flavour, tmp = sys.argv[1:]
# The wheel's google/ and fmt/ headers would shadow the system's; nothing of ours needs the rest.
headers = tuple(f"torch/include/{d}/" for d in ("ATen", "c10", "caffe2", "torch"))
cpu_libs = {"torch/lib/" + n for n in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")}
def wanted(name):
    if name.startswith(headers) or name in cpu_libs:
        return True
    if name.startswith("nvidia/"):
        return flavour == "cuda" or name.endswith((".so.13",)) and ("libcudart" in name or "libcupti" in name)
    return flavour == "cuda" and name.startswith("torch/lib/") and "python" not in name
for wheel in glob.glob(f"{tmp}/wheels/*.whl"):
    with zipfile.ZipFile(wheel) as z:
        for info in z.infolist():
            if wanted(info.filename):
                z.extract(info, f"{tmp}/out")
    os.remove(wheel)
PY
touch "$tmp/out/.complete"
rm -rf "$dir"
mv "$tmp/out" "$dir"
echo "LibTorch is in $dir ($(du -sh "$dir" | cut -f1))"
