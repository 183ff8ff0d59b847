// The table's loops for a CPU: what plain.py computes, in one pass each. Compiled at first use, for this very processor.
//
// Built for a compiler's vectoriser: no branch in the main loops, and what is rare (an input that is not finite, or outside
// the grid where a histogram is asked for) sends its block of elements through a second, plain loop.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("tree-loop-vectorize", "no-trapping-math", "no-math-errno")  // inductor switches the first two off
#endif
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

namespace {

constexpr int BLOCK = 1024;
constexpr int32_t OUT = 30 << 9, SHIFT = 14, FIRST = (127 - 14) << 9, NON_FINITE = 0xFFFF;

struct Grid {
    float low, high, width, inverse;  // inverse: intervals per unit of x
    int32_t n;
};

template <typename To, typename From> inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

inline bool finite(float x) { return (bits<uint32_t>(x) & 0x7F800000u) != 0x7F800000u; }

// float32 and bfloat16 in memory, as float32 in a block's buffer (float32 itself is not copied).
inline const float *read(const float *from, int64_t at, int, float *) { return from + at; }
inline const float *read(const uint16_t *from, int64_t at, int count, float *buffer) {
    for (int i = 0; i < count; i++) buffer[i] = bits<float>(uint32_t(from[at + i]) << 16);
    return buffer;
}
inline float *target(float *to, int64_t at, float *) { return to + at; }
inline float *target(uint16_t *, int64_t, float *buffer) { return buffer; }
inline void write(float *, int64_t, int, const float *) {}
inline void write(uint16_t *to, int64_t at, int count, const float *buffer) {
    for (int i = 0; i < count; i++) {
        uint32_t b = bits<uint32_t>(buffer[i]);
        uint32_t rounded = (b + 0x7FFFu + ((b >> 16) & 1u)) >> 16;  // to nearest, ties to even
        to[at + i] = uint16_t((b & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
    }
}

template <bool KEEP>
int64_t forward_block(const float *x, const uint64_t *rows, const Grid &g, int count, float *y, uint16_t *place) {
    const float top = float(g.n), quarters = 4 * g.inverse;
    const int32_t inside_codes = 4 * g.n;
    int32_t outside = 0, special = 0;
#pragma omp simd reduction(+ : outside, special)
    for (int i = 0; i < count; i++) {
        float v = x[i], u = (v - g.low) * g.inverse;
        float c = u > -1.0f ? u : -1.0f;  // NaN goes to -1 too
        c = c < top ? c : top;
        int32_t row = int32_t(c + 1.0f);
        float left = float(row - 1);
        left = left > 0.0f ? left : 0.0f;
        float distance = v - (g.low + left * g.width);
        uint64_t pair = rows[row];
        y[i] = bits<float>(uint32_t(pair)) + bits<float>(uint32_t(pair >> 32)) * distance;
        outside += (v < g.low) | (v > g.high);
        special += (bits<uint32_t>(v) & 0x7F800000u) == 0x7F800000u;
        if (KEEP) {
            int32_t quarter = int32_t(distance * quarters);
            quarter = quarter < 0 ? 0 : (quarter > 3 ? 3 : quarter);
            int32_t code = (row - 1) * 4 + quarter;
            int32_t far = int32_t((bits<uint32_t>(distance) & 0x7FFFFFFFu) >> SHIFT) - FIRST;
            far = far < 0 ? 0 : (far > OUT - 1 ? OUT - 1 : far);
            code = row == 0 ? inside_codes + far : code;
            code = row > g.n ? inside_codes + OUT + far : code;
            place[i] = uint16_t(code);
        }
    }
    if (special) {
        for (int i = 0; i < count; i++) {
            if (finite(x[i])) continue;
            int32_t row = g.n + (x[i] < 0 ? 2 : (x[i] > 0 ? 3 : 4));
            y[i] = bits<float>(uint32_t(rows[row]));
            if (KEEP) place[i] = uint16_t(NON_FINITE);
        }
    }
    return outside;
}

template <typename T, bool KEEP>
int64_t forward(const T *x, const float *rows, const Grid &g, int64_t count, int threads, T *y, uint16_t *place) {
    const uint64_t *pairs = reinterpret_cast<const uint64_t *>(rows);
    int64_t outside = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : outside)
    for (int64_t at = 0; at < count; at += BLOCK) {
        float in[BLOCK], out[BLOCK];
        int size = int(std::min<int64_t>(BLOCK, count - at));
        float *result = target(y, at, out);
        const float *from = read(x, at, size, in);
        if (from == result) from = static_cast<float *>(std::memcpy(in, from, size * sizeof(float)));  // in place
        outside += forward_block<KEEP>(from, pairs, g, size, result, KEEP ? place + at : nullptr);
        write(y, at, size, result);
    }
    return outside;
}

inline int32_t row_of(int32_t code, int32_t n) {
    int32_t row = code < 4 * n + OUT ? 0 : n + 1;
    row = code < 4 * n ? (code >> 2) + 1 : row;
    return code == NON_FINITE ? n + 4 : row;
}

inline void slope_block(const float *g, const uint16_t *place, const float *rows, int32_t n, int count, float *result) {
#pragma omp simd
    for (int i = 0; i < count; i++) result[i] = g[i] * rows[2 * row_of(place[i], n) + 1];
}

template <typename T>
void slope(const T *g, const uint16_t *place, const float *rows, int32_t n, int64_t count, int threads, T *result) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t at = 0; at < count; at += BLOCK) {
        float in[BLOCK], out[BLOCK];
        int size = int(std::min<int64_t>(BLOCK, count - at));
        float *to = target(result, at, out);
        slope_block(read(g, at, size, in), place + at, rows, n, size, to);
        write(result, at, size, to);
    }
}

