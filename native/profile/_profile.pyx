# cython: cdivision=True
"""Streaming per-feature statistics of float32 rows, in one pass without the GIL.

A request is scanned once. The scan says whether the rows hold an infinity or a missing value, and is at the same time
their profile: it is thrown away with a refused request, and merged into the long-lived profile with an accepted one.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY, NAN
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

import operator

import numpy as np

cnp.import_array()

cdef enum:
    # Below this many values the pass takes microseconds, and waiting to get the GIL back can take milliseconds.
    GIL_FREE_VALUES = 4096


include "moments.pxi"


cdef class _Bins:
    """Bin edges of all features, validated and never changed, shared by a profile and its scans."""

    cdef Py_ssize_t features, total
    cdef tuple edges
    cdef object flat, starts
    cdef const double *edge
    cdef const int64_t *start  # first bin of a feature; its first edge is start[j] − j, as k edges make k + 1 bins

    def __cinit__(self, n_features, edges):
        self.features = operator.index(n_features)
        if self.features < 1:
            raise ValueError(f"n_features is {self.features}; it must be at least 1")
        if edges is None:
            edges = ((),) * self.features
        if len(edges) != self.features:
            raise ValueError(f"edges are given for {len(edges)} features; the profile has {self.features}")
        self.edges = tuple(_checked_edges(j, values) for j, values in enumerate(edges))
        self.flat = np.concatenate(self.edges)
        self.starts = np.cumsum([0, *(len(values) + 1 for values in self.edges)], dtype=np.int64)
        self.edge = <const double *> cnp.PyArray_DATA(self.flat)
        self.start = <const int64_t *> cnp.PyArray_DATA(self.starts)
        self.total = self.start[self.features]

    cdef bint same(self, _Bins other):
        return self is other or (np.array_equal(self.starts, other.starts) and np.array_equal(self.flat, other.flat))


cdef _checked_edges(Py_ssize_t feature, values):
    try:
        edges = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"edges[{feature}] are not numbers: {error}") from error
    if edges.ndim != 1:
        raise ValueError(f"edges[{feature}] have {edges.ndim} dimensions; give a flat sequence of numbers")
    if not np.isfinite(edges).all():
        raise ValueError(f"edges[{feature}] hold NaN or infinity; under- and overflow have bins of their own")
    if not (edges[1:] > edges[:-1]).all():
        raise ValueError(f"edges[{feature}] are not strictly increasing")
    edges.flags.writeable = False
    return edges


cdef class FeatureStatistics:
    """What `FeatureProfile` and `Scan` have in common: the statistics so far, for each feature.

    Arrays are fresh copies of shape (features,). Infinite values are counted and kept out of all other statistics.
    """

    cdef readonly Py_ssize_t rows
    """Rows seen."""
    cdef readonly tuple edges
    """Bin edges, float64, read-only, one array for each feature."""

    cdef Py_ssize_t features
    cdef _Bins bins
    cdef void *memory
    cdef int64_t *n_missing
    cdef int64_t *n_infinite
    cdef int64_t *bin_counts
    cdef double *means
    cdef double *m2
    cdef double *lo
    cdef double *hi

    cdef int allocate(self, _Bins bins) except -1:
        if bins is None:
            raise TypeError("FeatureStatistics has no bins; make a FeatureProfile")
        cdef Py_ssize_t j, n = bins.features
        self.bins, self.edges, self.features = bins, bins.edges, n
        self.memory = PyMem_Calloc(self.cells(), 8)
        if self.memory is NULL:
            raise MemoryError
        self.means = <double *> self.memory
        self.m2 = self.means + n
        self.lo = self.m2 + n
        self.hi = self.lo + n
        self.n_missing = <int64_t *> (self.hi + n)
        self.n_infinite = self.n_missing + n
        self.bin_counts = self.n_infinite + n
        for j in range(n):
            self.lo[j] = INFINITY
            self.hi[j] = -INFINITY
        return 0

    def __dealloc__(self):
        PyMem_Free(self.memory)

    cdef Py_ssize_t cells(self) noexcept:
        return 6 * self.features + self.bins.total

    cdef int64_t finite(self, Py_ssize_t j) noexcept nogil:
        return self.rows - self.n_missing[j] - self.n_infinite[j]

    cdef doubles(self, const double *values):
        """A copy of ``values``, NaN where the feature has no finite value."""
        out = np.empty(self.features, np.float64)
        cdef double *to = <double *> cnp.PyArray_DATA(out)
        cdef Py_ssize_t j
        for j in range(self.features):
            to[j] = values[j] if self.finite(j) else NAN
        return out

    @property
    def count(self):
        """Finite values, int64."""
        out = np.empty(self.features, np.int64)
        cdef int64_t *to = <int64_t *> cnp.PyArray_DATA(out)
        cdef Py_ssize_t j
        for j in range(self.features):
            to[j] = self.finite(j)
        return out

    @property
    def missing(self):
        """NaN values, int64."""
        return _integers(self.n_missing, self.features)

    @property
    def infinite(self):
        """Values that are +inf or -inf, int64."""
        return _integers(self.n_infinite, self.features)

    @property
    def mean(self):
        """Mean of the finite values, float64; NaN without any."""
        return self.doubles(self.means)

    @property
    def variance(self):
        """Population variance (divided by the count) of the finite values, float64, never negative; NaN without any."""
        out = self.doubles(self.m2)
        cdef double *to = <double *> cnp.PyArray_DATA(out)
        cdef Py_ssize_t j
        for j in range(self.features):
            to[j] /= self.finite(j)  # without any, NaN already
        return out

    @property
    def minimum(self):
        """Least finite value, float64; NaN without any. Zeros of either sign are the same value."""
        return self.doubles(self.lo)

    @property
    def maximum(self):
        """Greatest finite value, float64; NaN without any. Zeros of either sign are the same value."""
        return self.doubles(self.hi)

    @property
    def histogram(self):
        """Finite values per bin, one int64 array for each feature, summing to its count.

        k edges make k + 1 half-open bins: bin 0 is x < edges[0], bin i is edges[i-1] <= x < edges[i], bin k is
        x >= edges[k-1]. This is ``np.searchsorted(edges, x, side="right")``.
        """
        cdef Py_ssize_t j
        return tuple(
            [
                _integers(self.bin_counts + self.bins.start[j], self.bins.start[j + 1] - self.bins.start[j])
                for j in range(self.features)
            ]
        )

    def to_dict(self):
        """One moment's statistics as JSON takes them: ``rows``, and ``features``, an object for each feature with the
        properties above by their names, ``None`` in place of NaN.
        """
        cdef FeatureStatistics now = FeatureStatistics.__new__(FeatureStatistics)
        now.allocate(self.bins)
        memcpy(now.memory, self.memory, self.cells() * 8)
        now.rows = self.rows
        names = ("count", "missing", "infinite", "mean", "variance", "minimum", "maximum", "edges", "histogram")
        columns = [[_plain(value) for value in getattr(now, name)] for name in names]
        return {"rows": now.rows, "features": [dict(zip(names, feature)) for feature in zip(*columns)]}


cdef _integers(const int64_t *values, Py_ssize_t n):
    out = np.empty(n, np.int64)
    memcpy(cnp.PyArray_DATA(out), values, n * sizeof(int64_t))
    return out


cdef _plain(value):
    plain = value.tolist()
    return None if plain != plain else plain


cdef class Scan(FeatureStatistics):
    """The statistics of one request's rows, made by `FeatureProfile.scan`, and where its first odd values are."""

    cdef int64_t *missing_at
    cdef Py_ssize_t infinite_row, infinite_feature

    def __cinit__(self, FeatureProfile profile not None):
        self.allocate(profile.bins)
        self.infinite_row = -1
        self.missing_at = <int64_t *> PyMem_Calloc(self.features, sizeof(int64_t))
        if self.missing_at is NULL:
            raise MemoryError
        memset(self.missing_at, 0xFF, self.features * sizeof(int64_t))  # −1, none yet

    def __dealloc__(self):
        PyMem_Free(self.missing_at)

    @property
    def is_plain(self):
        """Whether every value is a finite number."""
        cdef Py_ssize_t j
        for j in range(self.features):
            if self.n_missing[j] or self.n_infinite[j]:
                return False
        return True

    @property
    def first_infinite(self):
        """(row, feature) of the first infinite value in row-major order, or ``None``."""
        return None if self.infinite_row < 0 else (self.infinite_row, self.infinite_feature)

    @property
    def first_missing(self):
        """Row of the first NaN of each feature, int64 (features,); -1 where there is none."""
        return _integers(self.missing_at, self.features)

    cdef int read(self, const float *values, Py_ssize_t rows) except -1:
        cdef double *scratch = <double *> PyMem_Calloc(4 * self.features, sizeof(double))
        if scratch is NULL:
            raise MemoryError
        if rows * self.features < GIL_FREE_VALUES:
            self.fold_rows(values, rows, scratch)
        else:
            with nogil:
                self.fold_rows(values, rows, scratch)
        PyMem_Free(scratch)
        return 0

    cdef void fold_rows(self, const float *values, Py_ssize_t rows, double *shift) noexcept nogil:
        cdef Py_ssize_t j, n = self.features
        cdef double *total = shift + n
        cdef double *squares = total + n
        cdef double *before = squares + n  # finite values of earlier blocks
        cdef double now, more
        while self.rows < rows:
            self.fold_block(values, min(rows, self.rows + BLOCK), shift, total, squares)
            for j in range(n):
                now = self.finite(j)
                more = now - before[j]
                if more > 0:
                    join(
                        &self.means[j], &self.m2[j], before[j],
                        shift[j] + total[j] / more, max(0.0, squares[j] - total[j] * total[j] / more), more,
                    )
                    before[j] = now

    cdef void fold_block(
        self, const float *values, Py_ssize_t end, double *shift, double *total, double *squares
    ) noexcept nogil:
        cdef Py_ssize_t i, j, n = self.features
        cdef const float *row
        memset(total, 0, 2 * n * sizeof(double))  # and squares, which follow
        for j in range(n):
            shift[j] = first_finite(values + self.rows * n + j, end - self.rows, n)
        for i in range(self.rows, end):
            row = values + i * n
            sum_row(row, n, shift, total, squares, self.lo, self.hi)
            if any_not_finite(row, n):
                self.note_odd(row, i)
            bin_row(row, n, self.bins.edge, self.bins.start, self.bin_counts)
        self.rows = end

    cdef void note_odd(self, const float *row, Py_ssize_t i) noexcept nogil:
        cdef Py_ssize_t j
        for j in range(self.features):
            if row[j] != row[j]:
                if self.n_missing[j] == 0:
                    self.missing_at[j] = i
                self.n_missing[j] += 1
            elif row[j] - row[j] != 0:
                if self.infinite_row < 0:
                    self.infinite_row = i
                    self.infinite_feature = j
                self.n_infinite[j] += 1


