# How everything here is compiled, and how optional parts are found and added.

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
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # sees ghosts in instrumented code
    target_compile_options(elir_options INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()

# Finds what the option ELIR_WITH_<name> asks for and sets ELIR_HAS_<name>.
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

# Adds an optional part that was found: its source, if it has one, and its library.
function(elir_add_backend name source library)
  if(NOT ELIR_HAS_${name})
    return()
  endif()
  if(source)
    target_sources(elir_core PRIVATE ${source})
  endif()
  # Its headers are not ours to warn about.
  target_include_directories(elir_core SYSTEM PRIVATE
    $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
  target_compile_definitions(elir_core PRIVATE ELIR_WITH_${name})
  target_link_libraries(elir_core PUBLIC ${library})
endfunction()

# Leaves the API as the only symbols that a shared library shows: not even templates of the
# standard library, which would meet those of the application.
function(elir_hide_symbols target)
  set(script "${CMAKE_CURRENT_SOURCE_DIR}/cmake/elir.map")
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}" "LINKER:--no-undefined")
  if(ELIR_SANITIZE)
    target_link_options(${target} PRIVATE "LINKER:-z,undefs")
  endif()
  set_target_properties(${target} PROPERTIES LINK_DEPENDS "${script}")
endfunction()
