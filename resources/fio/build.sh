#!/usr/bin/env bash
# Makes a small disk with Debian's fio on it, for a guest that has no libraries of its own.
#
# usage: build.sh
#
# Prints the result, a link in target/guest: fio.img (ext4). In a guest: mount it on /mnt (read-only will do), run /mnt/fio.
# Half of the libraries that fio names are for storage on other machines and come with 60 MB of their own. Nothing of
# them is called here, so others stand in their place that have nothing but the names.
# VMM_CACHE names the cache (~/.cache/vmm), VMM_GUEST_DIR the directory of the links.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"

size=6M
# Packages whose libraries are really used.
real=(libc6 libaio1 libnuma1 zlib1g)

# library NAME DIR: the file of a package that is called so, with links followed.
library() { readlink -e "$(find "$2" -name "$1" | head -n 1)"; }

# stand_in PROGRAM NAME FILE: a library that is called so, with what PROGRAM wants of it; whoever calls that ends.
stand_in() {
    local symbol versions
    versions=$(objdump -p "$1" | awk -v name="$2:" '/required from/ { ours = $3 == name } /^ *0x/ && ours { print $4 }')
    nm -D --undefined-only --with-symbol-versions "$1" | awk -v versions="$versions" '
        BEGIN { split(versions, list, "\n"); for (i in list) wanted[list[i]] = 1; if (versions == "") wanted[""] = 1 }
        $1 == "U" { split($2, part, "@"); if (part[2] in wanted) print part[1], part[2] }' >"$3.symbols"
    while read -r symbol _; do printf 'void %s(void) { __builtin_trap(); }\n' "$symbol"; done <"$3.symbols" >"$3.c"
    awk '$2 { of[$2] = of[$2] $1 "; " } END { for (v in of) print v " { " of[v] "};"
        if (length(of) == 0) print "{ *; };" }' "$3.symbols" >"$3.versions"
    gcc -shared -nostdlib -fPIC -w -fno-builtin -Wl,-soname,"$2" -Wl,--version-script,"$3.versions" "$3.c" -o "$3"
    rm "$3".*
}

plant_fio() {
    local work=$1 tree=$2 name found package
    unpack_package fio "$(package_version fio)" "$work/fio"
    for package in "${real[@]}"; do unpack_package "$package" "$(package_version "$package")" "$work/real"; done
    mkdir -p "$tree/lib"
    cp "$work/fio/usr/bin/fio" "$tree/lib/fio"
    cp "$(library ld-linux-x86-64.so.2 "$work/real")" "$tree/lib/ld.so"
    while read -r name; do
        found=$(library "$name" "$work/real") || found=''
        if [[ $found ]]; then
            cp "$found" "$tree/lib/$name"
        else
            stand_in "$tree/lib/fio" "$name" "$tree/lib/$name"
        fi
    done < <(objdump -p "$tree/lib/fio" | sed -n 's/^ *NEEDED *//p')
    cat >"$tree/fio" <<'END'
#!/bin/sh
here=${0%/*}
exec "$here/lib/ld.so" --library-path "$here/lib" "$here/lib/fio" "$@"
END
    chmod 755 "$tree/fio"
}

build() {
    need_packages binutils e2fsprogs gcc
    PATH=$PATH:/sbin:/usr/sbin
    plant_fio "$1/work" "$1/tree"
    mke2fs -q -t ext4 -b 1024 -m 0 -O ^has_journal -E root_owner=0:0,lazy_itable_init=0 -d "$1/tree" "$1/fio.img" \
        "$size" >/dev/null
    chmod 444 "$1/fio.img"
    rm -rf "$1/work" "$1/tree"
}

main() {
    local entry package versions=()
    only_help "$@"
    for package in fio "${real[@]}"; do versions+=("$(package_version "$package")"); done
    cached fio "$(content_key "${versions[@]}" "$resources/lib.sh" "$0")" build
    publish "$entry/fio.img"
}

main "$@"
