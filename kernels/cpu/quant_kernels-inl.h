// The kernels on 16-bit and quantised rows of one instruction set, gathered in a table.
#pragma once

#include "kernels/cpu/half_matmul-inl.h"
#include "kernels/cpu/plain_panels-inl.h"
#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/quant_matmul-inl.h"
#include "kernels/cpu/quant_rows-inl.h"
#include "kernels/reference/quantize.h"

namespace gladius::cpu {

template <class Isa>
struct QuantTable {
  using Rows = QuantRows<Isa>;

  static void quantize_row(DType type, int64_t n, const float* x, const float* importance, void* y) {
    switch (type) {
      case DType::F16:
        Rows::to_f16(n, x, static_cast<uint16_t*>(y));
        break;
      case DType::BF16:
        Rows::to_bf16(n, x, static_cast<uint16_t*>(y));
        break;
      case DType::Q8_0:
        Rows::quantize_q8_0(n, x, static_cast<BlockQ8_0*>(y));
        break;
      case DType::Q8_1:
        Rows::quantize_q8_1(n, x, static_cast<BlockQ8_1*>(y));
        break;
      case DType::Q8_K:
        Rows::quantize_q8_K(n, x, static_cast<BlockQ8_K*>(y));
        break;
      default:
        reference::quantize_rows(type, 1, n, x, importance, y);
        break;
    }
  }

  static void make_panel(DType weight, int64_t K, const std::byte* rows, int64_t w_rows, std::byte* panel) {
    switch (weight) {
      case DType::F32:
        PlainPanelWriter<Isa, DType::F32>::panel(K, rows, w_rows, panel);
        break;
      case DType::F16:
        PlainPanelWriter<Isa, DType::F16>::panel(K, rows, w_rows, panel);
        break;
      case DType::BF16:
        PlainPanelWriter<Isa, DType::BF16>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q4_0:
        PanelWriter<Isa, DType::Q4_0>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q4_1:
        PanelWriter<Isa, DType::Q4_1>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q5_0:
        PanelWriter<Isa, DType::Q5_0>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q5_1:
        PanelWriter<Isa, DType::Q5_1>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q8_0:
        PanelWriter<Isa, DType::Q8_0>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q4_K:
        PanelWriter<Isa, DType::Q4_K>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q5_K:
        PanelWriter<Isa, DType::Q5_K>::panel(K, rows, w_rows, panel);
        break;
      case DType::Q6_K:
        PanelWriter<Isa, DType::Q6_K>::panel(K, rows, w_rows, panel);
        break;
      default:
        break;
    }
  }

  template <DType type>
  static void halves(const TileProduct& t) {
    t.panels ? PlainPanelProduct<Isa, MultipliedLine<Isa, type>>::run(t)
             : HalfProduct<Isa, WidenedHalves<Isa, type>>::run(t);
  }

  static void matmul_tile(DType weight, const TileProduct& t) {
    switch (weight) {
      case DType::F32:
        PlainPanelProduct<Isa, MultipliedLine<Isa, DType::F32>>::run(t);
        break;
      case DType::F16:
        halves<DType::F16>(t);
        break;
      case DType::BF16:
        halves<DType::BF16>(t);
        break;
      case DType::Q4_0:
        PanelProduct<Isa, DType::Q4_0>::run(t);
        break;
      case DType::Q4_1:
        PanelProduct<Isa, DType::Q4_1>::run(t);
        break;
      case DType::Q5_0:
        PanelProduct<Isa, DType::Q5_0>::run(t);
        break;
      case DType::Q5_1:
        PanelProduct<Isa, DType::Q5_1>::run(t);
        break;
      case DType::Q8_0:
        PanelProduct<Isa, DType::Q8_0>::run(t);
        break;
      case DType::Q4_K:
        PanelProduct<Isa, DType::Q4_K>::run(t);
        break;
      case DType::Q5_K:
        PanelProduct<Isa, DType::Q5_K>::run(t);
        break;
      case DType::Q6_K:
        PanelProduct<Isa, DType::Q6_K>::run(t);
        break;
      default:
        break;
    }
  }
};

template <class Isa>
QuantKernels make_quant_kernels() {
  return {.quantize_row = QuantTable<Isa>::quantize_row,
          .dequantize_row = QuantRows<Isa>::dequantize_row,
          .convert_activations = QuantRows<Isa>::convert_activations,
          .matmul_tile = QuantTable<Isa>::matmul_tile,
          .make_panel = QuantTable<Isa>::make_panel,
          .pairs = {}};
}

}  // namespace gladius::cpu
