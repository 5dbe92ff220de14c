// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "models/model.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {

/// A tiny model as it comes out of a GGUF file that is gone from the disk again.
ModelSource open_tiny(const TinyOptions& options);

}  // namespace winnow::test
