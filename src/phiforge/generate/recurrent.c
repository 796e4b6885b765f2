/* One call reads new tokens of B rows through a whole Thyme model: look-up, states, MLPs, logits.
 *
 * A row's whole past is its matrix states, (memories, rows of state, 24) float32, so a token costs the same however many came before, rows of
 * any length stand side by side without padding, and a prompt is read without a scan: a state's update is a tenth of a microsecond.
 * Two things make it cheap. What a token writes into the first state, and its residual stream there, depend on the token alone, but for
 * what the register adds to the projection, a product of 24 numbers: they are computed once for each token that occurs and kept (`memo`).
 * And behind the last state only a row's newest token is needed.
 * Products come from native.c through pointers (weights in its panels, gains of norms folded in by `recurrent_native.py`); the same model
 * in torch is models/thyme/modeling.py, which the tests hold this to.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define N 24 /* columns of a state */
#define AXIOMS 12

typedef float vec8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t int32x8 __attribute__((vector_size(32)));
typedef float vec16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef void (*Product)(int M, int columns, int K, const float *x, int ldx, const float *w, const float *bias, float *y, int ldy, int finish);
typedef void (*Best)(const float *logits, int rows, int vocab, int64_t *best);
enum { PLAIN, GELU, ADD };

typedef struct {
    const float *up, *down; /* the norm's gain is folded into up */
} Block;

typedef struct {
    const float *axiom, *axiom_bias, *axiom_gain, *axiom_shift;
    const float *write, *write_bias; /* (width + 12 -> k 24, v rows, bend, beta, 24 reads); literal: (12 -> 24) */
    const float *mark, *marked;      /* a register: what a token leaves in it (width -> 24), what it adds to `write` (24 -> ..) */
    const float *gain, *shift;       /* literal: the layer norm of the composites */
    const float *log_time;           /* (24) */
    const float *out, *out_bias;     /* (read width -> width); literal: (576 -> mlp) */
} Memory;

typedef struct {
    /* rows: of a state's matrix; registers: 1 where a row behind it marks the token before, or 0 */
    int64_t literal, width, mlp, vocab, memories, rows, registers, reads, read_state, delta, normalise, decays, bends;
    int64_t before, after, positions;
    double epsilon, write_scale;              /* write_scale: literal's sigmoid(m) */
    const float *embedding, *place;           /* place (positions, width): literal positions, the last row for all beyond, or NULL */
    float *memo;                              /* (vocab, record) or NULL */
    uint8_t *known;                           /* (vocab) which lines of memo are there */
    const Memory *memory;
    const Block *block;                       /* before each memory, then after the last */
    const float *head, *head_bias;
    Product product;
    Best best;
} Model;

/* What a token does to a state: offsets into a line of `size` floats. */
typedef struct {
    int decay, k, v, beta, q, size;
} Deed;

static Deed deed_of(const Model *m) {
    Deed d = {0, N, 2 * N, 2 * N + (int)m->rows, 2 * N + (int)m->rows + 1, 0};
    d.size = d.q + (int)m->reads * N;
    return d;
}

/* What belongs to a token alone: its residual stream and its deed; with a register its projection, which the deed follows from, and its
 * mark. */
typedef struct {
    int x, deed, mark, size;
} Record;

static int wide(const Model *m) { return (int)(m->literal ? AXIOMS : m->width + AXIOMS); }
static int moving(const Model *m) { return (int)(N + m->rows + (m->bends ? N : 0) + (m->delta ? 1 : 0)); } /* all but the queries */
static int written(const Model *m) { return (int)(m->literal ? N : moving(m) + m->reads * N); }
static int state_size(const Model *m) { return (int)(m->rows + m->registers) * N; }
static int found_width(const Model *m) { return (int)(m->reads * m->rows + (m->read_state ? m->rows * N : 0) + m->registers * N); }
static int head_width(const Model *m) { return (int)(m->literal ? m->mlp : m->width); }

static Record record_of(const Model *m) {
    Record r = {0, m->literal ? 0 : (int)m->width, 0, 0};
    r.mark = r.deed + (m->registers ? written(m) : deed_of(m).size);
    r.size = (r.mark + (int)m->registers * N + 15) / 16 * 16;
    return r;
}

int phiforge_recurrent_record(const Model *m) { return record_of(m).size; }

/* Floats of working memory for `count` tokens of `rows` rows. */
int64_t phiforge_recurrent_work(const Model *m, int rows, int count) {
    int64_t each = 2 * m->width + AXIOMS + m->mlp + written(m) + found_width(m) + record_of(m).size;
    return each * (count > rows ? count : rows) + each + written(m) + deed_of(m).size + 64;
}

