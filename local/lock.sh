#!/usr/bin/env bash
# Remakes requirements.txt from requirements.in. pip, not uv: only pip finds the CPU build of torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder"
"$folder/bin/pip" install --quiet -r requirements.in
{
  sed -n '/^#/p' requirements.txt
  "$folder/bin/pip" freeze | sed 's/^great_expectations==/great-expectations==/; s/^torch==\([0-9.]*\)+cpu/torch==\1/'
  echo 'tensorrt==8.6.0; python_version == "3.10"'
} > "$folder/lock"
mv "$folder/lock" requirements.txt
