// The many-rows kernel for any machine; setup.py gives this file its instruction set.
#define XAI_ISA portable
#define XAI_LANES 4
#define XAI_PARTS 2
#include "treeshap/rows_kernel-inl.h"
