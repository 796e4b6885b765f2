/* The element-wise parts of a decoder layer in bf16, forward and backward, one pass over memory each.
 *
 * Compiled for the processor it runs on (generate/compiler.py); native.py says what each call stands for, and layers.py, attention.py and
 * losses.py hold the same in torch: the fallback, and what tests compare with. Plain loops that GCC and Clang vectorise; arithmetic is fp32.
 * Every function works on rows [first, last), so that several threads can share one call. Sums use LANES partial sums: a fixed order,
 * whatever the compiler does.
 */
#include <stdint.h>
#include <string.h>

#define LANES 16
typedef uint16_t half; /* bf16: the upper half of a float */

static inline float wide(half h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline half narrow(float f) { /* to nearest, ties to even; a NaN stays one */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (half)((f != f ? bits | 0x400000 : rounded) >> 16);
}

/* e^x to about 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^6. Below -87 it is 0 to fp32's smallest normal; NaN gives NaN. */
static inline float exponential(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    float t = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    float n = t - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, 4);
    bits = (bits + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

static inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* gelu, tanh form, and its slope. */
void gelu_forward(const half *restrict x, half *restrict y, half *restrict slope, long first, long last) {
    const float a = 1.5957691216057308f, b = 1.5957691216057308f * 0.044715f;
    for (long i = first; i < last; i++) {
        float h = wide(x[i]), square = h * h;
        float s = logistic(h * (a + b * square));
        float value = h * s;
        y[i] = narrow(value);
        slope[i] = narrow(s + value * (1.0f - s) * (a + 3.0f * b * square));
    }
}

/* gate_up (rows, 2 m) -> out (rows, m): silu(gate) * up. */
void swiglu_forward(const half *restrict gate_up, half *restrict out, long m, long first, long last) {
    for (long row = first; row < last; row++) {
        const half *restrict gate = gate_up + row * 2 * m, *restrict up = gate + m;
        half *restrict o = out + row * m;
        for (long i = 0; i < m; i++) {
            float g = wide(gate[i]);
            o[i] = narrow(g * logistic(g) * wide(up[i]));
        }
    }
}

void swiglu_backward(const half *restrict gate_up, const half *restrict grad_out, half *restrict grad, long m, long first, long last) {
    for (long row = first; row < last; row++) {
        const half *restrict gate = gate_up + row * 2 * m, *restrict up = gate + m, *restrict d = grad_out + row * m;
        half *restrict dg = grad + row * 2 * m, *restrict du = dg + m;
        for (long i = 0; i < m; i++) {
            float g = wide(gate[i]), o = wide(d[i]), s = logistic(g);
            du[i] = narrow(o * g * s);
            dg[i] = narrow(o * wide(up[i]) * s * (1.0f + g * (1.0f - s)));
        }
    }
}

static inline float total(const float *sums) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* x / sqrt(mean(x^2) + eps) * weight; d must be a multiple of LANES. scale (rows) keeps the reciprocal root. */
void rms_forward(const half *restrict x, const float *restrict weight, float eps, half *restrict out, float *restrict scale, long d, long first, long last) {
    for (long row = first; row < last; row++) {
        const half *restrict v = x + row * d;
        half *restrict o = out + row * d;
        float sums[LANES] = {0};
        for (long i = 0; i < d; i += LANES)
            for (int j = 0; j < LANES; j++) sums[j] += wide(v[i + j]) * wide(v[i + j]);
        float r = 1.0f / __builtin_sqrtf(total(sums) / (float)d + eps);
        scale[row] = r;
        for (long i = 0; i < d; i++) o[i] = narrow(wide(v[i]) * r * weight[i]);
    }
}

/* grad_weight (d) is added to. */
void rms_backward(const half *restrict x, const float *restrict weight, const float *restrict scale, const half *restrict grad_out,
                  half *restrict grad_x, float *restrict grad_weight, long d, long first, long last) {
    for (long row = first; row < last; row++) {
        const half *restrict v = x + row * d, *restrict g = grad_out + row * d;
        half *restrict dx = grad_x + row * d;
        float r = scale[row], sums[LANES] = {0};
        for (long i = 0; i < d; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float along = wide(g[i + j]) * wide(v[i + j]) * r;
                grad_weight[i + j] += along;
                sums[j] += along * weight[i + j];
            }
        float mean = total(sums) / (float)d;
        for (long i = 0; i < d; i++) dx[i] = narrow(r * (wide(g[i]) * weight[i] - wide(v[i]) * r * mean));
    }
}

/* qkv (b, t, heads + 2 kv, d) -> q (b, heads, t, d), k and v (b, kv, t, d), queries and keys rotated, queries scaled. Rows are b * t.
 * cosine, sine: (t, d/2), or (b, t, d/2) with `own` set. */
void rotary_split(const half *restrict qkv, const float *restrict cosine, const float *restrict sine, float scale, half *restrict q, half *restrict k,
                  half *restrict v, long own, long t, long heads, long kv, long d, long first, long last) {
    long h2 = d / 2;
    for (long row = first; row < last; row++) {
        long b = row / t, at = row % t;
        const float *restrict c = cosine + (own ? row : at) * h2, *restrict s = sine + (own ? row : at) * h2;
        for (long head = 0; head < heads + 2 * kv; head++) {
            const half *restrict in = qkv + (row * (heads + 2 * kv) + head) * d;
            if (head >= heads + kv) {
                memcpy(v + ((b * kv + head - heads - kv) * t + at) * d, in, sizeof(half) * d);
                continue;
            }
            half *restrict out = head < heads ? q + ((b * heads + head) * t + at) * d : k + ((b * kv + head - heads) * t + at) * d;
            float m = head < heads ? scale : 1.0f;
            for (long i = 0; i < h2; i++) {
                float x = wide(in[i]), y = wide(in[i + h2]);
                out[i] = narrow((x * c[i] - y * s[i]) * m);
                out[i + h2] = narrow((y * c[i] + x * s[i]) * m);
            }
        }
    }
}

/* The gradient of rotary_split: rotated back, into one array. */
void rotary_join(const half *restrict dq, const half *restrict dk, const half *restrict dv, const float *restrict cosine, const float *restrict sine,
                 float scale, half *restrict dqkv, long own, long t, long heads, long kv, long d, long first, long last) {
    long h2 = d / 2;
    for (long row = first; row < last; row++) {
        long b = row / t, at = row % t;
        const float *restrict c = cosine + (own ? row : at) * h2, *restrict s = sine + (own ? row : at) * h2;
        for (long head = 0; head < heads + 2 * kv; head++) {
            half *restrict out = dqkv + (row * (heads + 2 * kv) + head) * d;
            if (head >= heads + kv) {
                memcpy(out, dv + ((b * kv + head - heads - kv) * t + at) * d, sizeof(half) * d);
                continue;
            }
            const half *restrict in = head < heads ? dq + ((b * heads + head) * t + at) * d : dk + ((b * kv + head - heads) * t + at) * d;
            float m = head < heads ? scale : 1.0f;
            for (long i = 0; i < h2; i++) {
                float x = wide(in[i]), y = wide(in[i + h2]);
                out[i] = narrow((x * c[i] + y * s[i]) * m);
                out[i + h2] = narrow((y * c[i] - x * s[i]) * m);
            }
        }
    }
}

/* Softmax of scores (b heads, n, s) in place over the keys that a query may see: from start[b, query] to the query itself; 0 elsewhere.
 * Query j of the block is position offset + j of t. Rows are b * heads * n. buffer: s floats for each call. */
void softmax_forward(half *restrict scores, const int32_t *restrict start, float *restrict buffer, long heads, long n, long s, long t, long offset, long first, long last) {
    for (long row = first; row < last; row++) {
        long b = row / (heads * n), query = offset + row % n, from = start[b * t + query], to = query + 1;
        half *restrict x = scores + row * s;
        float top = -3e38f, tops[LANES];
        for (int j = 0; j < LANES; j++) tops[j] = top;
        long i = from;
        for (; i + LANES <= to; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float value = wide(x[i + j]);
                tops[j] = value > tops[j] ? value : tops[j];
            }
        for (; i < to; i++) top = wide(x[i]) > top ? wide(x[i]) : top;
        for (int j = 0; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
        float sums[LANES] = {0};
        i = from;
        for (; i + LANES <= to; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float e = exponential(wide(x[i + j]) - top);
                buffer[i + j] = e;
                sums[j] += e;
            }
        float sum = total(sums);
        for (; i < to; i++) sum += buffer[i] = exponential(wide(x[i]) - top);
        float part = 1.0f / sum;
        memset(x, 0, sizeof(half) * from);
        for (i = from; i < to; i++) x[i] = narrow(buffer[i] * part);
        memset(x + to, 0, sizeof(half) * (s - to));
    }
}

/* grad (in place): p * (grad - sum(grad * p)) over the same keys, 0 elsewhere. */
void softmax_backward(const half *restrict p, half *restrict grad, const int32_t *restrict start, long heads, long n, long s, long t, long offset, long first, long last) {
    for (long row = first; row < last; row++) {
        long b = row / (heads * n), query = offset + row % n, from = start[b * t + query], to = query + 1;
        const half *restrict w = p + row * s;
        half *restrict g = grad + row * s;
        float sums[LANES] = {0};
        long i = from;
        for (; i + LANES <= to; i += LANES)
            for (int j = 0; j < LANES; j++) sums[j] += wide(w[i + j]) * wide(g[i + j]);
        float sum = total(sums);
        for (; i < to; i++) sum += wide(w[i]) * wide(g[i]);
        memset(g, 0, sizeof(half) * from);
        for (i = from; i < to; i++) g[i] = narrow(wide(w[i]) * (wide(g[i]) - sum));
        memset(g + to, 0, sizeof(half) * (s - to));
    }
}

/* logits (rows, v): loss of each row, and the gradient softmax - onehot in the logits' place; a row with a negative target gives 0 and 0. */
void cross_entropy(half *restrict logits, const int64_t *restrict target, float *restrict loss, float *restrict buffer, long v, long first, long last) {
    for (long row = first; row < last; row++) {
        half *restrict x = logits + row * v;
        if (target[row] < 0) {
            loss[row] = 0;
            memset(x, 0, sizeof(half) * v);
            continue;
        }
        float top = -3e38f, tops[LANES], sums[LANES] = {0};
        for (int j = 0; j < LANES; j++) tops[j] = top;
        long i = 0;
        for (; i + LANES <= v; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float value = wide(x[i + j]);
                tops[j] = value > tops[j] ? value : tops[j];
            }
        for (; i < v; i++) top = wide(x[i]) > top ? wide(x[i]) : top;
        for (int j = 0; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
        for (i = 0; i + LANES <= v; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float e = exponential(wide(x[i + j]) - top);
                buffer[i + j] = e;
                sums[j] += e;
            }
        float sum = total(sums);
        for (; i < v; i++) sum += buffer[i] = exponential(wide(x[i]) - top);
        float part = 1.0f / sum, chosen = wide(x[target[row]]);
        loss[row] = __builtin_logf(sum) + top - chosen;
        for (i = 0; i < v; i++) x[i] = narrow(buffer[i] * part);
        x[target[row]] = narrow(buffer[target[row]] * part - 1.0f);
    }
}
