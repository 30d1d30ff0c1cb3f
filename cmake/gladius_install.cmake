# cmake --install: the libraries, their headers under include/gladius (the folders keep their names, so that programs
# write #include "engine/tensor.h"), and the CMake package with the target gladius::gladius.
include(CMakePackageConfigHelpers)

set(folders kernels engine model export train eval)
add_library(gladius_all INTERFACE)
add_library(gladius::gladius ALIAS gladius_all)
set_target_properties(gladius_all PROPERTIES EXPORT_NAME gladius)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/gladius)
foreach(folder IN LISTS folders)
  target_link_libraries(gladius_all INTERFACE gladius_${folder})
  install(TARGETS gladius_${folder} EXPORT gladius ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gladius
          FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE PATTERN "isa" EXCLUDE)
endforeach()
install(TARGETS gladius_all EXPORT gladius)
install(EXPORT gladius NAMESPACE gladius:: FILE gladius-targets.cmake DESTINATION ${package_folder})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/gladius-config.cmake.in ${PROJECT_BINARY_DIR}/gladius-config.cmake
                              INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/gladius-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gladius-config.cmake ${PROJECT_BINARY_DIR}/gladius-config-version.cmake
        DESTINATION ${package_folder})
