/* The matrix-state scan of recurrence.py, forward and backward, float32, one row of the batch after another.
 *
 * Compiled for the processor it runs on (core/compiler.py). At a state of 24 x 24 the recurrence itself, token by token with the state in the
 * first-level cache, is cheaper than any chunked algebra, and exact under any decay. What decides is that no sum runs across a vector:
 *   forward keeps the state as dk vectors of dv numbers (S k and S q are sums of whole vectors);
 *   backward keeps states and their gradient as dv vectors of dk numbers, so that sums over dv are whole vectors too; only G k crosses.
 * Forward keeps the state at every SPAN-th token; backward works from span to span, recomputing the states inside one.
 * Vectors hold 8 floats (GCC's and Clang's extension: any processor); widths are padded to whole vectors with zeros.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define MOST 32 /* vectors to a width, at most: 256 numbers */
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(32)));

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif
#define INLINE static inline __attribute__((always_inline))

/* Everything one call works on. Absent tensors are null. All contiguous; T tokens, R queries. */
typedef struct {
    long length, queries, dv, dk, span;
    long scalar; /* decay is (B, T, 1) */
    const float *k, *v, *q, *decay, *beta, *initial;
    const uint8_t *reset;
    float *error, *borders, *read, *states, *final;            /* forward writes */
    const float *d_read, *d_states, *d_final;                  /* backward reads */
    float *d_k, *d_v, *d_q, *d_decay, *d_beta, *d_initial;      /* backward writes; d_decay is of the logarithm */
} scan_call;

INLINE vec all(float x) { return (vec){x, x, x, x, x, x, x, x}; }

