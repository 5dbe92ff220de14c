// SPDX-License-Identifier: Apache-2.0
// The one translation unit that holds volk's code.
#define VK_NO_PROTOTYPES
#define VOLK_IMPLEMENTATION
#include <volk.h>