// One thread's share of the histogram: the quarters of the intervals, and (sum of g, sum of g * distance) on either side.
struct Histogram {
    std::vector<float> quarters;
    double side[2][2] = {{0, 0}, {0, 0}};
    bool spoilt = false;

    void add(const float *g, const uint16_t *place, int32_t n, int count) {
        int32_t most = 0;
#pragma omp simd reduction(max : most)
        for (int i = 0; i < count; i++) most = std::max(most, int32_t(place[i]));
        if (most < 4 * n) {
            for (int i = 0; i < count; i++) quarters[place[i]] += g[i];
            return;
        }
        for (int i = 0; i < count; i++) {
            int32_t code = place[i], beyond = code - 4 * n;
            if (beyond < 0) {
                quarters[code] += g[i];
            } else if (code == NON_FINITE) {
                spoilt = true;
            } else {
                int above = beyond >= OUT;
                float distance = bits<float>(uint32_t(((beyond - above * OUT + FIRST) << SHIFT) + (1 << (SHIFT - 1))));
                side[above][0] += g[i];
                side[above][1] += double(g[i]) * (above ? distance : -distance);
            }
        }
    }
};

template <typename T>
void slope_and_rows(const T *g, const uint16_t *place, const float *rows, const Grid &grid, int64_t count, int threads,
                    T *result, float *gradient) {
    const int32_t n = grid.n;
    std::vector<Histogram> shares(threads);
#pragma omp parallel num_threads(threads)
    {
        Histogram &mine = shares[omp_get_thread_num()];
        mine.quarters.assign(4 * n, 0.0f);
        float in[BLOCK], out[BLOCK];
#pragma omp for schedule(static)
        for (int64_t at = 0; at < count; at += BLOCK) {
            int size = int(std::min<int64_t>(BLOCK, count - at));
            const float *from = read(g, at, size, in);
            mine.add(from, place + at, n, size);
            if (result) {
                float *to = target(result, at, out);
                slope_block(from, place + at, rows, n, size, to);
                write(result, at, size, to);
            }
        }
    }
    std::fill(gradient, gradient + 2 * (n + 5), 0.0f);
    for (const Histogram &share : shares) {
        if (share.quarters.empty()) continue;  // the runtime gave fewer threads than asked for
        for (int32_t j = 0; j < n; j++) {
            const float *q = share.quarters.data() + 4 * j;
            gradient[2 * (j + 1)] += (q[0] + q[1]) + (q[2] + q[3]);
            gradient[2 * (j + 1) + 1] += grid.width * (0.125f * q[0] + 0.375f * q[1] + 0.625f * q[2] + 0.875f * q[3]);
        }
        for (int above = 0; above < 2; above++)
            for (int what = 0; what < 2; what++) gradient[2 * (above ? n + 1 : 0) + what] += float(share.side[above][what]);
        if (share.spoilt) gradient[0] = std::numeric_limits<float>::quiet_NaN();
    }
}

