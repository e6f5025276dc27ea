#if defined(__x86_64__)
// The interventional table kernel for AVX-512; setup.py gives this file its instruction set.
#define XAI_ISA avx512
#define XAI_LANES 16
#include "treeshap/interventional_kernel-inl.h"
#endif
