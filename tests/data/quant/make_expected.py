"""Writes expected.txt: file, tensor, type and XXH3-128 of the bytes of every tensor that llama-quantize made.

usage: make_expected.py FOLDER [README]

FOLDER holds the quantised GGUF files (see README.md for how they were made); with README, a Markdown table of
| file | tensor | type | SHA-256 | rows, the bytes are checked against it first. Needs the Python package gguf and libxxhash.
"""

import ctypes
import hashlib
import pathlib
import re
import sys

import gguf


class Hash128(ctypes.Structure):
    _fields_ = [("low64", ctypes.c_uint64), ("high64", ctypes.c_uint64)]


xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_128bits.restype = Hash128
xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def main(folder, readme=None):
    checksums = {}
    if readme:
        row = re.compile(r"\| (\S+) \| (\S+) \| (\S+) \| ([0-9a-f]{64}) \|")
        for line in pathlib.Path(readme).read_text().splitlines():
            if match := row.match(line):
                checksums[match.group(1, 2)] = match.group(3, 4)
    lines = []
    for path in sorted(pathlib.Path(folder).glob("*.gguf")):
        if path.stem in ("source", "odd-source", "imatrix"):
            continue
        for tensor in gguf.GGUFReader(path).tensors:
            if tensor.name.endswith("_norm.weight"):
                continue
            data = tensor.data.tobytes()
            kind = tensor.tensor_type.name
            if readme and checksums.pop((path.name, tensor.name)) != (kind, hashlib.sha256(data).hexdigest()):
                sys.exit(f"{path.name}: {tensor.name} differs from {readme}")
            digest = xxhash.XXH3_128bits(data, len(data))
            lines.append(f"{path.name} {tensor.name} {kind} {digest.high64:016x}{digest.low64:016x}\n")
    if checksums:
        sys.exit(f"not found in {folder}: {sorted(checksums)}")
    pathlib.Path(__file__).with_name("expected.txt").write_text("".join(lines))
    print(f"{len(lines)} tensors")


main(*sys.argv[1:])
