# Tests of the GStreamer element, where what they need is installed. GStreamer is not instrumented, so not for
# the thread sanitizer.
if(ELIR_SANITIZE STREQUAL "thread")
  return()
endif()
pkg_check_modules(ELIR_GST_CHECK QUIET IMPORTED_TARGET gstreamer-check-1.0 gstreamer-video-1.0)
pkg_get_variable(plugins gstreamer-1.0 pluginsdir)
if(NOT ELIR_GST_CHECK_FOUND OR NOT EXISTS "${plugins}/libgstvideotestsrc.so")
  message(STATUS "elir: no tests of elirrestore: gstreamer-check-1.0 or the plugin videotestsrc is missing")
  return()
endif()

add_library(elir_gstreamer_support OBJECT gstreamer_support.cpp)
target_link_libraries(elir_gstreamer_support PUBLIC elir_test_support PkgConfig::ELIR_GST_CHECK)
target_compile_definitions(elir_gstreamer_support PRIVATE
  ELIR_GST_ELEMENT="$<TARGET_FILE:gstelir>" ELIR_GST_PLUGINS="${plugins}")

elir_test(test_gstreamer test_backlog.cpp test_elirrestore.cpp test_elirrestore_live.cpp
  test_elirrestore_messages.cpp test_elirrestore_pipelines.cpp)
target_link_libraries(test_gstreamer PRIVATE elir_gstreamer_support elir_gstreamer_parts)
set_target_properties(test_gstreamer PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)  # pkg-config adds -pthread
add_dependencies(test_gstreamer gstelir)

find_program(gst_inspect gst-inspect-1.0)
if(gst_inspect AND NOT ELIR_SANITIZE)
  add_test(NAME installed_element COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR}
    -DWORK=${CMAKE_CURRENT_BINARY_DIR}/element -DINSPECT=${gst_inspect}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/installed_element.cmake)
endif()
