// SPDX-License-Identifier: Apache-2.0
// Prints the version, attends to two tokens where there is a device, and asks for a model that is not there.
#include <winnow/attention.h>
#include <winnow/session.h>
#include <winnow/version.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
    std::printf("winnow %s\n", winnow::version().text.c_str());
    try {
        const winnow::AttentionConfig config{.n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .capacity = 64};
        winnow::SparseAttention attention({}, config, winnow::make_sparse_attention_policy("exact"));
        attention.append(std::vector<float>(128, 1.0f), std::vector<float>(128, 0.5f));
        const float mean = attention.step(std::vector<float>(64, 1.0f))[0];
        std::printf("%s: attention over equal values is %g\n", attention.device().name.c_str(), mean);
        if (std::abs(mean - 0.5f) > 1e-3f) return 1;
    } catch (const winnow::Error& error) {
        std::printf("no attention: %s\n", error.what());
        if (error.code() != winnow::ErrorCode::kNoDevice) return 1;
    }
#ifndef NO_MODELS
    try {
        winnow::Session::open("no such model.gguf", {});
        return 1;
    } catch (const winnow::Error& error) {
        std::printf("no model: %s\n", error.what());
        if (error.code() != winnow::ErrorCode::kBadFile) return 1;
    }
#endif
}
