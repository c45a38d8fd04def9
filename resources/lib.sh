# shellcheck shell=bash
# Shared by the scripts that make guests and the test machine. Source it after `set -euo pipefail`.

resources=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=${0#"$resources"/}

# A command that fails without a word of its own must not end the script in silence. The shells around it stay quiet.
set -E
shopt -s inherit_errexit
trap 'case $BASH_COMMAND in
    "("* | *"=\$("* | *"<("*) ;;
    *) say "$script: line $LINENO failed: $BASH_COMMAND" ;;
esac' ERR

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$script: $*"
    exit "${failure_code:-1}"
}

# usage: prints the comment block at the top of the calling script.
usage() { sed -n '2,/^[^#]/ { /^#/ { s/^# \{0,1\}//; p } }' "$0"; }

# only_help "$@": for scripts whose one option is --help.
only_help() {
    case ${1-} in
        '') ;;
        -h | --help) usage && exit 0 ;;
        *) die "unknown option '$1'; see --help" ;;
    esac
}

cache_dir() { printf '%s\n' "${VMM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vmm}"; }
guest_dir() { printf '%s\n' "${VMM_GUEST_DIR:-${resources%/*}/target/guest}"; }

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# need_packages PACKAGE...: installs what is missing.
need_packages() {
    local missing
    type -P apt-get dpkg-query >/dev/null || die "not a Debian system: install the equivalents of: $*"
    # dpkg-query fails when it does not know one of the names; the rest of its answer still counts.
    missing=$(comm -13 \
        <({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
            sed -n 's/^installed //p' | sort -u) \
        <(printf '%s\n' "$@" | sort -u) | xargs)
    [[ $missing ]] || return 0
    say "$script: installing $missing"
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
        </dev/null >/dev/null 2>&1 || {
        refresh_lists
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
            </dev/null >/dev/null 2>&1
    } || die "cannot install $missing; run as root: apt-get install $missing"
}

refresh_lists() { as_root apt-get -qq update </dev/null >/dev/null 2>&1 || true; }

# package_version PACKAGE: the version apt would install. apt needs a second to answer, so the answer is kept until
# its lists change; where there is no apt, a filled cache still works.
package_version() {
    local lists=/var/lib/apt/lists memo version
    memo=$(cache_dir)/versions/$1
    if [[ ! -s $memo || $lists -nt $memo ]]; then
        type -P apt-cache >/dev/null || die "package $1 comes from Debian's archive: run this once on Debian or Ubuntu"
        version=$(candidate "$1")
        if [[ ! $version ]]; then
            refresh_lists
            version=$(candidate "$1")
        fi
        [[ $version ]] || die "apt knows no package $1; run as root: apt-get update"
        mkdir -p "${memo%/*}"
        printf '%s\n' "$version" >"$memo.$$" && mv "$memo.$$" "$memo"
    fi
    cat "$memo"
}

# candidate PACKAGE: its version, or nothing when apt's lists do not know it (as on a fresh machine, which has none).
candidate() { { apt-cache show --no-all-versions "$1" 2>/dev/null || true; } | sed -n 's/^Version: //p'; }

# unpack_package PACKAGE VERSION DIR: unpacks the package into DIR without installing it, which needs no root.
unpack_package() {
    local dir=$3/.deb
    mkdir -p "$dir"
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$1=$2" </dev/null >/dev/null 2>"$dir/errors") ||
        die "cannot download $1 $2 ($(tail -n 1 "$dir/errors")); run as root: apt-get update"
    dpkg-deb -x "$dir"/*.deb "$3"
    rm -r "$dir"
}

# content_key WORD...: a short digest of the words, and of the contents where a word names a file.
content_key() {
    local word
    for word; do
        if [[ -f $word ]]; then cat "$word"; else printf '%s\n' "$word"; fi
    done | sha256sum | cut -c1-16
}

# cached NAME KEY BUILDER: sets `entry` to the directory NAME-KEY of the cache, made by `BUILDER DIR` if it is not
# there. It appears complete or not at all; of concurrent callers one builds and the others wait.
cached() {
    local root
    root=$(cache_dir)
    entry=$root/$1-$2
    if [[ -d $entry ]]; then
        touch "$entry"
        return
    fi
    mkdir -p "$root" || die "cannot create the cache $root; set VMM_CACHE to a writable directory"
    (
        flock -n 9 || {
            say "$script: waiting for another run that makes the $1"
            flock 9
        }
        [[ ! -d $entry ]] || exit 0
        # Under the lock, anything unfinished was left by a builder that was killed.
        rm -rf "$root/$1.tmp."*
        tmp=$(mktemp -d "$root/$1.tmp.XXXXXX")
        trap 'rm -rf "$tmp"' EXIT
        chmod 755 "$tmp"
        "$3" "$tmp"
        find "$root" -mindepth 1 -maxdepth 1 -type d -name "$1-*" -mtime +30 -exec rm -rf {} +
        mv -T "$tmp" "$entry"
    ) 9>"$root/$1.lock"
}

# logged LOG COMMAND...: a long build speaks only when it fails.
logged() {
    local log=$1
    shift
    "$@" </dev/null >>"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        die "failed: $*"
    }
}

# publish FILE [NAME]: links a result into the checkout under NAME and prints the link.
publish() {
    local dir name=${2:-${1##*/}}
    dir=$(guest_dir)
    mkdir -p "$dir"
    ln -s "$1" "$dir/.$name.$$"
    mv -fT "$dir/.$name.$$" "$dir/$name"
    printf '%s\n' "$dir/$name"
}

