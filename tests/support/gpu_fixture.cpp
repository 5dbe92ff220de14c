// SPDX-License-Identifier: Apache-2.0
#include "tests/support/gpu_fixture.h"

#include <fmt/core.h>

#include <cstdlib>

#include "winnow/error.h"

namespace winnow::test {
namespace {

struct Shared {
    bool tried = false;
    ValidationLog log;
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
        s.device = vk::Device::open(s.log.device_options());
    } catch (const Error& error) {
        if (error.code() != ErrorCode::kNoDevice && error.code() != ErrorCode::kUnsupported) throw;
        s.reason = error.what();
        return;
    }
    fmt::print("device: {} ({}), features: {}\n", s.device->info().name, s.device->info().driver,
               vk::to_string(s.device->features()));
}

/// Closes the device while Vulkan's own statics still live. What it says then, of objects that were never destroyed,
/// fails the program.
class CloseDevice : public ::testing::Environment {
public:
    void TearDown() override {
        if (!shared().device) return;
        const std::size_t n_before = shared().log.messages().size();
        shared().device.reset();
        const std::vector<std::string> messages = shared().log.messages();
        for (std::size_t i = n_before; i < messages.size(); ++i)
            ADD_FAILURE() << "validation, as the device closed: " << messages[i];
    }
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

DeviceOptions ValidationLog::device_options() const {
    DeviceOptions options;
    options.validation = wants_validation();
    options.on_validation = [to = messages_](const std::string& text) {
        const std::lock_guard lock(to->mutex);
        to->texts.push_back(text);
    };
    return options;
}

std::vector<std::string> ValidationLog::messages() const {
    const std::lock_guard lock(messages_->mutex);
    return messages_->texts;
}

void ValidationLog::expect_silent() const {
    for (const std::string& text : messages()) ADD_FAILURE() << "validation: " << text;
}

std::string validation_problem(const vk::Device& device) {
    if (!wants_validation() || device.validation_enabled()) return {};
    return "the Vulkan validation layer is not installed: install vulkan-validationlayers, or set "
           "WINNOW_TEST_VALIDATION=0 to "
           "test without it";
}

vk::Device& GpuTest::device() {
    if (!shared().device) throw Error(ErrorCode::kNoDevice, shared().reason);
    return *shared().device;
}

void GpuTest::SetUp() {
    if (!shared().tried) open_shared();
    if (!shared().device) GTEST_SKIP() << shared().reason;
    if (const std::string problem = validation_problem(device()); !problem.empty()) FAIL() << problem;
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
