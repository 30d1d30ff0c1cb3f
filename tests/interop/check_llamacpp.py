#!/usr/bin/env python3
"""Exported GGUF files in stock llama.cpp: next-token distributions over 100 positions, and greedy texts."""
import sys

import fixture
from llamacpp import LlamaCpp, distributions, divergences

POSITIONS = 100
LIMITS = {fixture.F32: 1e-5, fixture.Q4_K_M: 1e-3}  # of the mean divergence, in nats


def main():
    fixture.make_model()
    failures, lines = [], []
    ids = fixture.encode(fixture.F32, fixture.english_text())[:POSITIONS + 20]
    for path, limit in LIMITS.items():
        server = LlamaCpp(path)
        if server.encode(fixture.english_text())[:len(ids)] != ids:
            failures.append(f"{path.name}: token ids differ")
        found = divergences(distributions(server, ids, POSITIONS), path, ids)
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
    print(f"{'; '.join(lines)}; {len(fixture.PROMPTS)} greedy texts equal")


if __name__ == "__main__":
    main()
