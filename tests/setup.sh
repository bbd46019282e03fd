#!/bin/bash
# Installs what building Vireo and booting virtual nodes need on Debian 12 and later; says so if it can't.
set -eu

packages=(
    gcc libc6-dev         # linking
    qemu-system-x86       # beside Vireo in `make bench`, on this machine's own KVM
    qemu-utils            # qcow2 images made by somebody else
    seabios               # machine tests boot it
    e2fsprogs             # their disks
    xz-utils              # the kernel's packed image
    util-linux
    nftables iproute2     # the pod network test
    debian-archive-keyring
    dpkg-dev              # Kubernetes' source
    mmdebstrap fdisk dosfstools mtools # the full Debian guest
)
if [ -n "${FIPS:-}" ]; then
    packages+=(cmake golang-go) # AWS-LC's FIPS module
fi
missing() {
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || echo "$package"
    done
}
# Twice: what is there from another suite (QEMU's tools from backports, say) apt may remove for the first installation's sake.
for _ in 1 2; do
    mapfile -t lacking < <(missing)
    [ ${#lacking[@]} -gt 0 ] || break
    if [ "$(id -u)" != 0 ]; then
        echo "Missing Debian packages: ${lacking[*]}" >&2
        echo "Install them as root: apt-get install ${lacking[*]}" >&2
        exit 1
    fi
    echo "==> installing ${lacking[*]}"
    begin=$SECONDS
    log=$(mktemp)
    if ! (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${lacking[@]}") \
        < /dev/null > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "apt-get failed; its output is in $log" >&2
        exit 1
    fi
    rm -f "$log"
    echo "    done in $((SECONDS - begin)) s"
done
mapfile -t lacking < <(missing)
if [ ${#lacking[@]} -gt 0 ]; then
    echo "apt-get can't have these together with the others: ${lacking[*]}; see apt-get install --simulate ${packages[*]}" >&2
    exit 1
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
if ! command -v cargo > /dev/null; then
    echo "Rust $wanted or later is needed, with cargo, and Debian 12 has none so new: see https://rustup.rs" >&2
    exit 1
fi
found=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "Rust $wanted or later is needed; this is $found: see https://rustup.rs" >&2
    exit 1
fi
