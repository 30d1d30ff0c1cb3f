# Settings that every target of the project shares, as the interface target gladius_options.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(gladius_options INTERFACE)
target_compile_features(gladius_options INTERFACE cxx_std_20)
# A contracted multiply-add would make results depend on the compiler; where fused multiply-add is meant, it is written.
target_compile_options(gladius_options INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow)
# GCC 12 sees overlapping copies in std::string where there are none (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(gladius_options INTERFACE -Wno-restrict)
endif()
if(GLADIUS_SANITIZE)
  target_compile_options(gladius_options INTERFACE -fsanitize=${GLADIUS_SANITIZE} -fno-omit-frame-pointer
                                                   -fno-sanitize-recover=all)
  target_link_options(gladius_options INTERFACE -fsanitize=${GLADIUS_SANITIZE})
endif()
