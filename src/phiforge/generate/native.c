/* One call reads N new tokens of B rows through a whole starcoder2 or llama model: embedding, layers, cache, logits.
 *
 * At widths of a few hundred a token's matrix products take microseconds, and calling a framework once per operation costs as much as the
 * operations themselves; here nothing stands between them. Compiled by `native.py` for the processor it runs on (GCC or Clang vector
 * extensions, no intrinsics, no dependency); `stock.py` is the same computation in torch and the fallback, `reference.py` what both are
 * held to. *
 * Weights come packed in panels: columns in groups of PANEL, each group (K, PANEL) contiguous, so a product streams them in order.
 * Keys are cached in blocks of LANES places, each (head_dim, LANES): the scores of a block's places are one vector, and the block is read
 * in order. All floats are fp32.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 vector registers: tiles of 8 rows; with 16 registers they would spill */
#define WIDE_TILES 1
#else
#define WIDE_TILES 0
#endif
#define PANEL (2 * LANES)

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *p) { return *(const loose *)p; }
static inline void store(float *p, vec v) { *(loose *)p = v; }
static inline vec splat(float x) { return (vec){0} + x; }
static inline vec pick(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline vec larger(vec a, vec b) { return pick(a > b, a, b); }

/* Sum and largest of the lanes, in log2(LANES) steps where the compiler can move lanes about. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif
#ifdef HAS_SHUFFLE
#if LANES == 16
#define SWAP8(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define SWAP4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define SWAP2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define SWAP1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#define FOLD(v, join) v = join(v, SWAP8(v)), v = join(v, SWAP4(v)), v = join(v, SWAP2(v)), v = join(v, SWAP1(v))
#elif LANES == 8
#define SWAP4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define SWAP2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#define SWAP1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#define FOLD(v, join) v = join(v, SWAP4(v)), v = join(v, SWAP2(v)), v = join(v, SWAP1(v))
#else
#define SWAP2(v) __builtin_shufflevector(v, v, 2, 3, 0, 1)
#define SWAP1(v) __builtin_shufflevector(v, v, 1, 0, 3, 2)
#define FOLD(v, join) v = join(v, SWAP2(v)), v = join(v, SWAP1(v))
#endif
#endif

static inline vec plus(vec a, vec b) { return a + b; }

static inline float total(vec v) {
#ifdef HAS_SHUFFLE
    FOLD(v, plus);
    return v[0];
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

static inline float largest_lane(vec v) {
#ifdef HAS_SHUFFLE
    FOLD(v, larger);
    return v[0];
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

/* e^x to about 1 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^7. x is held to [-87.3, 88.3], so the result is never 0. */
static inline vec exponential(vec x) {
    const vec round = splat(12582912.0f); /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    x = pick(x < splat(-87.3f), splat(-87.3f), x);
    x = pick(x > splat(88.3f), splat(88.3f), x);
    vec t = x * splat(1.44269504f) + round;
    vec n = t - round;
    vec r = x - n * splat(0.693359375f);
    r = r - n * splat(-2.12194440e-4f);
    vec p = splat(1.9841270e-4f);
    p = p * r + splat(1.3888889e-3f);
    p = p * r + splat(8.3333333e-3f);
    p = p * r + splat(4.1666667e-2f);
    p = p * r + splat(1.6666667e-1f);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    ivec bits = ((ivec)t - (ivec)round + 127) << 23;
    return p * (vec)bits;
}

static inline vec gelu_tanh(vec x) { /* x/2 (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
    vec u = splat(-1.5957691216f) * (x + splat(0.044715f) * x * x * x);
    return x / (splat(1.0f) + exponential(u));
}

static inline vec silu(vec x) { return x / (splat(1.0f) + exponential(-x)); }

/* ---- products: Y (M, N) = X (M, K) W + bias, then as `finish` says -------------------------------------------------------------- */

enum { PLAIN, GELU, ADD }; /* ADD: Y += */

static inline void put(float *y, vec v, int columns, int finish) {
    float edge[LANES];
    if (columns <= 0) return;
    if (finish == GELU) v = gelu_tanh(v);
    if (columns >= LANES) {
        store(y, finish == ADD ? load(y) + v : v);
        return;
    }
    memcpy(edge, &v, sizeof edge);
    for (int i = 0; i < columns; i++) y[i] = finish == ADD ? y[i] + edge[i] : edge[i];
}

/* `ahead` is fetched while the tile is computed, a line every second step: a quarter of a panel in all. */
#define TILE_OF(ROWS, EACH)                                                                                    \
    static void tile##ROWS(int K, const float *x, int ldx, const float *w, vec b0, vec b1, float *y, int ldy,  \
                           int columns, int finish, const float *ahead) {                                      \
        EACH(TILE_BEGIN)                                                                                       \
        for (int k = 0; k < K; k++, w += PANEL, ahead += PANEL / 4) {                                          \
            __builtin_prefetch(ahead);                                                                         \
            vec w0 = load(w), w1 = load(w + LANES);                                                            \
            EACH(TILE_STEP)                                                                                    \
        }                                                                                                      \
        EACH(TILE_END)                                                                                         \
    }
#define TILE_BEGIN(i) const float *x##i = x + (int64_t)i * ldx; vec a##i = b0, c##i = b1;
#define TILE_STEP(i) a##i += w0 * x##i[k]; c##i += w1 * x##i[k];
#define TILE_END(i) put(y + (int64_t)i * ldy, a##i, columns, finish); put(y + (int64_t)i * ldy + LANES, c##i, columns - LANES, finish);
#define EACH4(F) F(0) F(1) F(2) F(3)
#define EACH8(F) EACH4(F) F(4) F(5) F(6) F(7)
#if WIDE_TILES
TILE_OF(8, EACH8)
#endif
TILE_OF(4, EACH4)

static void tile1(int K, const float *x, const float *w, vec b0, vec b1, float *y, int columns, int finish) {
    vec a = b0, c = b1, a1 = {0}, c1 = {0}, a2 = {0}, c2 = {0}, a3 = {0}, c3 = {0}; /* four chains hide the latency of one */
    int k = 0;
    for (; k + 4 <= K; k += 4, w += 4 * PANEL) {
        a += load(w) * x[k], c += load(w + LANES) * x[k];
        a1 += load(w + PANEL) * x[k + 1], c1 += load(w + PANEL + LANES) * x[k + 1];
        a2 += load(w + 2 * PANEL) * x[k + 2], c2 += load(w + 2 * PANEL + LANES) * x[k + 2];
        a3 += load(w + 3 * PANEL) * x[k + 3], c3 += load(w + 3 * PANEL + LANES) * x[k + 3];
    }
    for (; k < K; k++, w += PANEL) a += load(w) * x[k], c += load(w + LANES) * x[k];
    put(y, a + a1 + (a2 + a3), columns, finish);
    put(y + LANES, c + c1 + (c2 + c3), columns - LANES, finish);
}

/* `bias` is padded to whole panels, or NULL. Rows go in blocks so that a block of X stays in the cache while every panel passes over it.
 * The first four tiles of a block fetch the next panel, a quarter each: at batch 32 the weights come from memory once a token (5 %
 * measured). */
void phiforge_product(int M, int N, int K, const float *x, int ldx, const float *w, const float *bias, float *y, int ldy, int finish) {
    const int block = 128;
    for (int top = 0; top < M; top += block) {
        int bottom = top + block < M ? top + block : M;
        const float *panel = w, *next = w;
        for (int n = 0; n < N; n += PANEL, panel = next) {
            vec b0 = bias ? load(bias + n) : (vec){0}, b1 = bias ? load(bias + n + LANES) : (vec){0};
            const float *xm = x + (int64_t)top * ldx;
            float *ym = y + (int64_t)top * ldy + n;
            int m = top, tile = 0;
            next = panel + (int64_t)K * PANEL;
#if WIDE_TILES
            for (; m + 8 <= bottom; m += 8, tile++, xm += 8 * (int64_t)ldx, ym += 8 * (int64_t)ldy)
                tile8(K, xm, ldx, panel, b0, b1, ym, ldy, N - n, finish, next + (tile & 3) * (int64_t)K * (PANEL / 4));
#endif
            for (; m + 4 <= bottom; m += 4, tile++, xm += 4 * (int64_t)ldx, ym += 4 * (int64_t)ldy)
                tile4(K, xm, ldx, panel, b0, b1, ym, ldy, N - n, finish, next + (tile & 3) * (int64_t)K * (PANEL / 4));
            for (; m < bottom; m++, xm += ldx, ym += ldy) tile1(K, xm, panel, b0, b1, ym, N - n, finish);
        }
    }
}

/* ---- the model -------------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *norm1, *norm1_bias, *qkv, *qkv_bias, *out, *out_bias, *norm2, *norm2_bias, *up, *up_bias, *down, *down_bias;
} Layer;

typedef struct {
    int64_t llama, layers, width, heads, kv_heads, head_dim, mlp, vocab;
    double epsilon;
    const float *embedding;        /* (vocab, width) */
    const float *first;            /* (vocab, qkv width): the first layer's q, k, v of every token, or NULL */
    const float *cosine, *sine;    /* (context, head_dim / 2) */
    const float *norm, *norm_bias; /* the last norm */
    const float *head, *head_bias;
    const Layer *layer;
} Model;

