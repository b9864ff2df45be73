#!/bin/sh
# Collects ONNX Runtime for a build: FOLDER/include with its C header, FOLDER/lib with its library.
#
#     runtime/cmake/onnxruntime.sh FOLDER PYTHON
#
# The library is that of PYTHON's wheel, which contains no header. The header is the system's if
# libonnxruntime-dev is installed, otherwise that of the package in Debian 13, unpacked without
# installing it. Its API version 21 is supported by every later library.
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
