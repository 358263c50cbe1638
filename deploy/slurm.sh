#!/usr/bin/env bash
#SBATCH --job-name=raycadian
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --exclusive
#SBATCH --signal=B:TERM@60
# A Ray cluster inside one Slurm job, and a command that runs on it; both end with the job. On shared storage, from the
# repository's root, with the environment active:
#   sbatch deploy/slurm.sh python jobs/tune.py jobs/recipes/demo.yaml --runs "$SCRATCH/runs" --snapshots "$SCRATCH/snapshots"
# Exclusive nodes: Ray's ports meet nobody else's. The signal: 60 s before the time is up the command is asked to end.
set -euo pipefail

fail() {
  echo "slurm.sh: $*" >&2
  exit 2
}

[ $# -gt 0 ] || fail "usage: sbatch deploy/slurm.sh COMMAND..."
[ -n "${SLURM_JOB_ID:-}" ] || fail "call it with sbatch"
command -v ray >/dev/null || fail "no ray on PATH: activate the environment before sbatch"

# The job's own directory: every node sees it, no other user reads it. The token stands in no command line.
umask 077
job=${RAYCADIAN_SLURM:-$HOME/.raycadian/slurm}/$SLURM_JOB_ID
mkdir -p "$job"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$job/token"
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/token RAY_USAGE_STATS_ENABLED=0

# The batch script runs on the job's first node. That is the head; srun hands its address to the others.
ip=$(hostname -I | cut -d' ' -f1)
free='import socket; s = [socket.create_server(("", 0)) for _ in "ab"]; print(*[one.getsockname()[1] for one in s])'
read -r port dashboard < <(python -c "$free")
cpus=${SLURM_CPUS_PER_TASK:-1}
others=$((SLURM_JOB_NUM_NODES - 1))

# node FILE COMMAND...: one node of the cluster, until FILE is gone. A signal to the step would reach Ray's processes all
# at once, and those that want to take leave of the head would wait for it in vain.
node() {
  local file=$1 tmp ray
  shift
  tmp=$(mktemp -d /tmp/rc-XXXXXX) # local, and short enough for Ray's sockets
  "$@" --block --temp-dir="$tmp" &
  ray=$!
  # scancel and the end of time: everything gets TERM, and KILL soon after, so no leave is taken
  trap 'kill -KILL "$ray"; sleep 1; rm -rf "$tmp"; exit 143' TERM
  while [ -e "$file" ] && kill -0 "$ray" 2>/dev/null; do sleep 1; done
  kill "$ray" 2>/dev/null
  wait "$ray"
  rm -rf "$tmp"
}
export -f node

# start NAME OPTIONS... -- COMMAND...: a step of one task a node in the background, until end NAME.
declare -A steps
start() {
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  touch "$job/$name"
  # --cpus-per-task: since Slurm 22.05 srun does not inherit it
  srun --overlap --ntasks-per-node=1 --cpus-per-task="$cpus" "${options[@]}" \
    bash -c 'node "$@"' node "$job/$name" "$@" &
  steps[$name]=$!
}

end() {
  rm -f "$job/$1"
  wait "${steps[$1]}" || true
}

finish() {
  local status=$?
  trap '' TERM INT
  trap - EXIT
  if [ -n "${command:-}" ]; then
    kill "$command" 2>/dev/null || true
    wait "$command" 2>/dev/null || true
  fi
  [ -z "${steps[workers]:-}" ] || end workers
  [ -z "${steps[head]:-}" ] || end head
  rm -rf "$job"
  exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM INT

# The dashboard stays on the head's localhost: those who ask it, drivers, run there. `driver` says so: the head lives as
# long as the job does.
start head --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" -- ray start --head --node-ip-address="$ip" --port="$port" \
  --num-cpus="$cpus" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --resources='{"driver": 1}'
for ((second = 0; second < 120; second++)); do
  ray health-check --address "$ip:$port" >/dev/null 2>&1 && break
  sleep 1
done
if [ "$others" -gt 0 ]; then
  start workers --nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" -- \
    ray start --address="$ip:$port" --num-cpus="$cpus"
fi

export RAY_ADDRESS=$ip:$port
python - "$SLURM_JOB_NUM_NODES" <<'WAIT'
import sys
import time

import ray

ray.init(logging_level="error")
wanted, deadline = int(sys.argv[1]), time.monotonic() + 300
while (up := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"slurm.sh: {up} of {wanted} nodes came up within 300 s; the steps' output says why")
    time.sleep(1)
print(f"slurm.sh: {wanted} nodes, {ray.cluster_resources().get('CPU', 0):.0f} CPUs", flush=True)
WAIT

"$@" &
command=$!
wait "$command"
