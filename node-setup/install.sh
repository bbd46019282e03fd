#!/bin/sh
# Sets a node up for VM pods, or takes that back. Does only what isn't done yet: run it as often as you like.
#
#   install.sh [--bin FOLDER] [--guest-kernel FILE [--guest-initrd FILE]] [--no-restart]
#   install.sh --uninstall [--no-restart]
#
# Installs containerd-shim-vireo-v2, vireo-vmm and vireo into /usr/local/bin, writes /etc/vireo/config.json, lets guests have
# transparent huge pages (/etc/tmpfiles.d/vireo.conf), loads the modules tun and vhost_net, now and at boot
# (/etc/modules-load.d/vireo.conf; without the second the VMM moves packets itself), adds the runtime `vireo` to /etc/containerd/config.toml (version 2:
# containerd 1.6 and newer; version 3 and 4: 2.0 and newer), and restarts containerd if that file has changed and systemd runs it.
#
#   --bin FOLDER         where the binaries are; else beside this script's folder (bin, or a build's release or debug folder)
#   --guest-kernel FILE  the kernel for guests whose image brings none, and
#   --guest-initrd FILE  its initial RAM disk
#   --no-restart         leave containerd alone
#   --uninstall          take everything away; refused while a VM runs
#
# DESTDIR puts all files below another folder, and leaves containerd alone.
set -eu

begin='# BEGIN vireo (install.sh writes and removes these lines)'
end='# END vireo'
binaries='containerd-shim-vireo-v2 vireo-vmm vireo'

say() { echo "install.sh: $*"; }
fail() { echo "install.sh: $*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${DESTDIR:-}
bin_dir=$root/usr/local/bin
node_config=$root/etc/vireo/config.json
tmpfiles=$root/etc/tmpfiles.d/vireo.conf
modules=$root/etc/modules-load.d/vireo.conf
huge_pages=/sys/kernel/mm/transparent_hugepage/shmem_enabled
containerd_config=$root/etc/containerd/config.toml
from='' kernel='' initrd='' uninstall=false restart=true
[ -z "$root" ] || restart=false
changed=false

value() { [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"; }
while [ $# -gt 0 ]; do
    case $1 in
        --bin) value "$@"; from=$2; shift ;;
        --guest-kernel) value "$@"; kernel=$2; shift ;;
        --guest-initrd) value "$@"; initrd=$2; shift ;;
        --no-restart) restart=false ;;
        --uninstall) uninstall=true ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
        *) fail "unknown argument $1; --help lists them" ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "needs root"
scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT

# replace FILE: puts standard input there in one step, keeping mode and owner; says whether something changed.
replace() {
    mkdir -p "$(dirname "$1")"
    new=$(mktemp "$1.XXXXXX")
    if [ -e "$1" ]; then cp -p "$1" "$new"; else chmod 644 "$new"; fi
    cat > "$new"
    if [ -e "$1" ] && cmp -s "$1" "$new"; then rm -f "$new"; return 1; fi
    mv -f "$new" "$1"
}

# The configuration of containerd without our lines (and without the empty line before them).
without_block() {
    [ -e "$containerd_config" ] || return 0
    awk -v begin="$begin" -v end="$end" '
        $0 == begin { inside = 1; held = 0; next }
        inside { if ($0 == end) inside = 0; next }
        held { print ""; held = 0 }
        $0 == "" { held = 1; next }
        { print }
        END { if (held) print "" }' "$containerd_config"
}

# Takes the new configuration of containerd from standard input; the old one comes back if containerd refuses it.
set_containerd_config() {
    old=$containerd_config.before-vireo
    [ ! -e "$containerd_config" ] || cp -p "$containerd_config" "$old"
    if ! replace "$containerd_config"; then
        rm -f "$old"
        return 0
    fi
    if [ -z "$root" ] && command -v containerd > /dev/null; then
        if ! problem=$(containerd --config "$containerd_config" config dump 2>&1 > /dev/null); then
            if [ -e "$old" ]; then mv -f "$old" "$containerd_config"; else rm -f "$containerd_config"; fi
            fail "containerd doesn't take the new $containerd_config, which is as before: $problem"
        fi
    fi
    rm -f "$old"
    changed=true
    say "$containerd_config: changed"
}

restart_containerd() {
    [ $changed = true ] || return 0
    if [ $restart = false ]; then
        say "restart containerd to make it read its configuration"
    elif command -v systemctl > /dev/null && systemctl -q is-active containerd 2> /dev/null; then
        systemctl restart containerd
        say "containerd: restarted"
    else
        say "containerd is not run by systemd here: restart it to make it read its configuration"
    fi
}

if [ $uninstall = true ]; then
    if [ -z "$root" ]; then
        for process in /proc/[0-9]*/comm; do
            case $(cat "$process" 2> /dev/null) in
                vireo-vmm) fail "a VM is running; delete the VM pods of this node first" ;;
            esac
        done
    fi
    if [ -e "$containerd_config" ]; then
        without_block > "$scratch"
        if grep -qv '^version = [0-9]*$' "$scratch"; then
            set_containerd_config < "$scratch"
        else
            # Nothing is left of it but what this script wrote.
            rm -f "$containerd_config"
            changed=true
            say "$containerd_config: removed"
        fi
    fi
    for name in $binaries; do
        [ ! -e "$bin_dir/$name" ] || { rm -f "$bin_dir/$name"; say "$bin_dir/$name: removed"; }
    done
    rm -f "$node_config" "$tmpfiles" "$modules"
    rmdir "$root/etc/vireo" 2> /dev/null || :
    restart_containerd
    exit 0
