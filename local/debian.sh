#!/usr/bin/env bash
# Gets Debian packages whose program is missing: `debian.sh PROGRAM:PACKAGE …`, each by itself, so that one that this
# distribution lacks keeps no other away. As root or with passwordless sudo it installs; otherwise it prints the one
# command to run. Exits with 1 while a program is missing.
set -euo pipefail
missing=()
for pair in "$@"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

elsewhere() { # how to get a package that apt-get may not have
  if [ "$1" = kubernetes-client ]; then
    echo "  Ubuntu has no package kubernetes-client; there it is: sudo snap install kubectl --classic"
  fi
}

if [ "$(id -u)" = 0 ]; then sudo=(); elif sudo -n true 2>/dev/null; then sudo=(sudo); else
  echo "missing: ${missing[*]}. Run this, then the same make target again:"
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  for package in "${missing[@]}"; do elsewhere "$package"; done
  exit 1
fi
# The packages' own services must not start: Sluice starts its own, on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
  "${sudo[@]}" chmod +x $policy
  trap '"${sudo[@]}" rm -f $policy' EXIT
fi
log=$(mktemp)
# sudo drops our environment, so the variable goes through env. A source that cannot be read need not be the one asked.
get=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
"${get[@]}" update -qq >"$log" 2>&1 || true
code=0
for package in "${missing[@]}"; do
  echo "installing $package …"
  if ! "${get[@]}" install -y -qq --no-install-recommends "$package" >>"$log" 2>&1; then
    tail -5 "$log"
    echo "apt-get could not install $package: see above"
    elsewhere "$package"
    code=1
  fi
done
exit $code
