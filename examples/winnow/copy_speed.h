// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace winnow::program {

/// Bytes per second, read and written, that the device named by --device copies: what stages are
/// measured against. Its memory is free again afterwards.
double measure_copy_speed(const std::string& device);

}  // namespace winnow::program
