// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/pipeline_cache.h"

#include <array>
#include <fstream>
#include <string>

#include "runtime/vk/pipeline.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/temporary_folder.h"

namespace winnow::vk {
namespace {

namespace fs = std::filesystem;

class PipelineCacheTest : public test::GpuTest {
protected:
    struct Outcome {
        bool hit;
        fs::path path;
    };
    /// Opens a device with its cache below `home`, makes a pipeline, closes it.
    static Outcome run_program(const fs::path& home, const char* no_cache = nullptr) {
        const test::ScopedEnv cache_home("XDG_CACHE_HOME", home.c_str());
        const test::ScopedEnv off("WINNOW_NO_CACHE", no_cache);
        DeviceOptions options;
        options.validation = test::wants_validation();
        const auto opened = Device::open(options);
        const Outcome outcome{opened->pipeline_cache().hit(), opened->pipeline_cache().path()};
        const std::array spec{64u, 1u};
        EXPECT_TRUE(ComputePipeline(*opened, find_shader("fill_index"), 1, 12, spec));
        EXPECT_EQ(opened->validation_messages(), std::vector<std::string>{});
        return outcome;
    }

    test::TemporaryFolder temporary_;
    const fs::path folder_ = temporary_.path("");
};

TEST_F(PipelineCacheTest, HitsTheSecondTime) {
    const Outcome first = run_program(folder_);
    EXPECT_FALSE(first.hit);
    EXPECT_EQ(first.path.parent_path(), folder_ / "winnow");
    ASSERT_TRUE(fs::exists(first.path));
    EXPECT_TRUE(run_program(folder_).hit);
    // The temporary file is gone.
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "winnow"), fs::directory_iterator()), 1);
}

TEST_F(PipelineCacheTest, DamageIsAMissAndIsRepaired) {
    const fs::path path = run_program(folder_).path;
    const auto whole = fs::file_size(path);
    const auto damage_at = [&](std::uintmax_t offset) {
        std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
        file.seekg(static_cast<std::streamoff>(offset));
        const char byte = static_cast<char>(file.get() ^ 0x40);
        file.seekp(static_cast<std::streamoff>(offset));
        file.put(byte);
    };
    // magic, driver version, uuid, length, hash, last byte of the driver's data
    for (std::uintmax_t offset : {std::uintmax_t{0}, std::uintmax_t{16}, std::uintmax_t{24}, std::uintmax_t{46},
                                  std::uintmax_t{48}, whole - 1}) {
        damage_at(offset);
        EXPECT_FALSE(run_program(folder_).hit) << offset;
        EXPECT_TRUE(run_program(folder_).hit) << offset;
    }
    for (std::uintmax_t size : {std::uintmax_t{0}, std::uintmax_t{10}, std::uintmax_t{56}, whole - 1}) {
        fs::resize_file(path, size);
        EXPECT_FALSE(run_program(folder_).hit) << size;
        EXPECT_TRUE(run_program(folder_).hit) << size;
    }
    fs::resize_file(path, whole + 1);
    EXPECT_FALSE(run_program(folder_).hit);
}

TEST_F(PipelineCacheTest, UnwritableFolderIsAMiss) {
    // A file where the folder should be stops root too, unlike permissions.
    const fs::path blocked = folder_ / "blocked";
    std::ofstream(blocked) << "in the way";
    EXPECT_FALSE(run_program(blocked).hit);
    EXPECT_FALSE(run_program(blocked).hit);
}

TEST_F(PipelineCacheTest, CanBeTurnedOff) {
    EXPECT_TRUE(run_program(folder_, "1").path.empty());
    EXPECT_FALSE(fs::exists(folder_ / "winnow"));
}

}  // namespace
}  // namespace winnow::vk
