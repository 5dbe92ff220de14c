// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>

#include "tests/reference/matvec.h"

namespace winnow::reference {

/// Embedding rows of a chunk times `scale`: [n_tokens, n_embd]. `table` holds vocabulary rows from `first_row` on; the
/// rows of tokens that it does not hold are NaN: somebody else's.
Values embed_rows(const Matrix& table, std::uint32_t first_row, std::span<const std::uint32_t> tokens, double scale);

}  // namespace winnow::reference
