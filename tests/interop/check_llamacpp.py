#!/usr/bin/env python3
"""Exported GGUF files in stock llama.cpp: next-token distributions, and greedy texts.

F32 and Q4_K_M over 100 positions; the other types, each with a kernel of its own, over 40.
"""
import sys

import fixture
from common import gladius
from llamacpp import LlamaCpp, distributions, divergences

F32_LIMIT, LIMIT = 1e-5, 1e-3  # of the mean divergence, in nats
POSITIONS, POSITIONS_OF_OTHERS = 100, 40
OTHERS = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_S", "Q5_K_M", "Q6_K")


def files():
    """Every file to compare, with its number of positions and its limit."""
    yield fixture.F32, POSITIONS, F32_LIMIT
    yield fixture.Q4_K_M, POSITIONS, LIMIT
    gladius("export", fixture.F32, "--gguf", ",".join(OTHERS), "--out", fixture.MODEL, "--name", "tiny")
    for name in OTHERS:
        yield fixture.MODEL / f"tiny-{name}.gguf", POSITIONS_OF_OTHERS, LIMIT


def main():
    fixture.make_model()
    failures, lines = [], []
    ids = fixture.encode(fixture.F32, fixture.english_text())[:POSITIONS + 20]
    for path, positions, limit in files():
        server = LlamaCpp(path)
        if server.encode(fixture.english_text())[:len(ids)] != ids:
            failures.append(f"{path.name}: token ids differ")
        found = divergences(distributions(server, ids, positions), path, ids)
        mean, most = found.mean(), found.max()
        lines.append(f"{path.name}: mean KL {mean:.1e}, largest {most:.1e} (mean must be below {limit:.0e})")
        print(lines[-1])
        if not mean < limit:
            failures.append(lines[-1])
        if path == fixture.F32:
            for prompt in fixture.PROMPTS:
                ours, theirs = fixture.continuation(path, prompt, 64), server.continuation(prompt, 64)
                if ours != theirs:
                    failures.append(f"{path.name}: after {prompt!r}\n  gladius   {ours!r}\n  llama.cpp {theirs!r}")
        del server
    print("\n".join(failures))
    if failures:
        sys.exit(f"{len(failures)} differences from llama.cpp")
    print(f"{'; '.join(lines[:2])}; {len(lines) - 2} more types; {len(fixture.PROMPTS)} greedy texts equal")


if __name__ == "__main__":
    main()
