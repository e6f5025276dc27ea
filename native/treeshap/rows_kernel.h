// Entry points of the many-rows kernel, one for each instruction set; isa.h chooses.
#pragma once

#include <cstddef>

namespace xai::treeshap {

struct RowsPlan;
class StopToken;

// Attributions of rows [begin, end) of `rows` (row-major, n_columns of them) into `phi` (row-major
// [row][player][output], zeroed by the callee). Returns false when the token asked it to stop, `phi` half-written.
using ExplainRows = bool (*)(const RowsPlan& plan, const float* rows, std::size_t begin, std::size_t end, double* phi,
                             const StopToken& stop);

namespace portable {
bool explain_rows(const RowsPlan&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
#if defined(__x86_64__)
namespace avx2 {
bool explain_rows(const RowsPlan&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
namespace avx512 {
bool explain_rows(const RowsPlan&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
#endif

}  // namespace xai::treeshap
