#!/bin/sh
# Runs gpart-dist from this folder, wherever it lies, with a libtorch of this host. Plain sh; needs no root, no network.

set -u

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P) || exit 1

usage() {
    cat <<'END'
usage: run.sh [--torch DIR] COMMAND [ARGS ...]

  gpart-dist ARGS     the program itself, as one rank: run.sh gpart-dist metamath --preset demo
  mpirun ARGS         several ranks: run.sh mpirun -n 2 gpart-dist metamath --preset demo --dp-replicate 2
  gpart-launch ARGS   ranks that are watched and started again: run.sh gpart-launch -n 2 -- metamath --preset demo
  gpu-check ARGS      check this host's GPUs and write a report: run.sh gpu-check [--device cpu] [--report DIR]
  verify              compare every file of this folder with SHA256SUMS
  env                 print the variables that the commands above are given, to be used by eval
  version             what this folder holds, and which libtorch is taken

libtorch comes from --torch, from LIBTORCH, or from a python3 that has torch; paths are relative to where you are.
END
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit 2
}

# The value of a line of VERSION.
value() { sed -n "s/^$1  *//p" "$root/VERSION"; }

# A number of such a form that 2.4 is less than 2.31.
number() { printf '%s\n' "$1" | awk -F. '{ printf "%d", $1 * 1000 + $2 }'; }

# The folder with libtorch_cpu.so that a path means: itself, its lib, its torch/lib.
lib_of() {
    for folder in "$1" "$1/lib" "$1/torch/lib"; do
        if [ -f "$folder/libtorch_cpu.so" ]; then
            (CDPATH='' cd -- "$folder" && pwd -P)
            return 0
        fi
    done
    return 1
}

# The version of the libtorch in a lib folder: of its header, its Python module, its archive; nothing where none tells.
version_of() {
    for header in "$1/../include/torch/headeronly/version.h" "$1/../include/torch/csrc/api/include/torch/version.h"; do
        [ -f "$header" ] || continue
        found=$(awk '/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) / { v = v s $3; s = "." } END { print v }' "$header")
        [ -z "$found" ] || { printf '%s\n' "$found"; return 0; }
    done
    if [ -f "$1/../version.py" ]; then
        sed -n "s/^__version__ = '\\([0-9.]*\\).*/\\1/p" "$1/../version.py"
    elif [ -f "$1/../build-version" ]; then
        sed 's/+.*//' "$1/../build-version"
    fi
}

# Looks at a path; takes it if it holds the libtorch that is needed, else notes what it holds.
consider() {
    if ! lib=$(lib_of "$2"); then
        seen="$seen
  $1: no libtorch_cpu.so in $2, $2/lib or $2/torch/lib"
        return 1
    fi
    version=$(version_of "$lib")
    if [ "$version" = "$needed" ] || [ -n "${LIBTORCH_BYPASS_VERSION_CHECK:-}" ]; then
        torch_lib=$lib
        torch_from=$1
        return 0
    fi
    seen="$seen
  $1: ${version:-a version that cannot be told} ($lib)"
    return 1
}