int phiforge_panel(void) { return PANEL; }
int phiforge_lanes(void) { return LANES; }

static int rounded(int n) { return (n + LANES - 1) / LANES * LANES; }

static void normalize(const Model *m, int rows, const float *x, const float *weight, const float *bias, float *y) {
    int D = (int)m->width, whole = D / LANES * LANES;
    for (int r = 0; r < rows; r++, x += D, y += D) {
        float mean = 0, square;
        vec sum = {0};
        if (!m->llama) {
            for (int i = 0; i < whole; i += LANES) sum += load(x + i);
            mean = total(sum);
            for (int i = whole; i < D; i++) mean += x[i];
            mean /= (float)D;
        }
        sum = (vec){0};
        for (int i = 0; i < whole; i += LANES) {
            vec d = load(x + i) - splat(mean);
            sum += d * d;
        }
        square = total(sum);
        for (int i = whole; i < D; i++) square += (x[i] - mean) * (x[i] - mean);
        float scale = 1.0f / sqrtf(square / (float)D + (float)m->epsilon);
        for (int i = 0; i < whole; i += LANES) {
            vec v = (load(x + i) - splat(mean)) * splat(scale) * load(weight + i);
            store(y + i, bias ? v + load(bias + i) : v);
        }
        for (int i = whole; i < D; i++) y[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0.0f);
    }
}

