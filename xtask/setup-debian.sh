#!/bin/sh
# Installs what building and testing instar needs on Debian. Run as root.
# qemu-img's behaviour differs between versions: the judge is the one of bookworm-backports, and the QEMU that
# boots guests comes with it (the suite's own would take qemu-utils back to its version). The
# mirror is taken from this machine's own apt sources.
set -eu

. /etc/os-release
export DEBIAN_FRONTEND=noninteractive

# The first mirror of the machine's own suite, from one-line or deb822 sources.
mirror=$(sed -n 's/^deb  *\(\[[^]]*\]  *\)\{0,1\}\([^ ]*\)  *'"${VERSION_CODENAME}"' .*/\2/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1)
if [ -z "$mirror" ]; then
    mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
fi

from=
if [ "${VERSION_CODENAME}" = bookworm ]; then
    from="-t bookworm-backports"
    if ! grep -qrs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb [signed-by=$keyring] $mirror bookworm-backports main" >/etc/apt/sources.list.d/instar-backports.list
    fi
fi

apt-get update -q
# shellcheck disable=SC2086 # two words
apt-get install -q -y --no-install-recommends $from qemu-utils qemu-system-x86
apt-get install -q -y --no-install-recommends e2fsprogs fdisk g++ python3-libqcow python3-libvhdi \
    python3-libvmdk python3-oslo.utils strace time xfsprogs
