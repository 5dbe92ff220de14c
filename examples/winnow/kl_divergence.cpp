// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/kl_divergence.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "examples/winnow/scoring.h"
#include "winnow/error.h"

namespace winnow::program {

BaseLogits::BaseLogits(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rbe")) {
    if (!file_) throw Error(ErrorCode::kIo, fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
    const auto require = [&path](bool condition) {
        if (!condition)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("'{}' has no logits: write them with perplexity --logits-out", path));
    };
    unsigned char start[10];
    require(std::fread(start, 1, sizeof start, file_.get()) == sizeof start);
    require(std::memcmp(start, "\x93NUMPY\x01\x00", 8) == 0);
    std::string header(start[8] + 256u * start[9], '\0');
    require(std::fread(header.data(), 1, header.size(), file_.get()) == header.size());
    require(header.find("'descr': '<f4', 'fortran_order': False") != std::string::npos);
    const std::size_t shape = header.find("'shape': (");
    unsigned long long rows = 0, columns = 0;
    require(shape != std::string::npos);
    require(std::sscanf(header.c_str() + shape, "'shape': (%llu, %llu)", &rows, &columns) == 2);
    first_byte_ = sizeof start + header.size();
    n_rows_ = rows;
    n_columns_ = columns;
    require(n_columns_ > 0 && n_columns_ < (1u << 30));
    // Before anything is allocated by what the header claims.
    struct stat status = {};
    if (fstat(fileno(file_.get()), &status) != 0)
        throw Error(ErrorCode::kIo, fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
    const std::uint64_t n_bytes = static_cast<std::uint64_t>(status.st_size);
    if (n_bytes < first_byte_ || (n_bytes - first_byte_) / sizeof(float) / n_columns_ < n_rows_) too_short();
    row_.resize(n_columns_);
}

void BaseLogits::too_short() const {
    throw Error(ErrorCode::kIo, fmt::format("'{}' ends too early: write it again", path_));
}

void BaseLogits::check(std::uint64_t n_rows, std::uint64_t n_columns) const {
    if (n_rows == n_rows_ && n_columns == n_columns_) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("'{}' has logits of {} tokens and {} ids, here are {} and {}: use the same text, -c, "
                            "--windows and vocabulary",
                            path_, n_rows_, n_columns_, n_rows, n_columns));
}

std::span<const float> BaseLogits::row(std::uint64_t i) {
    const std::uint64_t at = first_byte_ + i * n_columns_ * sizeof(float);
    if (fseeko(file_.get(), static_cast<off_t>(at), SEEK_SET) != 0 ||
        std::fread(row_.data(), sizeof(float), row_.size(), file_.get()) != row_.size())
        too_short();
    return row_;
}

void Divergences::add(std::span<const float> base, std::span<const float> logits, TokenId target) {
    const double base_lse = log_sum_exp(base), lse = log_sum_exp(logits);
    kl_.push_back(divergence(base, base_lse, logits, lse));
    base_nll_ += negative_log_likelihood(base, base_lse, target);
    nll_ += negative_log_likelihood(logits, lse, target);
    const auto top = [](std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); };
    n_same_top_ += top(base) == top(logits) ? 1 : 0;
}

double Divergences::mean() const {
    double sum = 0;
    for (const double kl : kl_) sum += kl;
    return sum / static_cast<double>(kl_.size());
}

double Divergences::quantile(double q) const {
    std::vector<double> sorted = kl_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))];
}

std::string Divergences::text() const {
    const auto n = static_cast<double>(kl_.size());
    return fmt::format(
        "KL(base || this) mean {:.6f}, median {:.6f}, 99 % {:.6f}, maximum {:.6f}; PPL of the base {:.4f}, difference "
        "{:+.5f} nats; same best token {:.2f} %\n",
        mean(), quantile(0.5), quantile(0.99), quantile(1), std::exp(base_nll_ / n), (nll_ - base_nll_) / n,
        100 * static_cast<double>(n_same_top_) / n);
}

void Divergences::add_to(nlohmann::json& root) const {
    const auto n = static_cast<double>(kl_.size());
    root["kl_base_mean"] = mean();
    root["kl_base_median"] = quantile(0.5);
    root["kl_base_p99"] = quantile(0.99);
    root["kl_base_max"] = quantile(1);
    root["ppl_base"] = std::exp(base_nll_ / n);
    root["nll_delta_base"] = (nll_ - base_nll_) / n;
    root["top1_agree_base"] = static_cast<double>(n_same_top_) / n;
}

}  // namespace winnow::program
