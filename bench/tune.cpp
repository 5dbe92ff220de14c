// SPDX-License-Identifier: Apache-2.0
// Sweeps group shapes of the matvec stages, of the prefill matmul, of decode attention and of selection on the present
// GPU, at the shapes of bench/shapes, and prints the best of each: where the tables of runtime/weights/*_tuning.cpp
// come from. Everything is compiled first, on all cores, and timed afterwards without pause, since an idle GPU lowers
// its clocks.  Usage: winnow_tune [matvec|matmul|attention|selection|all]
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/support/candidate.h"
#include "bench/tune_matmul.h"
#include "bench/tune_selection.h"
#include "runtime/attention/attend_dense.h"
#include "runtime/dense/gate_up.h"
#include "runtime/dense/logits.h"
#include "runtime/dense/matvec_add.h"
#include "runtime/dense/qkv.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/weights/attend_tuning.h"
#include "runtime/weights/weight_planes.h"
#include "winnow/error.h"

namespace winnow::bench {
namespace {

constexpr WeightType kType = WeightType::kQ4_0;

/// Buffers shared by the candidates of a shape.
struct Subject {
    explicit Subject(const Shape& shape) : s(shape) {}
    const Shape& s;
    Bench& b = Bench::get();
    const std::uint64_t act_bytes = activation_bytes(std::max(s.n_ff, s.q_dim()));
    const vk::Buffer state = b.state(100), params = b.zeros(16), rope = b.buffer(s.head_dim / 2 * 8 * 300);
    const vk::Buffer query = b.buffer(s.q_dim() * 4), act = b.buffer(act_bytes), act_out = b.buffer(act_bytes);
    const vk::Buffer x = b.zeros(s.n_embd * 4), norm = b.buffer(s.n_embd * 4), raw = b.buffer(s.n_embd * 4);
    const vk::Buffer logits = b.buffer(s.n_vocab * 4ull), maxima = b.buffer(s.n_vocab), counters = b.zeros(256);
    const vk::Buffer attended = b.buffer(s.q_dim() * 4);
    const vk::Buffer partials = b.buffer(attend_partial_bytes(s.n_heads, s.n_kv_heads, s.head_dim, 1024));
    const KvCache cache{b.device(), kv_config(s, 1024, 1)};
};
using Shared = std::shared_ptr<const Subject>;
using Matrices = std::shared_ptr<std::vector<vk::Buffer>>;

// More than a cache holds; what the weights are does not matter here.
Matrices matrices(std::uint32_t n_rows, std::uint32_t n_in) {
    auto list = std::make_shared<std::vector<vk::Buffer>>();
    const std::uint64_t bytes = weight_planes(kType, n_rows, n_in).total;
    do list->push_back(Bench::get().buffer(bytes));
    while (list->size() * bytes < Bench::get().rotation_bytes());
    return list;
}

std::vector<Candidate> matvec_candidates(const std::string& stage, const Shape& s, std::uint64_t bytes,
                                         const std::vector<std::uint32_t>& rows_per_group,
                                         const std::function<Record(const MatvecTuning&)>& make) {
    std::vector<Candidate> list;
    const std::uint32_t subgroup = Bench::get().device().limits().subgroup_size;
    for (const std::uint32_t group : {128u, 256u, 512u, 1024u})
        for (const std::uint32_t rows : rows_per_group)
            for (const std::uint32_t pass : {1u, 2u, 4u, 8u})
                for (const std::uint32_t flight : {1u, 2u, 4u}) {
                    // No idle subgroups, and no more loads under way than registers hold.
                    if (group / subgroup * pass > rows || pass * flight > 8 || (group == 1024 && pass * flight > 4))
                        continue;
                    if (group > Bench::get().device().limits().max_workgroup_invocations) continue;
                    for (const bool share : {false, true}) {
                        const MatvecTuning t{group, rows, pass, flight, share};
                        list.push_back({stage + "/" + s.name,
                                        fmt::format("group {} rows {} pass {} flight {}{}", group, rows, pass, flight,
                                                    share ? " shared" : ""),
                                        bytes,
                                        bytes > (64u << 20) ? 12u : 60u,
                                        [=] { return make(t); },
                                        {}});
                    }
                }
    return list;
}

void add(std::vector<Candidate>& all, std::vector<Candidate> more) {
    for (Candidate& c : more) all.push_back(std::move(c));
}

std::vector<Candidate> matvecs(const Shape& s, const Shared& m) {
    std::vector<Candidate> all;
    vk::Device& device = Bench::get().device();
    Qkv::Config qkv;
    qkv.n_embd = s.n_embd;
    qkv.n_heads = s.n_heads;
    qkv.n_kv_heads = s.n_kv_heads;
    qkv.head_dim = qkv.n_rot = s.head_dim;
    qkv.type_q = qkv.type_k = qkv.type_v = kType;
    const std::uint32_t qkv_rows = s.q_dim() + 2 * s.kv_dim();
    add(all, matvec_candidates("qkv", s, Qkv::bytes_moved(qkv), {8, 16, 32},
                               [=, &device, w = matrices(qkv_rows, s.n_embd)](const MatvecTuning& t) {
                                   Qkv::Config c = qkv;
                                   c.tuning = t;
                                   const auto stage = std::make_shared<Qkv>(device, c);
                                   const MatrixRef ref = matrix_ref(kType, qkv_rows);
                                   return Record([=](vk::Recorder& r, std::uint32_t i) {
                                       stage->record(
                                           r,
                                           {(*w)[i % w->size()],
                                            m->act,
                                            m->state,
                                            m->rope,
                                            m->cache.tables(),
                                            m->params,
                                            m->query,
                                            m->cache.keys(0),
                                            m->cache.values(0),
                                            {},
                                            {},
                                            {}},
                                           {ref, ref, ref, 1e-5f, 1.0f, 0, 0, m->cache.layout().table_stride(), 0, 0});
                                   });
                               }));
    for (const std::uint32_t n_in : {s.q_dim(), s.n_ff}) {
        const MatvecAdd::Config config =
            MatvecAdd::config_for(device, n_in, std::max(s.q_dim(), s.n_ff), s.n_embd, kType, false);
        add(all, matvec_candidates(n_in == s.n_ff ? "down" : "output", s, MatvecAdd::bytes_moved(config, n_in), {32},
                                   [=, &device, w = matrices(s.n_embd, n_in)](const MatvecTuning& t) {
                                       MatvecAdd::Config c = config;
                                       c.tuning = t;
                                       const auto stage = std::make_shared<MatvecAdd>(device, c);
                                       const MatrixRef ref = matrix_ref(kType, s.n_embd);
                                       return Record([=](vk::Recorder& r, std::uint32_t i) {
                                           stage->record(r,
                                                         {(*w)[i % w->size()], m->act, m->state, m->x, m->norm,
                                                          m->act_out, m->norm, m->raw, m->counters},
                                                         {ref, 0, 1e-5f, 0, n_in / 32});
                                       });
                                   }));
    }
    GateUp::Config gate_up;
    gate_up.n_embd = s.n_embd;
    gate_up.n_ff = s.n_ff;
    gate_up.type_gate = gate_up.type_up = kType;
    add(all, matvec_candidates(
                 "gate_up", s, GateUp::bytes_moved(gate_up), {32, 64, 128},
                 [=, &device, w = matrices(2 * s.n_ff, s.n_embd)](const MatvecTuning& t) {
                     GateUp::Config c = gate_up;
                     c.tuning = t;
                     const auto stage = std::make_shared<GateUp>(device, c);
                     const MatrixRef gate = matrix_ref(kType, s.n_ff);
                     MatrixRef up = gate;  // behind it in the same buffer
                     up.base_quads = static_cast<std::uint32_t>(weight_planes(kType, s.n_ff, s.n_embd).total / 16);
                     return Record([=](vk::Recorder& r, std::uint32_t i) {
                         stage->record(r, {(*w)[i % w->size()], m->act, m->state, m->act_out}, {gate, up, 0, 1e-5f});
                     });
                 }));
    const Logits::Config logits{s.n_embd, s.n_vocab, kType, {}};
    add(all, matvec_candidates("logits", s, Logits::bytes_moved(logits), {32, 64},
                               [=, &device, w = matrices(s.n_vocab, s.n_embd)](const MatvecTuning& t) {
                                   Logits::Config c = logits;
                                   c.tuning = t;
                                   const auto stage = std::make_shared<Logits>(device, c);
                                   const MatrixRef ref = matrix_ref(kType, s.n_vocab);
                                   return Record([=](vk::Recorder& r, std::uint32_t i) {
                                       stage->record(r, {(*w)[i % w->size()], m->act, m->state, m->logits, m->maxima},
                                                     {ref, 0, 1e-5f, 0, 0});
                                   });
                               }));
    return all;
}

// Group shapes that the device runs as they are: by lanes, and by matrix units where it has them and they take the
// heads.
std::vector<AttendTuning> attend_shapes(vk::Device& device, const Shape& s, std::uint32_t n_splits) {
    const vk::DeviceLimits& limits = device.limits();
    const AttendStage stage{kv_shader("attend_dense", KvType::kF16), KvType::kF16, s.n_heads / s.n_kv_heads, s.head_dim,
                            n_splits};
    std::vector<AttendTuning> list;
    const auto add_if_taken = [&](const AttendTuning& asked) {
        if (asked.group_size > limits.max_workgroup_invocations) return;
        // Lanes stand in where matrix units do not take it, and smaller groups where shared memory is short.
        const AttendVariant v = attend_variant(device, stage, asked);
        if (v.tuning == asked && v.shared_bytes <= limits.max_shared_memory_bytes) list.push_back(asked);
    };
    for (const std::uint32_t group : {128u, 256u, 512u})
        for (const std::uint32_t lanes : {8u, 16u})
            for (const std::uint32_t flight : {1u, 2u, 4u})
                if (lanes <= limits.subgroup_size && lanes * 8 <= s.head_dim && flight * s.head_dim / lanes <= 64)
                    add_if_taken({group, lanes, flight});
    for (const std::uint32_t group : {128u, 192u, 256u, 384u, 512u})
        for (const std::uint32_t flight : {16u, 32u})
            add_if_taken({.group_size = group, .tokens_in_flight = flight, .matrices = true});
    return list;
}

std::vector<Candidate> attentions(const Shape& s, const Shared& m, std::uint32_t n_tokens) {
    std::vector<Candidate> list;
    Bench& b = Bench::get();
    vk::Device& device = b.device();
    // Layers enough that no cache holds them all.
    const std::uint64_t layer_bytes = std::uint64_t{n_tokens} * s.kv_dim() * 4;
    const auto n_layers = static_cast<std::uint32_t>(std::clamp<std::uint64_t>((200ull << 20) / layer_bytes, 1, 16));
    const auto cache = std::make_shared<KvCache>(device, kv_config(s, n_tokens, n_layers));
    for (std::uint32_t l = 0; l < n_layers; ++l)
        for (const vk::Buffer* pool : {&cache->keys(l), &cache->values(l)})
            vk::run_once(device, [&](vk::Recorder& r) { r.fill(*pool, kSmallValues); });
    const auto state = std::make_shared<vk::Buffer>(b.state(n_tokens - 1));
    std::vector<std::uint32_t> seen;
    for (const std::uint32_t n_groups : {66u, 132u, 264u, 528u}) {
        const std::uint32_t splits = std::clamp(n_groups / s.n_kv_heads, 1u, (n_tokens + 63) / 64);
        if (std::find(seen.begin(), seen.end(), splits) != seen.end()) continue;
        seen.push_back(splits);
        for (const AttendTuning& t : attend_shapes(device, s, splits)) {
            AttendDense::Config c;
            c.n_heads = s.n_heads;
            c.n_kv_heads = s.n_kv_heads;
            c.head_dim = s.head_dim;
            c.n_splits = splits;
            c.tuning = t;
            const std::string by = t.matrices ? "matrices" : fmt::format("lanes {}", t.lanes);
            list.push_back(
                {fmt::format("attend_dense/{}/{}", s.name, n_tokens),
                 fmt::format("group {} {} flight {} splits {}", t.group_size, by, t.tokens_in_flight, splits),
                 AttendDense::bytes_moved(c, n_tokens),
                 n_tokens > 9000 ? 20u : 60u,
                 [=, &device] {
                     const auto stage = std::make_shared<AttendDense>(device, c);
                     return Record([=](vk::Recorder& r, std::uint32_t i) {
                         const std::uint32_t l = i % n_layers;
                         stage->record(
                             r,
                             {*state, cache->tables(), cache->keys(l), cache->values(l), m->query, m->partials,
                              m->counters, m->attended, m->act_out},
                             {cache->layout().table_offset(l), cache->layout().table_stride(), 0, WINNOW_NO_SUMS});
                     });
                 },
                 {}});
        }
    }
    return list;
}

void compile(std::vector<Candidate>& list) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i)
        threads.emplace_back([&] {
            for (std::size_t at; (at = next++) < list.size();) {
                try {
                    list[at].record = list[at].make();
                } catch (const std::exception& error) {  // a shape that the device cannot hold is no candidate
                    std::fprintf(stderr, "%s, %s: %s\n", list[at].stage.c_str(), list[at].label.c_str(), error.what());
                }
            }
        });
    for (std::thread& t : threads) t.join();
}

