#!/usr/bin/env python3
"""scripts/verify_export on a sound export, and on broken ones, whose tensor or layer it must name."""
import shutil
import sys

import gguf

import fixture
from verify_export import verify

TOKENS = 24


def broken(path, name, change):
    """A copy of a file, changed in place."""
    copy = fixture.MODEL / f"broken-{name}.gguf"
    shutil.copy(path, copy)
    reader = gguf.GGUFReader(copy, "r+")
    change(reader, {tensor.name: tensor.data for tensor in reader.tensors})
    reader.data.flush()
    return copy


def unpermuted(reader, data):
    """The rows of layer 1's query heads in Hugging Face's order."""
    rows, heads = data["blk.1.attn_q.weight"], int(reader.get_field("llama.attention.head_count").contents())
    width = len(rows) // heads
    rows[:] = rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape).copy()


def swapped(reader, data):
    gate, up = data["blk.2.ffn_gate.weight"], data["blk.2.ffn_up.weight"]
    kept = gate.copy()
    gate[:], up[:] = up, kept


def flipped(reader, data):
    """The sign of one block's scale, Q4_K."""
    data["blk.0.ffn_up.weight"][7, 1] ^= 0x80


def other_rotation(reader, data):
    field = reader.get_field("llama.rope.freq_base")
    field.parts[field.data[0]][0] = 1000.0


# What is changed in which file, and what must be named.
BREAKS = (("unpermuted", fixture.F32, unpermuted, ["blk.1.attn_q.weight", "layer 1"]),
          ("unpermuted-Q4_K_M", fixture.Q4_K_M, unpermuted, ["blk.1.attn_q.weight"]),
          ("swapped", fixture.Q4_K_M, swapped, ["blk.2.ffn_gate.weight", "blk.2.ffn_up.weight"]),
          ("flipped", fixture.Q4_K_M, flipped, ["blk.0.ffn_up.weight", "row 7, columns 0 to 31"]),
          ("rotation", fixture.F32, other_rotation, ["layer 0", "rope_theta is 1000, not 10000"]))


def main():
    fixture.make_model()
    run = fixture.MODEL / "run"
    problems = [f"a sound export: {failure}" for arguments in ((run, fixture.F32, fixture.HF),
                                                               (fixture.HF, fixture.Q4_K_M))
                for failure in verify(*arguments, tokens=TOKENS)]
    for name, path, change, named in BREAKS:
        found = "\n".join(verify(run, broken(path, name, change), tokens=TOKENS))
        problems += [f"{name}: {what} is not named in {found!r}" for what in named if what not in found]
    print("\n".join(problems))
    if problems:
        sys.exit(f"{len(problems)} problems")
    print(f"two sound exports pass; {len(BREAKS)} broken ones are caught by tensor or layer")


if __name__ == "__main__":
    main()
