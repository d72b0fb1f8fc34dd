#!/usr/bin/env bash
# Gets Debian packages whose program is missing: `debian.sh PROGRAM:PACKAGE …`.
# As root or with passwordless sudo it installs; otherwise it prints the one command to run.
set -euo pipefail
missing=()
for pair in "$@"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ]; then sudo=(); elif sudo -n true 2>/dev/null; then sudo=(sudo); else
  echo "missing: ${missing[*]}. Run this, then the same make target again:"
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  exit 1
fi
echo "installing ${missing[*]} …"
# The packages' own services must not start: Sluice starts its own, on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
  "${sudo[@]}" chmod +x $policy
  trap '"${sudo[@]}" rm -f $policy' EXIT
fi
log=$(mktemp)
if ! { "${sudo[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -5 "$log"; echo "apt-get could not install ${missing[*]}: see above"; exit 1
fi
