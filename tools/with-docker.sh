#!/usr/bin/env bash
# Runs a command with a Docker daemon: the one that DOCKER_HOST names, or that listens on the usual socket; else with
# one of its own (needs root, and Debian's docker.io and iptables or the like), whose processes, networks, rules,
# images and volumes all end with the command, however that ends.
#
#   tools/with-docker.sh make e2e-docker
set -euo pipefail

(($# > 0)) || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 1; }
usual=/var/run/docker.sock
if [[ -n "${DOCKER_HOST:-}" ]] || curl -sf --max-time 5 --unix-socket "$usual" http://docker/_ping >/dev/null 2>&1; then
	exec "$@"
fi

fail() { echo "with-docker: $*" >&2; exit 1; }
export PATH="$PATH:/usr/sbin:/sbin"

# Outside: a directory, and namespaces in which nothing survives the first process.
if [[ "${WITH_DOCKER_DIR:-}" == "" ]]; then
	[[ "$(id -u)" == 0 ]] || fail "no Docker daemon answers, and only root can start one"
	for program in dockerd iptables; do
		command -v "$program" >/dev/null || fail "no Docker daemon answers, and there is no $program (Debian: apt-get install docker.io iptables)"
	done
	# There is no way out of the new network.
	! command -v go >/dev/null || go list -deps -test ./... >/dev/null
	WITH_DOCKER_DIR="$(mktemp -d "${TMPDIR:-/tmp}/docker.XXXXXX")"
	export WITH_DOCKER_DIR
	trap 'rm -rf "$WITH_DOCKER_DIR"' EXIT
	unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$@" &
	inside=$!
	trap 'kill -TERM "$inside" 2>/dev/null || true' INT TERM
	status=0
	wait "$inside" || status=$?
	# A signal ends the waiting, not what is waited for.
	while kill -0 "$inside" 2>/dev/null; do wait "$inside" || status=$?; done
	exit "$status"
fi

# Inside: the daemon, then the command.
dir="$WITH_DOCKER_DIR"
unset WITH_DOCKER_DIR
ip link set lo up
export DOCKER_HOST="unix://$dir/docker.sock"
dockerd --host "$DOCKER_HOST" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" >"$dir/log" 2>&1 &
daemon=$!
command=""
trap '[[ -z "$command" ]] || kill -TERM "$command" 2>/dev/null || true' INT TERM
until curl -sf --unix-socket "$dir/docker.sock" http://docker/_ping >/dev/null; do
	kill -0 "$daemon" 2>/dev/null || { tail -20 "$dir/log" >&2; fail "dockerd does not start"; }
	sleep 0.1
done
"$@" &
command=$!
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do wait "$command" || status=$?; done
kill -TERM "$daemon"
wait "$daemon" || true
exit "$status"
