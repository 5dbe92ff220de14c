# SPDX-License-Identifier: Apache-2.0
# Installs the build, moves what was installed, and builds and runs a program that finds it there with find_package; then
# configures the same program with the repository as a folder of it.
#
#   cmake -DROOT=<repository> -DBUILD=<build folder> -DVERSION=<the project's> -P package_test.cmake
cmake_minimum_required(VERSION 3.22)
set(work ${BUILD}/package_test)
set(prefix ${work}/moved)
file(REMOVE_RECURSE ${work})

function(run)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "${ARGN}: ${status}\n${output}")
    endif()
    set(output "${output}" PARENT_SCOPE)
endfunction()
# As the build does it: generator, compilers, and the newer shader compiler where it has one.
load_cache(${BUILD} READ_WITH_PREFIX of_
    CMAKE_GENERATOR CMAKE_C_COMPILER CMAKE_CXX_COMPILER CMAKE_BUILD_TYPE WINNOW_GLSLANG WINNOW_SPIRV_TOOLS_PREFIX)
function(configure folder)
    run(${CMAKE_COMMAND} -S ${ROOT}/tests/package -B ${work}/${folder} -G ${of_CMAKE_GENERATOR} ${ARGN}
        -DCMAKE_C_COMPILER=${of_CMAKE_C_COMPILER} -DCMAKE_CXX_COMPILER=${of_CMAKE_CXX_COMPILER}
        -DCMAKE_BUILD_TYPE=${of_CMAKE_BUILD_TYPE})
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/installed)
file(RENAME ${work}/installed ${prefix})
run(${prefix}/bin/winnow --version)
if(NOT output MATCHES "^winnow ${VERSION} ")
    message(FATAL_ERROR "winnow --version says ${output}")
endif()
file(GLOB_RECURSE of_package ${prefix}/*.cmake)
foreach(file ${of_package})
    file(READ ${file} text)
    string(FIND "${text}" "${ROOT}" at)
    if(NOT at EQUAL -1)
        message(FATAL_ERROR "${file} names ${ROOT}, which is not there on another machine")
    endif()
endforeach()

configure(found -DCMAKE_PREFIX_PATH=${prefix} -DVERSION=${VERSION})
run(${CMAKE_COMMAND} --build ${work}/found)
foreach(program embeds_winnow embeds_runtime)
    run(${work}/found/${program})
    message(STATUS "${program}: ${output}")
    if(NOT output MATCHES "^winnow ${VERSION}\n")
        message(FATAL_ERROR "${program} is not of version ${VERSION}")
    endif()
endforeach()
configure(within -DSOURCE=${ROOT} -DWINNOW_GLSLANG=${of_WINNOW_GLSLANG}
    -DWINNOW_SPIRV_TOOLS_PREFIX=${of_WINNOW_SPIRV_TOOLS_PREFIX})
file(REMOVE_RECURSE ${work})
