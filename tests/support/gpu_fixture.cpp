// SPDX-License-Identifier: Apache-2.0
#include "tests/support/gpu_fixture.h"

#include <fmt/core.h>

#include <cstdlib>

#include "winnow/error.h"

namespace winnow::test {
namespace {

struct Shared {
    bool tried = false;
    std::unique_ptr<vk::Device> device;
    std::string reason;  // why there is none
};

Shared& shared() {
    static Shared value;
    return value;
}

void open_shared() {
    Shared& s = shared();
    s.tried = true;
    // What one run compiled must not decide what the next one tests.
    const ScopedEnv no_cache("WINNOW_NO_CACHE", "1");
    try {
        DeviceOptions options;
        options.validation = wants_validation();
        s.device = vk::Device::open(options);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::kNoDevice && error.code() != ErrorCode::kUnsupported) throw;
        s.reason = error.what();
        return;
    }
    fmt::print("device: {} ({}), features: {}\n", s.device->info().name, s.device->info().driver,
               vk::to_string(s.device->features()));
    if (wants_validation() && !s.device->validation_enabled()) {
        fmt::print("note: validation layer not installed, so tests do not check Vulkan usage\n");
    }
}

/// Closes the device while Vulkan's own statics still live.
class CloseDevice : public ::testing::Environment {
public:
    void TearDown() override { shared().device.reset(); }
};
[[maybe_unused]] const ::testing::Environment* const kCloseDevice =
    ::testing::AddGlobalTestEnvironment(new CloseDevice);

}  // namespace

ScopedEnv::ScopedEnv(std::string name, const char* value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str()); before != nullptr) before_ = before;
    if (value != nullptr) {
        setenv(name_.c_str(), value, 1);
    } else {
        unsetenv(name_.c_str());
    }
}

ScopedEnv::~ScopedEnv() {
    if (before_) {
        setenv(name_.c_str(), before_->c_str(), 1);
    } else {
        unsetenv(name_.c_str());
    }
}

bool wants_validation() {
    const char* variable = std::getenv("WINNOW_TEST_VALIDATION");
    return variable == nullptr || std::string(variable) != "0";
}

vk::Device& GpuTest::device() {
    if (!shared().device) throw Error(ErrorCode::kNoDevice, shared().reason);
    return *shared().device;
}

void GpuTest::SetUp() {
    if (!shared().tried) open_shared();
    if (!shared().device) GTEST_SKIP() << shared().reason;
    n_messages_before_ = device().n_validation_messages();
}

void GpuTest::TearDown() {
    if (!shared().device) return;
    const std::vector<std::string> messages = device().validation_messages();
    for (std::size_t i = n_messages_before_; i < messages.size(); ++i) {
        ADD_FAILURE() << "validation: " << messages[i];
    }
}

}  // namespace winnow::test
