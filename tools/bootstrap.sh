#!/usr/bin/env bash
# Installs what a build needs on Debian 12: system packages and LibTorch. Does nothing when all is there.
#   tools/bootstrap.sh            what ./run build, demo need
#   tools/bootstrap.sh format     also clang-format
#   tools/bootstrap.sh lint       also clang-format, clang-tidy and clang
#   tools/bootstrap.sh venv       also the Python environments that the interop tests use
#   tools/bootstrap.sh dataset    also the pictures that the demo teacher is trained on
# D2G_BOOTSTRAP=0 trusts that all is there.
set -euo pipefail
[ "${D2G_BOOTSTRAP:-1}" != 0 ] || exit 0
here=$(cd "$(dirname "$0")" && pwd)
cache=${D2G_CACHE:-$HOME/.cache/d2g}
mkdir -p "$cache"

packages=(build-essential cmake ninja-build ccache pkg-config git ca-certificates python3 python3-venv python3-pip
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev librocksdb-dev
  libgloo-dev prometheus-cpp-dev libmicrohttpd-dev libcli11-dev libspdlog-dev libfmt-dev
  nlohmann-json3-dev libyaml-cpp-dev libxxhash-dev libpng-dev libutf8proc-dev libgtest-dev libgmock-dev libbenchmark-dev procps)
for extra in "$@"; do
  case $extra in
    format) packages+=(clang-format) ;;
    lint) packages+=(clang clang-format clang-tidy) ;;
    dataset) packages+=(dataset-fashion-mnist) ;;
    venv) ;;
    *) echo "bootstrap: unknown argument '$extra' (format, lint, venv, dataset)" >&2; exit 2 ;;
  esac
done

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=""
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "installing system packages: ${missing[*]}"
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 ||
    { tail -20 "$cache/apt.log"; echo "apt-get install failed (log: $cache/apt.log)"; exit 1; }
fi

version=$(sed -n 's/^torch==//p' "$here/requirements.txt")
flavour=cpu
[ "${D2G_CUDA:-0}" = 0 ] || flavour=cuda
"$here/libtorch.sh" "$flavour" "$cache/libtorch-$version-$flavour"

# Makes the Python environment $1 from the files of pinned packages that follow and lets $cache/$1
# point at it. The packages of the environment $2 (none if empty) are seen in it, too, after its own.
python_environment() {
  local name=$1 base=$2 venv
  shift 2
  venv=$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)
  if [ ! -e "$venv/.complete" ]; then
    echo "making the Python environment for the interop tests in $venv"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check ${base:+--no-deps} -r "${@: -1}"
    if [ -n "$base" ]; then
      "$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
    fi
    touch "$venv/.complete"
  fi
  ln -sfn "$venv" "$cache/$name"
}

for extra in "$@"; do
  [ "$extra" = venv ] || continue
  python_environment venv "" "$here/requirements.txt"
  # What the newest diffusers and transformers have in another version; torch, 5 GB, is shared.
  python_environment venv-newest "$(readlink -f "$cache/venv")" \
    "$here/requirements.txt" "$here/requirements-newest.txt"
done
