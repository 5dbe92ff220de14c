// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/vk/buffer.h"
#include "runtime/vk/device.h"
#include "runtime/vk/upload.h"

namespace winnow::test {

/// Sets an environment variable while it lives; nullptr unsets it.
class ScopedEnv {
public:
    ScopedEnv(std::string name, const char* value);
    ~ScopedEnv();
    ScopedEnv(const ScopedEnv&) = delete;
    ScopedEnv& operator=(const ScopedEnv&) = delete;

private:
    std::string name_;
    std::optional<std::string> before_;
};

/// Whether tests ask for the validation layer: yes, unless WINNOW_TEST_VALIDATION=0.
bool wants_validation();

/// Validation messages of devices that may be gone by the time that they are looked at.
class ValidationLog {
public:
    /// Options of a device that writes here, with validation where tests want it.
    DeviceOptions device_options() const;
    std::vector<std::string> messages() const;
    /// Fails the test for each message. Call it when the devices are closed, so that leaked objects count too.
    void expect_silent() const;

private:
    struct Messages {
        std::mutex mutex;
        std::vector<std::string> texts;
    };
    std::shared_ptr<Messages> messages_ = std::make_shared<Messages>();
};

/// What is wrong with a device that tests opened with validation: the layer is missing. Empty = nothing.
std::string validation_problem(const vk::Device& device);

/// Uploads `values` to a new buffer.
template <typename T>
vk::Buffer make_buffer(vk::Device& device, std::span<const T> values, const std::string& name = "test",
                       vk::BufferUse use = vk::BufferUse::kDevice) {
    vk::Buffer buffer(device, name, values.size_bytes(), use);
    vk::Uploader uploader(device);
    uploader.upload(buffer, std::as_bytes(values));
    uploader.finish();
    return buffer;
}

/// Base of the tests that need a device: all of a program share one, opened with validation. Skips
/// where there is none; fails a test during which the validation layer said something, and all when it is not
/// installed. With parameters: class X : public GpuTest, public ::testing::WithParamInterface<P>.
class GpuTest : public ::testing::Test {
protected:
    void SetUp() override;
    void TearDown() override;

    static vk::Device& device();

    template <typename T>
    static vk::Buffer make_buffer(std::span<const T> values, const std::string& name = "test",
                                  vk::BufferUse use = vk::BufferUse::kDevice) {
        return test::make_buffer(device(), values, name, use);
    }
    template <typename T>
    static vk::Buffer make_buffer(const std::vector<T>& values, const std::string& name = "test",
                                  vk::BufferUse use = vk::BufferUse::kDevice) {
        return test::make_buffer(device(), std::span<const T>(values), name, use);
    }
    /// A buffer of n elements with every byte 0xff: NaN as float, so that nothing unwritten looks
    /// right.
    template <typename T>
    static vk::Buffer make_poisoned(std::size_t n, const std::string& name = "test",
                                    vk::BufferUse use = vk::BufferUse::kDevice) {
        return make_buffer(std::vector<std::uint8_t>(n * sizeof(T), 0xff), name, use);
    }
    /// Waits for all work submitted so far.
    template <typename T>
    static std::vector<T> download(const vk::BufferRange& range) {
        return vk::read_back_as<T>(device(), range);
    }

private:
    std::size_t n_messages_before_ = 0;
};

}  // namespace winnow::test
