#if defined(__x86_64__)
// The many-rows kernel for AVX-512; setup.py gives this file its instruction set.
#define XAI_ISA avx512
#define XAI_LANES 16
#define XAI_PARTS 1
#include "treeshap/rows_kernel-inl.h"
#endif
