// Writes a file so that its name always holds either the old contents or all of the new ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace gladius {

// Bytes go to "TARGET.tmpPID" in the same folder; commit() flushes them to the disk and renames. Without a
// commit the temporary file is removed. Every failure throws Error naming the target and the system's reason.
class AtomicFile {
 public:
  // Throws Error when the folder is missing or cannot be written, when `target` is a folder or a device, or
  // when less than `expected_bytes` are free on its disk. Removes what killed processes left of the same
  // target.
  explicit AtomicFile(std::filesystem::path target, uint64_t expected_bytes = 0);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void write_zeros(uint64_t count);
  uint64_t position() const { return position_; }  // bytes written so far

  // Makes the file durable under its own name. Nothing may be written afterwards.
  void commit();

  const std::filesystem::path& target() const { return target_; }

 private:
  void flush();
  void write_to_system(std::span<const std::byte> bytes);
  void discard() noexcept;
  [[noreturn]] void fail_with(const char* action, int error);

  std::filesystem::path target_, temporary_;
  std::vector<std::byte> buffer_;
  uint64_t position_ = 0;
  int fd_ = -1;
};

// A whole small file at once.
void write_file(const std::filesystem::path& target, std::string_view contents);

// Removes "TARGET.tmpPID", file or folder, of processes that no longer run: a killed one could not remove its
// own.
void remove_leftovers(const std::filesystem::path& target);

// Makes the names in a folder durable. Throws Error.
void sync_folder(const std::filesystem::path& folder);

// Throws Error when fewer than `bytes` are free for `target`'s folder, naming both figures.
void check_free_space(const std::filesystem::path& target, uint64_t bytes);

}  // namespace gladius
