// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <string>

namespace winnow::program {

/// The model file that `-m name` means: a path, or a file name, with or without ".gguf". A bare
/// name is looked for here, in the directories of WINNOW_MODELS (colon separated) and in
/// $XDG_DATA_HOME/winnow/models; then, with their folders, in the caches that other programs keep:
/// LLAMA_CACHE, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, $HF_HOME/hub,
/// $XDG_CACHE_HOME/huggingface/hub, $XDG_CACHE_HOME/llama.cpp and ~/.lmstudio/models. Of several
/// files of one name in a cache the newest is taken. Where there is none of this name, the one in all these places
/// whose name begins so, in whatever case, is taken.
/// @throws Error(kBadFile) when a bare name is found nowhere; a path is for the reader to complain about.
/// @throws Error(kInvalidArgument) when it is the beginning of several.
std::filesystem::path find_model(const std::string& name);

}  // namespace winnow::program
