# Installs the library, moves the installed copy, and uses it from a project outside the tree by
# find_package and by pkg-config.
file(REMOVE_RECURSE ${WORK})
macro(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endmacro()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
file(RENAME ${WORK}/first ${WORK}/moved)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${WORK}/moved)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/outside)

find_program(pkg_config pkg-config)
if(pkg_config)
  file(GLOB_RECURSE pc ${WORK}/moved/*/elir.pc)
  get_filename_component(folder ${pc} DIRECTORY)
  run(${CMAKE_COMMAND} -E env PKG_CONFIG_PATH=${folder} sh -c
    "c++ -std=c++17 ${SOURCE}/main.cpp -o ${WORK}/by_pkg_config $(pkg-config --cflags --libs elir) -Wl,-rpath,${folder}/..")
  run(${WORK}/by_pkg_config)
endif()
