/* Vectors, and products whose sums have one order. */
#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wpsabi" /* how vectors are passed: everything that passes them is inlined */

#define LANES 8
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define UNROLL _Pragma("GCC unroll 16") /* arrays of vectors then are registers */
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float a) { return (vec){} + a; }
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* `bytes` from `at` on are read soon: a processor looks ahead by itself, but not past the end of a page */
INLINE void soon(const void *at, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)at + i);
}

/* the sums over the lanes of four vectors */
INLINE vec4 sums(vec a, vec b, vec c, vec d) {
    vec p = SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    vec q = SHUFFLE(c, d, 0, 8, 2, 10, 4, 12, 6, 14) + SHUFFLE(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
    vec r = SHUFFLE(p, q, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(p, q, 2, 3, 10, 11, 6, 7, 14, 15);
    const vec4 *half = (const vec4 *)&r;
    return half[0] + half[1];
}
INLINE float sum(vec v) { return sums(v, v, v, v)[0]; }

/* e to the power of x, to 2 units in the last place (Moshier's Cephes, expf) */
INLINE vec vexp(vec x) {
    const vec low = splat(-87.33654f), high = splat(88.37626f);
    ivec under = x < low, over = x > high;
    x = (vec)(((ivec)x & ~(under | over)) | ((ivec)low & under) | ((ivec)high & over));
    vec n = x * 1.44269504f + 12582912.0f; /* rounds to a whole number */
    ivec bits = (ivec)n << 23;
    n -= 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = splat(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    return (vec)((ivec)y + bits);
}

#define GROUP 32 /* numbers of a row that share a scale */

typedef struct { /* (N, K): floats, or whole numbers of 8 bits and a scale for each GROUP of a row */
    const float *floats;
    const int8_t *levels; /* NULL where the floats are to be read */
    const float *scales;
} Matrix;

typedef struct { /* the left side of a product, (M, K) */
    const float *floats;
    int stride; /* of the floats */
    int8_t *levels;
    float *scales;
} Rows;

/* x (M, K), each GROUP in steps of its largest magnitude / 127 */
static void round_rows(int M, int K, const float *x, int stride, int8_t *levels, float *scales) {
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k += GROUP) {
            const float *from = x + (size_t)m * stride + k;
            ivec most = {};
            UNROLL for (int i = 0; i < GROUP; i += LANES) { /* without a sign, floats order as whole numbers */
                ivec size = (ivec)load(from + i) & 0x7fffffff;
                ivec more = size > most;
                most = (size & more) | (most & ~more);
            }
            int32_t top = 0;
            UNROLL for (int i = 0; i < LANES; i++) top = most[i] > top ? most[i] : top;
            float extreme;
            memcpy(&extreme, &top, sizeof top);
            *scales++ = extreme / 127;
            float steps = extreme > 1e-30f ? 127 / extreme : 0;
            UNROLL for (int i = 0; i < GROUP; i += LANES) {
                ivec bits = (ivec)(load(from + i) * steps + 12582912.0f); /* the nearest is in its last bits */
                UNROLL for (int j = 0; j < LANES; j++) *levels++ = (int8_t)bits[j];
            }
        }
}

/* the products of a GROUP in LANES sums, exactly */
INLINE ivec dot(const int8_t *x, const int8_t *w) {
#ifdef __AVX2__
    __m256i a = _mm256_loadu_si256((const __m256i *)x), b = _mm256_loadu_si256((const __m256i *)w);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(b, b), _mm256_sign_epi8(a, b)); /* |b| a sign(b) */
    return (ivec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    ivec total = {};
    for (int i = 0; i < GROUP; i += LANES)
        for (int j = 0; j < LANES; j++) total[j] += (int32_t)x[i + j] * w[i + j];
    return total;
#endif
}

#define MORE 8 /* columns of a tile of one row */

/* y[m][n] = x[m] . w[n], for M x N of them at once */
INLINE void tile(const int M, const int N, const int rounded, int K, Rows x, Matrix w, float *y, int ldy, int add) {
    vec acc[4][MORE];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) acc[m][n] = splat(0);
    int k = 0;
    for (; rounded && k < K; k += GROUP) {
        const int groups = K / GROUP, g = k / GROUP;
        UNROLL for (int n = 0; n < N; n++)
            UNROLL for (int m = 0; m < M; m++) {
                ivec whole = dot(x.levels + (size_t)m * K + k, w.levels + (size_t)n * K + k);
                acc[m][n] += __builtin_convertvector(whole, vec) * (x.scales[m * groups + g] * w.scales[n * groups + g]);
            }
    }
    for (; !rounded && k + LANES <= K; k += LANES) {
        vec a[4];
        UNROLL for (int m = 0; m < M; m++) a[m] = load(x.floats + (size_t)m * x.stride + k);
        UNROLL for (int n = 0; n < N; n++) {
            vec b = load(w.floats + (size_t)n * K + k);
            UNROLL for (int m = 0; m < M; m++) acc[m][n] += a[m] * b;
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        float total[MORE];
        if (N % 4 == 0)
            for (int n = 0; n < N; n += 4)
                *(vec4 *)(total + n) = sums(acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]);
        else
            UNROLL for (int n = 0; n < N; n++) total[n] = sum(acc[m][n]);
        UNROLL for (int n = 0; n < N; n++) {
            for (int i = k; i < K; i++) total[n] += x.floats[(size_t)m * x.stride + i] * w.floats[(size_t)n * K + i];
            y[m * ldy + n] = add ? y[m * ldy + n] + total[n] : total[n];
        }
    }
}

#define TALL 3 /* rows of a tile */

INLINE Rows rows_from(Rows x, int m, int K) {
    size_t by = (size_t)m * K;
    if (x.levels) x.levels += by, x.scales += by / GROUP;
    x.floats += (size_t)m * x.stride;
    return x;
}

INLINE Matrix columns_from(Matrix w, int n, int K) {
    size_t by = (size_t)n * K;
    if (w.levels) w.levels += by, w.scales += by / GROUP;
    w.floats += by;
    return w;
}

INLINE void tiles(const int rounded, int M, int begin, int end, int K, Rows x, Matrix w, float *y, int ldy, int add) {
    int n = begin;
    if (M == 1) {
        for (; n + MORE <= end; n += MORE) tile(1, MORE, rounded, K, x, columns_from(w, n, K), y + n, ldy, add);
        for (; n < end; n++) tile(1, 1, rounded, K, x, columns_from(w, n, K), y + n, ldy, add);
        return;
    }
    const int column = rounded ? K : K * (int)sizeof(float), part = 4 * column / (M / TALL + 1) + 64;
    for (; n + 4 <= end; n += 4) {
        Matrix own = columns_from(w, n, K);
        const char *next = (rounded ? (const char *)own.levels : (const char *)own.floats) + 4 * column;
        int m = 0;
        for (; m + TALL <= M; m += TALL, next += part) {
            soon(next, part);
            tile(TALL, 4, rounded, K, rows_from(x, m, K), own, y + m * ldy + n, ldy, add);
        }
        soon(next, part);
        if (M - m == 2) tile(2, 4, rounded, K, rows_from(x, m, K), own, y + m * ldy + n, ldy, add);
        if (M - m == 1) tile(1, 4, rounded, K, rows_from(x, m, K), own, y + m * ldy + n, ldy, add);
    }
    for (; n < end; n++)
        for (int m = 0; m < M; m++)
            tile(1, 1, rounded, K, rows_from(x, m, K), columns_from(w, n, K), y + m * ldy + n, ldy, add);
}

/* columns [begin, end) of y (M, N) = x (M, K) w (N, K)^T; y += with add */
static void product(int M, int begin, int end, int K, Rows x, Matrix w, float *y, int ldy, int add) {
    if (w.levels) tiles(1, M, begin, end, K, x, w, y, ldy, add);
    else tiles(0, M, begin, end, K, x, w, y, ldy, add);
}

/* x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich 2019) */
static void rms_norm(const float *x, const float *gain, float *y, int C, float eps) {
    vec total = splat(0);
    int i = 0;
    for (; i + LANES <= C; i += LANES) total += load(x + i) * load(x + i);
    float square = sum(total);
    for (; i < C; i++) square += x[i] * x[i];
    float scale = 1.0f / sqrtf(square / C + eps);
    for (i = 0; i < C; i++) y[i] = x[i] * scale * gain[i];
}

/* Rotates the pairs (i, i + half) of a head (Su et al. 2021). */
static void rotate(float *x, const float *cos, const float *sin, int half) {
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}
