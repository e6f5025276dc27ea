// Whether a row's attributions explain its margin: |base + sum of phi - margin| must stay within a share of
// |base| + sum of |phi| + |margin|, for each output. xai_service/assemble.py says why it is a share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace xai::treeshap {

struct Additivity {
  double residual;  // the worst output's; NaN where a number of the row is none
  bool holds;
};

// `phi` holds features x outputs, features outermost.
inline Additivity check_additivity(const double* phi, const double* base, const float* margin, std::size_t features,
                                   std::size_t outputs, double tolerance) {
  Additivity result{0.0, true};
  for (std::size_t k = 0; k < outputs; ++k) {
    double sum = base[k];
    double scale = std::abs(base[k]) + std::abs(static_cast<double>(margin[k]));
    for (std::size_t j = 0; j < features; ++j) {
      const double value = phi[j * outputs + k];
      sum += value;
      scale += std::abs(value);
    }
    const double residual = std::abs(sum - static_cast<double>(margin[k]));
    // NaN compares false, and an infinite scale would allow anything.
    if (!(residual <= tolerance * scale) || !std::isfinite(residual)) result.holds = false;
    result.residual = std::isnan(residual) || std::isnan(result.residual) ? residual + result.residual
                                                                          : std::max(result.residual, residual);
  }
  return result;
}

}  // namespace xai::treeshap
