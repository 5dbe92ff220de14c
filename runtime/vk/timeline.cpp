// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/timeline.h"

#include <fmt/format.h>

#include <limits>

#include "runtime/vk/device.h"
#include "runtime/vk/recorder.h"

namespace winnow::vk {

Timeline::Timeline(Device& device) : device_(device) {
    auto type = make_struct<VkSemaphoreTypeCreateInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO);
    type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
    auto create = make_struct<VkSemaphoreCreateInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO);
    create.pNext = &type;
    WINNOW_VK_CHECK(vkCreateSemaphore(device.handle(), &create, nullptr, &semaphore_));
}

Timeline::~Timeline() {
    try {
        wait(last_);
    } catch (...) {  // the device is gone, and the work with it
    }
    vkDestroySemaphore(device_.handle(), semaphore_, nullptr);
}

void Timeline::check(VkResult result, const char* call) const {
    if (result == VK_ERROR_DEVICE_LOST) {
        throw Error(ErrorCode::kDeviceLost,
                    fmt::format("device '{}' was lost during '{}': the driver stopped it, perhaps because "
                                "one submission ran too long: start again, and with a smaller -ub should it last",
                                device_.info().name, last_name_));
    }
    vk::check(result, call, __FILE__, __LINE__);
}

Ticket Timeline::submit(const Recorder& recorder) {
    auto command = make_struct<VkCommandBufferSubmitInfo>(VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO);
    command.commandBuffer = recorder.handle();
    auto signal = make_struct<VkSemaphoreSubmitInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO);
    signal.semaphore = semaphore_;
    signal.value = last_ + 1;
    signal.stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT;
    auto submit = make_struct<VkSubmitInfo2>(VK_STRUCTURE_TYPE_SUBMIT_INFO_2);
    submit.commandBufferInfoCount = 1;
    submit.pCommandBufferInfos = &command;
    submit.signalSemaphoreInfoCount = 1;
    submit.pSignalSemaphoreInfos = &signal;
    if (last_name_ != recorder.name()) last_name_ = recorder.name();
    check(vkQueueSubmit2(device_.queue(), 1, &submit, VK_NULL_HANDLE), "vkQueueSubmit2");
    return ++last_;
}

void Timeline::wait(Ticket ticket) const {
    if (ticket == 0) return;
    if (ticket > last_) {
        throw Error(ErrorCode::kInternal,
                    fmt::format("wait for ticket {}, but {} is the last submitted", ticket, last_));
    }
    auto info = make_struct<VkSemaphoreWaitInfo>(VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO);
    info.semaphoreCount = 1;
    info.pSemaphores = &semaphore_;
    info.pValues = &ticket;
    check(vkWaitSemaphores(device_.handle(), &info, std::numeric_limits<std::uint64_t>::max()), "vkWaitSemaphores");
}

}  // namespace winnow::vk
