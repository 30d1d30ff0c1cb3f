// Keeps two processes from training into one folder.
#pragma once

#include <filesystem>

namespace gladius {

// Locks a folder for this process until it ends or the object dies; nothing is left in the folder. Throws
// Error when another process holds the lock or the folder cannot be opened.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace gladius
