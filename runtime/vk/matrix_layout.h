// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

namespace winnow::vk {

class Device;

/// Whether a cooperative matrix 16 x 16 lies in a subgroup of 32 as NVIDIA's units hold it, see expected_place(): what
/// stages need that put elements into matrices themselves. Asks the device (shaders/vk/matrix_layout.comp):
/// Device::known_matrix_layout() does so once.
bool has_known_matrix_layout(Device& device);

/// Row * 16 + column of element `element` of invocation `lane` in that layout; matrix 0 is A, 1 is B, 2 the
/// accumulator. Lane 4 g + t holds of A and of the accumulator rows g and g + 8, of B columns g and g + 8; of the other
/// dimension 2t, 2t + 1, 2t + 8 and 2t + 9.
unsigned expected_place(unsigned matrix, unsigned lane, unsigned element);

/// As the device has it: [matrix][lane][element], 3 x 32 x 8.
std::vector<std::uint32_t> read_matrix_layout(Device& device);

}  // namespace winnow::vk
