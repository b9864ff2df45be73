# Finds GStreamer's library for video. pkg-config tells where it is; when compiling for another machine
# only if PKG_CONFIG_LIBDIR says where that machine's are.
set(GStreamer_VERSION_NEEDED 1.18)  # gst_element_get_current_running_time
if(NOT CMAKE_CROSSCOMPILING OR DEFINED ENV{PKG_CONFIG_LIBDIR})
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(GStreamer_VIDEO QUIET IMPORTED_TARGET
      "gstreamer-video-1.0>=${GStreamer_VERSION_NEEDED}")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(GStreamer
  REQUIRED_VARS GStreamer_VIDEO_LIBRARIES VERSION_VAR GStreamer_VIDEO_VERSION)

if(GStreamer_FOUND AND NOT TARGET GStreamer::GStreamer)
  add_library(GStreamer::GStreamer ALIAS PkgConfig::GStreamer_VIDEO)
endif()
