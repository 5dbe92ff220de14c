// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdexcept>
#include <string>

namespace winnow {

/// What the caller can do about a failure; each code maps to one exit status of the program.
enum class ErrorCode {
    kInvalidArgument,  ///< the request is wrong: change the arguments (exit 2)
    kNoDevice,         ///< no usable Vulkan device (exit 3)
    kUnsupported,      ///< the device or this build lacks a feature (exit 3)
    kBadFile,          ///< a model or sidecar is missing, damaged or of an unknown kind (exit 4)
    kOutOfMemory,      ///< host or device memory does not suffice (exit 5)
    kDeviceLost,       ///< the driver gave the device up during work (exit 6)
    kIo,               ///< reading or writing another file failed (exit 1)
    kInternal,         ///< a bug in winnow (exit 1)
};

/// The one exception type that winnow throws. `what()` is one line that says what to do.
class Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ErrorCode code() const noexcept { return code_; }

private:
    ErrorCode code_;
};

/// Exit status of the program for a failure of this kind.
constexpr int exit_status(ErrorCode code) noexcept {
    switch (code) {
        case ErrorCode::kInvalidArgument: return 2;
        case ErrorCode::kNoDevice:
        case ErrorCode::kUnsupported: return 3;
        case ErrorCode::kBadFile: return 4;
        case ErrorCode::kOutOfMemory: return 5;
        case ErrorCode::kDeviceLost: return 6;
        case ErrorCode::kIo:
        case ErrorCode::kInternal: return 1;
    }
    return 1;
}

}  // namespace winnow
