#!/bin/sh
# First process inside the kernel laboratory (lab/kernel.py): makes the machine, runs one
# command, powers off. The kernel hands over $KERNEL_LAB, a directory of the host with
#
#   command   what to run, a shell script        shared   directories to share, one a line
#   terminal  exists: on the console, as "ROWS COLUMNS"; else output goes to the serial lines
#   status    written here: the command's exit status
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
release="$(uname -r)"
modules="/usr/lib/uml/modules/$release"

power_off() {
    sync
    echo o >/proc/sysrq-trigger
    while :; do sleep 1; done
}

# The host's files below, a file system in memory above: nothing that is written reaches the host.
make_root() {
    # An ordinary user's namespace shows root's files as nobody's, so that "mount", which is
    # setuid, would lose its rights here. Nothing inside needs that bit.
    setpriv --no-new-privs mount -t proc proc /proc
    trap power_off EXIT
    setpriv --no-new-privs mount -o remount,nosuid /
    insmod "$modules/kernel/fs/overlayfs/overlay.ko"
    mount -t tmpfs -o size=75% tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o nosuid,lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
    cd /mnt/root
    mkdir .host
    # Not chroot: kernel threads, which call modprobe, must see the new root as well.
    pivot_root . .host
    cd /
    umount -l /.host
    rmdir /.host
}

mount_the_rest() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs tmpfs /run
    mkdir -p /run/lock /run/netns
    ln -s /proc/self/fd /dev/fd
    ln -s /proc/self/fd/0 /dev/stdin
    ln -s /proc/self/fd/1 /dev/stdout
    ln -s /proc/self/fd/2 /dev/stderr
    share "$KERNEL_LAB"
    while IFS= read -r directory; do share "$directory"; done <"$KERNEL_LAB/shared"
}

# A directory of the host, as it is there: what is written to it stays.
share() {
    mkdir -p "$1"
    mount -t hostfs -o nosuid,"$1" hostfs "$1"
}

# The kernel loads nearly all by itself when asked; not what must be there before it is asked
# (IPv6 and its settings, /dev/net/tun), nor what an unprivileged namespace may not ask for.
load_modules() {
    mkdir -p /usr/lib/modules
    rm -rf "/usr/lib/modules/$release"
    ln -s "$modules" "/usr/lib/modules/$release"
    modprobe -a ipv6 tun xfrm_user iptable_mangle iptable_nat ip6table_mangle ip6table_nat
    chmod 0666 /dev/net/tun
}

run_command() {
    status=0
    if [ -e "$KERNEL_LAB/terminal" ]; then
        read -r rows columns <"$KERNEL_LAB/terminal"
        stty -F /dev/tty0 sane rows "$rows" columns "$columns"
        setsid --ctty --wait sh "$KERNEL_LAB/command" </dev/tty0 >/dev/tty0 2>&1 || status=$?
    else
        run_on_lines || status=$?
    fi
    echo "$status" >"$KERNEL_LAB/status"
}

# Through pipes: on a serial line itself, programs would take it for a terminal.
run_on_lines() {
    # A line keeps its settings as long as somebody holds it open.
    exec 3>/dev/ttyS0 4>/dev/ttyS1
    stty -F /dev/ttyS0 raw -echo
    stty -F /dev/ttyS1 raw -echo
    mkfifo /run/kernel-lab-out /run/kernel-lab-err
    cat </run/kernel-lab-out >&3 &
    out=$!
    cat </run/kernel-lab-err >&4 &
    err=$!
    setsid --wait sh "$KERNEL_LAB/command" </dev/null \
        >/run/kernel-lab-out 2>/run/kernel-lab-err 3>&- 4>&- || status=$?
    end_all_but 1 "$out" "$err"
    wait "$out" "$err"
    # Closing waits until the line has taken everything.
    exec 3>&- 4>&-
    return "$status"
}

# What the command left running may hold the pipes open.
end_all_but() {
    for process in /proc/[0-9]*; do
        process="${process#/proc/}"
        case " $* " in
        *" $process "*) ;;
        *) kill -KILL "$process" 2>/dev/null || true ;;
        esac
    done
}

make_root
mount_the_rest
load_modules
ip link set lo up
run_command
