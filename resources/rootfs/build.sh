#!/usr/bin/env bash
# Builds the guest's root disk, a busybox system on ext4, and the same system as an initramfs. Needs no root.
#
# usage: build.sh
#
# Prints the results, links in target/guest: rootfs.img (sparse, for root=/dev/vda) and initramfs.cpio. A guest must not
# write to the cached image: give each its own copy (cp --sparse=always), or attach it read-only.
# What the guest does at its start, and what it reads from the kernel command line: rootfs/init.
# VMM_CACHE names the cache (~/.cache/vmm), VMM_GUEST_DIR the directory of the links.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"

here=$resources/rootfs
size=64M

plant_tree() {
    local tree=$1
    mkdir -p "$tree"/{dev,proc,sys,tmp,run,root,mnt,etc/acpi/PWRF,sbin,usr/bin,usr/sbin,usr/local/bin,var/log}
    plant_busybox "$tree"
    gcc -O2 -Wall -Wextra -Werror -static -s -o "$tree/bin/vsock" "$here/vsock.c"
    install -m 755 "$here/init" "$tree/sbin/init"
    ln -s sbin/init "$tree/init"
    ln -s ../run "$tree/var/run"
    install -m 755 "$here/power-button" "$tree/etc/acpi/PWRF/00000080"
    install -m 644 "$here/fstab" "$tree/etc/fstab"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
    printf '127.0.0.1 localhost vmm\n' >"$tree/etc/hosts"
}

# Everything in the image belongs to root, whoever builds it.
make_ext4() {
    local owner=(fakeroot)
    ((EUID != 0)) || owner=()
    # Nothing is left for the guest to initialize behind its user's back.
    "${owner[@]}" mke2fs -q -t ext4 -b 4096 -m 0 -L vmm -U 766d6d00-0000-4000-8000-000000000001 \
        -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 -d "$1" "$2" "$size" >/dev/null
    fallocate --dig-holes "$2"
}

build() {
    local packages=(cpio e2fsprogs gcc libc6-dev)
    ((EUID == 0)) || packages+=(fakeroot)
    need_packages "${packages[@]}"
    PATH=$PATH:/sbin:/usr/sbin
    plant_tree "$1/tree"
    make_ext4 "$1/tree" "$1/rootfs.img"
    pack_cpio "$1/tree" >"$1/initramfs.cpio"
    chmod 444 "$1/rootfs.img"
    rm -r "$1/tree"
}

main() {
    local entry
    only_help "$@"
    cached rootfs "$(content_key "$(busybox)" "$resources/lib.sh" "$here"/*)" build
    publish "$entry/rootfs.img"
    publish "$entry/initramfs.cpio"
}

main "$@"