// A function of one number in two tables. Few intervals with a polynomial of degree 7 each: their coefficients are picked by
// permutes of registers, without a load. And many with a cubic each, for what the first leaves out: intervals where its polynomial
// is not exact enough (NaN), and x beyond it. A cubic's row is NaN where f is not as smooth; where that is for one kink, the row's
// two cubics are in ``kinks``. What no table has comes out as NaN, for the caller to compute by other means.
struct Curve {
    const float *wide;             // [9 | 8][32]: left knot, then the coefficients of t = x - knot, of f or of f'
    float low, inverse, span;      // of the wide intervals; span: where an interval surely ends
    const uint64_t *rows;          // [n + 1][2]: (c0, c1, c2, c3) in t = x - left knot
    Grid grid;
    const float *kinks;            // [m][10]: row, place of the kink, the cubic to its left, the cubic to its right
    int32_t count;                 // m
    float at_zero;                 // f'(0): exact zeros are common, and a kink there has two slopes
};

template <bool SLOPE> inline float cubic_at(float t, float c0, float c1, float c2, float c3) {
    return SLOPE ? c1 + t * (2 * c2 + t * (3 * c3)) : c0 + t * (c1 + t * (c2 + t * c3));
}

template <bool SLOPE> float one(float v, float g, const Curve &of) {
    float u = (v - of.grid.low) * of.grid.inverse, top = float(of.grid.n);
    float c = u >= 0.0f ? u : top;  // NaN goes to the last row too
    int32_t row = int32_t(c < top ? c : top);
    float t = v - (of.grid.low + float(row) * of.grid.width);
    uint64_t first = of.rows[2 * row], second = of.rows[2 * row + 1];
    float y = cubic_at<SLOPE>(t, bits<float>(uint32_t(first)), bits<float>(uint32_t(first >> 32)),
                              bits<float>(uint32_t(second)), bits<float>(uint32_t(second >> 32)));
    for (int32_t i = 0; y != y && i < of.count; i++) {
        const float *kink = of.kinks + 10 * i;
        if (int32_t(kink[0]) != row || v == kink[1]) continue;  // on the kink itself the formula chooses the slope
        const float *side = kink + (v < kink[1] ? 2 : 6);
        y = cubic_at<SLOPE>(t, side[0], side[1], side[2], side[3]);
    }
    if (SLOPE) y = g * (v == 0.0f ? of.at_zero : y);
    return y;
}

