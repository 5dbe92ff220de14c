// SPDX-License-Identifier: Apache-2.0
// Pipelines, recording, submission and timing, by the smallest shader.
#include <gmock/gmock.h>

#include <array>

#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/timer.h"
#include "tests/support/gpu_fixture.h"

namespace winnow::vk {
namespace {

using ::testing::HasSubstr;

struct Push {
    std::uint32_t n;
    std::uint32_t base;
    std::uint32_t stride;
};

class DispatchTest : public test::GpuTest {
protected:
    static ComputePipeline make_pipeline(std::uint32_t group_size, std::uint32_t scale,
                                         std::uint32_t subgroup_size = 0) {
        const std::array spec{group_size, scale};
        return ComputePipeline(device(), find_shader("fill_index"), 1, sizeof(Push), spec, subgroup_size);
    }
    static std::vector<std::uint32_t> expected(Push push, std::uint32_t scale) {
        std::vector<std::uint32_t> values(push.n);
        for (std::uint32_t i = 0; i < push.n; ++i) values[i] = push.base + i * push.stride * scale;
        return values;
    }
};

template <typename Call>
std::string failure(ErrorCode code, Call&& call) {
    try {
        call();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        return error.what();
    }
    return "no error";
}

TEST_F(DispatchTest, SpecialisesAndPushes) {
    for (std::uint32_t group_size : {1u, 7u, 32u, 64u, 128u}) {
        const ComputePipeline pipeline = make_pipeline(group_size, 3);
        const Push push{1000, 7, 2};
        const Buffer out = make_poisoned<std::uint32_t>(push.n);
        run_once(device(), [&](Recorder& recorder) {
            recorder.dispatch(pipeline, {out}, push, (push.n + group_size - 1) / group_size);
            EXPECT_EQ(recorder.n_dispatches(), 1u);
        });
        EXPECT_EQ(download<std::uint32_t>(out), expected(push, 3)) << group_size;
    }
}

TEST_F(DispatchTest, RefusesMoreSharedMemoryThanThereIs) {
    const std::array<std::uint32_t, 3> spec{64, device().limits().max_shared_memory_bytes / 4, 64};
    EXPECT_THAT(
        failure(ErrorCode::kUnsupported, [&] { ComputePipeline(device(), find_shader("sample_token"), 7, 12, spec); }),
        HasSubstr("shader sample_token needs"));
}

TEST_F(DispatchTest, BindsRangesOfABuffer) {
    const ComputePipeline pipeline = make_pipeline(64, 1);
    const auto step = static_cast<std::uint32_t>(device().limits().storage_buffer_alignment);
    const std::uint32_t n = (step + 255) / 256 * 64;
    const Buffer out = make_poisoned<std::uint32_t>(3 * n);
    const Push push{n, 100, 1};
    run_once(device(), [&](Recorder& recorder) { recorder.dispatch(pipeline, {{out, 4 * n, 4 * n}}, push, n / 64); });
    const auto got = download<std::uint32_t>(out);
    EXPECT_EQ(got[n - 1], ~0u);
    EXPECT_EQ(std::vector(got.begin() + n, got.begin() + 2 * n), expected(push, 1));
    EXPECT_EQ(got[2 * n], ~0u);
}

TEST_F(DispatchTest, AsksForASubgroupSizeWhereThereIsAChoice) {
    const DeviceLimits& limits = device().limits();
    for (std::uint32_t size : {8u, 32u, 64u, 1024u, limits.max_subgroup_size}) {
        const ComputePipeline pipeline = make_pipeline(64, 1, size);  // others leave it to the driver
        EXPECT_TRUE(pipeline);
    }
}

TEST_F(DispatchTest, ReplaysOneCommandBuffer) {
    // Two recordings in turn, ten submissions queued without a wait between them: the last one
    // wins.
    const ComputePipeline first = make_pipeline(64, 1);
    const ComputePipeline second = make_pipeline(64, 5);
    const Push push{512, 3, 1};
    const Buffer out = make_poisoned<std::uint32_t>(push.n);
    const auto record = [&](const ComputePipeline& pipeline) {
        Recorder recorder(device(), "replay", Recorder::Reuse::kReplay);
        recorder.begin();
        recorder.barrier();  // orders this replay after the last
        recorder.dispatch(pipeline, {out}, push, push.n / 64);
        recorder.barrier();
        recorder.dispatch(pipeline, {out}, push, push.n / 64);
        recorder.end();
        EXPECT_EQ(recorder.n_dispatches(), 2u);
        EXPECT_EQ(recorder.n_barriers(), 2u);
        return recorder;
    };
    const Recorder a = record(first);
    const Recorder b = record(second);
    Timeline timeline(device());
    Ticket ticket = 0;
    for (int i = 0; i < 5; ++i) {
        timeline.submit(a);
        ticket = timeline.submit(b);
    }
    EXPECT_EQ(ticket, 10u);
    EXPECT_EQ(timeline.last_submitted(), 10u);
    timeline.wait(ticket);
    EXPECT_EQ(download<std::uint32_t>(out), expected(push, 5));
    EXPECT_THAT(failure(ErrorCode::kInternal, [&] { timeline.wait(11); }), HasSubstr("ticket 11"));
}

TEST_F(DispatchTest, RecordsAgainAfterBegin) {
    const ComputePipeline pipeline = make_pipeline(64, 1);
    const Buffer out = make_poisoned<std::uint32_t>(64);
    Recorder recorder(device(), "again");
    Timeline timeline(device());
    for (std::uint32_t base : {1u, 2u, 3u}) {
        recorder.begin();
        recorder.full_barrier();
        recorder.dispatch(pipeline, {out}, Push{64, base, 0}, 1);
        recorder.end();
        timeline.wait(timeline.submit(recorder));
        EXPECT_EQ(recorder.n_dispatches(), 1u);
        EXPECT_EQ(download<std::uint32_t>(out), std::vector<std::uint32_t>(64, base));
    }
}

TEST_F(DispatchTest, HostWritesAreSeenBySubmittedWork) {
    const Buffer from(device(), "from", 256, BufferUse::kShared);
    const Buffer to(device(), "to", 256, BufferUse::kShared);
    Recorder recorder(device(), "copy", Recorder::Reuse::kReplay);
    recorder.begin();
    recorder.full_barrier();
    recorder.copy(from, to);
    recorder.full_barrier();
    recorder.end();
    Timeline timeline(device());
    for (std::uint32_t value : {11u, 22u}) {
        from.mapped_as<std::uint32_t>()[63] = value;
        timeline.wait(timeline.submit(recorder));
        EXPECT_EQ(to.mapped_as<std::uint32_t>()[63], value);
    }
}

// That tests are silent says something only if a missing barrier is not.
TEST_F(DispatchTest, AMissingBarrierIsAHazard) {
    if (!test::wants_validation()) GTEST_SKIP() << "WINNOW_TEST_VALIDATION=0";
    for (const bool with_barrier : {true, false}) {
        const test::ValidationLog log;
        const auto own = Device::open(log.device_options());
        const std::array spec{64u, 1u};
        const ComputePipeline fill(*own, find_shader("fill_index"), 1, sizeof(Push), spec);
        const ComputePipeline copy(*own, find_shader("copy_words"), 2, 4, std::span(spec).first(1));
        const Buffer from(*own, "from", 4096, BufferUse::kDevice);
        const Buffer to(*own, "to", 4096, BufferUse::kDevice);
        run_once(*own, [&](Recorder& recorder) {
            recorder.dispatch(fill, {from}, Push{1024, 0, 1}, 16);
            if (with_barrier) recorder.barrier();
            recorder.dispatch(copy, {from, to}, 256u, 1);
        });
        if (with_barrier) {
            log.expect_silent();
        } else {
            ASSERT_GE(log.messages().size(), 1u);
            EXPECT_THAT(log.messages()[0], HasSubstr("SYNC-HAZARD-READ-AFTER-WRITE"));
        }
    }
}

TEST_F(DispatchTest, TimesIntervalsOfEveryReplay) {
    if (!device().features().has(Feature::kTimestamps)) GTEST_SKIP() << "no timestamps";
    const ComputePipeline pipeline = make_pipeline(64, 1);
    const Buffer out = make_poisoned<std::uint32_t>(1 << 16);
    GpuTimer timer(device(), 3);
    Recorder recorder(device(), "timed", Recorder::Reuse::kReplay);
    recorder.begin();
    recorder.full_barrier();
    recorder.timestamp(&timer, "start");
    recorder.dispatch(pipeline, {out}, Push{1 << 16, 0, 1}, 1 << 10);
    recorder.timestamp(&timer, "fill");
    recorder.timestamp(&timer, "nothing");
    EXPECT_THROW(recorder.timestamp(&timer, "one too many"), Error);
    recorder.timestamp(nullptr, "ignored");
    recorder.end();
    Timeline timeline(device());
    for (int i = 0; i < 2; ++i) {
        timeline.wait(timeline.submit(recorder));
        const auto intervals = timer.intervals();
        ASSERT_EQ(intervals.size(), 2u);
        EXPECT_EQ(intervals[0].label, "fill");
        EXPECT_EQ(intervals[1].label, "nothing");
        EXPECT_GT(intervals[0].microseconds, 0);
        EXPECT_LT(timer.total_microseconds(), 60e6);
    }
}

TEST_F(DispatchTest, RefusesWhatDoesNotMatch) {
    const ComputePipeline pipeline = make_pipeline(64, 1);
    const Buffer out = make_poisoned<std::uint32_t>(64);
    const Push push{64, 0, 1};
    const DeviceLimits& limits = device().limits();
    Recorder recorder(device(), "refused");
    recorder.begin();
    const auto refuse = [&](auto&& call) { return failure(ErrorCode::kInternal, call); };
    EXPECT_THAT(refuse([&] {
                    recorder.dispatch(pipeline, {out, out}, push, 1);
                }),
                HasSubstr("fill_index: 2 buffers given, 1 wanted"));
    EXPECT_THAT(refuse([&] { recorder.dispatch(pipeline, {out}, 1.0f, 1); }),
                HasSubstr("4 bytes of push constants given, 12 wanted"));
    EXPECT_THAT(refuse([&] { recorder.dispatch(pipeline, {out}, push, 0); }), HasSubstr("groups"));
    EXPECT_THAT(refuse([&] { recorder.dispatch(pipeline, {{out, 128, 200}}, push, 1); }), HasSubstr("outside buffer"));
    if (limits.max_workgroup_count_y < ~0u) {
        EXPECT_THAT(refuse([&] { recorder.dispatch(pipeline, {out}, push, 1, limits.max_workgroup_count_y + 1); }),
                    HasSubstr("groups"));
    }
    if (limits.storage_buffer_alignment > 4) {
        EXPECT_THAT(refuse([&] { recorder.dispatch(pipeline, {{out, 4, 0}}, push, 1); }), HasSubstr("not a multiple"));
    }
    recorder.end();
    EXPECT_EQ(recorder.n_dispatches(), 0u);
}

TEST_F(DispatchTest, RefusesARangeThatDescriptorsCannotHold) {
    const DeviceLimits& limits = device().limits();
    const std::uint64_t bytes = limits.max_storage_buffer_range + 16;
    if (bytes > (std::uint64_t{1} << 28)) GTEST_SKIP() << "the device binds any buffer";
    const ComputePipeline pipeline = make_pipeline(64, 1);
    const Buffer large(device(), "large", bytes, BufferUse::kDevice);
    Recorder recorder(device(), "refused");
    recorder.begin();
    EXPECT_THAT(failure(ErrorCode::kInternal,
                        [&] {
                            recorder.dispatch(pipeline, {large}, Push{1, 0, 0}, 1);
                        }),
                HasSubstr("of 'large'; the device binds at most"));
    recorder.end();
}

TEST_F(DispatchTest, RefusesPipelinesTheDeviceCannotRun) {
    const ShaderVariant& shader = find_shader("fill_index");
    const std::array huge{1u << 20, 1u};
    EXPECT_THAT(failure(ErrorCode::kUnsupported, [&] { ComputePipeline(device(), shader, 1, sizeof(Push), huge); }),
                HasSubstr("workgroups of 1048576 x 1 x 1"));
    EXPECT_THAT(failure(ErrorCode::kInternal, [&] { ComputePipeline(device(), shader, 0, sizeof(Push), {}); }),
                HasSubstr("binding 0"));
    EXPECT_THAT(failure(ErrorCode::kInternal, [&] { ComputePipeline(device(), shader, 1, 4000, {}); }),
                HasSubstr("push constants"));
    ShaderVariant demanding = shader;
    demanding.features = FeatureSet(1u << 31);
    EXPECT_THAT(failure(ErrorCode::kUnsupported, [&] { ComputePipeline(device(), demanding, 1, sizeof(Push), {}); }),
                HasSubstr("fill_index needs"));
}

}  // namespace
}  // namespace winnow::vk
