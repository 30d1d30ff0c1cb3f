#!/usr/bin/env python3
"""Makes the files of tests/data/tokenizers.

    tokenizer_vectors.py --vocabularies FOLDER [--out tests/data/tokenizers]

FOLDER holds llama.cpp's llama-spm-vocab and gpt2-vocab, each as .gguf, .inp and .out. Needs the Python packages tokenizers
and gguf.
"""
import argparse
import json
import pathlib
import struct

import gguf
from tokenizers import Regex, pre_tokenizers

from tokenizer_strings import HARD, random_strings

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


PRETOKENIZERS = {
    "gpt-2": byte_level(),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
    "llama-bpe": pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
    "qwen2": pre_tokenizers.Split(Regex(QWEN2), "isolated"),
}


def word_lengths(pretokenizer, text):
    """Length in bytes of each word."""
    words = [text[begin:end] for _, (begin, end) in pretokenizer.pre_tokenize_str(text)]
    assert "".join(words) == text, repr(text)
    return [len(word.encode()) for word in words]


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def pretokenizer_vectors(out):
    texts = [t for t in HARD if t] + random_strings(400, seed=1, longest=25)
    write_json(out / "pretokenizers.json",
               {"texts": texts, "lengths": {name: [word_lengths(p, t) for t in texts] for name, p in PRETOKENIZERS.items()}})


def cases(folder, name):
    texts = (folder / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    if texts[-1] == "":
        texts.pop()
    ids = [[int(i) for i in line.split()] for line in (folder / f"{name}.out").read_text().split("\n")[:-1]]
    assert len(texts) == len(ids)
    return [{"text": t, "ids": i} for t, i in zip(texts, ids)]


def field(reader, key):
    return reader.fields[key].contents()


def pairs(texts, merges):
    """Each merge as two ids, 16 bits each, little-endian."""
    ids = {text: i for i, text in enumerate(texts)}
    return b"".join(struct.pack("<HH", ids[left], ids[right]) for left, right in merges)


def llama_vocabulary(folder, out):
    """Tokens from 259 on: merges, as two ids; then characters, as text. The score is 259 minus the id, or -1e9 for runs of
    U+2581."""
    reader = gguf.GGUFReader(folder / "llama-spm-vocab.gguf")
    texts, scores, types = (field(reader, f"tokenizer.ggml.{k}") for k in ("tokens", "scores", "token_type"))
    assert texts[:3] == ["<unk>", "<s>", "</s>"] and texts[3:259] == [f"<0x{b:02X}>" for b in range(256)]
    assert types == [2, 3, 3] + [6] * 256 + [1] * (len(texts) - 259)
    assert scores[259:] == [-1e9 if set(t) == {"\u2581"} else -float(i) for i, t in enumerate(texts[259:])]
    known = set(texts)
    first_character = next(i for i in range(259, len(texts)) if len(texts[i]) == 1)
    assert all(len(t) == 1 for t in texts[first_character:])
    merges = []
    for text in texts[259:first_character]:
        merges.append(next((text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in known and text[i:] in known))
    (out / "llama.merges").write_bytes(pairs(texts, merges))
    write_json(out / "llama.json", {"characters": "".join(texts[first_character:]), "cases": cases(folder, "llama-spm-vocab")})


def gpt2_vocabulary(folder, out):
    """Tokens: the alphabet in the order of its code points' bytes, a token per merge, <|endoftext|>."""
    reader = gguf.GGUFReader(folder / "gpt2-vocab.gguf")
    texts, merges = field(reader, "tokenizer.ggml.tokens"), [m.split(" ") for m in field(reader, "tokenizer.ggml.merges")]
    assert [left + right for left, right in merges] == texts[256:-1] and texts[-1] == "<|endoftext|>"
    (out / "gpt2.merges").write_bytes(pairs(texts, merges))
    write_json(out / "gpt2.json", {"characters": "".join(texts[:256]), "cases": cases(folder, "gpt2-vocab")})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabularies", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "data/tokenizers")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pretokenizer_vectors(options.out)
    llama_vocabulary(options.vocabularies, options.out)
    gpt2_vocabulary(options.vocabularies, options.out)


if __name__ == "__main__":
    main()
