# Finds TensorRT's NvInfer.h and the CUDA runtime, in the system's folders or in TensorRT_ROOT and
# CUDA_ROOT.
set(TensorRT_library_name nvinfer)
include("${CMAKE_CURRENT_LIST_DIR}/ElirFindTensorRT.cmake")
