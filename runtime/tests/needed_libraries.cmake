# The library starts on machines without NVIDIA's software: what it needs of that is opened
# later. Nor does it need OpenSSL, unless it was configured with the shared library.
execute_process(COMMAND ${READELF} -d ${LIBRARY} OUTPUT_VARIABLE listed COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "\\(NEEDED\\)[^\n]+" needed "${listed}")
if(NOT needed)
  message(FATAL_ERROR "nothing is needed in\n${listed}")
endif()
foreach(line IN LISTS needed)
  if(line MATCHES "nvinfer|tensorrt|cuda" OR (line MATCHES "crypto" AND CRYPTO MATCHES "\\.a$"))
    message(FATAL_ERROR "the library needs ${line}")
  endif()
endforeach()
