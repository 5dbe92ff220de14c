# SPDX-License-Identifier: Apache-2.0
# Builds GLSL into SPIR-V words that are linked into the program, with a table of all variants.
#
#   add_shader(<folder/stem> [VARIANT name] [DEFINES A=1 ...] [FEATURES float16 ...] [IF variable ...]
#              [OPTIONAL_GLSLANG] [NO_OPT] [TEXELS] [MATRICES])
#
# The variant's name is stem or stem_VARIANT. A variant with a source of its own has a second stem: folder/stem.second.comp
# becomes stem_second. FEATURES are the members of winnow::vk::Feature that the
# device must have, in snake case without the k. A variant whose IF variable is false is left out.
# OPTIONAL_GLSLANG compiles with the newer tools that WINNOW_GLSLANG and WINNOW_SPIRV_TOOLS_PREFIX
# name, where they are set. NO_OPT leaves spirv-opt out. TEXELS adds a second variant, stem_VARIANT_texel, that reads its
# buffers as texels (shaders/common/words.glsl), MATRICES one, stem_VARIANT_matrix, by cooperative matrices, where the
# newer tools know them.
#
#   glslangValidator --depfile  ->  spirv-opt -O  ->  spirv-val  ->  embed_spirv.cmake
#
# Any failing step fails the build.

find_program(WINNOW_GLSLANG_VALIDATOR NAMES glslangValidator glslang REQUIRED)
find_program(WINNOW_SPIRV_OPT spirv-opt REQUIRED)
find_program(WINNOW_SPIRV_VAL spirv-val REQUIRED)
set(WINNOW_GLSLANG "" CACHE FILEPATH
    "Newer glslang for shaders that the installed one cannot compile (cooperative matrix); empty: the installed one")
set(WINNOW_SPIRV_TOOLS_PREFIX "" CACHE PATH
    "Prefix with bin/spirv-opt and bin/spirv-val for those shaders; empty: the installed ones")

set(WINNOW_SHADER_ROOT ${PROJECT_SOURCE_DIR}/shaders)
set(WINNOW_SHADER_SCRIPTS ${CMAKE_CURRENT_LIST_DIR})
set(WINNOW_SHADER_OUT ${PROJECT_BINARY_DIR}/shaders)
set(WINNOW_SHADER_FEATURES float16 integer_dot cooperative_matrix subgroup_size_control timestamps texel_loads)
set_property(GLOBAL PROPERTY WINNOW_SHADER_NAMES "")

# Command line of a tool outside the system's folders: its libraries lie beside it (as in a PyPI wheel).
function(_winnow_tool out program)
    set(command ${program})
    get_filename_component(folder ${program} DIRECTORY)
    get_filename_component(libraries ${folder}/../lib ABSOLUTE)
    if(NOT folder MATCHES "^/usr/" AND IS_DIRECTORY ${libraries})
        set(command ${CMAKE_COMMAND} -E env "LD_LIBRARY_PATH=${libraries}:$ENV{LD_LIBRARY_PATH}" ${program})
    endif()
    set(${out} ${command} PARENT_SCOPE)
endfunction()

_winnow_tool(_glslang ${WINNOW_GLSLANG_VALIDATOR})
_winnow_tool(_spirv_opt ${WINNOW_SPIRV_OPT})
_winnow_tool(_spirv_val ${WINNOW_SPIRV_VAL})
set(_newer_glslang ${_glslang})
set(_newer_spirv_opt ${_spirv_opt})
set(_newer_spirv_val ${_spirv_val})
if(WINNOW_GLSLANG)
    _winnow_tool(_newer_glslang ${WINNOW_GLSLANG})
endif()
if(WINNOW_SPIRV_TOOLS_PREFIX)
    _winnow_tool(_newer_spirv_opt ${WINNOW_SPIRV_TOOLS_PREFIX}/bin/spirv-opt)
    _winnow_tool(_newer_spirv_val ${WINNOW_SPIRV_TOOLS_PREFIX}/bin/spirv-val)
