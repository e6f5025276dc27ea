#if defined(__x86_64__)
// The one-row kernel for AVX-512; setup.py gives this file its instruction set.
#define XAI_ISA avx512
#include "treeshap/row_lanes_avx512-inl.h"
// The vectors above come first.
#include "treeshap/row_kernel-inl.h"
#endif
