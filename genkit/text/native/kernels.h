/* Vectors, and products whose sums have one order. */
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

/* the sums over the lanes of four vectors */
INLINE vec4 sums(vec a, vec b, vec c, vec d) {
    vec p = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
          + __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    vec q = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14)
          + __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
    vec r = __builtin_shufflevector(p, q, 0, 1, 8, 9, 4, 5, 12, 13)
          + __builtin_shufflevector(p, q, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(r, r, 0, 1, 2, 3) + __builtin_shufflevector(r, r, 4, 5, 6, 7);
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

/* y[m][n] = x[m] . w[n], for M x N of them at once */
INLINE void tile(const int M, const int N, int K, const float *x, int ldx, const float *w, float *y, int ldy,
                 int add) {
    vec acc[4][8];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) acc[m][n] = splat(0);
    int k = 0;
    for (; k + LANES <= K; k += LANES) {
        vec a[4];
        UNROLL for (int m = 0; m < M; m++) a[m] = load(x + m * ldx + k);
        UNROLL for (int n = 0; n < N; n++) {
            vec b = load(w + (size_t)n * K + k);
            UNROLL for (int m = 0; m < M; m++) acc[m][n] += a[m] * b;
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        float total[8];
        if (N % 4 == 0)
            for (int n = 0; n < N; n += 4)
                *(vec4 *)(total + n) = sums(acc[m][n], acc[m][n + 1], acc[m][n + 2], acc[m][n + 3]);
        else
            UNROLL for (int n = 0; n < N; n++) total[n] = sum(acc[m][n]);
        UNROLL for (int n = 0; n < N; n++) {
            for (int i = k; i < K; i++) total[n] += x[m * ldx + i] * w[(size_t)n * K + i];
            y[m * ldy + n] = add ? y[m * ldy + n] + total[n] : total[n];
        }
    }
}

#define ROWS 3
/* columns [begin, end) of y (M, N) = x (M, K) w (N, K)^T; y += with add */
static void product(int M, int begin, int end, int K, const float *x, int ldx, const float *w, float *y, int ldy,
                    int add) {
    int n = begin;
    if (M == 1) {
        for (; n + 8 <= end; n += 8) tile(1, 8, K, x, ldx, w + (size_t)n * K, y + n, ldy, add);
        for (; n < end; n++) tile(1, 1, K, x, ldx, w + (size_t)n * K, y + n, ldy, add);
        return;
    }
    for (; n < end; n += 4) {
        const float *own = w + (size_t)n * K;
        if (n + 4 > end) {
            for (; n < end; n++)
                for (int m = 0; m < M; m++)
                    tile(1, 1, K, x + m * ldx, ldx, w + (size_t)n * K, y + m * ldy + n, ldy, add);
            return;
        }
        int m = 0;
        for (; m + ROWS <= M; m += ROWS) tile(ROWS, 4, K, x + m * ldx, ldx, own, y + m * ldy + n, ldy, add);
        for (; m < M; m++) tile(1, 4, K, x + m * ldx, ldx, own, y + m * ldy + n, ldy, add);
    }
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