/* RoPE on one head in place: pairs (i, i + d/2). */
static inline void turn(float *x, const float *cosine, const float *sine, int half) {
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        vec a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Attention of one query head over places [begin, end) of one row: keys in blocks, values (places, padded d). q is already scaled. */
static void attend(const float *q, int d, const float *keys, const float *values, int begin, int end,
                   float *score, float *out) {
    int low = begin / LANES * LANES, high = rounded(end), padded = rounded(d), t = low;
    for (; t + 4 * LANES <= high; t += 4 * LANES) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        const float *k = keys + (int64_t)t * d;
        for (int i = 0; i < d; i++, k += LANES) {
            s0 += load(k) * q[i], s1 += load(k + d * LANES) * q[i];
            s2 += load(k + 2 * d * LANES) * q[i], s3 += load(k + 3 * d * LANES) * q[i];
        }
        store(score + t, s0), store(score + t + LANES, s1), store(score + t + 2 * LANES, s2), store(score + t + 3 * LANES, s3);
    }
    for (; t < high; t += LANES) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        const float *k = keys + (int64_t)t * d;
        int i = 0;
        for (; i + 4 <= d; i += 4, k += 4 * LANES) {
            s0 += load(k) * q[i], s1 += load(k + LANES) * q[i + 1];
            s2 += load(k + 2 * LANES) * q[i + 2], s3 += load(k + 3 * LANES) * q[i + 3];
        }
        for (; i < d; i++, k += LANES) s0 += load(k) * q[i];
        store(score + t, (s0 + s1) + (s2 + s3));
    }
    for (t = low; t < begin; t++) score[t] = -INFINITY;
    for (t = end; t < high; t++) score[t] = -INFINITY;

    vec top = load(score + low), sum = {0};
    for (t = low + LANES; t < high; t += LANES) top = larger(load(score + t), top);
    float most = largest_lane(top);
    for (t = low; t < high; t += LANES) {
        vec p = exponential(load(score + t) - splat(most));
        store(score + t, p);
    }
    for (t = low; t < begin; t++) score[t] = 0; /* exponential() has a floor above 0 */
    for (t = end; t < high; t++) score[t] = 0;
    for (t = low; t < high; t += LANES) sum += load(score + t);
    float scale = 1.0f / total(sum);

    for (int i = 0; i < padded; i += PANEL) {
        int two = i + LANES < padded;
        vec a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, c0 = {0}, c1 = {0}, c2 = {0}, c3 = {0};
        const float *v = values + (int64_t)begin * padded + i;
        t = begin;
        if (two) {
            for (; t + 4 <= end; t += 4, v += 4 * padded) {
                a0 += load(v) * score[t], c0 += load(v + LANES) * score[t];
                a1 += load(v + padded) * score[t + 1], c1 += load(v + padded + LANES) * score[t + 1];
                a2 += load(v + 2 * padded) * score[t + 2], c2 += load(v + 2 * padded + LANES) * score[t + 2];
                a3 += load(v + 3 * padded) * score[t + 3], c3 += load(v + 3 * padded + LANES) * score[t + 3];
            }
            for (; t < end; t++, v += padded) a0 += load(v) * score[t], c0 += load(v + LANES) * score[t];
        } else {
            for (; t + 4 <= end; t += 4, v += 4 * padded) {
                a0 += load(v) * score[t], a1 += load(v + padded) * score[t + 1];
                a2 += load(v + 2 * padded) * score[t + 2], a3 += load(v + 3 * padded) * score[t + 3];
            }
            for (; t < end; t++, v += padded) a0 += load(v) * score[t];
        }
        put(out + i, ((a0 + a1) + (a2 + a3)) * splat(scale), d - i, PLAIN);
        if (two) put(out + i + LANES, ((c0 + c1) + (c2 + c3)) * splat(scale), d - i - LANES, PLAIN);
    }
}

