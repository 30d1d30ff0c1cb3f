#include "export/atomic_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>

#include "engine/error.h"

namespace gladius {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr std::string_view kSuffix = ".tmp";

fs::path folder_of(const fs::path& target) {
  return target.has_parent_path() ? target.parent_path() : fs::path(".");
}

// Where the bytes go: a link is followed, so that it stays one.
fs::path resolved(fs::path target) {
  std::error_code error;
  if (!fs::is_symlink(target, error)) return target;
  const fs::path real = fs::weakly_canonical(target, error);
  if (error) fail("cannot write {}: {}", target.string(), error.message());
  return real;
}

}  // namespace

void remove_leftovers(const fs::path& target) {
  const std::string prefix = target.filename().string() + std::string(kSuffix);
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(target), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const char* end = name.data() + name.size();
    pid_t pid = 0;
    const auto [parsed_to, error] = std::from_chars(name.data() + prefix.size(), end, pid);
    if (error != std::errc{} || parsed_to != end || pid <= 0) continue;
    if (::kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), ignored);
  }
}

void check_free_space(const fs::path& target, uint64_t bytes) {
  struct statvfs info{};
  if (::statvfs(folder_of(target).c_str(), &info) != 0) return;  // opening the file reports the reason
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (free < bytes) {
    fail("cannot write {}: it needs {} bytes ({:.1f} MiB) and only {} ({:.1f} MiB) are free on its disk",
         target.string(), bytes, static_cast<double>(bytes) / 1048576.0, free,
         static_cast<double>(free) / 1048576.0);
  }
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("cannot open folder {}: {}", folder.string(), std::strerror(errno));
  const int result = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  // Some file systems cannot sync a folder and say EINVAL; there is nothing more to do on them.
  if (result != 0 && error != EINVAL)
    fail("cannot flush folder {}: {}", folder.string(), std::strerror(error));
}

AtomicFile::AtomicFile(fs::path target, uint64_t expected_bytes) : target_(resolved(std::move(target))) {
  std::error_code ignored;
  if (!target_.has_filename()) fail("cannot write '{}': it is not a file name", target_.string());
  if (!fs::is_directory(folder_of(target_), ignored)) {
    fail("cannot write {}: the folder {} does not exist; create it first", target_.string(),
         folder_of(target_).string());
  }
  if (fs::is_directory(target_, ignored)) fail("cannot write {}: a folder has this name", target_.string());
  if (fs::exists(target_, ignored) && !fs::is_regular_file(target_, ignored))
    fail("cannot write {}: it is a device or a pipe, not a file", target_.string());
  remove_leftovers(target_);
  check_free_space(target_, expected_bytes);
  temporary_ = target_;
  temporary_ += std::string(kSuffix) + std::to_string(::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail_with("create", errno);
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
  fd_ = -1;
}

void AtomicFile::fail_with(const char* action, int error) {
  discard();
  fail("cannot {} {}: {}", action, target_.string(), std::strerror(error));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  position_ += bytes.size();
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    write_to_system(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void AtomicFile::write_zeros(uint64_t count) {
  constexpr std::byte zeros[4096]{};
  while (count > 0) {
    const uint64_t now = std::min<uint64_t>(count, sizeof(zeros));
    write(std::span(zeros, now));
    count -= now;
  }
}

void AtomicFile::flush() {
  write_to_system(buffer_);
  buffer_.clear();
}

void AtomicFile::write_to_system(std::span<const std::byte> bytes) {
  if (fd_ < 0) fail("cannot write {}: it is closed already", target_.string());
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with("write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  flush();
  if (::fsync(fd_) != 0) fail_with("flush", errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 || ::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail_with("finish", error);
  }
  sync_folder(folder_of(target_));
}

void write_file(const fs::path& target, std::string_view contents) {
  AtomicFile file(target, contents.size());
  file.write(contents);
  file.commit();
}

}  // namespace gladius
