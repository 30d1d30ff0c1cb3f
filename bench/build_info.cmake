# Writes FILE, the values of build_info.h, if they changed: the commit may do so without a configuration.
# cmake -DFILE=... -DSOURCE=... -DVERSION=... -DCOMPILER=... -DFLAGS=... -P build_info.cmake
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
string(STRIP "${FLAGS}" flags)
set(text "#include \"bench/build_info.h\"\n
const gladius::bench::BuildInfo gladius::bench::build_info = {
    R\"(${VERSION})\", R\"(${commit})\", R\"(${COMPILER})\", R\"(${flags})\"};\n")
if(EXISTS ${FILE})
  file(READ ${FILE} before)
endif()
if(NOT "${before}" STREQUAL "${text}")
  file(WRITE ${FILE} "${text}")
endif()
