// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/upload.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "runtime/vk/device.h"
#include "runtime/vk/recorder.h"

namespace winnow::vk {
namespace {
constexpr std::size_t kSlots = 3;  // one being filled, one being copied, one to spare
}

struct Uploader::Impl {
    struct Slot {
        Buffer staging;
        std::unique_ptr<Recorder> recorder;
        Ticket ticket = 0;  // of the copy that reads `staging`
    };

    Impl(Device& d, std::uint64_t bytes) : device(d), piece_bytes(bytes), timeline(d) {}

    Slot& next_slot() {
        Slot& slot = slots[i_next];
        i_next = (i_next + 1) % kSlots;
        if (!slot.staging) {  // made when first needed: unified memory never does
            slot.staging = Buffer(device, "staging", piece_bytes, BufferUse::kUpload);
            slot.recorder = std::make_unique<Recorder>(device, "upload");
        }
        timeline.wait(slot.ticket);
        return slot;
    }

    void copy_piece(const Buffer& to, std::uint64_t offset, std::uint64_t bytes, Slot& slot) {
        slot.recorder->begin();
        slot.recorder->full_barrier();  // after whatever used the range before
        slot.recorder->copy({slot.staging, 0, bytes}, {to, offset, bytes});
        slot.recorder->full_barrier();  // before whatever is submitted next
        slot.recorder->end();
        slot.ticket = timeline.submit(*slot.recorder);
    }

    Device& device;
    const std::uint64_t piece_bytes;
    std::array<Slot, kSlots> slots;
    std::size_t i_next = 0;
    Timeline timeline;  // last: waits before the slots die
};

Uploader::Uploader(Device& device, std::uint64_t staging_bytes)
    : impl_(new Impl(device, std::max<std::uint64_t>(staging_bytes, 16))) {}

Uploader::~Uploader() { delete impl_; }

void Uploader::upload(const BufferRange& to, const Fill& fill) {
    const std::uint64_t total = resolved_bytes(to);
    auto* mapped = to.buffer->mapped_as<std::byte>();
    for (std::uint64_t done = 0; done < total;) {
        const std::uint64_t bytes = std::min(impl_->piece_bytes, total - done);
        if (mapped != nullptr) {
            fill(done, std::span(mapped + to.offset + done, bytes));
        } else {
            Impl::Slot& slot = impl_->next_slot();
            fill(done, std::span(slot.staging.mapped_as<std::byte>(), bytes));
            impl_->copy_piece(*to.buffer, to.offset + done, bytes, slot);
        }
        done += bytes;
    }
}

void Uploader::upload(const BufferRange& to, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    // Exactly the bytes given, even where the range goes on to the end of its buffer.
    upload(BufferRange(*to.buffer, to.offset, bytes.size()), [&](std::uint64_t offset, std::span<std::byte> piece) {
        std::memcpy(piece.data(), bytes.data() + offset, piece.size());
    });
}

void Uploader::finish() { impl_->timeline.wait(impl_->timeline.last_submitted()); }

std::vector<std::byte> read_back(Device& device, const BufferRange& from) {
    std::vector<std::byte> bytes(resolved_bytes(from));
    if (const auto* mapped = from.buffer->mapped_as<std::byte>(); mapped != nullptr) {
        run_once(device, [](Recorder&) {});  // its barriers: earlier work is done and visible here
        std::memcpy(bytes.data(), mapped + from.offset, bytes.size());
        return bytes;
    }
    const Buffer staging(device, "read_back", bytes.size(), BufferUse::kReadback);
    run_once(device, [&](Recorder& recorder) { recorder.copy({*from.buffer, from.offset, bytes.size()}, staging); });
    std::memcpy(bytes.data(), staging.mapped(), bytes.size());
    return bytes;
}

}  // namespace winnow::vk
