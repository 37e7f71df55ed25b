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

mapfile -t packages < <(sed 's/#.*//' debian-packages.txt | awk 'NF { print $1 }')
missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    echo "all ${#packages[@]} packages are installed"
    exit 0
fi
update
apt install --no-install-recommends "${missing[@]}"