/* One row's new places: keys and values into the cache, keys and queries rotated. qkv is (count, width of q, k and v). */
static void remember(const Model *m, float *qkv, int count, int begin, int capacity, float *keys, float *values) {
    int d = (int)m->head_dim, H = (int)m->heads, G = (int)m->kv_heads, wide = (H + 2 * G) * d, padded = rounded(d), half = d / 2;
    for (int n = 0; n < count; n++) {
        int place = begin + n;
        float *x = qkv + (int64_t)n * wide;
        const float *cosine = m->cosine + (int64_t)place * half, *sine = m->sine + (int64_t)place * half;
        for (int h = 0; h < H + G; h++) turn(x + h * d, cosine, sine, half);
        for (int g = 0; g < G; g++) {
            float *k = keys + ((int64_t)g * capacity + place / LANES * LANES) * d + place % LANES;
            for (int i = 0; i < d; i++) k[i * LANES] = x[(H + g) * d + i];
            memcpy(values + ((int64_t)g * capacity + place) * padded, x + (H + G + g) * d, (size_t)d * sizeof(float));
        }
    }
}

/* Read `count` new tokens of `rows` rows; ids (rows, count); `begin` places are in the cache already.
 * keys (layers, all_rows, kv, capacity / LANES, head_dim, LANES) and values (layers, all_rows, kv, capacity, padded head_dim) point at
 * this call's first row; capacity is a multiple of LANES. pads: unused places before each row. want: whether logits (rows, vocab) after
 * the last token are needed. work: rows * count * (2 width + (heads + 2 kv) d + heads d + (1 or 2) mlp) + capacity floats. */
