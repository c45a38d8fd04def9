#!/usr/bin/env bash
# Builds the reference guest kernel from Debian's Linux source and kernel/microvm.config.
#
# usage: build.sh
#
# Prints the results, links in target/guest: bzImage (lz4), vmlinux, kernel.config, and the same kernel compressed
# otherwise: bzImage.gzip, bzImage.xz, bzImage.zstd. Takes a few minutes once; then the cache answers.
# VMM_CACHE names the cache (~/.cache/vmm), VMM_GUEST_DIR the directory of the links.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"

source_package=linux-source-6.12
fragment=$resources/kernel/microvm.config
compressions=(gzip xz zstd)

configure() {
    local line lost=()
    logged build.log make -C source KCONFIG_ALLCONFIG="$fragment" allnoconfig
    while read -r line; do
        grep -qxF -- "$line" source/.config || lost+=("$line")
    done < <(grep -E '^(CONFIG_|# CONFIG_.* is not set$)' "$fragment")
    ((${#lost[@]} == 0)) || die "Linux refused these lines of $fragment: ${lost[*]}"
}

# compress NAME: the same kernel in another wrapping, which costs seconds.
compress() {
    local symbol=KERNEL_${1^^}
    (cd source && scripts/config -d KERNEL_LZ4 -d KERNEL_GZIP -d KERNEL_XZ -d KERNEL_ZSTD -e "$symbol")
    logged build.log make -C source olddefconfig
    grep -qx "CONFIG_$symbol=y" source/.config || die "Linux refused CONFIG_$symbol"
    logged build.log make -C source -j "$(nproc)" bzImage
    cp source/arch/x86/boot/bzImage "$out/bzImage.$1"
}

build() {
    local out=$1 name
    need_packages bc bison cpio flex gcc libc6-dev libelf-dev lz4 make xz-utils zstd
    say "$script: building Linux $version (a few minutes)"
    unpack_package "$source_package" "$version" "$out/work"
    cd "$out/work"
    mkdir source
    tar -xf usr/src/linux-source-*.tar.xz -C source --strip-components=1
    # Nothing of the builder goes into the image.
    export KBUILD_BUILD_USER=vmm KBUILD_BUILD_HOST=vmm KBUILD_BUILD_VERSION=1
    KBUILD_BUILD_TIMESTAMP=$(date -u -r source/Makefile)
    export KBUILD_BUILD_TIMESTAMP
    configure
    logged build.log make -C source -j "$(nproc)" bzImage
    cp source/.config "$out/kernel.config"
    cp source/arch/x86/boot/bzImage "$out/bzImage"
    strip --strip-debug -o "$out/vmlinux" source/vmlinux
    for name in "${compressions[@]}"; do compress "$name"; done
    cd "$out"
    rm -r work
}

main() {
    local name entry version
    only_help "$@"
    version=$(package_version "$source_package")
    cached kernel "$(content_key "$fragment" "$0" "$version")" build
    for name in bzImage vmlinux kernel.config "${compressions[@]/#/bzImage.}"; do
        publish "$entry/$name"
    done
}

main "$@"
