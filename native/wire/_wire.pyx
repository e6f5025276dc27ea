# cython: cdivision=True, boundscheck=False, wraparound=False
"""The two messages of the hot path, `xai.v1.PredictRequest` and `PredictResponse`, without protobuf's objects.

A request of the usual form is read in one pass over its bytes; of any other form nothing is said, and protobuf reads
it. A reply is written in one pass into the bytes that are sent, constant parts copied from what `ReplyParts` encoded
once for a model. Wire format: protobuf.dev, "Encoding". `tests/property/test_wire_laws.py` holds both to protobuf.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cimport numpy as cnp


cnp.import_array()

cdef enum:
    FLOAT32 = 1
    FLOAT64 = 2
    INT64 = 3
    MAX_ROWS = 1 << 30
    MAX_COLUMNS = 1 << 24
    MAX_NAME = 512  # longer names are protobuf's to read, and the repository's to refuse


# Reading. A cursor that fails stays failed: `ok` is looked at once, at the end of a message.
cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    bint ok


cdef inline uint64_t varint(Cursor *c) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint8_t byte
    cdef int shift = 0
    while c.at < c.end and shift < 64:
        byte = c.at[0]
        value |= <uint64_t> (byte & 0x7F) << shift
        shift += 7
        c.at += 1
        if byte < 0x80:
            return value
    c.ok = False
    return 0


cdef inline Cursor within(Cursor *c) noexcept nogil:
    """The bytes of a length-delimited field, which the outer cursor passes over."""
    cdef uint64_t size = varint(c)
    cdef Cursor inner
    inner.ok = c.ok and size <= <uint64_t> (c.end - c.at)
    inner.at = c.at
    inner.end = c.at + (size if inner.ok else 0)
    c.ok = inner.ok
    c.at = inner.end
    return inner


cdef struct Matrix:
    const uint8_t *data
    int64_t rows, columns
    bint ok


cdef Matrix read_matrix(Cursor c) noexcept nogil:
    """A FLOAT32 tensor of two dimensions whose bytes are as many as its shape says; nothing else is ok."""
    cdef Matrix m
    cdef Cursor shape, data
    cdef int seen = 0
    m.ok = False
    m.rows = m.columns = 0
    m.data = NULL
    data.at = data.end = NULL
    while c.ok and c.at < c.end:
        if c.at[0] == 0x08 and not seen & 1:
            c.at += 1
            seen |= 1
            if varint(&c) != FLOAT32:
                return m
        elif c.at[0] == 0x12 and not seen & 2:
            c.at += 1
            seen |= 2
            shape = within(&c)
            m.rows = <int64_t> varint(&shape)
            m.columns = <int64_t> varint(&shape)
            if not shape.ok or shape.at != shape.end:
                return m
        elif c.at[0] == 0x1A and not seen & 4:
            c.at += 1
            seen |= 4
            data = within(&c)
        else:
            return m
    if not c.ok or seen != 7 or not 0 <= m.rows <= MAX_ROWS or not 0 < m.columns <= MAX_COLUMNS:
        return m
    m.data = data.at
    m.ok = m.rows * m.columns * 4 == data.end - data.at
    return m


def read_predict(bytes message not None):
    """Reads a `PredictRequest` of the usual form: a name, a FLOAT32 matrix and plain options, each once.

    Returns:
        (model_name, model_version, rows, latency_budget_ms, explanation_mode, priority): str, str, float32 (n,
        features) that owns its values, float or ``None``, int, int. ``None`` for a message of another form or a
        malformed one, which protobuf is to judge.
    """
    cdef Cursor c
    cdef Cursor name, version, tensor
    cdef Matrix m
    cdef uint64_t mode = 0, priority = 0
    cdef double budget = 0
    cdef int seen = 0, bit
    cdef uint8_t tag
    cdef cnp.npy_intp shape[2]
    c.at = <const uint8_t *> PyBytes_AS_STRING(message)
    c.end = c.at + PyBytes_GET_SIZE(message)
    c.ok = True
    name.at = name.end = version.at = version.end = NULL
    while c.ok and c.at < c.end:
        tag = c.at[0]
        c.at += 1
        bit = 1 << (tag >> 3) if tag < 0x80 else 1
        if seen & bit:
            return None
        seen |= bit
        if tag == 0x0A:
            name = within(&c)
        elif tag == 0x12:
            version = within(&c)
        elif tag == 0x1A:
            tensor = within(&c)
        elif tag == 0x29:
            if c.end - c.at < 8:
                return None
            memcpy(&budget, c.at, 8)
            c.at += 8
        elif tag == 0x38:
            mode = varint(&c)
        elif tag == 0x40:
            priority = varint(&c)
        else:
            return None
    if not c.ok or not seen & (1 << 1) or not seen & (1 << 3):
        return None
    if name.end - name.at > MAX_NAME or version.end - version.at > MAX_NAME or mode > 127 or priority > 127:
        return None
    m = read_matrix(tensor)
    if not m.ok:
        return None
    shape[0], shape[1] = m.rows, m.columns
    rows = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32, 0)
    memcpy(cnp.PyArray_DATA(rows), m.data, m.rows * m.columns * 4)
    try:
        model_name = (<const char *> name.at)[: name.end - name.at].decode("utf-8")
        model_version = (<const char *> version.at)[: version.end - version.at].decode("utf-8") if seen & 4 else ""
    except UnicodeDecodeError:
        return None
    return model_name, model_version, rows, budget if seen & (1 << 5) else None, <int> mode, <int> priority


# Writing. Sizes first, then bytes, so that each is written once, where it is sent from.
cdef inline Py_ssize_t varint_size(uint64_t value) noexcept nogil:
    cdef Py_ssize_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *put_varint(uint8_t *to, uint64_t value) noexcept nogil:
    while value >= 0x80:
        to[0] = <uint8_t> (value | 0x80)
        value >>= 7
        to += 1
    to[0] = <uint8_t> value
    return to + 1


cdef inline uint8_t *put_bytes(uint8_t *to, const void *data, Py_ssize_t size) noexcept nogil:
    memcpy(to, data, size)
    return to + size


cdef inline uint8_t *put_double(uint8_t *to, uint8_t tag, double value) noexcept nogil:
    to[0] = tag
    memcpy(to + 1, &value, 8)
    return to + 9


cdef struct Part:
    # A tensor of some rows of an array, as a field of the message around it.
    const char *data
    int64_t shape[3]
    int dimensions
    uint8_t tag
    uint8_t dtype
    Py_ssize_t data_size
    Py_ssize_t shape_size
    Py_ssize_t size    # of the tensor
    Py_ssize_t field   # with its tag and length; 0 where there is none


cdef int measure(Part *p, array, uint8_t tag, Py_ssize_t begin, Py_ssize_t end) except -1:
    """Looks at rows [begin, end) of a C-ordered array, or at ``None``, which is no field."""
    cdef Py_ssize_t item, row, rows
    cdef int d, kind
    p.field = 0
    if array is None:
        return 0
    if not cnp.PyArray_Check(array) or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError("an array of a reply must be in C order")
    kind = cnp.PyArray_TYPE(array)
    if kind == cnp.NPY_FLOAT32:
        p.dtype, item = FLOAT32, 4
    elif kind == cnp.NPY_FLOAT64:
        p.dtype, item = FLOAT64, 8
    elif kind in (cnp.NPY_LONG, cnp.NPY_LONGLONG) and cnp.PyArray_ITEMSIZE(array) == 8:  # both may be int64
        p.dtype, item = INT64, 8
    else:
        raise ValueError(f"an array of a reply holds {array.dtype}, which no tensor does")
    p.tag, p.dimensions = tag, cnp.PyArray_NDIM(array)
    rows = cnp.PyArray_DIM(array, 0) if p.dimensions else 0
    if not 1 <= p.dimensions <= 3 or not 0 <= begin <= end <= rows:
        raise ValueError(f"rows {begin} to {end} of an array of shape {array.shape} cannot be written")
    row = item
    p.shape[0] = end - begin
    p.shape_size = varint_size(p.shape[0])
    for d in range(1, p.dimensions):
        p.shape[d] = cnp.PyArray_DIM(array, d)
        p.shape_size += varint_size(p.shape[d])
        row *= p.shape[d]
    p.data = <const char *> cnp.PyArray_DATA(array) + begin * row
    p.data_size = (end - begin) * row
    p.size = 2 + 1 + varint_size(p.shape_size) + p.shape_size
    if p.data_size:
        p.size += 1 + varint_size(p.data_size) + p.data_size
    p.field = 1 + varint_size(p.size) + p.size
    return 0


cdef uint8_t *put_tensor(uint8_t *to, const Part *p) noexcept nogil:
    cdef int d
    if p.field == 0:
        return to
    to[0] = p.tag
    to = put_varint(to + 1, p.size)
    to[0], to[1], to[2] = 0x08, p.dtype, 0x12
    to = put_varint(to + 3, p.shape_size)
    for d in range(p.dimensions):
        to = put_varint(to, p.shape[d])
    if p.data_size:
        to[0] = 0x1A
        to = put_varint(to + 1, p.data_size)
        to = put_bytes(to, p.data, p.data_size)
    return to


cdef inline uint8_t digit(uint8_t value) noexcept nogil:
    return value + (48 if value < 10 else 87)  # '0' or 'a' - 10


cdef inline uint8_t *put_uuid(uint8_t *to, const uint8_t *value) noexcept nogil:
    cdef int i
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            to[0] = 0x2D
            to += 1
        to[0] = digit(value[i] >> 4)
        to[1] = digit(value[i] & 15)
        to += 2
    return to


cdef class ReplyParts:
    """What every reply of a model has in common, encoded once.

    Args:
        head: fields 1 to 3 of `PredictResponse`, encoded.
        names: fields 9 and 10.
        base_values: field 3 of `Explanations`.
    """

    cdef bytes head, names, base_values

    def __init__(self, bytes head not None, bytes names not None, bytes base_values not None):
        self.head, self.names, self.base_values = head, names, base_values

    def write(
        self,
        Py_ssize_t begin,
        Py_ssize_t end,
        bytes ids not None,
        margin,
        probabilities,
        labels,
        prediction,
        bytes statuses not None,
        attributions,
        residual,
        bytes detail not None,
        bytes method not None,
        double predict_us,
        double explain_us,
        double overlap_us,
        double record_us,
        double total_us,
        double budget_ms,
    ):
        """Returns the encoded `PredictResponse` for rows [begin, end) of what was computed for more of them.

        Args:
            begin, end: the rows; arrays may hold others before and after.
            ids: 16 bytes for each row in [begin, end).
            margin, probabilities, labels, prediction, attributions, residual: as in the message, C order, or ``None``.
            statuses: one byte for each row in [begin, end).
            detail: UTF-8.
            method: `Method`, encoded.
            predict_us, explain_us, overlap_us, record_us, total_us: microseconds; NaN where not measured.
            budget_ms: milliseconds; 0 where there was none.

        Raises:
            ValueError: an array is not as described, or shorter than ``end``.
        """
        cdef Part tensors[4]
        cdef Part phi, left
        cdef Py_ssize_t n = end - begin, explanations, timings, size, i
        cdef double times[4]
        measure(&tensors[0], margin, 0x2A, begin, end)
        measure(&tensors[1], probabilities, 0x32, begin, end)
        measure(&tensors[2], labels, 0x3A, begin, end)
        measure(&tensors[3], prediction, 0x42, begin, end)
        measure(&phi, attributions, 0x12, begin, end)
        measure(&left, residual, 0x22, begin, end)
        if PyBytes_GET_SIZE(ids) != 16 * n or PyBytes_GET_SIZE(statuses) != n:
            raise ValueError(f"{n} rows need as many ids and statuses")
        explanations = len(self.base_values) + phi.field + left.field
        explanations += 1 + varint_size(n) + n if n else 0
        explanations += 1 + varint_size(len(detail)) + len(detail) if detail else 0
        explanations += 1 + varint_size(len(method)) + len(method)
        times[0], times[1], times[2], times[3] = explain_us, overlap_us, record_us, total_us
        timings = 9 * (predict_us != 0) + 9 * (budget_ms != 0)
        for i in range(4):
            timings += 9 * (not isnan(times[i]))
        size = len(self.head) + len(self.names) + 38 * n
        for i in range(4):
            size += tensors[i].field
        size += 1 + varint_size(explanations) + explanations + 1 + varint_size(timings) + timings

        message = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t *to = <uint8_t *> PyBytes_AS_STRING(message)
        cdef const uint8_t *id_bytes = <const uint8_t *> PyBytes_AS_STRING(ids)
        to = put_bytes(to, PyBytes_AS_STRING(self.head), len(self.head))
        for i in range(n):
            to[0], to[1] = 0x22, 36
            to = put_uuid(to + 2, id_bytes + 16 * i)
        for i in range(4):
            to = put_tensor(to, &tensors[i])
        to = put_bytes(to, PyBytes_AS_STRING(self.names), len(self.names))
        to[0] = 0x5A
        to = put_varint(to + 1, explanations)
        if n:
            to[0] = 0x0A
            to = put_varint(to + 1, n)
            to = put_bytes(to, PyBytes_AS_STRING(statuses), n)
        to = put_tensor(to, &phi)
        to = put_bytes(to, PyBytes_AS_STRING(self.base_values), len(self.base_values))
        to = put_tensor(to, &left)
        if detail:
            to[0] = 0x2A
            to = put_varint(to + 1, len(detail))
            to = put_bytes(to, PyBytes_AS_STRING(detail), len(detail))
        to[0] = 0x32
        to = put_varint(to + 1, len(method))
        to = put_bytes(to, PyBytes_AS_STRING(method), len(method))
        to[0] = 0x62
        to = put_varint(to + 1, timings)
        if predict_us != 0:
            to = put_double(to, 0x09, predict_us)
        for i in range(4):
            if not isnan(times[i]):
                to = put_double(to, <uint8_t> (0x11 + 8 * i), times[i])
        if budget_ms != 0:
            to = put_double(to, 0x31, budget_ms)
        if to != <uint8_t *> PyBytes_AS_STRING(message) + size:
            raise AssertionError("a reply was written to another length than measured")
        return message
