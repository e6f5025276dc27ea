#if defined(__x86_64__)
// The many-rows kernel for AVX2; setup.py gives this file its instruction set.
#define XAI_ISA avx2
#define XAI_LANES 8
#define XAI_PARTS 2
#include "treeshap/rows_kernel-inl.h"
#endif
