#if defined(__x86_64__)
// The interventional table kernel for AVX2; setup.py gives this file its instruction set.
#define XAI_ISA avx2
#define XAI_LANES 8
#include "treeshap/interventional_kernel-inl.h"
#endif