endif()

# Whether shaders/probes/<name>.comp passes glslang (with these flags) and spirv-val. By exit status
# only: error texts change from release to release.
function(_probe_shader out name glslang spirv_val)
    set(source ${WINNOW_SHADER_ROOT}/probes/${name}.comp)
    set(binary ${WINNOW_SHADER_OUT}/probes/${name}.spv)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    file(MAKE_DIRECTORY ${WINNOW_SHADER_OUT}/probes)
    set(${out} FALSE PARENT_SCOPE)
    execute_process(
        COMMAND ${${glslang}} -V ${ARGN} --target-env vulkan1.2 -o ${binary} ${source}
        RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
    if(status EQUAL 0)
        execute_process(
            COMMAND ${${spirv_val}} --target-env vulkan1.2 --scalar-block-layout ${binary}
            RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
        if(status EQUAL 0)
            set(${out} TRUE PARENT_SCOPE)
        endif()
    endif()
endfunction()

# probe_glsl_extension(<extension> <variable>): whether the newer tools know the extension.
function(probe_glsl_extension extension variable)
    _probe_shader(passes ${extension} _newer_glslang _newer_spirv_val)
    set(${variable} ${passes} PARENT_SCOPE)
    if(passes)
        message(STATUS "GLSL ${extension}: yes")
    else()
        message(STATUS "GLSL ${extension}: no, its shader variants are left out")
    endif()
endfunction()

# With -gVS captures show the source; where that fails, -g keeps at least names and lines.
set(_debug_flags "")
set(_newer_debug_flags "")
if(WINNOW_SHADER_DEBUG)
    set(_debug_flags -g)
    set(_newer_debug_flags -g)
    _probe_shader(_passes debug_info _glslang _spirv_val -gVS)
    if(_passes)
        set(_debug_flags -gVS)
    endif()
    _probe_shader(_passes GL_KHR_cooperative_matrix _newer_glslang _newer_spirv_val -gVS)
    if(_passes)
        set(_newer_debug_flags -gVS)
    endif()
endif()

function(add_shader source)
    cmake_parse_arguments(arg "OPTIONAL_GLSLANG;NO_OPT;TEXELS;MATRICES" "VARIANT" "DEFINES;FEATURES;IF" ${ARGN})
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "add_shader(${source}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
    endif()
    foreach(condition ${arg_IF})
        if(NOT ${condition})
            return()
        endif()
    endforeach()

    get_filename_component(name ${source} NAME)
    string(REPLACE "." "_" name ${name})
    if(arg_VARIANT)
        string(APPEND name "_${arg_VARIANT}")
    endif()
    get_property(names GLOBAL PROPERTY WINNOW_SHADER_NAMES)
    if(name IN_LIST names)
        message(FATAL_ERROR "add_shader(${source}): there is already a shader ${name}")
    endif()

    set(features "0u")
    foreach(feature ${arg_FEATURES})
        if(NOT feature IN_LIST WINNOW_SHADER_FEATURES)
            message(FATAL_ERROR "add_shader(${source}): unknown feature ${feature}; "
                                "known: ${WINNOW_SHADER_FEATURES}")
        endif()
        set(enumerator "k")
        string(REPLACE "_" ";" words ${feature})
        foreach(word ${words})
            string(SUBSTRING ${word} 0 1 first)
            string(TOUPPER ${first} first)
            string(SUBSTRING ${word} 1 -1 rest)
            string(APPEND enumerator "${first}${rest}")
        endforeach()
        string(APPEND features " | static_cast<std::uint32_t>(Feature::${enumerator})")
    endforeach()

    set(kind "")
    if(arg_OPTIONAL_GLSLANG)
        set(kind "_newer")
    endif()
    set(defines ${arg_DEFINES})
    list(TRANSFORM defines PREPEND "-D")

    set(file ${WINNOW_SHADER_ROOT}/${source}.comp)
    set(raw ${WINNOW_SHADER_OUT}/spirv/${name}.raw.spv)
    set(final ${WINNOW_SHADER_OUT}/spirv/${name}.spv)
    set(embedded ${WINNOW_SHADER_OUT}/embedded/${name}.cpp)
    file(MAKE_DIRECTORY ${WINNOW_SHADER_OUT}/spirv ${WINNOW_SHADER_OUT}/embedded)

    add_custom_command(
        OUTPUT ${raw}
        COMMAND ${${kind}_glslang} -V --quiet ${${kind}_debug_flags} --target-env vulkan1.2
                -I${PROJECT_SOURCE_DIR} ${defines} --depfile ${raw}.d -o ${raw} ${file}
        DEPENDS ${file}
        DEPFILE ${raw}.d
        COMMENT "glslang ${name}"
        VERBATIM)
    if(arg_NO_OPT OR WINNOW_SHADER_DEBUG)
        set(optimise ${CMAKE_COMMAND} -E copy ${raw} ${final})
    else()
        set(optimise ${${kind}_spirv_opt} --target-env=vulkan1.2 -O ${raw} -o ${final})
    endif()
    add_custom_command(
        OUTPUT ${embedded}
        BYPRODUCTS ${final}
        COMMAND ${optimise}
        COMMAND ${${kind}_spirv_val} --target-env vulkan1.2 --scalar-block-layout ${final}
        COMMAND ${CMAKE_COMMAND} -DNAME=${name} -DSOURCE=shaders/${source}.comp -DSPIRV=${final}
                -DFEATURES=${features} -DOUTPUT=${embedded} -P ${WINNOW_SHADER_SCRIPTS}/embed_spirv.cmake
        DEPENDS ${raw} ${WINNOW_SHADER_SCRIPTS}/embed_spirv.cmake
        COMMENT "spirv-opt, spirv-val, embed ${name}"
        VERBATIM)
    set_property(GLOBAL APPEND PROPERTY WINNOW_SHADER_NAMES ${name})

    if(arg_TEXELS)
        if(arg_OPTIONAL_GLSLANG OR arg_NO_OPT OR arg_IF)
            message(FATAL_ERROR "add_shader(${source}): TEXELS goes with VARIANT, DEFINES and FEATURES only")
        endif()
        set(variant texel)
        if(arg_VARIANT)
            set(variant ${arg_VARIANT}_texel)
        endif()
        add_shader(${source} VARIANT ${variant} DEFINES ${arg_DEFINES} WINNOW_TEXELS=1
                   FEATURES ${arg_FEATURES} texel_loads)
    endif()
    if(arg_MATRICES)
        add_shader(${source} VARIANT ${arg_VARIANT}_matrix DEFINES ${arg_DEFINES} WINNOW_MATRICES=1 OPTIONAL_GLSLANG
                   FEATURES ${arg_FEATURES} float16 cooperative_matrix IF WINNOW_GLSL_COOPMAT)
    endif()
endfunction()

# Makes the library target from everything that add_shader() has named.
function(generate_shader_library target)
    get_property(names GLOBAL PROPERTY WINNOW_SHADER_NAMES)
    list(SORT names)
    list(LENGTH names n_shaders)
    set(declarations "")
    set(entries "")
    set(sources "")
    foreach(name ${names})
        string(APPEND declarations "extern const ShaderVariant ${name};\n")
        string(APPEND entries "        embedded::${name},\n")
        list(APPEND sources ${WINNOW_SHADER_OUT}/embedded/${name}.cpp)
    endforeach()
    configure_file(${WINNOW_SHADER_SCRIPTS}/registry.cpp.in ${WINNOW_SHADER_OUT}/registry.cpp @ONLY)
    add_library(${target} STATIC ${sources} ${WINNOW_SHADER_OUT}/registry.cpp)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
    message(STATUS "Shader variants: ${n_shaders}")
endfunction()
