// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "models/calibration/calibrate.h"

namespace winnow::program {

/// What a calibration found, as Markdown.
std::string calibration_table(const Calibration& calibration, const CalibrationReport& report, const ModelShape& shape);

/// Scores of the heads, recall of the index and likeness of the layers as heat maps.
std::string calibration_svg(const Calibration& calibration);

}  // namespace winnow::program
