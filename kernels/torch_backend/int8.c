/* The finest level's least distances in 8-bit integers, for processors with AVX-512 VNNI. See int8.py.

A map is stored as panels of LANES cells: [panel][depth / 4][plane][lane][4 channels], so that the pixels of a cell
stand in the same lane of `planes` vectors, and their minimum stays in registers. VNNI multiplies unsigned by signed
bytes: the gallery's codes are stored plus 128, and each row's sum starts at -128 times the sum of the query's codes. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

enum { LANES = 16, PLANES = 4, ROWS = 6 }; /* ROWS x PLANES sums fill 24 of the 32 registers */

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,fma")))
#define INLINE static inline __attribute__((always_inline))

int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Round a row of bfloat16 to codes [depth] with a scale of its own. Returns the scale; `norm` is the squared norm of
the rounded row, `lost` that of the rounding error. */
VNNI static float quantise(const uint16_t *row, long channels, long depth, int8_t *codes, float *norm, float *lost) {
    __m512 largest = _mm512_setzero_ps(), sum = largest, error = largest;
    __m512 values[depth / LANES];
    for (long c = 0; c < depth; c += LANES) {
        long left = channels - c;
        __mmask16 mask = left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
        __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + c));
        values[c / LANES] = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
        largest = _mm512_max_ps(largest, _mm512_abs_ps(values[c / LANES]));
    }
    float most = _mm512_reduce_max_ps(largest);
    float scale = most > 1e-30f ? most / 127 : 0, inverse = most > 1e-30f ? 127 / most : 0;
    for (long c = 0; c < depth; c += LANES) {
        __m512 value = values[c / LANES];
        __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(value, _mm512_set1_ps(inverse)));
        __m512 rounded = _mm512_mul_ps(_mm512_cvtepi32_ps(code), _mm512_set1_ps(scale));
        __m512 off = _mm512_sub_ps(value, rounded);
        sum = _mm512_fmadd_ps(rounded, rounded, sum);
        error = _mm512_fmadd_ps(off, off, error);
        _mm_storeu_si128((__m128i *)(codes + c), _mm512_cvtsepi32_epi8(code));
    }
    *norm = _mm512_reduce_add_ps(sum);
    *lost = _mm512_reduce_add_ps(error);
    return scale;
}

/* Quantise a query's rows [rows, stride]: codes [rows, depth], and scales, norms, lost and starts [rows]. */
VNNI void quantise_query(const uint16_t *features, long rows, long stride, long channels, long depth, int8_t *codes,
                         float *scales, float *norms, float *lost, int32_t *starts) {
    for (long r = 0; r < rows; r++, codes += depth) {
        scales[r] = quantise(features + r * stride, channels, depth, codes, norms + r, lost + r);
        starts[r] = 0;
        for (long c = 0; c < depth; c++) starts[r] -= 128 * codes[c];
    }
}

/* Quantise a map's rows [planes, cells, stride] into panels; scales and norms are [panels, planes, LANES]. Returns the
largest `lost` of a row. */
VNNI float quantise_map(const uint16_t *features, long planes, long cells, long stride, long channels, long depth,
                        uint8_t *panels, float *scales, float *norms) {
    float largest = 0, lost;
    int8_t codes[depth];
    for (long plane = 0; plane < planes; plane++)
        for (long cell = 0; cell < cells; cell++, features += stride) {
            long panel = cell / LANES, lane = cell % LANES, at = (panel * planes + plane) * LANES + lane;
            scales[at] = quantise(features, channels, depth, codes, norms + at, &lost);
            largest = lost > largest ? lost : largest;
            for (long c = 0; c < depth; c++) codes[c] ^= -128; /* plus 128, as an unsigned byte */
            uint8_t *to = panels + panel * planes * LANES * depth + (plane * LANES + lane) * 4;
            for (long c = 0; c < depth; c += 4) memcpy(to + c * planes * LANES, codes + c, 4);
        }
    return largest;
}

typedef struct {
    const uint8_t *codes; /* [depth / 4, planes, LANES, 4] */
    const float *scales, *norms; /* [planes, LANES] */
    long planes, depth;
} Panel;

