# Installation, with files for find_package(elir) and pkg-config.
include(CMakePackageConfigHelpers)

install(TARGETS elir EXPORT elir
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/elir DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

set(elir_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/elir")
install(EXPORT elir NAMESPACE elir:: FILE elirTargets.cmake DESTINATION ${elir_cmake_dir})
configure_package_config_file(cmake/elirConfig.cmake.in elirConfig.cmake
  INSTALL_DESTINATION ${elir_cmake_dir})
# Before 1.0 a new minor version may change the ABI.
write_basic_package_version_file(elirConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/elirConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/elirConfigVersion.cmake"
  DESTINATION ${elir_cmake_dir})

# Relative to elir.pc, so that the installed copy can be moved.
file(RELATIVE_PATH ELIR_PC_TO_PREFIX
  "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file(cmake/elir.pc.in elir.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/elir.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