/* lane i of the result: the sum of p[i] */
INLINE vec sums(const vec *p) {
    vec two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = SHUFFLE(p[2 * i], p[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) + SHUFFLE(p[2 * i], p[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; i++)
        four[i] = SHUFFLE(two[2 * i], two[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(two[2 * i], two[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return SHUFFLE(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

INLINE float sum(vec x) { return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])); }

/* rows x width numbers into rows of `vectors` whole vectors, the rest zero */
INLINE void pad(vec *restrict to, const float *restrict from, long rows, long width, long vectors) {
    if (width == vectors * LANES) {
        memcpy(to, from, (size_t)(rows * width) * sizeof(float));
        return;
    }
    memset(to, 0, (size_t)(rows * vectors) * sizeof(vec));
    for (long r = 0; r < rows; r++) memcpy(to + r * vectors, from + r * width, (size_t)width * sizeof(float));
}

INLINE void unpad(float *restrict to, const vec *restrict from, long rows, long width, long vectors) {
    if (width == vectors * LANES)
        memcpy(to, from, (size_t)(rows * width) * sizeof(float));
    else
        for (long r = 0; r < rows; r++) memcpy(to + r * width, from + r * vectors, (size_t)width * sizeof(float));
}

/* The decays of a span: one vector row a token; scalar ones spread out, absent ones 1. */
INLINE void spread(vec *restrict to, const scan_call *c, long token, long count, long vectors) {
    if (!c->decay)
        for (long n = 0; n < count * vectors; n++) to[n] = all(1);
    else if (!c->scalar)
        pad(to, c->decay + token * c->dk, count, c->dk, vectors);
    else
        for (long t = 0; t < count; t++)
            for (long n = 0; n < vectors; n++) to[t * vectors + n] = all(c->decay[token + t]);
}

/* states of a span, token by token in the layout of the caller, from before[0] on: before[t + 1] = before[t] decayed + written k^T */
INLINE void replay(
    vec *restrict s, const vec *restrict k, const vec *restrict decay, const float *restrict written, const uint8_t *reset, long count,
    long dv, long dk_v, long dv_v
) {
    const long size = dv * dk_v;
    for (long t = 0; t < count; t++, s += size) {
        const vec *key = k + t * dk_v, *fade = decay + t * dk_v;
        const float *u = written + t * dv_v * LANES;
        if (reset && reset[t]) {
            for (long i = 0; i < dv; i++)
                for (long n = 0; n < dk_v; n++) s[size + i * dk_v + n] = key[n] * u[i];
        } else
            for (long i = 0; i < dv; i++)
                for (long n = 0; n < dk_v; n++) s[size + i * dk_v + n] = s[i * dk_v + n] * fade[n] + key[n] * u[i];
    }
}

/* VV, VK: vectors that dv and dk take; known to the compiler in all but the last case of the dispatch. */
INLINE void forward_row(const scan_call *c, long row, vec *restrict room, const long VV, const long VK) {
    const long T = c->length, R = c->queries, dv = c->dv, dk = c->dk, C = c->span, PK = VK * LANES, spans = (T + C - 1) / C;
    vec *state = room;                   /* (PK, VV): the transpose of S */
    vec *k = state + PK * VV, *v = k + C * VK, *decay = v + C * VV, *u = decay + C * VK, *q = u + C * VV;
    vec *across = q + C * R * VK;        /* (C + 1, dv, VK): states as callers see them */
    memset(state, 0, (size_t)(PK * VV) * sizeof(vec));
    memset(across, 0, (size_t)(dv * VK) * sizeof(vec));
    if (c->initial)
        for (long i = 0; i < dv; i++)
            for (long j = 0; j < dk; j++) ((float *)state)[j * VV * LANES + i] = c->initial[(row * dv + i) * dk + j];
    for (long first = 0; first < T; first += C) {
        const long count = T - first < C ? T - first : C, token = row * T + first;
        pad(k, c->k + token * dk, count, dk, VK);
        pad(v, c->v + token * dv, count, dv, VV);
        if (R) pad(q, c->q + token * R * dk, count * R, dk, VK);
        spread(decay, c, token, count, VK);
        float *border = (float *)across;
        for (long i = 0; i < dv; i++)
            for (long j = 0; j < dk; j++) border[i * PK + j] = ((float *)state)[j * VV * LANES + i];
        if (c->borders) memcpy(c->borders + (row * spans + first / C) * dv * PK, border, (size_t)(dv * PK) * sizeof(float));
        for (long t = 0; t < count; t++) {
            const float *key = (float *)(k + t * VK), *fade = (float *)(decay + t * VK);
            const vec *value = v + t * VV;
            vec *written = u + t * VV;
            if (c->reset && c->reset[token + t]) memset(state, 0, (size_t)(PK * VV) * sizeof(vec));
            if (c->decay)
                for (long j = 0; j < PK; j++)
                    for (long n = 0; n < VV; n++) state[j * VV + n] *= fade[j];
            if (c->beta) {
                vec recalled[4][MOST]; /* four sums at a time: one alone waits for its own last addition */
                for (long a = 0; a < 4; a++)
                    for (long n = 0; n < VV; n++) recalled[a][n] = all(0);
                for (long j = 0; j < PK; j += 4)
                    for (long a = 0; a < 4; a++)
                        for (long n = 0; n < VV; n++) recalled[a][n] += state[(j + a) * VV + n] * key[j + a];
                vec error[MOST];
                for (long n = 0; n < VV; n++) {
                    error[n] = value[n] - ((recalled[0][n] + recalled[1][n]) + (recalled[2][n] + recalled[3][n]));
                    written[n] = error[n] * c->beta[token + t];
                }
                if (c->error) memcpy(c->error + (token + t) * dv, error, (size_t)dv * sizeof(float));
            } else
                for (long n = 0; n < VV; n++) written[n] = value[n];
            for (long j = 0; j < PK; j++)
                for (long n = 0; n < VV; n++) state[j * VV + n] += written[n] * key[j];
            for (long r = 0; r < R; r++) {
                const float *query = (float *)(q + (t * R + r) * VK);
                vec answer[2][MOST];
                for (long n = 0; n < VV; n++) answer[0][n] = answer[1][n] = all(0);
                for (long j = 0; j < PK; j += 2)
                    for (long a = 0; a < 2; a++)
                        for (long n = 0; n < VV; n++) answer[a][n] += state[(j + a) * VV + n] * query[j + a];
                for (long n = 0; n < VV; n++) answer[0][n] += answer[1][n];
                memcpy(c->read + ((token + t) * R + r) * dv, answer[0], (size_t)dv * sizeof(float));
            }
        }
        if (c->states) {
            replay(across, k, decay, (float *)u, c->reset ? c->reset + token : 0, count, dv, VK, VV);
            unpad(c->states + token * dv * dk, across + dv * VK, count * dv, dk, VK);
        }
    }
    for (long i = 0; i < dv; i++)
        for (long j = 0; j < dk; j++) c->final[(row * dv + i) * dk + j] = ((float *)state)[j * VV * LANES + i];
}

/* G, the gradient of the state, goes back in time:
 *   G += d_states_t + sum_r d_read_r q_r^T      du = G k       d_v = beta du      d_beta = du . error
 *   dk = G^T u - S^T w      with w = beta du, S the decayed old state (delta rule only)
 *   G -= w k^T              d_log_decay = column sums of G * S          G *= decay
 */
INLINE void backward_row(const scan_call *c, long row, vec *restrict room, const long VV, const long VK) {
    const long T = c->length, R = c->queries, dv = c->dv, dk = c->dk, C = c->span, PK = VK * LANES, spans = (T + C - 1) / C;
    vec *g = room;                                    /* (dv, VK) */
    vec *states = g + dv * VK;                        /* (C + 1, dv, VK) */
    vec *k = states + (C + 1) * dv * VK, *decay = k + C * VK, *u = decay + C * VK, *q = u + C * VV;
    vec *asked = q + C * R * VK, *part = asked + C * R * VV, *outside = part + VV * LANES, *out = outside + dv * VK;
    memset(part, 0, (size_t)(VV * LANES) * sizeof(vec));
    if (c->d_final)
        pad(g, c->d_final + row * dv * dk, dv, dk, VK);
    else
        memset(g, 0, (size_t)(dv * VK) * sizeof(vec));
    for (long first = (spans - 1) * C; first >= 0; first -= C) {
        const long count = T - first < C ? T - first : C, begin = row * T + first;
        const uint8_t *reset = c->reset ? c->reset + begin : 0;
        pad(k, c->k + begin * dk, count, dk, VK);
        pad(u, (c->beta ? c->error : c->v) + begin * dv, count, dv, VV);
        if (R) {
            pad(q, c->q + begin * R * dk, count * R, dk, VK);
            if (c->d_read) pad(asked, c->d_read + begin * R * dv, count * R, dv, VV);
        }
        spread(decay, c, begin, count, VK);
        if (c->beta)
            for (long t = 0; t < count; t++)
                for (long n = 0; n < VV; n++) u[t * VV + n] *= c->beta[begin + t];
        memcpy(states, c->borders + (row * spans + first / C) * dv * PK, (size_t)(dv * PK) * sizeof(float));
        replay(states, k, decay, (float *)u, reset, count, dv, VK, VV);
        for (long t = count - 1; t >= 0; t--) {
            const long token = begin + t;
            const vec *key = k + t * VK, *old = states + t * dv * VK, *now = old + dv * VK;
            const float *written = (float *)(u + t * VV);
            if (c->d_states) {
                pad(outside, c->d_states + token * dv * dk, dv, dk, VK);
                for (long i = 0; i < dv * VK; i++) g[i] += outside[i];
            }
            for (long r = 0; r < R && c->d_read; r++) {
                const vec *query = q + (t * R + r) * VK;
                const float *want = (float *)(asked + (t * R + r) * VV);
                vec dq[MOST];
                for (long n = 0; n < VK; n++) dq[n] = all(0);
                for (long i = 0; i < dv; i++)
                    for (long n = 0; n < VK; n++) {
                        g[i * VK + n] += query[n] * want[i];
                        dq[n] += now[i * VK + n] * want[i];
                    }
                if (c->d_q) memcpy(c->d_q + (token * R + r) * dk, dq, (size_t)dk * sizeof(float));
            }
            vec from_write[MOST], from_recall[MOST], fade[MOST];
            for (long n = 0; n < VK; n++) from_write[n] = from_recall[n] = fade[n] = all(0);
            for (long i = 0; i < dv; i++) {
                vec crossing = g[i * VK] * key[0];
                from_write[0] += g[i * VK] * written[i];
                for (long n = 1; n < VK; n++) {
                    crossing += g[i * VK + n] * key[n];
                    from_write[n] += g[i * VK + n] * written[i];
                }
                part[i] = crossing;
            }
            vec du[MOST];
            for (long n = 0; n < VV; n++) du[n] = sums(part + n * LANES);
            if (c->beta) {
                const float *error = c->error + token * dv;
                vec w[MOST];
                float dot = 0;
                for (long n = 0; n < VV; n++) w[n] = du[n] * c->beta[token];
                for (long i = 0; i < dv; i++) dot += ((float *)du)[i] * error[i];
                c->d_beta[token] = dot;
                memcpy(c->d_v + token * dv, w, (size_t)dv * sizeof(float));
                if (!(reset && reset[t]))
                    for (long i = 0; i < dv; i++)
                        for (long n = 0; n < VK; n++) {
                            const vec left = g[i * VK + n] - key[n] * ((float *)w)[i];
                            from_recall[n] += old[i * VK + n] * ((float *)w)[i];
                            fade[n] += left * old[i * VK + n];
                            g[i * VK + n] = left * decay[t * VK + n];
                        }
            } else {
                memcpy(c->d_v + token * dv, du, (size_t)dv * sizeof(float));
                if (c->decay && !(reset && reset[t]))
                    for (long i = 0; i < dv; i++)
                        for (long n = 0; n < VK; n++) {
                            fade[n] += g[i * VK + n] * old[i * VK + n];
                            g[i * VK + n] *= decay[t * VK + n];
                        }
            }
            if (reset && reset[t]) memset(g, 0, (size_t)(dv * VK) * sizeof(vec));
            for (long n = 0; n < VK; n++) {
                from_recall[n] *= decay[t * VK + n];
                fade[n] *= decay[t * VK + n];
                out[n] = from_write[n] - from_recall[n];
            }
            memcpy(c->d_k + token * dk, out, (size_t)dk * sizeof(float));
            if (c->decay && !c->scalar) memcpy(c->d_decay + token * dk, fade, (size_t)dk * sizeof(float));
            if (c->decay && c->scalar) {
                vec total = fade[0];
                for (long n = 1; n < VK; n++) total += fade[n];
                c->d_decay[token] = sum(total);
            }
        }
    }
    if (c->d_initial) unpad(c->d_initial + row * dv * dk, g, dv, dk, VK);
}

static long room(const scan_call *c, int backward) { /* vectors that one row needs */
    const long VV = (c->dv + LANES - 1) / LANES, VK = (c->dk + LANES - 1) / LANES, C = c->span, R = c->queries;
    if (backward) return (C + 3) * c->dv * VK + C * (2 * VK + VV + R * (VK + VV)) + VV * LANES + VK;
    return VK * LANES * VV + C * (2 * VK + 2 * VV + R * VK) + (C + 1) * c->dv * VK;
}

#define EVERY(RUN) \
    switch (VV * 64 + VK) { \
    case 1 * 64 + 1: RUN(1, 1); break; \
    case 2 * 64 + 2: RUN(2, 2); break; \
    case 2 * 64 + 3: RUN(2, 3); break; \
    case 3 * 64 + 2: RUN(3, 2); break; \
    case 3 * 64 + 3: RUN(3, 3); break; \
    case 4 * 64 + 4: RUN(4, 4); break; \
    default: RUN(VV, VK); \
    }

/* Rows [first, last) of the batch. 0, or 1 where there is no memory. */
int scan_run(const scan_call *c, int backward, long first, long last) {
    const long VV = (c->dv + LANES - 1) / LANES, VK = (c->dk + LANES - 1) / LANES;
    vec *scratch = aligned_alloc(64, (size_t)((room(c, backward) * (long)sizeof(vec) + 63) / 64 * 64));
    if (!scratch) return 1;
    for (long row = first; row < last; row++) {
#define FORWARD(a, b) forward_row(c, row, scratch, a, b)
#define BACKWARD(a, b) backward_row(c, row, scratch, a, b)
        if (backward) {
            EVERY(BACKWARD)
        } else {
            EVERY(FORWARD)
        }
    }
    free(scratch);
    return 0;
}