#if defined(__AVX512F__) && !defined(GRAFS_AVX2)
constexpr int LANES = 16;
typedef __m512 Floats;
typedef __m512i Ints;
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Floats value) { _mm512_storeu_ps(to, value); }
inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats less(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Ints interval(Floats u) {  // NaN: the last one
    return _mm512_cvttps_epi32(_mm512_max_ps(_mm512_min_ps(u, _mm512_set1_ps(31.0f)), _mm512_setzero_ps()));
}
inline Floats pick(const float *row, Ints at) { return _mm512_permutex2var_ps(load(row), at, load(row + 16)); }
inline Floats unless_zero(Floats v, Floats usual, Floats at_zero) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_EQ_OQ), usual, at_zero);
}
inline uint32_t outside(Floats t, Floats span, Floats y) {
    __mmask16 in = _mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_GE_OQ) & _mm512_cmp_ps_mask(t, span, _CMP_LE_OQ);
    return uint32_t(uint16_t(~(in & _mm512_cmp_ps_mask(y, y, _CMP_EQ_OQ))));
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8;
typedef __m256 Floats;
typedef __m256i Ints;
inline Floats load(const float *from) { return _mm256_loadu_ps(from); }
inline void store(float *to, Floats value) { _mm256_storeu_ps(to, value); }
inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats less(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Ints interval(Floats u) {
    return _mm256_cvttps_epi32(_mm256_max_ps(_mm256_min_ps(u, _mm256_set1_ps(31.0f)), _mm256_setzero_ps()));
}
inline Floats pick(const float *row, Ints at) {  // a permute reads three bits of the index; blends go by the sign bit
    Floats third = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)), fourth = _mm256_castsi256_ps(_mm256_slli_epi32(at, 27));
    Floats low = _mm256_blendv_ps(_mm256_permutevar8x32_ps(load(row), at), _mm256_permutevar8x32_ps(load(row + 8), at), third);
    Floats high = _mm256_blendv_ps(_mm256_permutevar8x32_ps(load(row + 16), at), _mm256_permutevar8x32_ps(load(row + 24), at), third);
    return _mm256_blendv_ps(low, high, fourth);
}
inline Floats unless_zero(Floats v, Floats usual, Floats at_zero) {
    return _mm256_blendv_ps(usual, at_zero, _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
inline uint32_t outside(Floats t, Floats span, Floats y) {
    Floats in = _mm256_and_ps(_mm256_cmp_ps(t, _mm256_setzero_ps(), _CMP_GE_OQ), _mm256_cmp_ps(t, span, _CMP_LE_OQ));
    return 0xFFu & ~uint32_t(_mm256_movemask_ps(_mm256_and_ps(in, _mm256_cmp_ps(y, y, _CMP_EQ_OQ))));
}
#else
#define GRAFS_NO_VECTORS
#endif

template <bool SLOPE> int32_t curve_block(const float *x, const float *g, const Curve &of, int count, float *y) {
    int32_t missing = 0;
    int i = 0;
#ifndef GRAFS_NO_VECTORS
    constexpr int TERMS = SLOPE ? 7 : 8;
    const Floats low = all(of.low), inverse = all(of.inverse), span = all(of.span), at_zero = all(of.at_zero);
    for (; i + LANES <= count; i += LANES) {
        Floats v = load(x + i);
        Ints at = interval(times(less(v, low), inverse));
        Floats t = less(v, pick(of.wide, at));
        Floats value = pick(of.wide + 32 * TERMS, at);
        for (int term = TERMS - 1; term > 0; term--) value = fma(value, t, pick(of.wide + 32 * term, at));
        if (SLOPE) value = times(load(g + i), unless_zero(v, value, at_zero));
        store(y + i, value);
        for (uint32_t left = outside(t, span, value); left; left &= left - 1) {
            int lane = i + __builtin_ctz(left);
            y[lane] = one<SLOPE>(x[lane], SLOPE ? g[lane] : 0.0f, of);
            missing += y[lane] != y[lane];
        }
    }
#endif
    for (; i < count; i++) {
        y[i] = one<SLOPE>(x[i], SLOPE ? g[i] : 0.0f, of);
        missing += y[i] != y[i];
    }
    return missing;
}

template <typename T, bool SLOPE>
int64_t curve_of(const T *x, const T *g, const Curve &of, int64_t count, int threads, T *y) {
    int64_t missing = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : missing)
    for (int64_t at = 0; at < count; at += BLOCK) {
        float in[BLOCK], weight[BLOCK], out[BLOCK];
        int size = int(std::min<int64_t>(BLOCK, count - at));
        float *result = target(y, at, out);
        const float *slope = SLOPE ? read(g, at, size, weight) : nullptr;
        missing += curve_block<SLOPE>(read(x, at, size, in), slope, of, size, result);
        write(y, at, size, result);
    }
    return missing;
}

template <typename T> void missing_of(const T *y, int64_t count, int threads, int64_t *found) {
    std::atomic<int64_t> end{0};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t at = 0; at < count; at += BLOCK) {
        float buffer[BLOCK];
        int size = int(std::min<int64_t>(BLOCK, count - at));
        const float *values = read(y, at, size, buffer);
        int32_t here = 0;
#pragma omp simd reduction(+ : here)
        for (int i = 0; i < size; i++) here += values[i] != values[i];
        int64_t next = here ? end.fetch_add(here) : 0;
        for (int i = 0; here && i < size; i++)
            if (values[i] != values[i]) found[next++] = at + i;
    }
}

