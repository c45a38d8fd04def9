#!/usr/bin/env bash
# Fetches Debian's stock cloud kernel and makes an initrd with the virtio modules it needs to mount its root disk.
#
# usage: fetch.sh
#
# Prints the results, links in target/guest: debian-bzImage, debian-vmlinux, debian-kernel.config, debian-initrd.img.
# Nothing is installed. Boot with `root=/dev/vda`. The kernel ignores virtio_mmio.device= on its command line:
# it finds devices only through ACPI.
# VMM_CACHE names the cache (~/.cache/vmm), VMM_GUEST_DIR the directory of the links.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=kernel.sh
. "$resources/debian/kernel.sh"

modules=(virtio_mmio virtio_blk virtio_net virtio_console virtio_rng virtio_balloon virtiofs overlay squashfs
    vmw_vsock_virtio_transport ext4 crc32c_intel button evdev pvpanic_mmio)

build_initrd() {
    local tree=$1/tree
    need_packages cpio gzip
    mkdir -p "$tree"/{dev,proc,sys,root}
    plant_busybox "$tree"
    plant_modules "$modules_tree" "$tree" "${modules[@]}"
    install -m 755 "$resources/debian/init" "$tree/init"
    pack_cpio "$tree" | gzip -1n >"$1/initrd.img"
    rm -r "$tree"
}

main() {
    local entry kernel modules_tree key
    only_help "$@"
    debian_kernel
    kernel=$entry
    key=$(content_key "$kernel" "$(busybox)" "$0" "$resources/lib.sh" "$resources/debian/init")
    cached debian-initrd "$key" build_initrd
    publish "$kernel/vmlinuz" debian-bzImage
    publish "$kernel/vmlinux" debian-vmlinux
    publish "$kernel/config" debian-kernel.config
    publish "$entry/initrd.img" debian-initrd.img
}

main "$@"
