#!/usr/bin/env bash
# Makes a bare Ubuntu 24.04 or Debian 12 machine a node: shared storage, the token, Python with the pinned packages.
# cluster.yaml and cluster-gcp.yaml run it on every node, and again at each `ray up`: what is there stays as it is.
#   bash node.sh NFS_ADDRESS      e.g. fs-0123.efs.eu-central-1.amazonaws.com:/
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)  # beside constraints.txt, pyproject.toml and platform/
storage=${1:?usage: node.sh NFS_ADDRESS}
shared=/mnt/raycadian
token=$HOME/.ray/auth_token

fail() {
  echo "node.sh: $*" >&2
  exit 1
}

[ -s "$token" ] || fail "no token at $token: make one with 'ray get-auth-token --generate' where you call ray up"
chmod 600 "$token"

if ! command -v mount.nfs4 >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null || ! command -v g++ >/dev/null; then
  # a fresh machine's own updates hold the lock for a while; g++ is DeepSpeed's, which compiles one operator
  wait_for_lock=(-o DPkg::Lock::Timeout=600 -qq)
  sudo apt-get "${wait_for_lock[@]}" update
  sudo DEBIAN_FRONTEND=noninteractive apt-get "${wait_for_lock[@]}" install -y nfs-common python3-venv g++ >/dev/null
fi

if ! mountpoint -q "$shared"; then
  sudo mkdir -p "$shared"
  # hard: a write waits while the storage is away, rather than being lost
  sudo mount -t nfs4 -o nfsvers=4.1,hard,timeo=600,retrans=2,noresvport,rsize=1048576,wsize=1048576 "$storage" "$shared"
  sudo chown "$(id -u):$(id -g)" "$shared"
fi
mkdir -p "$shared/runs" "$shared/snapshots"

python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
  fail "Python 3.11 to 3.13 is needed; this image has $(python3 --version)"
[ -x "$HOME/venv/bin/python" ] || python3 -m venv "$HOME/venv"
# Ray and all it needs in the versions that were tested. The installed raycadian is overruled by the one a job uploads.
"$HOME/venv/bin/python" -m pip install --quiet -c "$here/constraints.txt" "$here"

# for `ray start` and for whoever logs in
cat >"$HOME/.raycadian_env" <<'ENV'
export PATH="$HOME/venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token" RAY_USAGE_STATS_ENABLED=0
export RAYCADIAN_RUNS=/mnt/raycadian/runs RAYCADIAN_SNAPSHOTS=/mnt/raycadian/snapshots
ENV
touch "$HOME/.bashrc"
# shellcheck disable=SC2016  # to be expanded at login
grep -q raycadian_env "$HOME/.bashrc" || echo '. "$HOME/.raycadian_env"' >>"$HOME/.bashrc"
