#if defined(__x86_64__)
// The one-row kernel for AVX2; setup.py gives this file its instruction set.
#define XAI_ISA avx2
#include "treeshap/row_lanes_avx2-inl.h"
// The vectors above come first.
#include "treeshap/row_kernel-inl.h"
#endif
