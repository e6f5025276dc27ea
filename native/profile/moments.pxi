# The arithmetic of the profile, on plain arrays, one element for each feature.
#
# Rows are taken in blocks. With K the block's first finite value of a feature and d = x − K,
#
#     mean = K + Σd / n        M2 = Σ (x − mean)² = Σd² − (Σd)² / n
#
# in double. K lies among the values, so Σd² is at most n times M2 and the subtraction cancels few digits, however
# far the mean is from zero. Blocks, scans and profiles are joined by the parallel rule of Chan, Golub and LeVeque,
# "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982:
#
#     δ = mean_b − mean_a      mean = mean_a + δ·n_b / n      M2 = M2_a + M2_b + δ²·n_a·n_b / n

cdef enum:
    # Rows per block: long enough that its divisions do not count, short enough to bound cancellation.
    BLOCK = 256


cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>

    /* The loops over one row's features, in C for `restrict`: without it they reload what cannot have changed. */

    static int any_not_finite(const float *row, ptrdiff_t features) {
        int any = 0;
        for (ptrdiff_t j = 0; j < features; ++j) any |= row[j] - row[j] != 0.0f;
        return any;
    }

    /* Adds the row to its block's sums. A value that is not finite counts as the shift, which adds nothing to the sums
       and, being a value of the block, nothing to minimum and maximum; in a block without a finite value the shift is
       NaN, which neither comparison takes. */
    static void sum_row(const float *restrict row, ptrdiff_t features, const double *restrict shifts,
                        double *restrict sums, double *restrict squares, double *restrict lows,
                        double *restrict highs) {
        for (ptrdiff_t j = 0; j < features; ++j) {
            const double x = row[j], shift = shifts[j], low = lows[j], high = highs[j];
            const double kept = x - x == 0.0 ? x : shift, d = kept - shift;
            sums[j] += d;
            squares[j] += d * d;
            lows[j] = kept < low ? kept : low;
            highs[j] = kept > high ? kept : high;
        }
    }

    /* Counts each finite value into its bin: as many bins on as edges lie at or below it. The binary search adds the
       comparison instead of branching on it, since neighbours seldom share a bin. */
    static void bin_row(const float *restrict row, ptrdiff_t features, const double *restrict edges,
                        const int64_t *restrict starts, int64_t *restrict counts) {
        for (ptrdiff_t j = 0; j < features; ++j) {
            const double *const first = edges + starts[j] - j;
            const double *edge = first;
            if (row[j] - row[j] != 0.0f) continue;
            for (ptrdiff_t left = starts[j + 1] - starts[j] - 1, half; left > 0; left -= half) {
                half = (left + 1) / 2;
                edge += half * (edge[half - 1] <= (double)row[j]);
            }
            counts[starts[j] + (edge - first)] += 1;
        }
    }
    """
    bint any_not_finite(const float *, Py_ssize_t) noexcept nogil
    void sum_row(const float *, Py_ssize_t, const double *, double *, double *, double *, double *) noexcept nogil
    void bin_row(const float *, Py_ssize_t, const double *, const int64_t *, int64_t *) noexcept nogil


cdef double first_finite(const float *column, Py_ssize_t rows, Py_ssize_t stride) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        if column[i * stride] - column[i * stride] == 0:
            return column[i * stride]
    return NAN


cdef inline void join(
    double *mean, double *m2, double n, double other_mean, double other_m2, double other_n
) noexcept nogil:
    """Adds another set's moments to n values' moments; other_n > 0."""
    cdef double delta = other_mean - mean[0]
    cdef double weight = other_n / (n + other_n)
    if n == 0:  # exactly the other's: 0 + δ need not be
        mean[0] = other_mean
        m2[0] = other_m2
    else:
        mean[0] += delta * weight
        m2[0] += other_m2 + delta * delta * n * weight
