// What results say of the build. The values are written while building (build_info.cmake).
#pragma once

namespace gladius::bench {

struct BuildInfo {
  const char *version, *commit, *compiler, *flags;
};
extern const BuildInfo
    build_info;  // the commit is "unknown" outside git, with "-dirty" if files were changed

}  // namespace gladius::bench