static float squares(const float *x, int n) {
    vec16 sum = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) sum += *(const vec16 *)(x + i) * *(const vec16 *)(x + i);
    float whole = 0;
    for (int j = 0; j < 16; j++) whole += sum[j];
    for (; i < n; i++) whole += x[i] * x[i];
    return whole;
}

/* RMS norm without its gain, lines of `n` at stride `ld` to stride `to`. */
static void rms(const Model *m, int lines, const float *x, int ld, int n, float *y, int to) {
    for (int r = 0; r < lines; r++, x += ld, y += to) {
        float scale = 1.0f / sqrtf(squares(x, n) / (float)n + (float)m->epsilon);
        for (int i = 0; i < n; i++) y[i] = x[i] * scale;
    }
}

/* tanh of a layer norm (eps 1e-5, torch's default), in place: `n` is 12 or 24. */
static void squash(float *x, int n, const float *gain, const float *shift) {
    float mean = 0, square = 0;
    for (int i = 0; i < n; i++) mean += x[i];
    mean /= (float)n;
    for (int i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)n + 1e-5f);
    for (int i = 0; i < n; i++) x[i] = tanhf((x[i] - mean) * scale * gain[i] + shift[i]);
}

static void copy_unit(float *y, const float *x, int n, int normalise) {
    float scale = 1.0f;
    if (normalise) {
        float length = sqrtf(squares(x, n));
        scale = 1.0f / (length > 1e-12f ? length : 1e-12f);
    }
    for (int i = 0; i < n; i++) y[i] = x[i] * scale;
}

/* x += W2 relu(W1 norm(x))^2 for M lines; normed (M, width), inner (M, mlp). */
static void mlp(const Model *m, const Block *b, int M, float *x, float *normed, float *inner) {
    int D = (int)m->width, F = (int)m->mlp;
    rms(m, M, x, D, D, normed, D);
    m->product(M, F, D, normed, D, b->up, 0, inner, F, PLAIN);
    for (int64_t i = 0; i < (int64_t)M * F; i++) {
        float positive = inner[i] > 0 ? inner[i] : 0;
        inner[i] = positive * positive;
    }
    m->product(M, D, F, inner, F, b->down, 0, x, D, ADD);
}

/* e^x to about 1 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^7 (as in native.c). */
static inline vec8 exponential(vec8 x) {
    const vec8 round = (vec8){0} + 12582912.0f, low = (vec8){0} - 87.3f, high = (vec8){0} + 88.3f;
    x = (vec8)(((int32x8)x & (x > low)) | ((int32x8)low & ~(x > low)));
    x = (vec8)(((int32x8)x & (x < high)) | ((int32x8)high & ~(x < high)));
    vec8 t = x * 1.44269504f + round, n = t - round;
    vec8 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec8 p = r * 1.9841270e-4f + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f, p = p * r + 4.1666667e-2f, p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f, p = p * r + 1.0f, p = p * r + 1.0f;
    return p * (vec8)(((int32x8)t - (int32x8)round + 127) << 23);
}

/* exp(-exp(bend) / tau) of the columns; bend (24), kept within e^3, or NULL. */
static void decays_of(const float *bend, const float *log_time, float *decay) {
    for (int i = 0; i < N; i += 8) {
        vec8 bent = {0};
        if (bend) bent = 3.0f - 6.0f / (1.0f + exponential(*(const vec8 *)(bend + i) * (2.0f / 3.0f))); /* 3 tanh(bend / 3) */
        *(vec8 *)(decay + i) = exponential(-exponential(bent - *(const vec8 *)(log_time + i)));
    }
}

/* A token's projection, all that it depends on added up -> its deed; the queries only where they are asked. */
static void settle(const Model *m, const Memory *w, const float *raw, int asked, float *deed) {
    Deed at = deed_of(m);
    const float *bend = raw + N + m->rows, *q = raw + moving(m);
    copy_unit(deed + at.k, raw, N, (int)m->normalise);
    memcpy(deed + at.v, raw + N, (size_t)m->rows * sizeof(float));
    if (m->decays) decays_of(m->bends ? bend : 0, w->log_time, deed + at.decay);
    for (int i = 0; !m->decays && i < N; i++) deed[at.decay + i] = 1;
    deed[at.beta] = m->delta ? 1.0f / (1.0f + expf(-q[-1])) : 1.0f;
    for (int r = 0; asked && r < m->reads; r++) copy_unit(deed + at.q + r * N, q + r * N, N, (int)m->normalise);
}

