# gladius_library(NAME DEPENDS lib ...): the static library gladius_NAME of every .cpp file in the calling folder and its
# sub-folders, except those that a folder's CMakeLists.txt removes afterwards.
function(gladius_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  add_library(gladius_${name} STATIC ${sources})
  add_library(gladius::${name} ALIAS gladius_${name})
  set_target_properties(gladius_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  target_include_directories(gladius_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                    $<INSTALL_INTERFACE:include/gladius>)
  target_link_libraries(gladius_${name} PRIVATE $<BUILD_INTERFACE:gladius_options> PUBLIC ${ARG_DEPENDS})
  target_compile_features(gladius_${name} PUBLIC cxx_std_20)
endfunction()
