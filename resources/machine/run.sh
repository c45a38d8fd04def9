#!/usr/bin/env bash
# Runs a command in the AMD-V machine: QEMU emulates a processor with SVM and nested paging, Debian's kernel in it
# offers a complete /dev/kvm. For hosts whose own /dev/kvm cannot run Linux, or that have none.
#
# usage: run.sh [OPTION]... -- COMMAND [ARGUMENT]...
#        run.sh --prepare          makes the cached parts and prints where they are
#
#   --file HOST[:GUEST]   gives the machine a file or directory, at the same path or at GUEST; repeatable.
#                         Programs bring their shared libraries along.
#   --env NAME=VALUE      sets a variable for the command; repeatable
#   --out DIR             after the command, copies the machine's /out to DIR
#   --cwd DIR             runs the command in this directory of the machine (default /tmp)
#   --memory MIB          (default 3000)
#   --cpus N              (default 1: with more, the emulation of nested guests is not reliable)
#   --timeout SECONDS     (default 600)
#   --interactive         connects the terminal to the command
#   --append WORDS        adds to the kernel command line of the machine
#   --log FILE            keeps the machine's kernel messages; otherwise they are shown when the machine fails
#
# The command runs as root in a busybox system. Its output, errors included, appears here as it comes, and its exit code
# is that of run.sh, but for 124: timed out, 125: the machine could not start or died.
# VMM_CACHE names the cache (~/.cache/vmm).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=../debian/kernel.sh
. "$resources/debian/kernel.sh"
failure_code=125

# The emulated processor is slow: whatever a start can do without is left out.
# A steady tick: a machine that sleeps until its next timer was seen to sleep for good in this emulation.
command_line='console=ttyS0 panic=-1 tsc=reliable mitigations=off cryptomgr.notests lsm=landlock nohz=off highres=off'
modules=(virtio_pci virtio_console kvm-amd tun vhost_net vhost_vsock loop overlay)

build_base() {
    local tree=$1/tree
    mkdir -p "$tree"/{dev,proc,sys,tmp,run,out,etc,root,machine,lib64,sbin,usr/bin,usr/sbin,var}
    plant_busybox "$tree"
    plant_modules "$modules_tree" "$tree" "${modules[@]}"
    install -m 755 "$resources/machine/init" "$tree/init"
    install -m 644 "$resources/machine/fstab" "$tree/etc/fstab"
    printf 'root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
    printf '127.0.0.1 localhost machine\n' >"$tree/etc/hosts"
    pack_cpio "$tree" >"$1/base.cpio"
    rm -r "$tree"
}

prepare() {
    local entry modules_tree key
    type -P qemu-system-x86_64 cpio >/dev/null || need_packages qemu-system-x86 cpio
    debian_kernel
    kernel=$entry
    key=$(content_key "$kernel" "$(busybox)" "$0" "$resources/lib.sh" "$resources"/machine/{init,fstab})
    cached machine "$key" build_base
    base=$entry/base.cpio
}

quoted() { printf " '%s'" "${@//\'/\'\\\'\'}"; }

# give HOST GUEST: a link in the tree to be packed. A program's libraries go where its loader looks for them.
give() {
    local library
    mkdir -p "$run/tree/${2%/*}"
    ln -sfn "$(realpath "$1")" "$run/tree/$2"
    [[ -f $1 && -x $1 ]] || return 0
    while read -r library; do
        mkdir -p "$run/tree/${library%/*}"
        ln -sf "$(realpath "$library")" "$run/tree/$library"
    done < <({ ldd "$1" 2>/dev/null || true; } | sed -nE 's/^(.* => |\t)(\/[^ ]+) \(0x.*/\2/p')
}

