#!/usr/bin/env python3
"""Makes tests/data/golden: what PyTorch's LlamaForCausalLM computes for two tiny models, for tests/golden_test.cpp.

Usage: make_goldens.py [OUTPUT_FOLDER]      (needs torch, transformers and safetensors)

Per model NAME.safetensors holds, with GGUF names and GGUF's order of the query and key rows,
  tokens, targets      int32 [B*T]; a target of -1 is ignored
  weight.*             float32, random; the norms' are not 1
  logits               [B*T, V]      )
  gradient.*           of the mean loss  )  computed in double, rounded to float32
  final.*              weights after ten steps of AdamW  )
and NAME.json the configuration, the loss, the ten losses, the optimiser's settings and `spread`: the largest absolute
difference between PyTorch in float32 and in double, for each of these. Rounding depends on the order of sums, so the
float32 run is repeated with the hidden and intermediate channels in random orders, which changes no exact result.
rope_scaling.json holds transformers' rotation frequencies for Llama-3 models.
"""

import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

BATCH, LENGTH, STEPS, ORDERS = 2, 17, 10, 8
OPTIMISER = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
# Where a gradient happens to be as small as its rounding error, AdamW's first steps (about lr times its sign) are arbitrary.
# These seeds have no such element: every final weight's spread stays below a thousandth of the learning rate.
SEEDS = {"untied": 1, "tied": 6}
SHAPES = {
    "untied": {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "tied": {
        "vocab_size": 53, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        # Wavelengths of the four pairs are 6, 63, 628 and 6283: one kept, one blended, two divided.
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    },
}
ROPE_SCALINGS = [
    {"head_dim": 128, "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"head_dim": 64, "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    {"head_dim": 80, "rope_type": "llama3", "rope_theta": 10000.0, "factor": 3.5, "low_freq_factor": 1.5,
     "high_freq_factor": 5.0, "original_max_position_embeddings": 1024},
]


def frequencies(rope, head_dim):
    """The rotation frequencies in double, by the definition (transformers computes them in float32)."""
    result = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if rope["rope_type"] == "default":
        return result
    turns = rope["original_max_position_embeddings"] * result / (2 * math.pi)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return result * ((1 - smooth) / factor + smooth)


class DoubleRotary(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.frequencies = frequencies(config.rope_parameters, config.head_dim)
        stock = modeling_llama.LlamaRotaryEmbedding(config).inv_freq
        assert torch.allclose(self.frequencies.float(), stock, rtol=1e-6, atol=0)

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def double_norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def double_attention(module, query, key, value, attention_mask, scaling, **_):
    key = modeling_llama.repeat_kv(key, module.num_key_value_groups)
    value = modeling_llama.repeat_kv(value, module.num_key_value_groups)
    scores = query @ key.transpose(2, 3) * scaling + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def make_model(config, weights, dtype):
    """transformers' model. It rounds norms, angles and softmax to float32 even for doubles; in double, ours do not."""
    model = LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    if dtype == torch.float64:
        model.model.rotary_emb = DoubleRotary(config)
        for module in model.modules():
            if isinstance(module, modeling_llama.LlamaRMSNorm):
                module.forward = double_norm.__get__(module)
    return model


def mean_loss(model, tokens, targets):
    logits = model(input_ids=tokens, use_cache=False).logits
    return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def run(config, weights, tokens, targets, dtype):
    """Logits, loss and gradients at `weights`, then ten steps of AdamW on the same batch."""
    stock_attention = modeling_llama.eager_attention_forward
    if dtype == torch.float64:
        modeling_llama.eager_attention_forward = double_attention
    try:
        model = make_model(config, weights, dtype)
        groups = [{"params": [p for p in model.parameters() if p.dim() == dims], "weight_decay": decay}
                  for dims, decay in ((2, OPTIMISER["weight_decay"]), (1, 0.0))]
        optimiser = torch.optim.AdamW(groups, lr=OPTIMISER["lr"], eps=OPTIMISER["eps"],
                                      betas=(OPTIMISER["beta1"], OPTIMISER["beta2"]), foreach=False)
        result = {"curve": [], "norms": []}
        for step in range(STEPS):
            optimiser.zero_grad()
            logits, loss = mean_loss(model, tokens, targets)
            loss.backward()
            if step == 0:
                result["logits"] = logits.detach().double()
                result["gradient"] = {n: p.grad.double().clone() for n, p in model.named_parameters()}
            result["curve"].append(loss.item())
            result["norms"].append(nn.utils.clip_grad_norm_(model.parameters(), OPTIMISER["clip"]).item())
            optimiser.step()
        result["final"] = {n: p.detach().double().clone() for n, p in model.named_parameters()}
        return result
    finally:
        modeling_llama.eager_attention_forward = stock_attention


def reorder(weights, hidden, ffn):
    """The same weights with the hidden and the intermediate channels in another order."""
    result = {}
    for name, w in weights.items():
        if "o_proj" in name:
            w = w[hidden]
        elif "down_proj" in name:
            w = w[hidden][:, ffn]
        elif "gate_proj" in name or "up_proj" in name:
            w = w[ffn][:, hidden]
        else:
            w = w[..., hidden]
        result[name] = w
    return result


def float_runs(config, weights, tokens, targets):
    """Float32 runs in several orders of summation, each turned back to the original order of channels."""
    for order in range(ORDERS):
        hidden, ffn = torch.arange(config.hidden_size), torch.arange(config.intermediate_size)
        if order > 0:
            hidden, ffn = torch.randperm(len(hidden)), torch.randperm(len(ffn))
        result = run(config, reorder(weights, hidden, ffn), tokens, targets, torch.float32)
        for kind in ("gradient", "final"):
            result[kind] = reorder(result[kind], hidden.argsort(), ffn.argsort())
        yield result


def spread_of(exact, runs):
    def largest(pick):
        return max((pick(r) - pick(exact)).abs().max().item() for r in runs)

    spread = {"logits": largest(lambda r: r["logits"])}
    spread["curve"] = [largest(lambda r, s=s: torch.tensor(r["curve"][s], dtype=torch.float64)) for s in range(STEPS)]
    for kind in ("gradient", "final"):
        spread[kind] = {gguf_name(n): largest(lambda r, n=n: r[kind][n]) for n in exact[kind]}
    return spread


GGUF_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{GGUF_PARTS[part]}.weight"


def gguf_rows(name, tensor, head_dim):
    """GGUF rotates adjacent pairs of a head, transformers its two halves: row 2i+j of a head is row i + j*D/2."""
    if "q_proj" in name or "k_proj" in name:
        heads = tensor.shape[0] // head_dim
        tensor = tensor.reshape(heads, 2, head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
    return tensor


def random_weights(config, generator):
    weights = {}
    for name, parameter in LlamaForCausalLM(config).named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            weights[name] = 1 + 0.3 * noise
        else:
            weights[name] = noise / math.sqrt(parameter.shape[1])
    return weights


def make_golden(folder, name, shape, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    config = LlamaConfig(**shape, attention_bias=False, mlp_bias=False, attn_implementation="eager")
    weights = random_weights(config, generator)
    tokens = torch.randint(config.vocab_size, (BATCH, LENGTH), generator=generator)
    targets = torch.randint(config.vocab_size, (BATCH, LENGTH), generator=generator)
    targets[torch.rand(BATCH, LENGTH, generator=generator) < 0.2] = -100

    exact = run(config, weights, tokens, targets, torch.float64)
    spread = spread_of(exact, list(float_runs(config, weights, tokens, targets)))
    assert max(spread["final"].values()) < 1e-3 * OPTIMISER["lr"], "another seed is needed, see SEEDS"
    tensors = {
        "tokens": tokens.flatten().int(),
        "targets": targets.flatten().clamp(min=-1).int(),
        "logits": exact["logits"].flatten(0, 1).float(),
    }
    for kind, values in (("weight", weights), ("gradient", exact["gradient"]), ("final", exact["final"])):
        for n, value in values.items():
            tensors[f"{kind}.{gguf_name(n)}"] = gguf_rows(n, value, config.head_dim).float().contiguous()
    save_file(tensors, folder / f"{name}.safetensors")
    description = {
        "made_with": f"PyTorch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
        "config": shape, "batch": BATCH, "length": LENGTH, "optimiser": OPTIMISER,
        "curve": exact["curve"], "gradient_norms": exact["norms"], "spread": spread,
    }
    (folder / f"{name}.json").write_text(json.dumps(description, indent=1) + "\n")


def make_rope_scaling(folder):
    entries = []
    for parameters in ROPE_SCALINGS:
        rope = {k: v for k, v in parameters.items() if k != "head_dim"}
        config = LlamaConfig(hidden_size=parameters["head_dim"], num_attention_heads=1, num_key_value_heads=1,
                             head_dim=parameters["head_dim"], max_position_embeddings=131072, rope_parameters=rope)
        stock = modeling_llama.LlamaRotaryEmbedding(config).inv_freq
        entries.append(parameters | {"frequencies": [float(f) for f in stock]})
    (folder / "rope_scaling.json").write_text(json.dumps(entries, indent=1) + "\n")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        make_golden(folder, name, shape, SEEDS[name])
    make_rope_scaling(folder)


if __name__ == "__main__":
    main()
