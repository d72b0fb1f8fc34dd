#!/usr/bin/env bash
# Packs TensorRT 8.6 and the Python 3.10 that it needs, for a GPU host without internet. `--help` says how.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'EOF'
usage: pack_tensorrt.sh OUTDIR

Writes a complete TensorRT 8.6.0 with Python 3.10, numpy, cuda-bindings and nvidia-ml-py into OUTDIR, as pieces of at
most 60 MB, one to a folder: p00/, p01/, …  The last one holds unpack_tensorrt.sh too. Run it where PyPI is reachable.

  PYTHON310=PREFIX   the Python 3.10 to pack: PREFIX/bin/python3.10 (default: pyenv's newest 3.10)
  WHEELS=FOLDER      take the wheels of wheels.txt from there instead of PyPI
  TMPDIR=FOLDER      where 4 GB may be written meanwhile (default: /tmp)
EOF
}

fail() {
  echo "error: $1" >&2
  exit 1
}

need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null || fail "$1 is missing: sudo apt-get install -y $2"
}

python_prefix() {
  local newest
  newest=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -name '3.10.*' 2>/dev/null | sort -V | tail -1)
  echo "${PYTHON310:-$newest}"
}

fetch_wheels() { # FOLDER: every wheel by its hash
  local from=()
  [ -z "${WHEELS:-}" ] || from=(--no-index --find-links "$WHEELS")
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes "${from[@]}" \
    --implementation cp --python-version 3.10 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
    -d "$1" -r "$here/wheels.txt"
}

stand_in() { # PREFIX SONAME MAJOR PLUGIN FOLDER: a library with the functions of this prefix that the plugin library asks for
  local prefix=$1 soname=$2 major=$3 plugin=$4 folder=$5
  nm -D --undefined-only "$plugin" | awk '{print $2}' | sed 's/@.*//' | { grep -E "^${prefix}[A-Z]" || true; } |
    sort -u | sed 's/.*/int &(void) { return 1; }/' >"$folder/stub.c"
  [ -s "$folder/stub.c" ] || fail "$plugin asks for no ${prefix} function: is it TensorRT 8.6?"
  # Its version goes into every timing cache: left unwritten, no cache would fit the next build.
  sed -i "/ ${prefix}GetProperty(/d" "$folder/stub.c"
  echo "int ${prefix}GetProperty(int which, int *value) { *value = which == 0 ? $major : 0; return 0; }" >>"$folder/stub.c"
  echo "$soname { global: *; };" >"$folder/stub.map"
  gcc -shared -fPIC -w "$folder/stub.c" -Wl,-soname,"$soname" -Wl,--version-script="$folder/stub.map" \
    -o "$folder/$soname"
  rm "$folder/stub.c" "$folder/stub.map"
}

stand_ins() { # TREE
  # libnvinfer_plugin names cuDNN 8 and cuBLAS 12 to the loader, but calls them only for tactics from there. Those are
  # switched off (SLUICE_TENSORRT_EXTERNAL_TACTICS=0), so that neither library need travel.
  local plugin=$1/site/tensorrt/libnvinfer_plugin.so.8
  mkdir "$1/stubs"
  stand_in cudnn libcudnn.so.8 8 "$plugin" "$1/stubs"
  stand_in cublas libcublas.so.12 12 "$plugin" "$1/stubs"
  stand_in cublasLt libcublasLt.so.12 12 "$plugin" "$1/stubs"
}

copy_python() { # PREFIX TREE: the interpreter and its library, without what only developers use
  mkdir "$2/python"
  (
    cd "$1"
    shopt -s nullglob
    tar cf - --exclude=test --exclude=tests --exclude='*.a' --exclude=site-packages --exclude='config-3.10*' \
      --exclude=idlelib --exclude=ensurepip --exclude=lib2to3 --exclude=__pycache__ \
      bin/python3.10 lib/python3.10 lib/libpython3.10.so*
  ) | tar xf - -C "$2/python"
}

write_pieces() { # TREE OUTDIR: one piece to a folder; the checksums and what unpacks them go with the last one
  local piece last=
  tar cf - -C "$1" . | zstd -q -12 --long=31 -T0 | split -b 60000000 -d - piece
  for piece in piece*; do
    last=$2/p${piece#piece}
    mkdir -p "$last"
    mv "$piece" "$last/"
    (cd "$last" && sha256sum "$piece") >>SHA256SUMS
  done
  cp SHA256SUMS "$(command -v zstd)" "$here/unpack_tensorrt.sh" "$last/"
}

main() {
  case ${1:-} in
    -h | --help) usage && exit 0 ;;
    '' | -*) usage >&2 && exit 2 ;;
  esac
  need zstd zstd
  need gcc gcc
  need nm binutils
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip: sudo apt-get install -y python3-pip"
  local prefix out wheel
  prefix=$(python_prefix)
  [ -x "$prefix/bin/python3.10" ] || fail "no Python 3.10 to pack: set PYTHON310 to the prefix of one"
  mkdir -p "$1"
  out=$(cd "$1" && pwd)
  [ -z "$(ls -A "$out")" ] || fail "$out is not empty: name a new folder"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetching the wheels …"
  WHEELS=${WHEELS:+$(cd "$WHEELS" && pwd)} fetch_wheels "$work/wheels"
  cd "$work"
  mkdir tree
  for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" tree/site; done
  stand_ins tree
  copy_python "$prefix" tree
  echo "compressing …"
  write_pieces tree "$out"
  du -sh "$out"/p*
}

main "$@"
