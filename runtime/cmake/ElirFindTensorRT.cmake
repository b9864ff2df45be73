# What FindTensorRT and FindTensorRTRTX have in common.
set(_name ${CMAKE_FIND_PACKAGE_NAME})
find_path(${_name}_INCLUDE_DIR NvInfer.h PATH_SUFFIXES include)
find_library(${_name}_LIBRARY ${${_name}_library_name} PATH_SUFFIXES lib)
find_path(CUDART_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDA_ROOT} ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES include)
find_library(CUDART_LIBRARY cudart
  HINTS ${CUDA_ROOT} ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES lib64 lib)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(${_name} DEFAULT_MSG
  ${_name}_LIBRARY ${_name}_INCLUDE_DIR CUDART_LIBRARY CUDART_INCLUDE_DIR)

if(${_name}_FOUND AND NOT TARGET ${_name}::${_name})
  add_library(${_name}::${_name} UNKNOWN IMPORTED)
  set_target_properties(${_name}::${_name} PROPERTIES
    IMPORTED_LOCATION "${${_name}_LIBRARY}"
    INTERFACE_LINK_LIBRARIES "${CUDART_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${${_name}_INCLUDE_DIR};${CUDART_INCLUDE_DIR}")
endif()
unset(_name)