/* Records of M tokens whose residual stream is x (M, width). h (M, width + 12), raw (M, written). */
static void write_records(const Model *m, const Memory *w, int M, const float *x, float *h, float *raw, float *record) {
    Record at = record_of(m);
    Deed d = deed_of(m);
    int D = (int)m->width, W = wide(m), A = m->literal ? 0 : D, C = written(m);
    if (m->literal) {
        m->product(M, AXIOMS, D, x, D, w->axiom, w->axiom_bias, h, W, PLAIN);
    } else {
        rms(m, M, x, D, D, h, W);
        m->product(M, AXIOMS, D, h, W, w->axiom, w->axiom_bias, h + D, W, PLAIN);
    }
    for (int t = 0; t < M; t++) squash(h + (int64_t)t * W + A, AXIOMS, w->axiom_gain, w->axiom_shift);
    m->product(M, C, W, h, W, w->write, w->write_bias, raw, C, PLAIN);
    if (m->registers) m->product(M, N, D, h, W, w->mark, 0, record + at.mark, at.size, PLAIN);
    for (int t = 0; t < M; t++, record += at.size, raw += C, x += D) {
        float *deed = record + at.deed;
        if (m->literal) {
            squash(raw, N, w->gain, w->shift);
            for (int i = 0; i < N; i++) deed[d.k + i] = raw[i], deed[d.v + i] = (float)m->write_scale * raw[i];
            decays_of(0, w->log_time, deed + d.decay);
            deed[d.beta] = 1;
            continue;
        }
        memcpy(record, x, (size_t)D * sizeof(float));
        if (m->registers) {
            memcpy(deed, raw, (size_t)C * sizeof(float));
            rms(m, 1, record + at.mark, N, N, record + at.mark, N);
        } else {
            settle(m, w, raw, 1, deed);
        }
    }
}

