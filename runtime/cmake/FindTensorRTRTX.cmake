# TensorRT-RTX: its NvInfer.h and the CUDA runtime; TensorRTRTX_ROOT and CUDA_ROOT say where.
set(TensorRTRTX_library_name tensorrt_rtx)
include("${CMAKE_CURRENT_LIST_DIR}/ElirFindTensorRT.cmake")
