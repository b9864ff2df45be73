# The library depends on none of NVIDIA's libraries, which are opened at run time, and not on OpenSSL
# unless it was configured with the shared library.
execute_process(COMMAND ${READELF} -d ${LIBRARY} OUTPUT_VARIABLE listed COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "\\(NEEDED\\)[^\n]+" needed "${listed}")
if(NOT needed)
  message(FATAL_ERROR "no dependency found in\n${listed}")
endif()
foreach(line IN LISTS needed)
  if(line MATCHES "nvinfer|tensorrt|cuda" OR (line MATCHES "crypto" AND CRYPTO MATCHES "\\.a$"))
    message(FATAL_ERROR "the library depends on ${line}")
  endif()
endforeach()
