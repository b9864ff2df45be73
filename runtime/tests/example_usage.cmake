# What the example's command line answers before it opens a bundle.
function(expect code_wanted out_wanted err_wanted)
  execute_process(COMMAND ${RESTORE} ${ARGN}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT code EQUAL code_wanted OR NOT out MATCHES "^${out_wanted}$" OR NOT err MATCHES "^${err_wanted}$")
    message(FATAL_ERROR "${ARGN}: exit code ${code}, output:\n${out}errors:\n${err}")
  endif()
endfunction()

set(usage "usage: elir-restore-cpp .*OUTPUT.png.*\n")
expect(0 "${usage}" "" -h)
expect(0 "${usage}" "" bundle --threads 2 --help)
expect(2 "" "no option --verbose\n${usage}" --verbose)
expect(2 "" "--threads lacks its value\n${usage}" --threads)
expect(2 "" "--threads is 2x, wanted a number\n${usage}" --threads 2x)
expect(2 "" "wanted a bundle and pairs of input and output\n${usage}" bundle in.png)
