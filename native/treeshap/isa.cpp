#include "treeshap/isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace xai::treeshap {

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::kPortable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2"))
      isas.push_back(Isa::kAvx512);
  }
#endif
  return isas;
}

Isa isa_named(const std::string& name) {
  const std::vector<Isa> isas = supported_isas();
  std::string listed;
  for (Isa isa : isas) {
    if (name == name_of(isa)) return isa;
    listed += std::string(listed.empty() ? "" : ", ") + name_of(isa);
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' is not known or this machine cannot run it; it can: " + listed);
}

Isa process_isa() {
  static const Isa isa = [] {
    const char* forced = std::getenv("XAI_ISA");
    return forced && *forced ? isa_named(forced) : supported_isas().back();
  }();
  return isa;
}

}  // namespace xai::treeshap