Grid grid(float low, float high, int32_t n) {
    float width = float((double(high) - double(low)) / n);
    return {low, high, width, float(n / (double(high) - double(low))), n};
}

template <typename T>
int64_t forward_of(const void *x, const float *rows, const Grid &g, int64_t count, int threads, void *y, uint16_t *place) {
    auto from = static_cast<const T *>(x);
    auto to = static_cast<T *>(y);
    return place ? forward<T, true>(from, rows, g, count, threads, to, place)
                 : forward<T, false>(from, rows, g, count, threads, to, nullptr);
}

}  // namespace

// ``narrow``: the elements are bfloat16, else float32. y may be x. ``place`` may be null in forward, ``result`` in slope_and_rows.
extern "C" int64_t table_forward(const void *x, const float *rows, float low, float high, int32_t n, int64_t count,
                                 int32_t narrow, int32_t threads, void *y, uint16_t *place) {
    Grid g = grid(low, high, n);
    return narrow ? forward_of<uint16_t>(x, rows, g, count, threads, y, place)
                  : forward_of<float>(x, rows, g, count, threads, y, place);
}

extern "C" void table_slope(const void *g, const uint16_t *place, const float *rows, int32_t n, int64_t count,
                            int32_t narrow, int32_t threads, void *result) {
    if (narrow)
        slope(static_cast<const uint16_t *>(g), place, rows, n, count, threads, static_cast<uint16_t *>(result));
    else
        slope(static_cast<const float *>(g), place, rows, n, count, threads, static_cast<float *>(result));
}

extern "C" void table_slope_and_rows(const void *g, const uint16_t *place, const float *rows, float low, float high,
                                     int32_t n, int64_t count, int32_t narrow, int32_t threads, void *result,
                                     float *gradient) {
    Grid of = grid(low, high, n);
    if (narrow)
        slope_and_rows(static_cast<const uint16_t *>(g), place, rows, of, count, threads, static_cast<uint16_t *>(result),
                       gradient);
    else
        slope_and_rows(static_cast<const float *>(g), place, rows, of, count, threads, static_cast<float *>(result),
                       gradient);
}

// y = f(x), or g * f'(x) where g is given; returns how many elements came out as NaN.
extern "C" int64_t curve(const void *x, const void *g, const float *wide, float wide_low, float wide_inverse, float span,
                         const float *rows, float low, float high, int32_t n, const float *kinks, int32_t kink_count,
                         float at_zero, int64_t count, int32_t narrow, int32_t threads, void *y) {
    Curve of{wide, wide_low, wide_inverse, span, reinterpret_cast<const uint64_t *>(rows), grid(low, high, n), kinks,
             kink_count, at_zero};
    auto run = [&](auto type) {
        using T = decltype(type);
        auto from = static_cast<const T *>(x), weight = static_cast<const T *>(g);
        auto to = static_cast<T *>(y);
        return g ? curve_of<T, true>(from, weight, of, count, threads, to) : curve_of<T, false>(from, weight, of, count, threads, to);
    };
    return narrow ? run(uint16_t{}) : run(float{});
}

// The indices of the NaN of y, in any order; there are as many as ``curve`` said.
extern "C" void curve_missing(const void *y, int64_t count, int32_t narrow, int32_t threads, int64_t *found) {
    if (narrow)
        missing_of(static_cast<const uint16_t *>(y), count, threads, found);
    else
        missing_of(static_cast<const float *>(y), count, threads, found);
}
