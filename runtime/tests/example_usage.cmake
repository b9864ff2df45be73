# The usage errors of the example's command line.
function(expect expected_code expected_out expected_err)
  execute_process(COMMAND ${RESTORE} ${ARGN}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT code EQUAL expected_code OR NOT out MATCHES "^${expected_out}$" OR NOT err MATCHES "^${expected_err}$")
    message(FATAL_ERROR "${ARGN}: exit code ${code}, output:\n${out}errors:\n${err}")
  endif()
endfunction()

set(usage "usage: elir-restore-cpp .*OUTPUT.png.*\n")
expect(0 "${usage}" "" -h)
expect(0 "${usage}" "" bundle --threads 2 --help)
expect(2 "" "unknown option --verbose\n${usage}" --verbose)
expect(2 "" "--threads needs a value\n${usage}" --threads)
expect(2 "" "--threads is 2x, expected a number from 1 on\n${usage}" --threads 2x)
# The C API's values for "not set", as Python refuses them.
expect(2 "" "--seed is -1, expected a number from 0 on\n${usage}" --seed -1)
expect(2 "" "--tile-overlap is -1, expected a number from 0 on\n${usage}" --tile-overlap -1)
expect(2 "" "--sigma-s is -1, expected a number from 0 on\n${usage}" --sigma-s -1)
expect(2 "" "--long-side is 0, expected a number from 1 on\n${usage}" --long-side 0)
expect(2 "" "expected a bundle and pairs of input and output\n${usage}" bundle in.png)
expect(2 "" "--faces is some, expected auto, all, largest, centre or aligned\n${usage}" --faces some)
expect(2 "" "--scale and --background need --faces\n${usage}" --scale 2 bundle in.png out.png)
