#!/bin/sh
# Installs what `make` built.     usage: install.sh BUILD PREFIX [DESTDIR]   (make install calls it)
# PREFIX is where the files will live; DESTDIR, for packagers, is a root to stage them under.
set -eu
[ $# -ge 2 ] || { echo "usage: install.sh BUILD PREFIX [DESTDIR]" >&2; exit 2; }
build=$1 prefix=$2 root=${3-}$2

version=$(sed -n 's/^#define IMP_VERSION "\(.*\)"/\1/p' include/imp.h)
[ -n "$version" ] || { echo "install.sh: include/imp.h: no IMP_VERSION" >&2; exit 1; }
so=libimp.so.${version%%.*}

mkdir -p "$root/bin" "$root/include" "$root/lib/pkgconfig" "$root/share/man/man1"
install -m 755 "$build/imp" "$root/bin/imp"
for link in imp-cli imp-server imp-bench; do ln -sf imp "$root/bin/$link"; done
install -m 644 include/imp.h "$root/include/imp.h"
install -m 644 "$build/libimp.a" "$root/lib/libimp.a"
install -m 755 "$build/libimp.so" "$root/lib/$so"
ln -sf "$so" "$root/lib/libimp.so"
cat >"$root/lib/pkgconfig/imp.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: imp
Description: Large language model inference engine
Version: $version
Libs: -L\${libdir} -limp
Libs.private: -lpcre2-8 -lutf8proc -ljansson -lmicrohttpd -ledit -lm -ldl -pthread
Cflags: -I\${includedir}
PC
if [ -x "$build/imp" ]; then # the pages are printed from the program's own tables
    "$build/imp" help --man >"$root/share/man/man1/imp.1"
    for c in $("$build/imp" help --list); do "$build/imp" help --man "$c" >"$root/share/man/man1/imp-$c.1"; done
fi
for page in docs/man/*.1 "$build"/man/*.1; do
    if [ -f "$page" ]; then install -m 644 "$page" "$root/share/man/man1/"; fi
done
rmdir "$root/share/man/man1" "$root/share/man" 2>/dev/null || true
echo "installed imp $version under $root"
