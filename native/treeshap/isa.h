// Which instruction set the kernels use: one choice for the process, made once.
#pragma once

#include <string>
#include <vector>

namespace xai::treeshap {

enum class Isa { kPortable, kAvx2, kAvx512 };

// "portable", "avx2", "avx512".
const char* name_of(Isa isa);

// What this machine can run, the best last. "avx512" means F, BW, DQ, VL, VBMI and VBMI2 (Ice Lake, Zen 4 and later).
std::vector<Isa> supported_isas();

// The best, or what the environment variable XAI_ISA names. Throws std::invalid_argument when that is unknown or this
// machine cannot run it: a forced choice is never replaced silently.
Isa process_isa();

// As process_isa() for a name given by the caller instead of the environment.
Isa isa_named(const std::string& name);

}  // namespace xai::treeshap
