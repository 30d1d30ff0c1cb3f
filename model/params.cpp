#include "model/params.h"

namespace gladius {

std::vector<ParamSpec> parameter_table(const Config& c) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<ParamSpec> table;
  table.push_back({"token_embd.weight",
                   "model.embed_tokens.weight",
                   {c.vocab, c.hidden},
                   Init::normal,
                   RowOrder::same,
                   -1});
  table.push_back({"output_norm.weight", "model.norm.weight", {c.hidden}, Init::ones, RowOrder::same, -1});
  if (!c.tied)
    table.push_back(
        {"output.weight", "lm_head.weight", {c.vocab, c.hidden}, Init::normal, RowOrder::same, -1});

  for (int layer = 0; layer < c.layers; ++layer) {
    const auto row = [&](const char* gguf, const char* hf, Shape shape, Init init,
                         RowOrder order = RowOrder::same) {
      table.push_back({fmt::format("blk.{}.{}.weight", layer, gguf),
                       fmt::format("model.layers.{}.{}.weight", layer, hf), shape, init, order, layer});
    };
    row("attn_norm", "input_layernorm", {c.hidden}, Init::ones);
    row("attn_q", "self_attn.q_proj", {q, c.hidden}, Init::normal, RowOrder::rope_query);
    row("attn_k", "self_attn.k_proj", {kv, c.hidden}, Init::normal, RowOrder::rope_key);
    row("attn_v", "self_attn.v_proj", {kv, c.hidden}, Init::normal);
    row("attn_output", "self_attn.o_proj", {c.hidden, q}, Init::residual_normal);
    row("ffn_norm", "post_attention_layernorm", {c.hidden}, Init::ones);
    row("ffn_gate", "mlp.gate_proj", {c.intermediate, c.hidden}, Init::normal);
    row("ffn_up", "mlp.up_proj", {c.intermediate, c.hidden}, Init::normal);
    row("ffn_down", "mlp.down_proj", {c.hidden, c.intermediate}, Init::residual_normal);
  }
  return table;
}

}  // namespace gladius
