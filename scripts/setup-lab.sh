#!/usr/bin/env bash
# Check what demo and lab tests need of the machine; as root install or make it.
# Exits non-zero after one sentence for each thing that is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# command:package, as Debian and Ubuntu name them
tools="strace:strace ss:iproute2 nft:nftables iptables:iptables tcpdump:tcpdump tshark:tshark nginx:nginx-light curl:curl
ip:iproute2 sysctl:procps ping:iputils-ping iperf3:iperf3 ethtool:ethtool unshare:util-linux nsenter:util-linux"

is_root() { [ "$(id -u)" = 0 ]; }

missing_packages() {
    local tool
    for tool in $tools; do
        command -v "${tool%%:*}" >/dev/null || echo "${tool##*:}"
    done | sort -u | tr '\n' ' ' | sed 's/ $//'
}

complaints=0
complain() {
    echo "setup: $1" >&2
    complaints=$((complaints + 1))
}

check_tools() {
    local missing sudo="sudo "
    missing="$(missing_packages)"
    [ -n "$missing" ] || return 0
    if is_root && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086 # a list of words
        scripts/install-packages.sh $missing || true
        missing="$(missing_packages)"
    fi
    if is_root; then sudo=""; fi
    [ -z "$missing" ] ||
        complain "these packages are missing; type: ${sudo}apt-get install --no-install-recommends $missing"
}

check_tun() {
    if is_root && [ ! -e /dev/net/tun ]; then
        mkdir -p /dev/net
        mknod -m 0666 /dev/net/tun c 10 200 2>/dev/null || true
    fi
    if [ ! -e /dev/net/tun ]; then
        complain "there is no TUN device; type: sudo modprobe tun"
    elif [ ! -r /dev/net/tun ] || [ ! -w /dev/net/tun ]; then
        complain "this user may not open the TUN device; type: sudo chmod 0666 /dev/net/tun"
    fi
}

check_namespaces() {
    if is_root; then
        unshare --net true 2>/dev/null ||
            complain "this root may not make network namespaces; give the container CAP_SYS_ADMIN (docker run --privileged)."
        return
    fi
    if unshare --user --map-root-user --net true 2>/dev/null; then return; fi
    local setting
    for setting in kernel.apparmor_restrict_unprivileged_userns=0 kernel.unprivileged_userns_clone=1 \
        user.max_user_namespaces=10000; do
        if [ -e "/proc/sys/$(tr . / <<<"${setting%%=*}")" ]; then
            complain "this user may not make namespaces; type: sudo sysctl -w $setting"
            return
        fi
    done
    complain "this kernel gives users no namespaces; run the same command as root."
}

# A kernel with ESP for tests and prompts, where the running one has none. The rest does
# without, so what is missing is no complaint; on CI the tests that need it fail by themselves.
check_kernel() {
    case "$(uname -m)" in x86_64 | i?86) ;; *) return 0 ;; esac
    command -v linux.uml >/dev/null && command -v modprobe >/dev/null && return 0
    if is_root && command -v apt-get >/dev/null; then
        scripts/install-packages.sh user-mode-linux kmod && return 0
    fi
    echo "setup: there is no kernel laboratory (its tests are skipped);" \
        "type: sudo apt-get install --no-install-recommends user-mode-linux kmod" >&2
}

check_tools
check_kernel
check_tun
if command -v unshare >/dev/null; then check_namespaces; fi
[ "$complaints" = 0 ]
