// Gauss-Legendre quadrature on [0, 1].
#pragma once

#include <vector>

namespace xai::treeshap {

// Points and weights with which polynomials of degree up to 2 * point.size() - 1 are integrated exactly over [0, 1].
// All points lie inside the interval, all weights are positive and add to 1.
struct Quadrature {
  std::vector<double> point;
  std::vector<double> weight;
};

// `size` >= 1 points: Newton's iteration on the Legendre polynomial (Davis & Rabinowitz, Methods of Numerical
// Integration, 2.7), accurate to a few ulp for any size used here.
Quadrature gauss_legendre(int size);

// `size` >= 2 points, the first of them 0, exact for degrees up to 2 * size - 2: Gauss-Radau (same book, 2.7), by
// Newton's iteration from the Chebyshev-Radau points.
Quadrature gauss_radau(int size);

}  // namespace xai::treeshap
