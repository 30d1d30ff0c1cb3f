# Writes FILE, what a benchmark's results say of the build, if it changed: the commit may do so without a configuration.
# cmake -DFILE=... -DSOURCE=... -DVERSION=... -DCOMPILER=... -DFLAGS=... -P build_info.cmake
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
set(text "#pragma once\n")
foreach(name IN ITEMS VERSION COMPILER FLAGS)
  string(STRIP "${${name}}" value)
  string(APPEND text "#define GLADIUS_BENCH_${name} R\"(${value})\"\n")
endforeach()
string(APPEND text "#define GLADIUS_BENCH_COMMIT \"${commit}\"\n")
if(EXISTS ${FILE})
  file(READ ${FILE} before)
endif()
if(NOT "${before}" STREQUAL "${text}")
  file(WRITE ${FILE} "${text}")
endif()
