# SPDX-License-Identifier: Apache-2.0
# Writes OUTPUT: the words of SPIRV as a constant array with the variant's NAME and FEATURES.
file(READ ${SPIRV} bytes HEX)
string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1," words "${bytes}")
string(REGEX REPLACE "((0x........,)(0x........,)(0x........,)(0x........,)(0x........,)(0x........,))"
       "\\1\n    " words "${words}")
file(WRITE ${OUTPUT} "// SPDX-License-Identifier: Apache-2.0
// Generated from ${SOURCE}; do not edit.
#include \"runtime/vk/shader_registry.h\"

namespace winnow::vk::embedded {
namespace {
constexpr std::uint32_t kWords[] = {
    ${words}
};
}  // namespace
extern const ShaderVariant ${NAME};
constinit const ShaderVariant ${NAME}{\"${NAME}\", kWords, FeatureSet(${FEATURES})};
}  // namespace winnow::vk::embedded
")
