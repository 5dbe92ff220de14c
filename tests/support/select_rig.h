// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/attention/indexer_score.h"
#include "runtime/attention/select_attend.h"
#include "runtime/attention/select_rows.h"
#include "tests/reference/indexer_score.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {

/// Which stage applies the rule of the last level.
enum class Chooser { kScore, kRows, kAttend };

/// A selection to run on a random cache.
struct SelectCase {
    CacheShape shape;
    std::vector<SelectLevel> levels;
    HeadPool pool = HeadPool::kMax;
    std::uint32_t sinks = 4, window = 64, index_dim = 0;
    IndexType index_type = IndexType::kF16;
    std::uint32_t refresh = 1;
    float cosine = 2;
    Chooser chooser = Chooser::kScore;
    bool rows_wait = false;          ///< of SelectRows: Config::waits; patience is below
    SelectTuning rows_tuning{};      ///< of SelectRows
    bool rows_choose_codes = false;  ///< SelectRows chooses at a level of codes, whoever does at the last
    float skip = 0;                  ///< of kAttend: SelectAttendPush::skip
    bool scores_rows = false;        ///< of kAttend: SelectAttend::Config::scores_rows and two more
    std::uint32_t own_rows = SelectAttend::kOwnRows, patience = 0;
    AttendTuning tuning{};          ///< of kAttend
    std::uint32_t max_rows = 8256;  ///< that the stages are made for; where few, they know that one tile holds all
};

/// Pipelines that tests share: compiling one takes longer than running it.
class SelectStages {
public:
    const IndexerScore& get(vk::Device& device, const SelectCase& c, std::size_t level);
    const SelectRows& get_rows(vk::Device& device, const SelectCase& c, std::size_t level);
    const SelectAttend& get_attend(vk::Device& device, const SelectCase& c);
    void clear() {
        stages_.clear();
        row_stages_.clear();
        attend_stages_.clear();
    }
    static constexpr std::uint32_t kSplits = 5, kRowSplits = 3, kAttendSplits = 8;

private:
    std::map<std::string, std::unique_ptr<IndexerScore>> stages_;
    std::map<std::string, std::unique_ptr<SelectRows>> row_stages_;
    std::map<std::string, std::unique_ptr<SelectAttend>> attend_stages_;
};

/// The buffers of a chain of levels, as AttentionPipeline lays them out, and what they held after a run.
class SelectRig {
public:
    SelectRig(vk::Device& device, SelectStages& stages, SelectCase c, TestCache cache);

    void set_query(const std::vector<float>& query);
    /// One chain of dispatches for the query at this position.
    void run(std::uint32_t position, bool stopped = false);
    void run() { run(case_.shape.position()); }

    SelectControl control(std::size_t level, std::uint32_t kv_head) const;
    /// Entries of a list; expects that nothing else was written and that all counters are zero.
    std::vector<std::uint32_t> list(std::size_t level, std::uint32_t kv_head) const;
    std::vector<std::uint32_t> list_words() const { return lists_->contents<std::uint32_t>(); }
    void expect_untouched() const;
    /// Lists of all levels and heads against the oracle, at the position of the last run; ties may fall either way.
    void expect_right() const;
    /// What SelectAttend left: output, log-sum-exps, tokens attended, quantised output.
    struct Attention {
        std::vector<float> attended, lse;
        std::vector<std::uint32_t> counts, act;
        bool operator==(const Attention&) const = default;
    };
    Attention attention() const;
    reference::SelectView view() const;
    const TestCache& cache() const { return cache_; }
    std::vector<float> index_keys() const;  ///< as they are stored, NaN where nothing is
    std::vector<float> coded_keys() const;  ///< what the codes say of those
    std::vector<float> index_sums() const;

private:
    std::vector<std::uint32_t> controls_of_a_choice() const;
    Chooser chooser(std::size_t level) const;
    SelectPush push(std::size_t level) const;
    std::uint32_t list_offset(std::size_t level) const;
    void expect_index_key() const;
    void expect_codes(const std::vector<float>& keys) const;
    bool has_codes() const { return !codes_.empty(); }
    double bin_width(std::size_t level) const;  ///< of the stage that applies the level's rule, in nats

    vk::Device& device_;
    SelectCase case_;
    TestCache cache_;
    std::vector<const IndexerScore*> stages_;
    std::vector<const SelectRows*> select_rows_;  ///< by level; null where the last workgroup chooses
    const SelectAttend* select_attend_ = nullptr;
    std::uint32_t position_ = 0, list_stride_ = 0, super_first_ = 0, super_stride_ = 0;
    std::vector<float> maps_values_, index_values_;
    IndexCodes codes_;
    vk::Buffer tables_, keys_, query_, maps_, code_tables_, min_, max_, sum_, policies_, none_;
    std::unique_ptr<GuardedBuffer> index_keys_, index_codes_, index_sums_, lists_, scores_, partials_, counters_,
        controls_, last_queries_, dropped_, ranks_, bins_, through_, cuts_;
    vk::Buffer values_;
    std::unique_ptr<GuardedBuffer> attend_partials_, attend_counters_, attended_, act_, lse_, counts_;
};

}  // namespace winnow::test
