# Shared by the scripts beside it (POSIX sh, sourced): messages, and Debian packages.
# The caller sets `self`, the name that stands before its messages.

say() { printf '%s: %s\n' "$self" "$*" >&2; }
die() { say "$*"; exit 1; }

# What `make` needs, what fetching the model needs, and what the tests need on top: the one list of each.
build_packages="gcc make libc6-dev libpcre2-dev libutf8proc-dev libjansson-dev libmicrohttpd-dev libedit-dev"
fetch_packages="python3 python3-pip ca-certificates"
test_packages="python3-venv libcmocka-dev clang llvm libclang-rt-14-dev g++ pkg-config git"

missing_packages() {
    for p in "$@"; do
        case "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" in
        *" installed") ;;
        *) printf '%s ' "$p" ;;
        esac
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# need_packages PACKAGE...: installs what is missing. Elsewhere than on Debian and its kin, the build itself will tell.
need_packages() {
    command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 || return 0
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
        die "packages are missing and neither root nor sudo is here to install them; as root: apt-get install -y $missing"
    fi
    say "installing: $missing"
    log=$(mktemp) || die "no temporary file: is /tmp full?"
    # Lists may be absent (a bare root) or too old for what the mirror still has: update first, always.
    # shellcheck disable=SC2086
    if ! as_root apt-get update -q >"$log" 2>&1 ||
        ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >>"$log" 2>&1; then
        grep -E '^(E|W|Err)' "$log" | tail -n 5 >&2
        die "apt-get could not install $missing(log: $log)"
    fi
    rm -f "$log"
}

cores() { nproc 2>/dev/null || echo 1; }
