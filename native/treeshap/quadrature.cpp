#include "treeshap/quadrature.h"

#include <cmath>
#include <numbers>

namespace xai::treeshap {
namespace {

// The Legendre polynomials of degree n and n - 1 at x.
struct Legendre {
  double value, before;
};

Legendre legendre(int n, double x) {
  Legendre p{1, 0};
  for (int j = 0; j < n; ++j) {
    const double next = ((2 * j + 1) * x * p.value - j * p.before) / (j + 1);
    p.before = p.value;
    p.value = next;
  }
  return p;
}

double derivative(int n, double x, const Legendre& p) { return n * (x * p.value - p.before) / (x * x - 1); }

constexpr int kMaxSteps = 64;
constexpr double kConverged = 1e-15;

}  // namespace

Quadrature gauss_legendre(int size) {
  Quadrature result{std::vector<double>(size), std::vector<double>(size)};
  for (int i = 0; i < size; ++i) {
    double x = std::cos(std::numbers::pi * (i + 0.75) / (size + 0.5));  // root i, nearly
    double slope = 0;
    for (int step = 0; step < kMaxSteps; ++step) {
      const Legendre p = legendre(size, x);
      slope = derivative(size, x, p);
      x -= p.value / slope;
      if (std::fabs(p.value / slope) < kConverged) break;
    }
    result.point[i] = (1 - x) / 2;
    result.weight[i] = 1 / ((1 - x * x) * slope * slope);
  }
  return result;
}

Quadrature gauss_radau(int size) {
  const double n = size;
  Quadrature result{std::vector<double>(size), std::vector<double>(size)};
  result.weight[0] = 1 / (n * n);
  for (int i = 1; i < size; ++i) {
    // Besides -1, the points are the roots of P_{n-1} + P_n.
    double x = -std::cos(2 * std::numbers::pi * i / (2 * n - 1));
    for (int step = 0; step < kMaxSteps; ++step) {
      const Legendre p = legendre(size, x), q = legendre(size - 1, x);
      const double change = (p.value + q.value) / (derivative(size, x, p) + derivative(size - 1, x, q));
      x -= change;
      if (std::fabs(change) < kConverged) break;
    }
    const double before = legendre(size - 1, x).value;
    result.point[i] = (1 + x) / 2;
    result.weight[i] = (1 - x) / (2 * n * n * before * before);
  }
  return result;
}

}  // namespace xai::treeshap
