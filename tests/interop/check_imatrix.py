#!/usr/bin/env python3
"""An importance matrix beside what PyTorch's linear layers see of the same text, read from both forms of the file."""
import struct
import sys

import gguf
import numpy
import torch
from transformers import AutoModelForCausalLM

import fixture
from common import gladius

LIMIT = 1e-4  # of each sum: both compute in float32
CONTEXT, CHUNKS = 64, 5
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def gguf_name(module):
    """blk.0.attn_q.weight for model.layers.0.self_attn.q_proj."""
    if module == "lm_head":
        return "output.weight"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def sums_of_squares(ids):
    """What PyTorch says: name to sums over CHUNKS chunks, each of which starts with the text's first token, BOS."""
    model = AutoModelForCausalLM.from_pretrained(fixture.HF, dtype=torch.float32).eval()
    sums = {}
    for module, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            def hook(_, inputs, name=gguf_name(module)):
                squares = inputs[0].double().square().sum(dim=(0, 1)).numpy()
                sums[name] = sums.get(name, 0) + squares
            layer.register_forward_pre_hook(hook)
    with torch.no_grad():
        for start in range(0, CHUNKS * CONTEXT, CONTEXT):
            model(torch.tensor([[ids[0], *ids[start + 1:start + CONTEXT]]]))
    return sums


def read_gguf(path):
    tensors = {tensor.name: tensor.data.reshape(-1) for tensor in gguf.GGUFReader(path).tensors}
    return {name.removesuffix(".in_sum2"): (values, tensors[name.replace(".in_sum2", ".counts")][0])
            for name, values in tensors.items() if name.endswith(".in_sum2")}


def read_dat(path):
    """The older form: means times chunks, and chunks."""
    data, at, entries = path.read_bytes(), 4, {}
    for _ in range(struct.unpack_from("<i", data)[0]):
        length = struct.unpack_from("<i", data, at)[0]
        name = data[at + 4:at + 4 + length].decode()
        chunks, columns = struct.unpack_from("<ii", data, at + 4 + length)
        at += 12 + length
        entries[name] = numpy.frombuffer(data, "<f4", columns, at), chunks
        at += 4 * columns
    assert struct.unpack_from("<i", data, at)[0] == CHUNKS
    return entries


def main():
    fixture.make_model()
    text = fixture.MODEL / "calibration.txt"
    text.write_text(fixture.english_text(), encoding="utf-8")
    ids = fixture.encode(fixture.F32, fixture.english_text())
    theirs = sums_of_squares(ids)
    failures, most = [], 0
    for read, name in ((read_gguf, "imatrix.gguf"), (read_dat, "imatrix.dat")):
        gladius("imatrix", fixture.F32, "--data", text, "--out", fixture.MODEL / name, "--context", CONTEXT,
                "--chunks", CHUNKS, "--process-output")
        ours = read(fixture.MODEL / name)
        if sorted(ours) != sorted(theirs):
            failures.append(f"{name}: entries {sorted(ours)}, not {sorted(theirs)}")
        for weight in ours.keys() & theirs.keys():
            sums, count = ours[weight]
            means = theirs[weight] / (CHUNKS * CONTEXT)
            difference = numpy.abs(sums.astype(float) / count / means - 1).max()
            most = max(most, difference)
            if not difference < LIMIT:
                failures.append(f"{name}: {weight} differs by {difference:.1e}")
    print("\n".join(failures))
    if failures:
        sys.exit(f"{len(failures)} differences from PyTorch")
    print(f"{len(theirs)} matrices in both forms: means of squares differ by at most {most:.1e} from PyTorch's")


if __name__ == "__main__":
    main()
