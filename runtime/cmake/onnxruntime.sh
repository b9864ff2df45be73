#!/bin/sh
# ONNX Runtime to build against: FOLDER/include with its C header, FOLDER/lib with its library.
#
#     runtime/cmake/onnxruntime.sh FOLDER PYTHON
#
# The library is that of PYTHON's wheel, which holds no header. The header is this system's where
# libonnxruntime-dev is installed. Else it is that of the package in Debian 13, unpacked and not
# installed: of API version 21, which every later library offers, too.
set -eu
mkdir -p "$1/include" "$1/lib" "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
cd "$1"

library=$("$2" -c 'import glob, onnxruntime
print(glob.glob(onnxruntime.__path__[0] + "/capi/libonnxruntime.so.*")[0])')
ln -sf "$library" lib/libonnxruntime.so
ln -sf "$library" lib/libonnxruntime.so.1

if [ -e /usr/include/onnxruntime/onnxruntime_c_api.h ]; then
    ln -sf /usr/include/onnxruntime/*.h include/
elif [ ! -e include/onnxruntime_c_api.h ]; then
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "http://deb.debian.org/debian trixie main" > apt/sources.list
    set -- -q -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache"
    apt-get "$@" update
    (cd apt && apt-get "$@" download libonnxruntime-dev)
    dpkg-deb -x apt/libonnxruntime-dev_*.deb apt/unpacked
    cp apt/unpacked/usr/include/onnxruntime/*.h include/
    rm -r apt/lists apt/cache
fi