// Two rounds over all, three runs each: the first round also raises the clocks.
void time_all(std::vector<Candidate>& list) {
    vk::Device& device = Bench::get().device();
    for (int round = 0; round < 2; ++round)
        for (Candidate& c : list) {
            if (!c.record) continue;
            vk::TimedWork work = dispatches_in_a_row(device, c.n_dispatches, c.record);
            for (int run = 0; run < 3; ++run) c.microseconds = std::min(c.microseconds, work.run() / c.n_dispatches);
        }
}

void report(std::vector<Candidate>& list) {
    std::erase_if(list, [](const Candidate& c) { return !c.record; });
    if (list.empty()) return;
    std::sort(list.begin(), list.end(),
              [](const Candidate& a, const Candidate& b) { return a.microseconds < b.microseconds; });
    fmt::print("{}: {:.2f} MB, best {:.2f} TB/s, worst {:.2f} us\n", list[0].stage,
               static_cast<double>(list[0].bytes) / 1e6,
               static_cast<double>(list[0].bytes) / list[0].microseconds / 1e6, list.back().microseconds);
    for (std::size_t i = 0; i < std::min<std::size_t>(6, list.size()); ++i)
        fmt::print("  {:8.2f} us  {}\n", list[i].microseconds, list[i].label);
    std::fflush(stdout);
}