void phiforge_read(const Model *m, const int64_t *ids, const int64_t *pads, int rows, int all_rows, int count, int begin, int capacity,
                   float *keys, float *values, float *work, float *logits, int want) {
    int D = (int)m->width, d = (int)m->head_dim, H = (int)m->heads, G = (int)m->kv_heads, F = (int)m->mlp;
    int wide = (H + 2 * G) * d, padded = rounded(d), M = rows * count, inner_width = m->llama ? 2 * F : F;
    float *hidden = work, *normed = hidden + (int64_t)M * D, *qkv = normed + (int64_t)M * D;
    float *attended = qkv + (int64_t)M * wide, *inner = attended + (int64_t)M * H * d, *score = inner + (int64_t)M * inner_width;

    for (int r = 0; r < M; r++) memcpy(hidden + (int64_t)r * D, m->embedding + ids[r] * D, (size_t)D * sizeof(float));
    for (int l = 0; l < m->layers; l++) {
        const Layer *w = m->layer + l;
        float *k = keys + (int64_t)l * all_rows * G * d * capacity;
        float *v = values + (int64_t)l * all_rows * G * capacity * padded;
        if (l == 0 && m->first) {
            for (int r = 0; r < M; r++) memcpy(qkv + (int64_t)r * wide, m->first + ids[r] * wide, (size_t)wide * sizeof(float));
        } else {
            normalize(m, M, hidden, w->norm1, w->norm1_bias, normed);
            phiforge_product(M, wide, D, normed, D, w->qkv, w->qkv_bias, qkv, wide, PLAIN);
        }
        int last = l == m->layers - 1, from = last ? count - 1 : 0; /* only the newest place of a row matters after the last attention */
        for (int r = 0; r < rows; r++) {
            float *row = qkv + (int64_t)r * count * wide;
            float *kr = k + (int64_t)r * G * d * capacity, *vr = v + (int64_t)r * G * capacity * padded;
            remember(m, row, count, begin, capacity, kr, vr);
            for (int n = last && !want ? count : from; n < count; n++) {
                const float *q = row + (int64_t)n * wide;
                float *out = attended + (last ? (int64_t)r : (int64_t)r * count + n) * H * d;
                if (begin + n < pads[r]) {
                    memset(out, 0, (size_t)(H * d) * sizeof(float));
                    continue;
                }
                for (int h = 0; h < H; h++) {
                    int64_t g = h / (H / G) * (int64_t)capacity;
                    attend(q + h * d, d, kr + g * d, vr + g * padded, (int)pads[r], begin + n + 1, score, out + h * d);
                }
            }
        }
        if (last && !want) return;
        if (last && count > 1) {
            for (int r = 0; r < rows; r++)
                memmove(hidden + (int64_t)r * D, hidden + ((int64_t)r * count + count - 1) * D, (size_t)D * sizeof(float));
        }
        if (last) M = rows;
        phiforge_product(M, D, H * d, attended, H * d, w->out, w->out_bias, hidden, D, ADD);
        normalize(m, M, hidden, w->norm2, w->norm2_bias, normed);
        phiforge_product(M, inner_width, D, normed, D, w->up, w->up_bias, inner, inner_width, m->llama ? PLAIN : GELU);
        if (m->llama) {
            for (int r = 0; r < M; r++) {
                float *gate = inner + (int64_t)r * inner_width, *up = gate + F;
                int i = 0;
                for (; i + LANES <= F; i += LANES) store(gate + i, silu(load(gate + i)) * load(up + i));
                for (; i < F; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
            }
        }
        phiforge_product(M, D, F, inner, inner_width, w->down, w->down_bias, hidden, D, ADD);
    }
    normalize(m, M, hidden, m->norm, m->norm_bias, normed);
    phiforge_product(M, (int)m->vocab, D, normed, D, m->head, m->head_bias, logits, (int)m->vocab, PLAIN);
}

/* The first index of the largest value of each row; a row of NaN gives 0. */
void phiforge_best(const float *logits, int rows, int vocab, int64_t *best) {
    for (int r = 0; r < rows; r++, logits += vocab) {
        float most = -INFINITY;
        int i = 0;
        if (vocab >= LANES) {
            vec top = load(logits);
            for (; i + LANES <= vocab; i += LANES) top = larger(load(logits + i), top);
            for (int j = 0; j < LANES; j++) most = top[j] > most ? top[j] : most;
        }
        for (; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
        best[r] = 0;
        for (i = 0; i < vocab; i++) {
            if (logits[i] == most) {
                best[r] = i;
                break;
            }
        }
    }
}

/* ---- choosing a token: what `sampling.sample` does, for the settings that need no sorted prefix of unknown length ------------------- */

/* Reads a token of each row, takes the likeliest next one, reads that, and so on, `steps` times. ids (steps + 1, all_rows): the first line is
 * given, the others are written. The rest as phiforge_read with count 1. */
void phiforge_greedy(const Model *m, int64_t *ids, const int64_t *pads, int rows, int all_rows, int steps, int begin, int capacity,
                     float *keys, float *values, float *work, float *logits) {
    for (int s = 0; s < steps; s++, ids += all_rows) {
        phiforge_read(m, ids, pads, rows, all_rows, 1, begin + s, capacity, keys, values, work, logits, 1);
        phiforge_best(logits, rows, (int)m->vocab, ids + all_rows);
    }
}

/* One row's logits after repetition penalty and temperature. */
static void warp(const float *logits, const uint8_t *seen, int vocab, float temperature, float penalty, float *score) {
    for (int i = 0; i < vocab; i++) score[i] = logits[i];
    if (seen)
        for (int i = 0; i < vocab; i++) {
            float lower = score[i] < 0 ? score[i] * penalty : score[i] / penalty;
            score[i] = seen[i] ? lower : score[i];
        }
    for (int i = 0; i < vocab; i++) score[i] /= temperature;
}

/* The k largest in falling order (the first of equal ones stays first): value and index. */
static void largest(const float *score, int vocab, int k, float *value, int32_t *index) {
    int held = 0;
    for (int i = 0; i < vocab; i++) {
        if (held == k && !(score[i] > value[k - 1])) continue;
        int at = held < k ? held++ : k - 1;
        for (; at > 0 && score[i] > value[at - 1]; at--) value[at] = value[at - 1], index[at] = index[at - 1];
        value[at] = score[i], index[at] = i;
    }
}

/* Among k tokens in falling order of probability: keep what top-p and min-p keep, then draw. */
static int draw_prefix(float *value, int k, float top_p, float min_p, float uniform) {
    double sum = 0, above = 0, target;
    float most = value[0];
    for (int i = 0; i < k; i++) sum += value[i] = expf(value[i] - most);
    int kept = 0;
    for (; kept < k; kept++) { /* both rules keep a prefix */
        double p = value[kept] / sum;
        if (kept && (above >= top_p || p < min_p * (value[0] / sum))) break;
        above += p;
    }
    target = uniform * above;
    above = 0;
    for (int i = 0; i < kept - 1; i++) {
        above += value[i] / sum;
        if (above > target) return i;
    }
    return kept - 1;
}

/* From all tokens: block sums first, so that the search adds up a block at a time. */
static int draw_all(float *score, int vocab, float uniform, double *block) {
    int blocks = (vocab + LANES - 1) / LANES, i, b;
    float most = score[0];
    for (i = 1; i < vocab; i++) most = score[i] > most ? score[i] : most;
    for (i = vocab; i < blocks * LANES; i++) score[i] = -INFINITY;
    double sum = 0;
    for (b = 0; b < blocks; b++) {
        vec v = load(score + b * LANES) - splat(most);
        vec p = pick(v < splat(-87.0f), (vec){0}, exponential(v)); /* exponential() has a floor above 0 */
        store(score + b * LANES, p);
        sum += block[b] = total(p);
    }
    double target = uniform * sum, below = 0;
    int last = 0;
    for (b = 0; b < blocks && below + block[b] <= target; b++) below += block[b];
    if (b == blocks) b = blocks - 1, below -= block[b];
    for (i = b * LANES; i < (b + 1) * LANES; i++) {
        if (score[i] > 0) last = i;
        below += score[i];
        if (below > target) return i;
    }
    for (i = last; i > 0 && !(score[i] > 0); i--) {} /* rounding ran off the end: the last token that can be drawn */
    return i;
}

/* Tokens (rows); seen (rows, vocab) bytes or NULL; k = 0: all tokens, without top-p and min-p.
 * work: vocab / LANES + 1 doubles, then vocab + LANES + 2 k floats. */
void phiforge_sample(const float *logits, const uint8_t *seen, const float *uniforms, int rows, int vocab, float temperature, int k,
                     float top_p, float min_p, float penalty, double *work, int64_t *tokens) {
    double *block = work;
    float *score = (float *)(block + vocab / LANES + 1), *value = score + vocab + LANES;
    int32_t *index = (int32_t *)(value + k);
    for (int r = 0; r < rows; r++) {
        warp(logits + (int64_t)r * vocab, seen ? seen + (int64_t)r * vocab : 0, vocab, temperature, penalty, score);
        if (k) {
            largest(score, vocab, k, value, index);
            tokens[r] = index[draw_prefix(value, k, top_p, min_p, uniforms[r])];
        } else {
            tokens[r] = draw_all(score, vocab, uniforms[r], block);
        }
    }
}
