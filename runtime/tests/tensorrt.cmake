# The TensorRT backends with stand-ins for headers and for libraries, which are opened at run time.
set(stand_in "${CMAKE_CURRENT_SOURCE_DIR}/stand_in")

# Builds a stand-in for a vendor's library as `folder`/`file`.
function(elir_stand_in folder file source)
  set(target stand_in_${folder}_${file})
  add_library(${target} SHARED ${source})
  target_include_directories(${target} PRIVATE "${stand_in}")
  target_compile_definitions(${target} PRIVATE ${ARGN})
  target_link_libraries(${target} PRIVATE elir_options)
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX "" OUTPUT_NAME ${file}
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/stand_in/${folder}")
endfunction()

elir_stand_in(good libnvinfer.so.10 stand_in/nvinfer.cpp)
elir_stand_in(good libtensorrt_rtx.so.1 stand_in/nvinfer.cpp STAND_IN_RTX)
elir_stand_in(other libnvinfer.so.10 stand_in/nvinfer.cpp STAND_IN_RELEASE=110000)
elir_stand_in(other libtensorrt_rtx.so.1 stand_in/nvinfer.cpp STAND_IN_RTX STAND_IN_RELEASE=20100)
elir_stand_in(empty libnvinfer.so.10 stand_in/empty.cpp)
elir_stand_in(empty libtensorrt_rtx.so.1 stand_in/empty.cpp)

elir_compile_tensorrt(stand_in_tensorrt TENSORRT "${stand_in}")
elir_compile_tensorrt(stand_in_tensorrt_rtx TENSORRT_RTX "${stand_in}")
target_compile_definitions(stand_in_tensorrt_rtx PRIVATE STAND_IN_RTX)
set(both $<TARGET_OBJECTS:stand_in_tensorrt> $<TARGET_OBJECTS:stand_in_tensorrt_rtx>)

elir_test(test_tensorrt test_tensorrt.cpp test_device_images.cpp test_tensorrt_detector.cpp ${both})
target_include_directories(test_tensorrt BEFORE PRIVATE stand_in)
set_property(TARGET test_tensorrt APPEND PROPERTY
  BUILD_RPATH "${CMAKE_CURRENT_BINARY_DIR}/stand_in/good")
add_dependencies(test_tensorrt stand_in_good_libnvinfer.so.10 stand_in_good_libtensorrt_rtx.so.1)

add_executable(tensorrt_available stand_in/available.cpp ${both})
target_link_libraries(tensorrt_available PRIVATE elir_test_support)
foreach(case IN ITEMS
    "good|tensorrt: available\ntensorrt-rtx: available"
    "other|tensorrt 11.0.0 is installed, expected release 10\n.*tensorrt-rtx 2.1.0 is installed, expected release 1\n"
    "empty|tensorrt cannot be loaded .*undefined symbol: .*tensorrt-rtx cannot be loaded .*undefined symbol: "
    "none|tensorrt cannot be loaded .libnvinfer.so.10: cannot open .*rtx cannot be loaded .libtensorrt_rtx.so.1: cannot open ")
  string(REPLACE "|" ";" case "${case}")
  list(GET case 0 folder)
  list(GET case 1 output)
  add_test(NAME tensorrt_library.${folder} COMMAND tensorrt_available)
  set_tests_properties(tensorrt_library.${folder} PROPERTIES
    ENVIRONMENT "LD_LIBRARY_PATH=${CMAKE_CURRENT_BINARY_DIR}/stand_in/${folder}"
    PASS_REGULAR_EXPRESSION "${output}")
endforeach()