INLINE VNNI __m512 distance(__m512i sum, Panel g, long plane, __m512 scale) {
    scale = _mm512_mul_ps(scale, _mm512_loadu_ps(g.scales + plane * LANES));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_loadu_ps(g.norms + plane * LANES));
}

/* The sums of row r and four planes are named a, b, c and d, and added to in assembly: with arrays or intrinsics, GCC
keeps a copy of each in memory, which takes three times as long. */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define START(r) __m512i a##r = _mm512_set1_epi32(starts[row[r]]), b##r = a##r, c##r = a##r, d##r = a##r;
#define ADD(sum, gallery) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(gallery), "v"(query))
#define STEP(r)                                           \
    memcpy(&four, codes + row[r] * g.depth + channel, 4); \
    query = _mm512_set1_epi32(four);                      \
    ADD(a##r, g0);                                        \
    ADD(b##r, g1);                                        \
    ADD(c##r, g2);                                        \
    ADD(d##r, g3);
#define LEAST(r)                                                                                         \
    scale = _mm512_set1_ps(scales[row[r]]);                                                              \
    least[r] = _mm512_min_ps(least[r], _mm512_min_ps(_mm512_min_ps(distance(a##r, g, plane, scale),      \
                                                                   distance(b##r, g, plane + 1, scale)), \
                                                     _mm512_min_ps(distance(c##r, g, plane + 2, scale),  \
                                                                   distance(d##r, g, plane + 3, scale))));

/* Compute the least products and norms of the query's rows `row` to the cells of a panel. */
INLINE VNNI void multiply(const long *row, const int8_t *codes, const float *scales, const int32_t *starts, Panel g,
                          __m512 *least) {
    for (long plane = 0; plane < g.planes; plane += PLANES) {
        EACH_ROW(START)
        const uint8_t *at = g.codes + plane * LANES * 4;
        for (long channel = 0; channel < g.depth; channel += 4, at += g.planes * LANES * 4) {
            __m512i g0 = _mm512_loadu_si512(at), g1 = _mm512_loadu_si512(at + LANES * 4);
            __m512i g2 = _mm512_loadu_si512(at + LANES * 8), g3 = _mm512_loadu_si512(at + LANES * 12), query;
            int32_t four;
            EACH_ROW(STEP)
        }
        __m512 scale;
        EACH_ROW(LEAST)
    }
}

/* Write the distances of rows to a map's cells, out [rows, cells]: the least of each cell's pixels, plus `coarse`. */
VNNI void least_distances(const int8_t *q_codes, const float *q_scales, const float *q_norms, const int32_t *q_starts,
                          long rows, const uint8_t *codes, const float *scales, const float *norms, long planes,
                          long cells, long depth, const float *coarse, long coarse_stride, float *out, long out_stride) {
    for (long cell = 0; cell < cells; cell += LANES) {
        Panel g = {codes + cell * planes * depth, scales + cell * planes, norms + cell * planes, planes, depth};
        __mmask16 mask = cells - cell >= LANES ? 0xffff : (1u << (cells - cell)) - 1;
        for (long first = 0; first < rows; first += ROWS) {
            __m512 least[ROWS];
            long row[ROWS]; /* the last block repeats the last row */
            for (long r = 0; r < ROWS; r++) {
                row[r] = first + r < rows ? first + r : rows - 1;
                least[r] = _mm512_set1_ps(__FLT_MAX__);
                _mm_prefetch((const char *)(coarse + row[r] * coarse_stride + cell), _MM_HINT_T0);
            }
            multiply(row, q_codes, q_scales, q_starts, g, least);
            for (long r = 0; r < ROWS; r++) {
                __m512 others = _mm512_maskz_loadu_ps(mask, coarse + row[r] * coarse_stride + cell);
                others = _mm512_add_ps(others, _mm512_set1_ps(q_norms[row[r]]));
                _mm512_mask_storeu_ps(out + row[r] * out_stride + cell, mask, _mm512_add_ps(least[r], others));
            }
        }
    }
}
#else
int supported(void) { return 0; }
#endif
