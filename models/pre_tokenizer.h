// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

/// Cuts text into the pieces that byte-level BPE may not merge across. Immutable; thread-safe.
class PreTokenizer {
public:
    /// @param name value of tokenizer.ggml.pre. @throws Error(kBadFile) listing the known names.
    explicit PreTokenizer(std::string_view name);
    ~PreTokenizer();
    PreTokenizer(PreTokenizer&& other) noexcept;
    PreTokenizer& operator=(PreTokenizer&& other) noexcept;

    /// Views into `text`, in order and without gaps. A run of invalid UTF-8 is a piece of its own.
    std::vector<std::string_view> split(std::string_view text) const;

    bool ignores_merges() const { return ignores_merges_; }  ///< whole pieces are looked up first
    bool adds_bos() const { return adds_bos_; }              ///< unless the file says otherwise

    static std::vector<std::string_view> names();

private:
    class Regex;
    std::vector<Regex> regexes_;  ///< applied one after another
    bool ignores_merges_ = false;
    bool adds_bos_ = false;
};

}  // namespace winnow
