// Entry points of the one-row kernel, one for each instruction set; isa.h chooses.
#pragma once

namespace xai::treeshap {

struct RowPlan;
struct RowScratch;
class StopToken;

// Attributions of one row of n_columns values into `phi` ([player][output], zeroed by the callee). The plan was
// compiled for the instruction set's number of lanes; the scratch was made for the plan and serves one thread at a
// time. Throws Stopped.
using ExplainRow = void (*)(const RowPlan& plan, const float* row, double* phi, RowScratch& scratch,
                            const StopToken& stop);

namespace portable {
constexpr int kRowLanes = 4;
void explain_row(const RowPlan&, const float*, double*, RowScratch&, const StopToken&);
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {  // needs AVX2, FMA and BMI2
constexpr int kRowLanes = 8;
void explain_row(const RowPlan&, const float*, double*, RowScratch&, const StopToken&);
}  // namespace avx2
namespace avx512 {  // needs AVX-512 F, BW, DQ, VL, VBMI, VBMI2 and BMI2
constexpr int kRowLanes = 16;
void explain_row(const RowPlan&, const float*, double*, RowScratch&, const StopToken&);
}  // namespace avx512
#endif

}  // namespace xai::treeshap
