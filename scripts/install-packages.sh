#!/usr/bin/env bash
# Install Debian packages as root without questions, and without starting their services:
# nginx would take port 80 of this machine, where the demo wants it in a namespace alone.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
kept="$policy.before-overlay-setup"

restore_policy() {
    rm -f "$policy"
    if [ -e "$kept" ]; then mv "$kept" "$policy"; fi
}

had_nginx="$(command -v nginx || true)"
# What an interrupted run set aside is the machine's own policy: never overwrite it.
if [ -e "$policy" ] && [ ! -e "$kept" ]; then mv "$policy" "$kept"; fi
trap restore_policy EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 0755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "setup: installing $*" >&2
if command -v debconf-set-selections >/dev/null; then
    debconf-set-selections <<<'wireshark-common wireshark-common/install-setuid boolean false'
fi
apt=(apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
log="$(mktemp)"
{
    "${apt[@]}" update &&
        "${apt[@]}" install --yes --no-install-recommends "$@"
} >"$log" 2>&1 </dev/null || {
    tail -n 15 "$log" >&2
    rm -f "$log"
    exit 1
}
rm -f "$log"

# Nor may it start with the machine next time.
if [ -z "$had_nginx" ] && command -v nginx >/dev/null && command -v systemctl >/dev/null; then
    systemctl --quiet disable nginx.service 2>/dev/null || true
fi
