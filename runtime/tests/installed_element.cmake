# Installs the library and the element, moves them, and lets gst-inspect-1.0 find the element there.
file(REMOVE_RECURSE ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${WORK}/first ${WORK}/moved)
file(GLOB_RECURSE element ${WORK}/moved/libgstelir.so)
get_filename_component(folder "${element}" DIRECTORY)
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env GST_PLUGIN_PATH=${folder} GST_PLUGIN_SYSTEM_PATH= GST_REGISTRY=${WORK}/registry
    ${INSPECT} elirrestore
  OUTPUT_VARIABLE shown ERROR_VARIABLE shown COMMAND_ERROR_IS_FATAL ANY)
foreach(property IN ITEMS bundle backend precision device device-name faces strength sigma-s seed qos restored
    dropped)
  if(NOT shown MATCHES "\n +${property} +:")
    message(FATAL_ERROR "gst-inspect-1.0 does not show the property ${property}:\n${shown}")
  endif()
endforeach()
