"""Builds the native extensions. Metadata, extras and tool settings live in pyproject.toml.

Files named ``*_avx512.cpp``, ``*_avx2.cpp`` and ``*_portable.cpp`` are one kernel each, compiled for that instruction
set; `native/treeshap/isa.cpp` chooses among them at run time.
"""

import os
import platform
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

# Strict warnings are errors in our own builds (the Makefile sets this), not on a user's unknown compiler.
WARNINGS = ["-Wall", "-Wextra", *(["-Werror"] if os.environ.get("XAI_WERROR") else [])]

# Never -ffast-math (NaN carries meaning in a tree) and never -march=native (wheels travel).
# -ffp-contract=off keeps a row's bits equal whatever the compiler finds to fuse.
COMPILE = ["-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", *WARNINGS]

# Kernels may fuse: a row's bits are promised for one instruction set, which the record names.
AVX2 = ["-mavx2", "-mfma", "-mbmi2"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi", "-mavx512vbmi2"]
BY_INSTRUCTION_SET = {
    "avx512": [*AVX512, "-mprefer-vector-width=512", "-ffp-contract=fast"],
    "avx2": [*AVX2, "-ffp-contract=fast"],
}
# Its vectors spill, and 1.5 % of a row's time is in waiting for registers; others gain nothing, or lose.
BY_FILE = {"row_kernel_avx2": ["-frename-registers"]}
# Files for x86-64 are empty elsewhere, but their flags would be errors there.
X86_64 = platform.machine().lower() in {"x86_64", "amd64"}


class BuildExt(build_ext):
    """Adds each file's instruction set to its flags."""

    def build_extensions(self) -> None:
        """Builds all extensions."""
        compile_one = self.compiler._compile  # noqa: SLF001 (setuptools has no flags by file)

        def compile_for_its_isa(obj, src, ext, cc_args, extra_postargs, pp_opts):  # noqa: ANN001, ANN202 (setuptools')
            stem = Path(src).stem
            flags = BY_INSTRUCTION_SET.get(stem.rpartition("_")[2], []) + BY_FILE.get(stem, []) if X86_64 else []
            return compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = compile_for_its_isa  # noqa: SLF001 (as above)
        super().build_extensions()


def sources(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).glob("*.cpp"))


kernel = Pybind11Extension(
    "xai_service._treeshap",
    sources("native/treeshap") + sources("native/bindings"),
    depends=sorted(str(path) for path in Path("native").glob("*/*.h")),
    include_dirs=["native"],
    extra_compile_args=COMPILE,
    extra_link_args=["-pthread"],
    cxx_std=20,
)


def cython(name: str, source: str) -> Extension:
    return Extension(
        name,
        [source],
        include_dirs=[np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        # Cython's generated C is not ours to lint.
        extra_compile_args=["-O3", "-fno-math-errno"],
    )


modules = [
    cython("xai_service._profile", "native/profile/_profile.pyx"),
    cython("xai_service._wire", "native/wire/_wire.pyx"),
]

with ParallelCompile("XAI_BUILD_JOBS", default=0):
    setup(
        ext_modules=[kernel, *cythonize(modules, language_level=3, build_dir="build/cython")],
        cmdclass={"build_ext": BuildExt},
    )
