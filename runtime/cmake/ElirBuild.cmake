# Compiler options, and functions that find and add optional parts.

add_library(elir_options INTERFACE)
target_compile_features(elir_options INTERFACE cxx_std_17)
# -ffp-contract=off: resampling weights must be the same to the last bit on every processor.
target_compile_options(elir_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -ffp-contract=off -fvisibility=hidden)
if(ELIR_WERROR)
  target_compile_options(elir_options INTERFACE -Werror)
endif()
if(ELIR_SANITIZE)
  target_compile_options(elir_options INTERFACE
    -fsanitize=${ELIR_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(elir_options INTERFACE -fsanitize=${ELIR_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # false positives in instrumented code
    target_compile_options(elir_options INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()

# Finds the package for the option ELIR_WITH_<name> and sets ELIR_HAS_<name>.
macro(elir_find name)
  set(ELIR_HAS_${name} OFF)
  if(ELIR_WITH_${name} STREQUAL "AUTO")
    find_package(${ARGN} QUIET)
  elseif(ELIR_WITH_${name})
    find_package(${ARGN} REQUIRED)
  endif()
  if(ELIR_WITH_${name} AND ${ARGV1}_FOUND)
    set(ELIR_HAS_${name} ON)
  endif()
  message(STATUS "elir: ${ARGV1} ${ELIR_HAS_${name}}")
endmacro()

# Adds an optional part, if it is available: its sources, if any, and its library.
function(elir_add_backend name sources library)
  if(NOT ELIR_HAS_${name})
    return()
  endif()
  if(sources)
    target_sources(elir_core PRIVATE ${sources})
  endif()
  # SYSTEM: no warnings for its headers.
  target_include_directories(elir_core SYSTEM PRIVATE
    $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
  target_compile_definitions(elir_core PRIVATE ELIR_WITH_${name})
  target_link_libraries(elir_core PUBLIC ${library})
endfunction()

# Adds the object library `target` of src/backends/tensorrt.cpp for TensorRT or TensorRT-RTX (`kind`),
# with the include folders of the further arguments.
function(elir_compile_tensorrt target kind)
  add_library(${target} OBJECT "${PROJECT_SOURCE_DIR}/src/backends/tensorrt.cpp")
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/include")
  target_include_directories(${target} SYSTEM PRIVATE ${ARGN})
  target_link_libraries(${target} PRIVATE elir_options)
  target_compile_definitions(${target} PRIVATE ELIR_${kind})
endfunction()

# Adds one of the two backends, if available. Their headers have the same names, so each is compiled
# separately.
function(elir_add_tensorrt kind package)
  if(NOT ELIR_HAS_${kind})
    return()
  endif()
  set(library ${package}::${package})
  elir_compile_tensorrt(elir_${kind} ${kind}
    $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
  target_sources(elir_core INTERFACE $<TARGET_OBJECTS:elir_${kind}>)
  target_compile_definitions(elir_core PRIVATE ELIR_WITH_${kind})
  target_link_libraries(elir_core INTERFACE $<TARGET_PROPERTY:${library},INTERFACE_LINK_LIBRARIES>)
endfunction()

# Adds the folders of the libraries that CMake found to the RPATH of `target`.
function(elir_search_tensorrt target)
  foreach(library IN ITEMS ${TensorRT_LIBRARY} ${TensorRTRTX_LIBRARY})
    get_filename_component(folder "${library}" DIRECTORY)
    if(library AND NOT folder IN_LIST CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES)
      set_property(TARGET ${target} APPEND PROPERTY BUILD_RPATH "${folder}")
      set_property(TARGET ${target} APPEND PROPERTY INSTALL_RPATH "${folder}")
    endif()
  endforeach()
endfunction()

# Exports only the API from a shared library: not even templates of the standard library, which
# would conflict with the application's.
function(elir_hide_symbols target)
  set(script "${CMAKE_CURRENT_SOURCE_DIR}/cmake/elir.map")
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}" "LINKER:--no-undefined")
  if(ELIR_SANITIZE)
    target_link_options(${target} PRIVATE "LINKER:-z,undefs")
  endif()
  set_target_properties(${target} PROPERTIES LINK_DEPENDS "${script}")
endfunction()
