// Look-ups by every bit pattern of an element: y[i] = table[x[i]]. Compiled at first use, for this very processor.
//
// Scalar loads beat gathers here: of 65,536 entries, numbers of one model touch a few hundred cache lines. 256 entries of a byte
// fit into four registers, where the processor has permutes of bytes.
#include <algorithm>
#include <cstdint>
#include <cstring>
#ifdef __AVX512VBMI__
#include <immintrin.h>
#endif

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint64_t;
using std::uint8_t;

namespace {

constexpr int64_t BLOCK = 4096;

void pairs(const uint16_t *x, const uint16_t *table, int64_t count, uint16_t *y) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {  // one load for four indices
        uint64_t a, b;
        std::memcpy(&a, x + i, 8);
        std::memcpy(&b, x + i + 4, 8);
        for (int k = 0; k < 4; k++) y[i + k] = table[uint16_t(a >> (16 * k))];
        for (int k = 0; k < 4; k++) y[i + 4 + k] = table[uint16_t(b >> (16 * k))];
    }
    for (; i < count; i++) y[i] = table[x[i]];
}

void bytes(const uint8_t *x, const uint8_t *table, int64_t count, uint8_t *y) {
    int64_t i = 0;
#ifdef __AVX512VBMI__
    __m512i part[4];
    for (int k = 0; k < 4; k++) part[k] = _mm512_loadu_si512(table + 64 * k);
    for (; i + 64 <= count; i += 64) {  // a permute reads the low seven bits of an index, the blend its top bit
        __m512i at = _mm512_loadu_si512(x + i);
        __m512i low = _mm512_permutex2var_epi8(part[0], at, part[1]), high = _mm512_permutex2var_epi8(part[2], at, part[3]);
        _mm512_storeu_si512(y + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high));
    }
#endif
    for (; i < count; i++) y[i] = table[x[i]];
}

template <typename T> void in_threads(void (*run)(const T *, const T *, int64_t, T *), const T *x, const T *table, int64_t count,
                                      int32_t threads, T *y) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t at = 0; at < count; at += BLOCK) run(x + at, table, std::min(BLOCK, count - at), y + at);
}

}  // namespace

extern "C" void look_up_16(const uint16_t *x, const uint16_t *table, int64_t count, int32_t threads, uint16_t *y) {
    in_threads<uint16_t>(pairs, x, table, count, threads, y);
}

extern "C" void look_up_8(const uint8_t *x, const uint8_t *table, int64_t count, int32_t threads, uint8_t *y) {
    in_threads<uint8_t>(bytes, x, table, count, threads, y);
}