static inline float total8(vec8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

/* S <- S diag(decay) + beta (v - S k) k^T, or + v k^T. */
static void update(const Model *m, float *S, const float *decay, const float *k, const float *v, float beta) {
    vec8 d0 = *(const vec8 *)decay, d1 = *(const vec8 *)(decay + 8), d2 = *(const vec8 *)(decay + 16);
    vec8 k0 = *(const vec8 *)k, k1 = *(const vec8 *)(k + 8), k2 = *(const vec8 *)(k + 16);
    for (int i = 0; i < m->rows; i++, S += N) {
        vec8 a = *(vec8 *)S * d0, b = *(vec8 *)(S + 8) * d1, c = *(vec8 *)(S + 16) * d2;
        float u = v[i];
        if (m->delta) u = beta * (u - total8(a * k0 + b * k1 + c * k2));
        *(vec8 *)S = a + u * k0, *(vec8 *)(S + 8) = b + u * k1, *(vec8 *)(S + 16) = c + u * k2;
    }
}

/* What is read of a state: S q of each query, then S itself, then the register as the token found it. */
static void look(const Model *m, const float *S, const float *q, float *found) {
    int rows = (int)m->rows;
    for (int r = 0; r < m->reads; r++, q += N) {
        vec8 q0 = *(const vec8 *)q, q1 = *(const vec8 *)(q + 8), q2 = *(const vec8 *)(q + 16);
        const float *s = S;
        for (int i = 0; i < rows; i++, s += N)
            *found++ = total8(*(const vec8 *)s * q0 + *(const vec8 *)(s + 8) * q1 + *(const vec8 *)(s + 16) * q2);
    }
    if (m->read_state) memcpy(found, S, (size_t)state_size(m) * sizeof(float)); /* the register is the row behind the matrix */
    else if (m->registers) memcpy(found, S + rows * N, N * sizeof(float));
}

static void embed(const Model *m, int64_t id, int64_t place, float *x) {
    int D = (int)m->width;
    memcpy(x, m->embedding + id * D, (size_t)D * sizeof(float));
    if (!m->place) return;
    const float *p = m->place + (place < m->positions ? place : m->positions - 1) * D;
    for (int i = 0; i < D; i++) x[i] += p[i];
}

/* The first memory's record of one token, from the memo, which learns it the first time. Two threads may learn it at once: the same. */
static const float *recall(const Model *m, int64_t id, float *work) {
    Record at = record_of(m);
    int D = (int)m->width;
    float *line = m->memo + id * at.size;
    if (!__atomic_load_n(m->known + id, __ATOMIC_ACQUIRE)) {
        float *x = work, *h = x + D, *rest = h + D + AXIOMS;
        embed(m, id, 0, x);
        for (int b = 0; b < m->before; b++) mlp(m, m->block + b, 1, x, h, rest);
        write_records(m, m->memory, 1, x, h, rest, rest + written(m));
        memcpy(line, rest + written(m), (size_t)at.size * sizeof(float));
        __atomic_store_n(m->known + id, 1, __ATOMIC_RELEASE);
    }
    return line;
}

/* Read the tokens ids[edge[r] .. edge[r + 1]) of each row r and move its states on; seen[r] tokens of it were read before (and are counted
 * on here). want: logits (rows, vocab) after each row's newest token; every row then brings at least one. */
void phiforge_recurrent_read(const Model *m, const int64_t *ids, const int64_t *edge, int64_t *seen, int rows, float *states, float *work,
                             float *logits, int want) {
    Record at = record_of(m);
    Deed d = deed_of(m);
    int D = (int)m->width, M = (int)(edge[rows] - edge[0]), L = (int)m->memories, C = written(m), read = found_width(m);
    int most = M > rows ? M : rows;
    ids += edge[0];
    float *x = work, *h = x + (int64_t)most * D, *inner = h + (int64_t)most * (D + AXIOMS), *raw = inner + (int64_t)most * m->mlp;
    float *found = raw + (int64_t)most * C, *record = found + (int64_t)most * read, *own = record + (int64_t)most * at.size;
    float *deed = own + C, *spare = deed + d.size;

    if (!m->memo)
        for (int r = 0; r < rows; r++)
            for (int64_t t = edge[r]; t < edge[r + 1]; t++) embed(m, ids[t - edge[0]], seen[r] + t - edge[r], x + (t - edge[0]) * D);
    for (int l = 0; l < L; l++) {
        const Memory *w = m->memory + l;
        int last = l == L - 1, learned = l == 0 && m->memo != 0;
        if (!learned) {
            for (int b = 0; b < m->before; b++) mlp(m, m->block + l * m->before + b, M, x, h, inner);
            write_records(m, w, M, x, h, raw, record);
        }
        for (int r = 0; r < rows; r++) {
            float *S = states + ((int64_t)r * L + l) * state_size(m), *mark = S + m->rows * N;
            for (int64_t t = edge[r] - edge[0], end = edge[r + 1] - edge[0]; t < end; t++) {
                const float *line = learned ? recall(m, ids[t], spare) : record + t * at.size, *done = line + at.deed;
                int asked = !last || (want && t + 1 == end);
                if (m->registers) {
                    int columns = asked ? C : moving(m);
                    memcpy(own, done, (size_t)columns * sizeof(float));
                    m->product(1, columns, N, mark, N, w->marked, 0, own, C, ADD);
                    settle(m, w, own, asked, deed);
                    done = deed;
                }
                update(m, S, done + d.decay, done + d.k, done + d.v, done[d.beta]);
                if (asked) {
                    int64_t to = last ? r : t; /* r <= t: nothing that is still needed is written over */
                    look(m, S, done + d.q, found + to * read);
                    if (!m->literal) memmove(x + to * D, line + at.x, (size_t)D * sizeof(float));
                }
                if (m->registers) memcpy(mark, line + at.mark, N * sizeof(float));
            }
        }
        if (last && !want) break;
        if (last) M = rows;
        if (m->literal) {
            m->product(M, (int)m->mlp, read, found, read, w->out, w->out_bias, inner, (int)m->mlp, PLAIN);
        } else {
            rms(m, M, found, read, read, found, read);
            m->product(M, D, read, found, read, w->out, 0, x, D, ADD);
        }
    }
    for (int r = 0; r < rows; r++) seen[r] += edge[r + 1] - edge[r];
    if (!want) return;
    int H = head_width(m);
    if (m->literal) {
        for (int64_t i = 0; i < (int64_t)M * H; i++) inner[i] *= 0.5f * (1.0f + erff(inner[i] * 0.70710678f));
    } else {
        for (int b = 0; b < m->after; b++) mlp(m, m->block + L * m->before + b, M, x, h, inner);
        rms(m, M, x, D, D, h, D);
    }
    m->product(M, (int)m->vocab, H, m->literal ? inner : h, H, m->head, m->head_bias, logits, (int)m->vocab, PLAIN);
}

/* Reads a token of each row, takes the likeliest next one, reads that, and so on, `steps` times. ids (steps + 1, all_rows): the first line
 * is given, the others are written. edge: 0, 1, 2, ... */
void phiforge_recurrent_greedy(const Model *m, int64_t *ids, const int64_t *edge, int64_t *seen, int rows, int all_rows, int steps,
                               float *states, float *work, float *logits) {
    for (int s = 0; s < steps; s++, ids += all_rows) {
        phiforge_recurrent_read(m, ids, edge, seen, rows, states, work, logits, 1);
        m->best(logits, rows, (int)m->vocab, ids + all_rows);
    }
}
