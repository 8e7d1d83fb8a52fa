#!/usr/bin/env bash
# Runs a job of `gpart-launch slurm` under a real Slurm that lives on this machine for the length of this script:
# preempts it with USR1, lets it queue itself again and resume, and compares its θ with that of an undisturbed job. Then
# runs gpart-launch itself inside an allocation: to the end, and to a SIGKILL that no rank may outlive. Then a sweep as an
# array, one job of which is preempted, with the table that is made at its end.
#
#   slurm_on_one_machine.sh GPART_LAUNCH GPART_DIST [WORDS after `--`; by default metamath --preset demo --dp-replicate 2]
#
# Needs root and Debian's slurm-wlm and munge. Nothing of the system's own Slurm, if there is one, is used or touched.
# Exit status: 0 the same θ, 1 not, 77 skipped.
set -euo pipefail

skip() { echo "SKIPPED: $*" >&2; exit 77; }
fail() {
    echo "FAILED: $*" >&2
    tail -n 30 "$scratch"/*.log "$scratch"/jobs/*.log >&2 || true
    exit 1
}

[ $# -ge 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
launch=$(realpath "$1") dist=$(realpath "$2")
shift 2
[ $# -gt 0 ] || set -- metamath --preset demo --dp-replicate 2
[ "$(id -u)" -eq 0 ] || skip "only root can start slurmd for others"
for program in munged slurmctld slurmd sbatch srun scancel scontrol; do
    command -v "$program" > /dev/null || [ -x "/usr/sbin/$program" ] || skip "there is no $program (apt install slurm-wlm munge)"
done
PATH=$PATH:/usr/sbin

scratch=$(mktemp -d)
chmod 755 "$scratch"
mkdir "$scratch"/{munge,state,spool,jobs}
daemons=()
# Called by the trap.
# shellcheck disable=SC2317
finish() {
    scancel --user=root --quiet 2> /dev/null || true
    sleep 1
    for pid in "${daemons[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT

# A munge of our own: key and socket.
dd if=/dev/urandom of="$scratch/munge/key" bs=1024 count=1 status=none
chmod 400 "$scratch/munge/key"
chown -R munge: "$scratch/munge"
socket=$scratch/munge/socket
setpriv --reuid=munge --regid=munge --clear-groups munged --foreground --key-file="$scratch/munge/key" \
    --socket="$socket" --pid-file="$scratch/munge/pid" --log-file="$scratch/munge/log" --seed-file="$scratch/munge/seed" > /dev/null 2>&1 &
daemons+=($!)

host=$(hostname -s)
cpus=$(nproc)
memory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
# Jobs inherit them: Open MPI's runtime is not fond of root.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export SLURM_CONF=$scratch/slurm.conf
cat > "$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again waits a little longer than a credential lives.
AuthInfo=socket=$socket,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
ReturnToService=2
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
SlurmctldLogFile=$scratch/slurmctld.log
SlurmdLogFile=$scratch/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$((memory * 9 / 10))
PartitionName=only Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
END
slurmctld -D > /dev/null 2>&1 &
daemons+=($!)
slurmd -D > /dev/null 2>&1 &
daemons+=($!)

# until SECONDS COMMAND…: tries until it succeeds.
until_() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
is_idle() { sinfo --noheader --format=%T 2> /dev/null | grep -q '^idle'; }
until_ 60 is_idle || fail "slurmd does not come up"
echo "slurm is up: $(sinfo --noheader --format='%n %c CPUs %T')"

property() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
has_state() { [[ $(property "$1" JobState) == "$2" ]]; }
steps() { if [ -f "$1/metrics.jsonl" ]; then wc -l < "$1/metrics.jsonl"; else echo 0; fi; }
has_steps() { [ "$(steps "$1")" -ge "$2" ]; }
last_theta() { tail -n 1 "$1/metrics.jsonl" | grep -o '"theta_blake3": *"[0-9a-f]*"'; }

# submit NAME WORDS…: prints the job's number.
submit() {
    local name=$1
    shift
    (
        cd "$scratch/jobs"
        "$launch" slurm --gpus-per-node 0 --ranks-per-node 2 --job-name "$name" --log "$name.log" --program "$dist" \
            --output-script "$name.sh" -- "$@" --output "$scratch/jobs/$name" >&2
        bash -n "$name.sh"
        sbatch --parsable "$name.sh"
    )
}

plain=$(submit plain "$@")
until_ 600 has_state "$plain" COMPLETED || fail "the undisturbed job: $(property "$plain" JobState)"
all=$(steps "$scratch/jobs/plain")
echo "undisturbed: job $plain, $all steps"
[ "$all" -ge 4 ] || fail "a run of $all steps cannot be preempted"

job=$(submit preempted "$@")
until_ 300 has_steps "$scratch/jobs/preempted" $((all / 4)) || fail "the job to be preempted does not get on"
scancel --signal=USR1 --batch "$job"
was_queued_again() { [ "$(property "$job" Restarts)" = 1 ]; }
until_ 120 was_queued_again || fail "it was not queued again: $(property "$job" JobState)"
stopped_at=$(steps "$scratch/jobs/preempted")
[ "$stopped_at" -lt "$all" ] || fail "it was preempted too late, after step $stopped_at of $all"
echo "preempted: job $job was queued again after step $stopped_at"
until_ 600 has_state "$job" COMPLETED || fail "the preempted job: $(property "$job" JobState)"
[ "$(property "$job" Restarts)" = 1 ] || fail "it was started $(property "$job" Restarts) times more"

left=$(last_theta "$scratch/jobs/plain")
right=$(last_theta "$scratch/jobs/preempted")
if [ -z "$left" ] || [ "$left" != "$right" ]; then fail "θ differs: $left and $right"; fi
has_steps "$scratch/jobs/preempted" "$all" || fail "steps are missing: $(steps "$scratch/jobs/preempted") of $all"
echo "the same θ after $all steps: $left"

# launched NAME WORDS…: gpart-launch as a job; prints the job's number.
launched() {
    local name=$1
    shift
    (
        cd "$scratch/jobs"
        {
            printf '#!/bin/bash\nexec '
            printf '%q ' "$launch" -n 2 --program "$dist" -- "$@" --output "$scratch/jobs/$name"
        } > "$name.sh"
        sbatch --parsable --nodes=1 --ntasks=2 --no-requeue --output="$name.log" "$name.sh"
    )
}
job=$(launched supervised "$@")
until_ 600 has_state "$job" COMPLETED || fail "gpart-launch in an allocation: $(property "$job" JobState)"
supervised=$(last_theta "$scratch/jobs/supervised")
[ "$left" = "$supervised" ] || fail "θ differs under gpart-launch: $left and $supervised"
grep -q '^\[rank 0\] ' "$scratch/jobs/supervised.log" || fail "lines are not prefixed"
grep -q "Slurm's srun" "$scratch/jobs/supervised.log" || fail "srun was not used"
echo "gpart-launch in an allocation: the same θ"

job=$(launched killed "$@")
until_ 300 has_steps "$scratch/jobs/killed" $((all / 4)) || fail "the launcher to be killed does not get on"
launcher_of() { pgrep --full --oldest -- "^$launch -n 2 .*$scratch/jobs/killed"; }
kill -KILL "$(launcher_of)"
no_rank_is_left() { ! pgrep --full -- "$dist .*$scratch/jobs/killed" > /dev/null; }
until_ 5 no_rank_is_left || fail "ranks outlive the launcher: $(pgrep --full --list-full -- "$scratch/jobs/killed")"
echo "gpart-launch in an allocation, killed: no rank is left"

# A sweep of two runs: an array that submits itself and the table.
(
    cd "$scratch/jobs"
    "$launch" slurm --gpus-per-node 0 --ranks-per-node 2 --job-name sweep --log sweep-%a.log --program "$dist" --at-once 1 \
        --seeds 1,2 --output "$scratch/jobs/sweep" --submit -- "$@" > submitted.log
)
array=$(sed -n 's/^submitted 2 runs as the array //p' "$scratch/jobs/submitted.log")
table=$(sed -n 's/^submitted the table of them as job \([0-9]*\): .*/\1/p' "$scratch/jobs/submitted.log")
if [ -z "$array" ] || [ -z "$table" ]; then fail "the array was not submitted: $(cat "$scratch/jobs/submitted.log")"; fi
until_ 300 has_steps "$scratch/jobs/sweep/seed1" $((all / 4)) || fail "the array's first job does not get on"
scancel --signal=USR1 --batch "${array}_0"
was_one_queued_again() { [ "$(property "${array}_0" Restarts)" = 1 ]; }
until_ 120 was_one_queued_again || fail "the array's first job was not queued again: $(property "${array}_0" JobState)"
has_state "$table" PENDING || fail "the table was begun before all runs had ended: $(property "$table" JobState)"
until_ 600 has_state "$table" COMPLETED || fail "the table: $(property "$table" JobState)"
for run in 0 1; do
    has_state "${array}_$run" COMPLETED || fail "the array's job $run: $(property "${array}_$run" JobState)"
    has_steps "$scratch/jobs/sweep/seed$((run + 1))" "$all" || fail "steps of the array's job $run are missing"
done
[ "$(property "${array}_1" Restarts)" = 0 ] || fail "the array's second job was queued again as well"
for kind in txt csv tex; do
    for run in seed1 seed2; do
        grep -q "$run" "$scratch/jobs/sweep/collected.$kind" || fail "$run is missing in collected.$kind"
    done
done
echo "a sweep as an array: both runs, one of them preempted, and the table"
