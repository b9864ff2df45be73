# Shared by FindTensorRT and FindTensorRTRTX: finds the header, and the folder of the library, which is
# opened at run time.
set(_name ${CMAKE_FIND_PACKAGE_NAME})
find_path(${_name}_INCLUDE_DIR NvInfer.h PATH_SUFFIXES include)
find_library(${_name}_LIBRARY ${${_name}_library_name} PATH_SUFFIXES lib)
find_path(CUDART_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDA_ROOT} ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES include)
# Preferably static, so that libelir loads without CUDA: without a driver, its functions return an error.
find_library(CUDART_LIBRARY NAMES cudart_static cudart
  HINTS ${CUDA_ROOT} ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES lib64 lib)

# Both headers are named NvInfer.h, so check which of the two this is.
set(${_name}_HEADER_MATCHES OFF)
if(EXISTS "${${_name}_INCLUDE_DIR}/NvInferVersion.h")
  file(STRINGS "${${_name}_INCLUDE_DIR}/NvInferVersion.h" _rtx REGEX "define TRT_MAJOR_RTX")
  if((_rtx AND _name STREQUAL "TensorRTRTX") OR (NOT _rtx AND _name STREQUAL "TensorRT"))
    set(${_name}_HEADER_MATCHES ON)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(${_name} DEFAULT_MSG
  ${_name}_INCLUDE_DIR ${_name}_HEADER_MATCHES CUDART_LIBRARY CUDART_INCLUDE_DIR)

if(${_name}_FOUND AND NOT TARGET ${_name}::${_name})
  add_library(${_name}::${_name} INTERFACE IMPORTED)
  set_target_properties(${_name}::${_name} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${${_name}_INCLUDE_DIR};${CUDART_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${CUDART_LIBRARY};Threads::Threads;${CMAKE_DL_LIBS};rt")
endif()
mark_as_advanced(${_name}_INCLUDE_DIR ${_name}_LIBRARY CUDART_INCLUDE_DIR CUDART_LIBRARY)
unset(_name)
unset(_rtx)
