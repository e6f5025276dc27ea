// Entry points of the table kernel, one for each instruction set; isa.h chooses.
#pragma once

#include <cstddef>

namespace xai::treeshap {

class PatternTables;
class StopToken;

// Adds to `phi` (row-major [row][player][output]) the attributions of rows [begin, end) of `rows` (row-major,
// n_columns of them). A row's bits are the same whatever the number of rows and the instruction set: float32 sums in
// one order, begun anew and added in float64 at the end of each block of chunks. Returns false when the token asked it
// to stop, `phi` half-written.
using AddFromTables = bool (*)(const PatternTables& tables, const float* rows, std::size_t begin, std::size_t end,
                               double* phi, const StopToken& stop);

namespace portable {
bool add_from_tables(const PatternTables&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
#if defined(__x86_64__)
namespace avx2 {
bool add_from_tables(const PatternTables&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
namespace avx512 {
bool add_from_tables(const PatternTables&, const float*, std::size_t, std::size_t, double*, const StopToken&);
}
#endif

}  // namespace xai::treeshap
