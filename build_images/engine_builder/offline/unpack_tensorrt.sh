#!/usr/bin/env bash
# Unpacks what pack_tensorrt.sh wrote, on the GPU host. `--help` says how.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: bash unpack_tensorrt.sh [FOLDER]

FOLDER (default: this script's) holds every piece of pack_tensorrt.sh, SHA256SUMS and zstd, all side by side. Unpacks
them into FOLDER/trt, writes FOLDER/trt/bin/trtpython (a Python 3.10 that imports tensorrt), and tries it.
Needs 3 GB; the pieces are kept. Where FOLDER/trt is there already, only trtpython is written again and tried.
EOF
}

fail() {
  echo "error: $1" >&2
  exit 1
}

unpack() { # in the folder: all of it, or nothing
  [ -f SHA256SUMS ] || fail "no SHA256SUMS in $PWD: copy everything of the last piece's folder here too"
  sha256sum --quiet -c SHA256SUMS >&2 || fail "pieces are missing or damaged, see above: copy those again"
  if ! command -v zstd >/dev/null; then
    [ -f zstd ] || fail "no zstd: copy the one of the last piece's folder here, or install it"
    chmod +x zstd
    PATH=$PATH:$PWD
  fi
  rm -rf trt.part
  mkdir trt.part
  # In the order of the checksums, which is the order of the pieces.
  awk '{print $2}' SHA256SUMS | xargs cat | zstd -q -dc --long=31 | tar xf - -C trt.part
  mv trt.part trt
}

write_wrapper() { # FILE
  mkdir -p "$(dirname "$1")"
  cat >"$1" <<'EOF'
#!/bin/sh
# TensorRT's Python, wherever its folder lies. Written by unpack_tensorrt.sh.
home=$(dirname "$(dirname "$(readlink -f "$0")")")
export PYTHONHOME="$home/python" PYTHONNOUSERSITE=1
export PYTHONPATH="$home/site${PYTHONPATH:+:$PYTHONPATH}"
export LD_LIBRARY_PATH="$home/python/lib:$home/stubs:$home/site/tensorrt${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# cuDNN and cuBLAS are stand-ins here: no tactic may come from them.
export SLUICE_TENSORRT_EXTERNAL_TACTICS=0
exec "$home/python/bin/python3.10" "$@"
EOF
  chmod +x "$1"
}

try() { # FILE
  "$1" -c 'import ctypes, numpy, pynvml, cuda.bindings.runtime, tensorrt
print("tensorrt", tensorrt.__version__)' || fail "$1 does not import what it needs, see above"
}

main() {
  case ${1:-} in
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
  esac
  cd "${1:-$(dirname "${BASH_SOURCE[0]}")}"
  [ -d trt ] || unpack
  write_wrapper "$PWD/trt/bin/trtpython"
  try "$PWD/trt/bin/trtpython"
  echo "export SLUICE_TENSORRT_PYTHON=$PWD/trt/bin/trtpython"
}

main "$@"
