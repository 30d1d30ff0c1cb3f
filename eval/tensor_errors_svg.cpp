#include <algorithm>
#include <cmath>

#include "eval/tensor_errors.h"

namespace gladius {
namespace {

constexpr int kCellWidth = 84, kCellHeight = 22, kLeft = 70, kTop = 46, kDecades = 4;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

// "blk.3.attn_q.weight": "attn_q".
std::string kind_of(const std::string& name) {
  const size_t end = name.rfind(".weight"), dot = name.rfind('.', end == std::string::npos ? end : end - 1);
  return name.substr(dot == std::string::npos ? 0 : dot + 1, end - (dot == std::string::npos ? 0 : dot + 1));
}

class Drawing {
 public:
  explicit Drawing(double largest) : largest_(largest) {}

  void text(double x, double y, const std::string& text, const char* anchor = "middle",
            const char* colour = "#000000") {
    body_ += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n", x, y, anchor,
                         colour, escaped(text));
  }

  // White for what is kDecades below the largest, red for the largest.
  void cell(int column, int line, double value) {
    const double decades = value > 0 ? std::log10(value / largest_) : -kDecades;
    const double depth = std::clamp(1 + decades / kDecades, 0.0, 1.0);
    const int x = kLeft + column * kCellWidth, y = kTop + line * kCellHeight;
    const auto other = static_cast<int>(std::lround(255 - 215 * depth));
    body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"rgb({},{},{})\"/>\n", x,
                         y, kCellWidth - 1, kCellHeight - 1, static_cast<int>(std::lround(255 - 70 * depth)),
                         other, other);
    text(x + kCellWidth / 2.0, y + 15, value > 0 ? fmt::format("{:.1e}", value) : "0", "middle",
         depth > 0.6 ? "#ffffff" : "#000000");
  }

  std::string finish(int columns, int lines) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n{2}</svg>\n",
        kLeft + columns * kCellWidth + 10, kTop + lines * kCellHeight + 10, body_);
  }

 private:
  double largest_;
  std::string body_;
};

}  // namespace

std::string tensor_errors_svg(const TensorErrors& errors, const std::string& title) {
  double largest = 0;
  for (const Estimate& e : errors.kld) largest = std::max(largest, e.value);
  Drawing drawing(largest);
  drawing.text(10, 18, title, "start");

  std::vector<std::string> kinds;
  int layers = 0, outside = 0;
  constexpr int kLayersLine = 3;  // below those outside, their names and the columns'
  for (size_t k = 0; k < errors.specs.size(); ++k) {
    const ParamSpec& spec = errors.specs[k];
    const std::string kind = kind_of(spec.gguf_name);
    if (spec.layer < 0) {
      drawing.text(kLeft + (outside + 0.5) * kCellWidth, kTop - 6, kind);
      drawing.cell(outside++, 0, errors.kld[k].value);
      continue;
    }
    auto column = std::find(kinds.begin(), kinds.end(), kind);
    if (column == kinds.end()) column = kinds.insert(column, kind);
    drawing.cell(static_cast<int>(column - kinds.begin()), kLayersLine + spec.layer, errors.kld[k].value);
    layers = std::max(layers, spec.layer + 1);
  }
  for (size_t c = 0; c < kinds.size(); ++c)
    drawing.text(kLeft + (static_cast<double>(c) + 0.5) * kCellWidth, kTop + kLayersLine * kCellHeight - 6,
                 kinds[c]);
  for (int layer = 0; layer < layers; ++layer)
    drawing.text(kLeft - 8, kTop + (kLayersLine + layer) * kCellHeight + 15, fmt::format("layer {}", layer),
                 "end");
  return drawing.finish(std::max(static_cast<int>(kinds.size()), outside), kLayersLine + layers);
}

}  // namespace gladius
