// The one-row kernel for any machine; setup.py gives this file its instruction set.
#define XAI_ISA portable
#include "treeshap/row_lanes_portable-inl.h"
// The vectors above come first.
#include "treeshap/row_kernel-inl.h"
