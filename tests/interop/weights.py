"""Tensors of checkpoints, Hugging Face folders and GGUF files under their GGUF names and in GGUF's row order, read with
other people's packages, and how far one is from another."""
import json
import pathlib
import sys

import gguf
import numpy
import safetensors.numpy
import safetensors.torch

NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}

# Values that share a scale, and what a conversion stays below, |difference| / |values|: see eval/weight_check.h.
LIMITS = {"F32": (32, 0), "F16": (32, 2**-11), "BF16": (32, 2**-8), "Q8_0": (32, 0.0233), "Q5_0": (32, 0.178),
          "Q5_1": (32, 0.131), "Q4_0": (32, 0.355), "Q4_1": (32, 0.268), "Q6_K": (16, 0.126), "Q5_K": (32, 0.511),
          "Q4_K": (32, 0.649)}


def gguf_name(name):
    """blk.0.attn_q.weight for model.layers.0.self_attn.q_proj.weight."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def to_gguf_rows(values, heads):
    """Rows i and i + half of each head become neighbours."""
    width = len(values) // heads
    return values.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(values.shape)


def hugging_face(folder):
    config = json.loads((folder / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"],
             "attn_k": config.get("num_key_value_heads") or config["num_attention_heads"]}
    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in safetensors.torch.load_file(path).items():
            name, values = gguf_name(name), tensor.float().numpy()
            kind = name.split(".")[-2]
            result[name] = to_gguf_rows(values, heads[kind]) if kind in heads else values
    return result


def newest(path):
    """The newest checkpoint of a training folder, or the file itself."""
    if not path.is_dir():
        return path
    return max(path.glob("step-*.safetensors"), default=None) or sys.exit(f"{path} holds no checkpoint")


def checkpoint(path):
    """Without the optimiser's moments."""
    path = newest(path)
    return {name: values for name, values in safetensors.numpy.load_file(path).items() if not name.startswith("adam.")}


def is_hugging_face(path):
    return (path / "config.json").exists()


def read(path):
    """Name to float32 values and type."""
    path = pathlib.Path(path)
    if path.suffix == ".gguf":
        return {tensor.name: (gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]),
                              tensor.tensor_type.name) for tensor in gguf.GGUFReader(path).tensors}
    if is_hugging_face(path):
        stored = {"float16": "F16", "bfloat16": "BF16"}
        config = json.loads((path / "config.json").read_text())
        kind = stored.get(config.get("dtype") or config.get("torch_dtype"), "F32")
        return {name: (values, kind) for name, values in hugging_face(path).items()}
    return {name: (values, "F32") for name, values in checkpoint(path).items()}


def numbers(path):
    """What else than weights decides the logits: name to number."""
    path = pathlib.Path(path)
    if path.suffix == ".gguf":
        reader = gguf.GGUFReader(path)
        names = {"heads": "attention.head_count", "kv_heads": "attention.head_count_kv",
                 "norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base"}
        return {name: float(reader.get_field(f"llama.{key}").contents()) for name, key in names.items()}
    if is_hugging_face(path):
        config = json.loads((path / "config.json").read_text())
        theta = (config.get("rope_parameters") or config).get("rope_theta", 10000)
        return {"heads": config["num_attention_heads"],
                "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
                "norm_eps": config["rms_norm_eps"], "rope_theta": theta}
    with safetensors.safe_open(newest(path), "np") as file:
        config = json.loads(file.metadata()["gladius.config"])
    return {name: config[name] for name in ("heads", "kv_heads", "norm_eps", "rope_theta")}


def number_faults(base, tested):
    """Names with both values, where they differ by more than float32 rounds."""
    return [f"{name} is {tested[name]:g}, not {value:g}" for name, value in base.items()
            if not abs(tested[name] - value) <= 1e-6 * abs(value)]


def norm(values, axis=None):
    return numpy.sqrt(numpy.square(values, dtype=numpy.float64).sum(axis=axis))


def fault(base, tested, kind):
    """Relative difference of a tensor, and what is wrong with it or None."""
    group, limit = LIMITS[kind]
    difference = tested - base
    relative = norm(difference) / max(norm(base), numpy.finfo(float).tiny)
    if not relative <= limit:
        wanted = f"be under {limit:.1%}" if limit else "have the same values"
        return relative, f"differs by {relative:.1%} RMS, {kind} should {wanted}"
    if base.shape[-1] % group:
        return relative, None
    # No group may differ by more than its own norm. Scales that are rounded beside larger ones, and the smallest F16
    # numbers, leave a rest.
    rows = base.reshape(-1, base.shape[-1])
    block = 256 if kind.endswith("_K") else group
    largest = numpy.abs(rows).reshape(len(rows), -1, block).max(axis=-1).repeat(block // group, axis=1)
    rest = numpy.sqrt(group) * ((largest / 42 if kind.endswith("_K") else 0) + 2**-25 * 4096)
    own, off = (norm(x.reshape(len(rows), -1, group), axis=-1) for x in (rows, difference))
    wrong = numpy.argwhere(off > own + rest)
    if len(wrong):
        row, column = wrong[0]
        return relative, (f"differs by more than its values in row {row}, columns {column * group} to "
                          f"{column * group + group - 1}")
    return relative, None


def compare(base, tested):
    """The number of tensors, the largest difference with its tensor, and all faults by name."""
    alone = (base.keys() ^ tested.keys()) - {"rope_freqs.weight"}
    faults = [f"{name} is only in one of the two" for name in alone]
    most = (0, "none")
    for name in base.keys() & tested.keys():
        (values, _), (others, kind) = base[name], tested[name]
        if values.shape != others.shape:
            faults.append(f"{name} has the shape {list(others.shape)}, not {list(values.shape)}")
            continue
        relative, wrong = fault(values, others, kind)
        most = max(most, (relative, name))
        if wrong:
            faults.append(f"{name} {wrong}")
    return len(tested), most, sorted(faults)