# busybox: prints the path of Debian's static busybox, taken from its package.
busybox() {
    local entry version
    version=$(package_version busybox-static)
    cached busybox "$(content_key "$version")" unpack_busybox
    printf '%s\n' "$entry/busybox"
}

unpack_busybox() {
    unpack_package busybox-static "$version" "$1/work"
    mv "$1"/work/bin/busybox "$1"
    rm -r "$1/work"
}

# plant_busybox DIR: busybox and a link for each of its applets, in DIR/bin.
plant_busybox() {
    local applet
    mkdir -p "$1/bin"
    cp "$(busybox)" "$1/bin/busybox"
    while read -r applet; do
        [[ $applet = busybox ]] || ln -s busybox "$1/bin/$applet"
    done < <("$1/bin/busybox" --list)
}

# pack_cpio DIR: the tree as an initramfs on standard output, everything owned by root.
pack_cpio() { (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0); }

# insertion_order TREE MODULE...: the files of the modules and of what they need, below TREE, each after its needs.
# Modules built into the kernel are passed over.
insertion_order() {
    local tree=$1 file needs name
    shift
    local -A file_of=() needs_of=() done_of=()
    while IFS=: read -r file needs; do
        name=${file##*/}
        name=${name%%.*}
        file_of[${name//-/_}]=$file
        needs_of[$file]=$needs
    done <"$tree/modules.dep"
    for name; do
        name=${name//-/_}
        if [[ -v file_of[$name] ]]; then
            insert "${file_of[$name]}"
        else
            grep -qE "/${name//_/[-_]}\.ko" "$tree/modules.builtin" || die "the kernel in $tree has no module $name"
        fi
    done
}

insert() {
    local need
    [[ ! -v done_of[$1] ]] || return 0
    done_of[$1]=1
    for need in ${needs_of[$1]}; do insert "$need"; done
    printf '%s\n' "$1"
}

# plant_modules TREE DIR MODULE...: the modules and what they need in DIR, for `modprobe -a` there, and their names in
# lib/modules/wanted. They lose their
# signatures, which no guest of ours demands and which take long to verify in an emulated processor.
plant_modules() {
    local tree=$1 base=$2 dir=$2/lib/modules/${1##*/} order file names=()
    shift 2
    order=$(insertion_order "$tree" "$@")
    mkdir -p "$dir"
    for file in $order; do
        cp "$tree/$file" "$dir"
        file=$dir/${file##*/}
        case $file in # busybox reads plain modules only
            *.xz) xz -d "$file" ;;
            *.zst) zstd -q -d --rm "$file" ;;
            *.gz) gzip -d "$file" ;;
        esac
        strip --strip-debug "${file%.[xzg]*}"
        file=${file##*/}
        names+=("${file%%.*}")
    done
    printf '%s\n' "${names[*]}" >"$base/lib/modules/wanted"
    "$(busybox)" depmod -b "$base" "${tree##*/}"
}