fi

# Binaries. A running shim or VMM keeps the file that it was started from.
if [ -z "$from" ]; then
    build=$here/../target/x86_64-unknown-linux-gnu
    for from in "$here/../bin" "$build/release" "$build/debug" ''; do
        [ ! -x "$from/vireo-vmm" ] || break
    done
    [ -n "$from" ] || fail "no binaries found; build them (make build) or name their folder with --bin"
fi
for name in $binaries; do
    [ -x "$from/$name" ] || fail "$from/$name is missing; build it (make build) or name another folder with --bin"
done
mkdir -p "$bin_dir"
for name in $binaries; do
    cmp -s "$from/$name" "$bin_dir/$name" && continue
    new=$(mktemp "$bin_dir/$name.XXXXXX")
    cp "$from/$name" "$new"
    chmod 755 "$new"
    mv -f "$new" "$bin_dir/$name"
    say "$bin_dir/$name: installed"
done

# The node's configuration. What an admin wrote stays unless a kernel is named here.
json_path() {
    [ -f "$1" ] || fail "$1 is no file"
    path=$(realpath "$1")
    case $path in
        *[\"\\]* | *[[:cntrl:]]*) fail "$path: a path with quotes, backslashes or control characters can't be used" ;;
    esac
    printf '"%s"' "$path"
}
[ -z "$initrd" ] || [ -n "$kernel" ] || fail "--guest-initrd needs --guest-kernel"
if [ -n "$kernel" ]; then
    text="{\"guestKernel\": $(json_path "$kernel")"
    [ -z "$initrd" ] || text="$text, \"guestInitrd\": $(json_path "$initrd")"
    if echo "$text}" | replace "$node_config"; then say "$node_config: written"; fi
elif [ ! -e "$node_config" ]; then
    if echo '{}' | replace "$node_config"; then :; fi
    say "$node_config: written"
fi

# Guest RAM is shared memory, which gets huge pages only where the node allows it; the VMM asks for them. Boot is faster so.
if replace "$tmpfiles" << TMPFILES; then say "$tmpfiles: written"; fi
w $huge_pages - - - - advise
TMPFILES
if [ -z "$root" ] && grep -q '\[never\]' $huge_pages 2> /dev/null; then
    # A container's /sys is read-only; the next boot does it then.
    if (echo advise > $huge_pages) 2> /dev/null; then say "$huge_pages: advise"; fi
fi

# Taps, and the kernel's own way between a tap and a guest, which not every kernel has. A module may be built in.
if replace "$modules" << MODULES; then say "$modules: written"; fi
tun
vhost_net
MODULES
if [ -z "$root" ] && command -v modprobe > /dev/null; then
    for module in tun vhost_net; do
        modprobe -q "$module" || say "the module $module does not load"
    done
fi

# containerd. In TOML a table may stand anywhere in the file: ours goes to its end. (A drop-in under `imports` would
# replace the CRI plugin's whole configuration in containerd 1.6 and 1.7.)
version_of() { sed -n 's/^[[:space:]]*version[[:space:]]*=[[:space:]]*\([0-9][0-9]*\).*/\1/p' | head -n 1; }
without_block > "$scratch"
# What containerd does without a file, it does with this line alone.
[ -s "$scratch" ] || echo 'version = 2' > "$scratch"
version=$(version_of < "$scratch")
case $version in
    2) plugin=io.containerd.grpc.v1.cri ;;
    3 | 4) plugin=io.containerd.cri.v1.runtime ;;
    *) fail "$containerd_config has version ${version:-1}; containerd config migrate makes one of version 2 or newer of it" ;;
esac
if grep -q '^[[:space:]]*\[.*\.runtimes\.vireo\]' "$scratch"; then
    say "$containerd_config: has a runtime vireo that is not from here, and keeps it (vireo check looks at it)"
else
    # A last line without an end gets one.
    [ -z "$(tail -c 1 "$scratch")" ] || echo >> "$scratch"
    cat >> "$scratch" << BLOCK

$begin
[plugins."$plugin".containerd.runtimes.vireo]
  runtime_type = "io.containerd.vireo.v2"
  pod_annotations = ["vireo.dev/*", "k8s.v1.cni.cncf.io/*", "sidecar.istio.io/*"]
  privileged_without_host_devices = true
$end
BLOCK
    set_containerd_config < "$scratch"
fi
if grep -q '^[[:space:]]*disabled_plugins.*cri' "$containerd_config"; then
    say "$containerd_config disables containerd's CRI plugin (disabled_plugins); Kubernetes needs it"
fi
restart_containerd
if [ -z "$root" ]; then
    say "vireo check:"
    "$bin_dir/vireo" check || :
fi