# pack_run COMMAND...: what this run adds to the base.
pack_run() {
    local file name
    mkdir -p "$run/tree/machine"
    for file in "${files[@]}"; do
        name=$file
        [[ $file != *:* ]] || name=${file#*:} file=${file%%:*}
        [[ -e $file ]] || die "--file $file: no such file"
        give "$file" "$(realpath -sm "$name")"
    done
    {
        [[ ! $terminal ]] || stty size | sed 's/\(.*\) \(.*\)/stty rows \1 cols \2/'
        printf 'export%s\n' "$(quoted "${environment[@]}")"
        printf 'mkdir -p%s && cd%s || exit\n' "$(quoted "$cwd")" "$(quoted "$cwd")"
        printf 'exec%s\n' "$(quoted "$@")"
    } >"$run/tree/machine/command"
    ((!interactive)) || touch "$run/tree/machine/interactive"
    [[ ! $out ]] || touch "$run/tree/machine/out"
    cat "$base"
    (cd "$run/tree" && find -L . -mindepth 1 | cpio --quiet -L -o -H newc -R 0:0)
}

# shellcheck disable=SC2054 # the commas are QEMU's
start_qemu() {
    local output=(-chardev "file,id=out,path=$run/out,append=on" -device virtserialport,chardev=out,name=out)
    ((!interactive)) || output=(-chardev stdio,id=out,signal=off -device virtconsole,chardev=out
        -chardev null,id=none -device virtserialport,chardev=none,name=out)
    # QEMU's SVM lets a nested guest write XCR0 behind KVM's back, which breaks XSAVE there: there is none. Five-level
    # page tables would only cost time.
    # Should this script be killed outright, QEMU goes with it. The console's ports work without ioeventfd so that
    # every byte has reached its file when the machine switches off.
    setpriv --pdeathsig TERM timeout --foreground -k 5 "$timeout" setpriv --pdeathsig KILL \
        qemu-system-x86_64 -accel tcg,thread=multi -cpu max,la57=off,xsave=off -machine pc -m "$memory" -smp "$cpus" \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$kernel/vmlinux" -initrd "$run/initrd" -append "$command_line $append" \
        -serial "file:$log" \
        -device virtio-serial-pci,ioeventfd=off "${output[@]}" \
        -chardev "file,id=status,path=$run/status" -device virtserialport,chardev=status,name=status \
        -chardev "file,id=files,path=$run/files.tar" -device virtserialport,chardev=files,name=files \
        <&0 2>"$run/qemu.errors" &
    qemu=$!
}

clean_up() {
    trap '' INT TERM HUP
    if [[ $qemu ]]; then
        kill "$qemu" 2>/dev/null || true
        wait "$qemu" 2>/dev/null || true
    fi
    [[ ! $terminal ]] || stty "$terminal"
    rm -rf "$run"
}

# fail CODE REASON
fail() {
    failure_code=$1
    if [[ -s $log && $log = "$run"/* ]]; then
        say '--- last kernel messages of the machine'
        tail -n 25 "$log" >&2
        say ---
    fi
    die "$2"
}

main() {
    local memory=3000 cpus=1 timeout=600 interactive=0 log='' append='' out='' cwd=/tmp files=()
    local environment=(PATH=/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp TMPDIR=/tmp "TERM=${TERM:-linux}")
    local kernel base stream='' ended='' status=0 code
    run='' qemu='' terminal='' # for clean_up, which runs after main
    while (($#)); do
        case $1 in
            --file) files+=("${2:?--file HOST[:GUEST]}") && shift ;;
            --env) environment+=("${2:?--env NAME=VALUE}") && shift ;;
            --out) out=${2:?--out DIR} && shift ;;
            --cwd) cwd=${2:?--cwd DIR} && shift ;;
            --memory) memory=${2:?--memory MIB} && shift ;;
            --cpus) cpus=${2:?--cpus N} && shift ;;
            --timeout) timeout=${2:?--timeout SECONDS} && shift ;;
            --log) log=${2:?--log FILE} && shift ;;
            --append) append=${2:?--append WORDS} && shift ;;
            --interactive) interactive=1 ;;
            --prepare)
                prepare
                printf '%s\n' "$kernel/vmlinux" "$base"
                return
                ;;
            -h | --help) usage && return ;;
            --) shift && break ;;
            *) die "unknown option '$1'; see --help" ;;
        esac
        shift
    done
    (($#)) || die 'no command; usage: run.sh [OPTION]... -- COMMAND [ARGUMENT]...'
    prepare

    run=$(mktemp -d "${TMPDIR:-/tmp}/vmm-machine.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    log=${log:-$run/kernel.log}
    if ((interactive)); then terminal=$(stty -g 2>/dev/null || true); fi
    pack_run "$@" >"$run/initrd"
    if ((interactive)); then
        start_qemu
    else
        : >"$run/out"
        start_qemu </dev/null
        # A file, unlike a pipe, never makes the machine wait or lose its last words; tail makes it a stream again.
        tail -q -f -c +1 -s 0.05 --pid="$qemu" "$run/out" 2>/dev/null &
        stream=$!
    fi
    wait -n -p ended "$qemu" $stream || status=$?
    [[ $ended = "$qemu" ]] || exit 141 # nobody reads our output any more
    qemu=''
    wait
    code=$(cat "$run/status" 2>/dev/null || true)
    if [[ ! $code =~ ^[0-9]+$ ]]; then
        case $status in
            0) fail 125 'the machine died before the command ended' ;;
            124 | 137) fail 124 "the machine was stopped after $timeout s; allow more with --timeout" ;;
            *) fail 125 "QEMU failed: $(tail -n 1 "$run/qemu.errors")" ;;
        esac
    fi
    if [[ $out ]]; then
        mkdir -p "$out"
        tar -xf "$run/files.tar" -C "$out" --no-same-owner
    fi
    exit "$code"
}

main "$@"
