#!/bin/bash
# Installs the packages of debian-packages.txt that are missing.  Needs root.
# Waits for another apt instead of failing; asks nothing.
set -euo pipefail
cd "$(dirname "$0")"

patience=600 # seconds, for each lock

installed() {
    [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=$patience "$@"
}

# The lists have a lock of their own, which that option does not cover.
update() {
    local deadline=$((SECONDS + patience))
    until apt update; do
        ((SECONDS < deadline)) || return 1
        sleep 5
    done
}

# Of the alternatives of one line.
any_installed() {
    local package
    for package in "$@"; do
        if installed "$package"; then return 0; fi
    done
    return 1
}

first_known() {
    local package
    for package in "$@"; do
        if [[ -n $(apt-cache madison "$package") ]]; then
            echo "$package"
            return
        fi
    done
    echo "$1"
}

mapfile -t lines < <(sed 's/#.*//; s/|/ /g' debian-packages.txt | awk NF)
missing=()
for line in "${lines[@]}"; do
    read -ra names <<<"$line"
    any_installed "${names[@]}" || missing+=("$line")
done
if ((${#missing[@]} == 0)); then
    echo "all ${#lines[@]} packages are installed"
    exit 0
fi
update
packages=()
for line in "${missing[@]}"; do
    read -ra names <<<"$line"
    packages+=("$(first_known "${names[@]}")")
done
apt install --no-install-recommends "${packages[@]}"
