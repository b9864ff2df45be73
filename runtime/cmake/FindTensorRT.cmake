# TensorRT: NvInfer.h and the CUDA runtime. Both of JetPack, of Debian packages and of the archives;
# or where TensorRT_ROOT and CUDA_ROOT point.
set(TensorRT_library_name nvinfer)
include("${CMAKE_CURRENT_LIST_DIR}/ElirFindTensorRT.cmake")
