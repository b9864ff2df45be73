#!/bin/sh
# A Debian for 64-bit ARM in FOLDER, unpacked and not installed: what the C++ runtime is built against, and
# a Python that runs here, under QEMU.
#
#     runtime/cmake/arm64.sh FOLDER
#
# Debian's name for this architecture is arm64, the compiler's aarch64.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
packages=python3,libgtest-dev,libpng-dev,libssl-dev,libstb-dev,nlohmann-json3-dev,libstdc++-12-dev,libc6-dev,binutils
mmdebstrap --variant=extract --architectures=arm64 --include="$packages" bookworm "$folder"

# QEMU before 8 shows programs the PC's file, and onnxruntime reads it.
mkdir -p "$folder/proc"
printf '%s\t: %s\n' processor 0 Features "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid" "CPU implementer" 0x41 \
    "CPU architecture" 8 "CPU variant" 0x0 "CPU part" 0xd08 "CPU revision" 3 > "$folder/proc/cpuinfo"

# Environments made by this Python, and the processes it starts, are emulated in turn.
cd "$folder/usr/bin"
mv python3.11 python3.11-arm64
cat > python3.11 << SCRIPT
#!/bin/sh
exec qemu-aarch64-static -0 "\$0" -L "$folder" "$folder/usr/bin/python3.11-arm64" "\$@"
SCRIPT
chmod +x python3.11