void sweep(std::vector<Candidate> all) {
    compile(all);
    time_all(all);
    while (!all.empty()) {
        const std::string stage = all.front().stage;
        std::vector<Candidate> same;
        std::erase_if(all, [&](Candidate& c) {
            if (c.stage != stage) return false;
            same.push_back(std::move(c));
            return true;
        });
        report(same);
    }
}

void run(const std::string& what, const std::string& shape) {
    fmt::print("{}: copy {:.0f} GB/s\n", Bench::get().device().info().name, Bench::get().copy_bytes_per_second() / 1e9);
    for (const Shape& s : shapes()) {
        if (!shape.empty() && s.name != shape) continue;
        const Shared subject = std::make_shared<const Subject>(s);
        const auto asked = [&](const char* name) { return what == "all" || what == name; };
        if (asked("matvec")) sweep(matvecs(s, subject));
        for (const std::uint32_t n : {512u, 1024u})
            if (asked("matmul")) sweep(matmuls(s, n));
        for (const std::uint32_t n : {256u, 4096u, 32768u, 131072u}) {
            if (Bench::get().device().is_cpu() && n > 4096) continue;
            if (asked("attention")) sweep(attentions(s, subject, n));
            if (asked("selection") && n >= (Bench::get().device().is_cpu() ? 4096u : 32768u)) sweep(selections(s, n));
        }
    }
}

}  // namespace
}  // namespace winnow::bench

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "all";
    if (argc > 3 ||
        (what != "all" && what != "matvec" && what != "attention" && what != "selection" && what != "matmul")) {
        std::fprintf(stderr, "usage: winnow_tune [matvec|matmul|attention|selection|all [SHAPE]]\n");
        return 2;
    }
    try {
        winnow::bench::run(what, argc > 2 ? argv[2] : "");
        return 0;
    } catch (const winnow::Error& error) {
        std::fprintf(stderr, "winnow_tune: error: %s\n", error.what());
        return winnow::exit_status(error.code());
    }
}
