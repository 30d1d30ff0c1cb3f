# Cross compiles for 64-bit ARM on Debian (packages g++-aarch64-linux-gnu and qemu-user-static) and runs the tests under
# qemu's user mode. QEMU_CPU in the environment chooses the emulated CPU, for example max or cortex-a72.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu)

# Header-only libraries (xsimd, fmt, doctest, nlohmann-json, xxHash) come from the host. The host's include folder is
# searched after the cross compiler's own, or the host's C library headers would hide the right ones.
set(CMAKE_CXX_FLAGS_INIT "-idirafter /usr/include")
file(GLOB host_packages LIST_DIRECTORIES true /usr/lib/*-linux-gnu/cmake)
list(APPEND CMAKE_PREFIX_PATH ${host_packages})
