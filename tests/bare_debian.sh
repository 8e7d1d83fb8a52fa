#!/bin/sh
# Shows that a bundle runs on a Debian that has nothing but an unpacked libtorch: no MPI, no Python, no network.
#
#   bare_debian.sh BUNDLE.tar.gz LIBTORCH ROOT
#
# LIBTORCH is the folder that holds torch/ (and the nvidia/ beside it, if there is one), ROOT a folder for the system, which
# is made by debootstrap unless it is there. Runs as root. Each step prints a line; the first that fails ends it.

set -eu

[ $# -eq 3 ] || { echo "usage: bare_debian.sh BUNDLE.tar.gz LIBTORCH ROOT" >&2; exit 2; }
bundle=$(realpath "$1")
libtorch=$(realpath "$2")
root=$(realpath -m "$3")

if [ "${GPART_INSIDE:-}" != 1 ]; then
    [ "$(id -u)" = 0 ] || { echo "needs root, for debootstrap and chroot" >&2; exit 2; }
    if [ ! -x "$root/bin/sh" ]; then
        echo "making a bare Debian in $root"
        mirror=$(sed -n 's/^URIs: *//p; s/^deb  *\(\[[^]]*\] *\)\{0,1\}\(http[^ ]*\).*/\2/p' \
            /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
        debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 ||
            { tail -n 20 "$root.log" >&2; exit 1; }
    fi
    # Mounts, processes and the network of this are its own, and gone with it.
    GPART_INSIDE=1 exec unshare --mount --net --pid --fork --kill-child sh "$0" "$bundle" "$libtorch" "$root"
fi

ip link set lo up
mount --make-rprivate /
mkdir -p "$root/opt/torch" "$root/dev/shm"
mount --bind -o ro "$libtorch" "$root/opt/torch"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for absent in mpirun python3 cargo gcc; do
    ! chroot "$root" sh -c "command -v $absent" || { echo "this is no bare Debian: it has $absent" >&2; exit 1; }
done
# A fresh folder with a blank in its name: nothing may depend on where the bundle lies.
rm -rf "$root/srv/a place"
mkdir -p "$root/srv/a place"
tar -xzf "$bundle" -C "$root/srv/a place" --no-same-owner
set -- "$root/srv/a place"/*/
folder="/srv/a place/$(basename "$1")"

step() {
    name=$1
    shift
    started=$(date +%s)
    if chroot "$root" env -i HOME=/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin FOLDER="$folder" sh -c "cd /tmp && $*" >"$root/tmp/log" 2>&1; then
        echo "passed  $name ($(($(date +%s) - started)) s)"
    else
        echo "FAILED  $name: $*"
        tail -n 40 "$root/tmp/log"
        exit 1
    fi
}

run='"$FOLDER/run.sh" --torch /opt/torch/torch'
training='--preset demo --max-steps 4 --max-samples 64 --max-seq-length 128'
rm -rf "$root/tmp"/*
step 'sums' '"$FOLDER/run.sh" verify'
step 'no libtorch is said with exit code 2' '"$FOLDER/run.sh" gpart-dist --version; test $? = 2'
step 'another libtorch is refused and named' 'mkdir -p old/lib && touch old/lib/libtorch_cpu.so && echo 2.7.1 >old/build-version;
    "$FOLDER/run.sh" --torch old gpart-dist --version 2>said; test $? = 2 && grep -q 2.7.1 said && grep -q 2.11.0 said'
step 'version' "$run version && $run gpart-dist --version"
step 'LIBTORCH is honoured' 'LIBTORCH=/opt/torch/torch "$FOLDER/run.sh" gpart-dist --version'
step 'demo alone' "$run gpart-dist metamath $training --output alone"
step 'demo on two ranks' "$run mpirun -n 2 gpart-dist metamath $training --dp-replicate 2 --output two"
step 'the same θ' 'cmp alone/adapter_model.safetensors two/adapter_model.safetensors'
step 'gpart-launch on two ranks' "$run gpart-launch -n 2 -- metamath $training --pp 2 --output launched"
step 'the same θ again' 'cmp alone/adapter_model.safetensors launched/adapter_model.safetensors'
step 'help of mpirun is found' "$run mpirun -n 2 no-such-program >said 2>&1; grep -q 'executable' said && ! grep -qi 'could not find the help' said"
step 'doctor' "$run gpart-dist doctor --quick --output /tmp/doctor && $run mpirun -n 2 gpart-dist doctor --quick --output /tmp/doctor"
step 'gpu-check without a GPU is a loud failure' "$run gpu-check --report /tmp/none 2>said; test \$? = 1 && grep -q 'NO GPU' said"
step 'gpu-check on the CPU' "$run gpu-check --device cpu ${GPART_CHECK:---quick} --report /tmp/report"
cp "$root/tmp/log" "$root.gpu-check.txt"
echo "the bundle runs on a bare Debian; what gpu-check printed is in $root.gpu-check.txt"
