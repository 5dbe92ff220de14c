// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/pipeline_cache.h"

#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/io/whole_file.h"
#include "runtime/vk/device.h"

namespace winnow::vk {
namespace {

constexpr std::uint32_t kMagic = 0x434c5057;  // "WPLC"
constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 30;

/// Front of the file. Drivers check their own header too, but not all do it well.
struct Header {
    std::uint32_t magic = kMagic;
    std::uint32_t version = kVersion;
    std::uint32_t vendor_id = 0;
    std::uint32_t device_id = 0;
    std::uint32_t driver_version = 0;
    std::uint32_t reserved = 0;
    std::uint8_t uuid[VK_UUID_SIZE] = {};
    std::uint64_t n_bytes = 0;
    std::uint64_t hash = 0;
};
static_assert(sizeof(Header) == 56);

Header make_header(const Device& device, const std::vector<char>& data) {
    VkPhysicalDeviceProperties properties{};
    vkGetPhysicalDeviceProperties(device.physical(), &properties);
    Header header;
    header.vendor_id = properties.vendorID;
    header.device_id = properties.deviceID;
    header.driver_version = properties.driverVersion;
    std::memcpy(header.uuid, properties.pipelineCacheUUID, VK_UUID_SIZE);
    header.n_bytes = data.size();
    header.hash = XXH3_64bits(data.data(), data.size());
    return header;
}

/// Empty when there is no place for a cache.
std::filesystem::path cache_path(const Device& device) {
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);
        return std::string(value != nullptr ? value : "");
    };
    if (const std::string off = variable("WINNOW_NO_CACHE"); !off.empty() && off != "0") return {};
    std::filesystem::path folder = variable("XDG_CACHE_HOME");
    if (!folder.is_absolute()) {  // the XDG specification says to ignore relative ones
        const std::string home = variable("HOME");
        if (home.empty()) return {};
        folder = std::filesystem::path(home) / ".cache";
    }
    const Header header = make_header(device, {});
    std::string uuid;
    for (std::uint8_t byte : header.uuid) uuid += fmt::format("{:02x}", byte);
    return folder / "winnow" / fmt::format("{}-{:08x}.bin", uuid, header.driver_version);
}

/// Makes the folder. Empty, or one line on why nothing can be kept there.
std::string prepare_folder(const std::filesystem::path& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (!error && access(folder.c_str(), W_OK | X_OK) == 0) return {};
    return fmt::format(
        "compiled shaders cannot be kept in '{}' ({}), so that every start compiles them again: set "
        "XDG_CACHE_HOME to a directory that can be written, or WINNOW_NO_CACHE=1",
        folder.string(), error ? error.message() : std::strerror(errno));
}

/// The driver's bytes, or empty for every kind of miss.
std::vector<char> load(const Device& device, const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    Header found;
    if (!file.read(reinterpret_cast<char*>(&found), sizeof(found))) return {};
    if (found.magic != kMagic || found.n_bytes == 0 || found.n_bytes > kMaxBytes) return {};
    // Sized by the file, not by the header, which may lie.
    std::error_code error;
    if (std::filesystem::file_size(path, error) != sizeof(found) + found.n_bytes || error) return {};
    std::vector<char> data(found.n_bytes);
    if (!file.read(data.data(), static_cast<std::streamsize>(data.size()))) return {};
    const Header expected = make_header(device, data);
    if (std::memcmp(&found, &expected, sizeof(found)) != 0) return {};
    return data;
}

}  // namespace

PipelineCache::PipelineCache(Device& device) : device_(device), path_(cache_path(device)) {
    std::vector<char> data;
    if (!path_.empty()) {
        problem_ = prepare_folder(path_.parent_path());
        data = load(device, path_);
    }
    hit_ = !data.empty();
    loaded_bytes_ = data.size();

    auto create = make_struct<VkPipelineCacheCreateInfo>(VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO);
    create.initialDataSize = data.size();
    create.pInitialData = data.data();
    VkResult result = vkCreatePipelineCache(device.handle(), &create, nullptr, &cache_);
    if (result != VK_SUCCESS && hit_) {
        hit_ = false;
        loaded_bytes_ = 0;
        create.initialDataSize = 0;
        create.pInitialData = nullptr;
        result = vkCreatePipelineCache(device.handle(), &create, nullptr, &cache_);
    }
    WINNOW_VK_CHECK(result);
}

PipelineCache::~PipelineCache() {
    save();
    vkDestroyPipelineCache(device_.handle(), cache_, nullptr);
}

void PipelineCache::save() noexcept {
    if (path_.empty() || !problem_.empty()) return;
    try {
        std::size_t n_bytes = 0;
        if (vkGetPipelineCacheData(device_.handle(), cache_, &n_bytes, nullptr) != VK_SUCCESS) return;
        if (n_bytes == 0 || n_bytes == loaded_bytes_) return;
        std::vector<char> data(n_bytes);
        if (vkGetPipelineCacheData(device_.handle(), cache_, &n_bytes, data.data()) != VK_SUCCESS) return;
        data.resize(n_bytes);
        const Header header = make_header(device_, data);

        WholeFile file(path_.string());  // another process sees the old one or the new one, never a part
        file.write(&header, sizeof(header));
        file.write(data.data(), data.size());
        file.commit();
        loaded_bytes_ = n_bytes;
    } catch (...) {  // a cache that cannot be written is a miss next time, nothing more
    }
}

}  // namespace winnow::vk
