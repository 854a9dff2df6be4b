#!/usr/bin/env bash
# Builds the images global-cp, zone-cp and zone-dp from programs that are built already. Nothing is pulled.
#
#   docker/build.sh [--context-only] BIN OUT TAG [IMAGE ...]
#
# BIN holds the programs (make build), OUT gets one build context for each image, TAG is the images' tag under
# $REPOSITORY (meridian). --context-only leaves the building to another. zone-dp takes the Envoy of tools/envoy.sh.
set -euo pipefail

build=true
if [[ "${1:-}" == --context-only ]]; then
	build=false
	shift
fi
(($# >= 3)) || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 1; }
bin="$1" out="$2" tag="$3"
shift 3
(($# > 0)) || set -- global-cp zone-cp zone-dp
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# with_libraries places Envoy, and what the dynamic linker finds for it, under the paths that it finds them at.
with_libraries() {
	local envoy="$1" root="$2" library
	install -D -m 755 "$envoy" "$root/usr/local/bin/envoy"
	while read -r library; do
		install -D -m 755 "$library" "$root$library"
	done < <(ldd "$envoy" | grep -o '/[^ ]*')
}

for image in "$@"; do
	context="$out/$image"
	rm -rf "$context"
	mkdir -p "$context/state"
	cp "$here/$image/Dockerfile" "$context/"
	install -m 755 "$bin/$image" "$context"
	if [[ "$image" == zone-dp ]]; then
		chmod 1777 "$context/state"
		with_libraries "$("$here/../tools/envoy.sh")" "$context/envoy"
	else
		chmod 700 "$context/state"
		install -m 755 "$bin/meridianctl" "$context"
	fi
	if $build; then
		docker build --quiet --tag "${REPOSITORY:-meridian}/$image:$tag" "$context"
	fi
done