# Sets torch_lib. What the user names must serve; of what lies about, the first that serves is taken.
find_torch() {
    needed=$(value libtorch)
    seen=''
    torch_lib=''
    if [ -n "$named" ]; then
        consider --torch "$named"
    elif [ -n "${LIBTORCH:-}" ]; then
        consider LIBTORCH "$LIBTORCH"
    else
        for python in python3 python; do
            command -v "$python" >/dev/null 2>&1 || { seen="$seen
  $python: not on PATH"; continue; }
            where=$("$python" -c 'import importlib.util as u
s = u.find_spec("torch")
print(s.submodule_search_locations[0] if s else "")' 2>/dev/null)
            [ -n "$where" ] || { seen="$seen
  $(command -v "$python"): has no torch"; continue; }
            consider "$(command -v "$python")" "$where" && break
        done
    fi
    [ -n "$torch_lib" ] || fail "no libtorch $needed here; looked at:$seen" \
        "pip install torch==$needed, or name a folder that holds libtorch $needed: run.sh --torch DIR …"
}

check_host() {
    [ "$(uname -s)-$(uname -m)-gnu" = "$(value target | awk -F- '{ print toupper(substr($2, 1, 1)) substr($2, 2) "-" $1 "-" $3 }')" ] ||
        fail "this bundle is for $(value target), and this host is a $(uname -s) on $(uname -m)" "build one there: cargo xtask bundle"
    own=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{ print $2 }')
    if [ -n "$own" ] && [ "$(number "$own")" -lt "$(number "$(value glibc)")" ]; then
        fail "this bundle needs glibc $(value glibc), and this host has $own" \
            "build the bundle on a system as old as this one, or where it is the Open MPI that asks for it, with an older one (cargo xtask bundle --mpi DIR), or use a container with a newer system"
    fi
}

# Everything is found relative to this folder; what the host has of another MPI stays out of it.
set_variables() {
    wheels=''
    # Beside a torch of pip's lie the libraries of CUDA that it and we load.
    for folder in "$torch_lib"/../../nvidia/*/lib; do
        [ ! -d "$folder" ] || wheels="$wheels:$folder"
    done
    LD_LIBRARY_PATH="$torch_lib$wheels${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export LD_LIBRARY_PATH
    # A host without a C++ library of its own, or with an older one, gets ours; else its own is the newer.
    loads=$(LD_TRACE_LOADED_OBJECTS=1 "$root/bin/gpart-dist" 2>&1)
    case $loads in
    *"libstdc++.so.6 => not found"* | *"libgcc_s.so.1 => not found"* | *GLIBCXX_*"not found"*)
        LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$root/lib/fallback"
        case $loads in *GLIBCXX_*) LD_LIBRARY_PATH="$root/lib/fallback:$LD_LIBRARY_PATH" ;; esac
        loads=$(LD_TRACE_LOADED_OBJECTS=1 "$root/bin/gpart-dist" 2>&1)
        ;;
    esac
    case $loads in
    *"not found"*)
        fail "gpart-dist cannot load here: $(printf '%s\n' "$loads" | grep 'not found' | sed 's/^[[:space:]]*//' | tr '\n' ';')" \
            "libtorch is taken from $torch_lib ($torch_from); what is missing belongs beside it"
        ;;
    esac
    export OPAL_PREFIX="$root" OPAL_SYSCONFDIR="$root/etc" PMIX_SYSCONFDIR="$root/etc"
    # An Open MPI with a PMIx inside wants no other place for that.
    unset PMIX_INSTALL_PREFIX
    [ ! -d "$root/pmix" ] || export PMIX_INSTALL_PREFIX="$root/pmix"
    export PATH="$root/bin:$PATH"
    # A container shows few cores, and two ranks may share one.
    export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
    # mpirun asks for what would start ranks on other hosts even when there are none.
    if ! command -v ssh >/dev/null 2>&1 && ! command -v rsh >/dev/null 2>&1; then
        export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
    fi
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

show_variables() {
    for name in LD_LIBRARY_PATH OPAL_PREFIX OPAL_SYSCONFDIR PMIX_INSTALL_PREFIX PMIX_SYSCONFDIR PATH \
        OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_plm OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM; do
        eval "text=\${$name:-}"
        [ -z "$text" ] || printf "export %s='%s'\n" "$name" "$(printf '%s' "$text" | sed "s/'/'\\\\''/g")"
    done
}

named=''
while [ $# -gt 0 ]; do
    case $1 in
    --torch)
        [ $# -gt 1 ] || fail "--torch needs a folder" "run.sh --help"
        named=$2
        shift 2
        ;;
    --torch=*)
        named=${1#--torch=}
        shift
        ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || {
    usage >&2
    exit 2
}
command=$1
shift
case $command in
help | --help | -h)
    usage
    exit 0
    ;;
verify)
    cd -- "$root" || exit 1
    if sha256sum --check --strict --quiet SHA256SUMS; then
        echo "every file is as it was made ($(wc -l <SHA256SUMS) files)"
        exit 0
    fi
    fail "files differ from SHA256SUMS" "unpack the bundle again"
    ;;
gpart-dist | gpart-launch | mpirun | gpu-check | env | version) ;;
*) fail "there is no command $command" "run.sh --help" ;;
esac

check_host
find_torch
set_variables
case $command in
env) show_variables ;;
version)
    cat "$root/VERSION"
    printf '%-11s %s\n' 'found' "libtorch $(version_of "$torch_lib") ($torch_from, $torch_lib)"
    ;;
gpu-check)
    for word in "$@"; do
        case $word in --goldens | --goldens=*) exec "$root/bin/gpart-dist" gpu-check "$@" ;; esac
    done
    exec "$root/bin/gpart-dist" gpu-check --goldens "$root/tests/golden" "$@"
    ;;
*) exec "$root/bin/$command" "$@" ;;
esac
