// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "models/tokenizer.h"

namespace winnow::program {

/// Logits that --logits-out wrote, read row by row: f32 [n_rows, n_columns] in a .npy file.
class BaseLogits {
public:
    /// @throws Error(kIo) when it cannot be read, Error(kInvalidArgument) when it is something else.
    explicit BaseLogits(const std::string& path);
    std::uint64_t n_rows() const { return n_rows_; }
    std::uint64_t n_columns() const { return n_columns_; }
    /// @throws Error(kInvalidArgument) naming both numbers when the file is not of this many rows and columns.
    void check(std::uint64_t n_rows, std::uint64_t n_columns) const;
    /// Row i; valid until the next call. @throws Error(kIo).
    std::span<const float> row(std::uint64_t i);

private:
    [[noreturn]] void too_short() const;
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    std::string path_;
    std::unique_ptr<std::FILE, Close> file_;
    std::uint64_t first_byte_ = 0, n_rows_ = 0, n_columns_ = 0;
    std::vector<float> row_;
};

/// How far predictions are from those of a base, over the scored tokens.
class Divergences {
public:
    /// Logits of the base and of this run that predict `target`.
    void add(std::span<const float> base, std::span<const float> logits, TokenId target);
    std::string text() const;
    void add_to(nlohmann::json& root) const;

private:
    double mean() const;
    double quantile(double q) const;

    std::vector<double> kl_;
    double base_nll_ = 0, nll_ = 0;
    std::uint64_t n_same_top_ = 0;
};

}  // namespace winnow::program
