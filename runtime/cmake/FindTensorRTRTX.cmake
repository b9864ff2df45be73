# Finds TensorRT-RTX's NvInfer.h and the CUDA runtime, in TensorRTRTX_ROOT and CUDA_ROOT.
set(TensorRTRTX_library_name tensorrt_rtx)
include("${CMAKE_CURRENT_LIST_DIR}/ElirFindTensorRT.cmake")
