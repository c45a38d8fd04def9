# shellcheck shell=bash disable=SC2154 # lib.sh sets `script` and `resources`
# Debian's stock cloud kernel, unpacked. Source it after lib.sh.

# debian_kernel: sets `entry` to a directory with vmlinuz, vmlinux, config and the one
# directory modules/RELEASE (with modules.dep), its path also in `modules_tree`.
debian_kernel() {
    local version
    version=$(package_version linux-image-cloud-amd64)
    cached debian-kernel "$(content_key "$version" "$resources/debian/kernel.sh")" unpack_kernel
    # shellcheck disable=SC2034 # for the caller
    modules_tree=$(echo "$entry"/modules/*)
}

unpack_kernel() {
    local out=$1 usr='' image release
    need_packages binutils lz4 xz-utils zstd
    # The package named cloud-amd64 is empty and depends on the one of the day.
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p')
    release=${image#linux-image-}
    say "$script: fetching Debian's kernel $release"
    unpack_package "$image" "$(candidate "$image")" "$out/work"
    mv "$out/work/boot/vmlinuz-$release" "$out/vmlinuz"
    mv "$out/work/boot/config-$release" "$out/config"
    [[ -d $out/work/lib/modules ]] || usr=/usr # where newer Debians have it
    "$(busybox)" depmod -b "$out/work$usr" "$release"
    mkdir "$out/modules"
    mv "$out/work${usr}/lib/modules/$release" "$out/modules"
    rm -r "$out/work"
    extract_vmlinux "$out/vmlinuz" >"$out/vmlinux"
}

# extract_vmlinux BZIMAGE: the ELF image inside, found through the setup header of the boot protocol.
extract_vmlinux() {
    local sectors offset length
    sectors=$(number "$1" 1 0x1f1)
    offset=$(number "$1" 4 0x248)
    length=$(number "$1" 4 0x24c)
    offset=$((offset + (sectors + 1) * 512))
    # All formats but gzip are followed by four bytes, the size of what they hold.
    case $(od -An -tx4 -j "$offset" -N 4 "$1") in
        *088b1f) payload "$1" "$offset" "$length" | gzip -dc ;;
        *587a37fd) payload "$1" "$offset" $((length - 4)) | xz -dc ;;
        *184c2102) payload "$1" "$offset" $((length - 4)) | lz4 -dc ;;
        *fd2fb528) payload "$1" "$offset" $((length - 4)) | zstd -dc ;;
        *) die "$1 is compressed in a way this script does not know" ;;
    esac
}

payload() { dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip="$2" count="$3" status=none; }
number() { od -An -tu"$2" -j "$3" -N "$2" "$1" | tr -d ' '; }
