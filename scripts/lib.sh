# shellcheck shell=bash disable=SC2034
# What the scripts share. Sourced, not run: source "$(dirname "$0")/lib.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
caller=$PWD # relative paths in arguments start here
cd "$root" || exit 1

say() { printf '%s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

jobs=$(nproc)
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi

# The Python environment with the other programs that gladius is compared with: outside the source tree, one for each
# version of the list of packages. The file "complete" in it says that its installation ended well.
interop_requirements=$root/tests/interop/requirements.txt
interop_environment() {
  local cache=${XDG_CACHE_HOME:-${HOME:?is needed to find the cache folder}/.cache}
  printf '%s/gladius/venv-%s\n' "$cache" "$(sha256sum "$interop_requirements" | cut -c1-12)"
}
