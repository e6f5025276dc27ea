// The interventional table kernel for any machine; setup.py gives this file its instruction set.
#define XAI_ISA portable
#define XAI_LANES 4
#include "treeshap/interventional_kernel-inl.h"