cdef class FeatureProfile(FeatureStatistics):
    """Statistics of every row merged so far.

    Threads: `scan` may run in many threads at once, on one profile; it drops the GIL for requests of 4096 values or
    more, and the rows must not be written meanwhile. `merge`, each property and `to_dict` read or change the
    statistics without letting another thread between, so each sees whole merges; several properties read one after
    another may not belong together, where those of one `to_dict` do.

    Args:
        n_features: columns of the rows, at least 1.
        edges: for each feature its bin edges, finite and strictly increasing, possibly none; see `histogram`.
            ``None`` gives no feature any, hence one bin each.

    Raises:
        ValueError: ``n_features`` or ``edges`` are not as described; says which feature.
    """

    def __cinit__(self, n_features, edges=None):
        self.allocate(_Bins(n_features, edges))

    def scan(self, rows):
        """Reads rows once and leaves the profile as it is.

        Args:
            rows: float32 (n, features), C-contiguous, n >= 0; may be read-only.

        Raises:
            ValueError: ``rows`` is not such an array; says what it is.
        """
        if not cnp.PyArray_Check(rows):
            raise ValueError(f"rows must be a float32 numpy array, not {type(rows).__name__}")
        if cnp.PyArray_TYPE(rows) != cnp.NPY_FLOAT32 or not cnp.PyArray_ISNOTSWAPPED(rows):
            raise ValueError(f"rows are {rows.dtype.str}; they must be float32 of this machine's byte order")
        if cnp.PyArray_NDIM(rows) != 2 or cnp.PyArray_DIM(rows, 1) != self.features:
            raise ValueError(f"rows have shape {rows.shape}; it must be (n, {self.features})")
        if not cnp.PyArray_IS_C_CONTIGUOUS(rows) or not cnp.PyArray_ISALIGNED(rows):
            raise ValueError("rows are not C-contiguous and aligned; pass np.ascontiguousarray(rows)")
        cdef Scan scan = Scan.__new__(Scan, self)
        scan.read(<const float *> cnp.PyArray_DATA(rows), cnp.PyArray_DIM(rows, 0))
        return scan

    def merge(self, FeatureStatistics other not None):
        """Adds an accepted request's scan, or another worker's profile. The other stays as it is.

        Raises:
            ValueError: the other has other features or other bin edges; nothing was merged.
        """
        if self.features != other.features:
            raise ValueError(f"cannot merge statistics of {other.features} features into {self.features}")
        if not self.bins.same(other.bins):
            raise ValueError("cannot merge statistics with other bin edges")
        cdef Py_ssize_t j
        cdef int64_t more
        for j in range(self.features):
            more = other.finite(j)
            if more:
                join(&self.means[j], &self.m2[j], self.finite(j), other.means[j], other.m2[j], more)
                self.lo[j] = min(self.lo[j], other.lo[j])
                self.hi[j] = max(self.hi[j], other.hi[j])
        for j in range(self.features):
            self.n_missing[j] += other.n_missing[j]
            self.n_infinite[j] += other.n_infinite[j]
        for j in range(self.bins.total):
            self.bin_counts[j] += other.bin_counts[j]
        self.rows += other.rows
