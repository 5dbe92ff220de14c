// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/attention_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace winnow {

Rows head_rows(std::span<const std::uint16_t> halves, std::uint32_t n_heads, std::uint32_t head,
               std::uint32_t head_dim) {
    const std::size_t row = std::size_t{n_heads} * head_dim;
    Rows out(static_cast<Eigen::Index>(halves.size() / row), head_dim);
    for (Eigen::Index t = 0; t < out.rows(); ++t) {
        const std::uint16_t* from = halves.data() + static_cast<std::size_t>(t) * row + head * head_dim;
        for (std::uint32_t i = 0; i < head_dim; ++i)
            out(t, i) = static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(from[i]));
    }
    return out;
}

QuerySample::QuerySample(const ModelShape& shape, std::vector<std::uint32_t> positions)
    : n_heads_(shape.n_heads), head_dim_(shape.head_dim), positions_(std::move(positions)) {
    layers_.assign(shape.n_layers, std::vector<std::uint16_t>(positions_.size() * shape.q_dim(), 0));
}

void QuerySample::collect(std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries) {
    const std::size_t row = std::size_t{n_heads_} * head_dim_;
    const auto end = static_cast<std::uint32_t>(first + queries.size() / row);
    auto at = std::lower_bound(positions_.begin(), positions_.end(), first);
    for (; at != positions_.end() && *at < end; ++at)
        std::copy_n(queries.begin() + static_cast<std::ptrdiff_t>((*at - first) * row), row,
                    layers_[layer].begin() + (at - positions_.begin()) * static_cast<std::ptrdiff_t>(row));
}

Rows QuerySample::queries(std::uint32_t layer, std::uint32_t head) const {
    return head_rows(layers_[layer], n_heads_, head, head_dim_);
}

Rows attention(const Rows& queries, const Rows& keys, const std::vector<std::uint32_t>& positions) {
    Rows p = queries * keys.transpose();
    for (Eigen::Index r = 0; r < p.rows(); ++r) {
        const auto n = static_cast<Eigen::Index>(positions[static_cast<std::size_t>(r)]) + 1;
        auto seen = p.row(r).head(n);
        seen = (seen.array() - seen.maxCoeff()).exp().matrix();
        seen /= seen.sum();
        p.row(r).tail(p.cols() - n).setZero();
    }
    return p;
}

RepeatScores score_repeats(const Rows& attention, const std::vector<std::uint32_t>& positions, std::uint32_t period,
                           std::uint32_t first) {
    RepeatScores sum;
    float n = 0;
    for (std::size_t r = 0; r < positions.size(); ++r) {
        if (positions[r] < first + period) continue;
        ++n;
        for (std::uint32_t back = period; first + back <= positions[r]; back += period) {
            const auto at = static_cast<Eigen::Index>(positions[r] - back);
            sum.echo += attention(static_cast<Eigen::Index>(r), at);
            sum.induction += attention(static_cast<Eigen::Index>(r), at + 1);
        }
    }
    if (n > 0) sum = {sum.echo / n, sum.induction / n};
    return sum;
}

void parallel_for(std::size_t n, const std::function<void(std::size_t)>& task) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
        try {
            for (std::size_t i = next++; i < n; i = next++) task(i);
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!failure) failure = std::current_exception();
            next = n;
        }
    };
    std::vector<std::thread> others;
    const std::size_t n_threads = std::min<std::size_t>(std::max(1u, std::thread::hardware_concurrency()), n);
    for (std::size_t i = 1; i < n_threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace winnow
