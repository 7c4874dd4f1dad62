/* A decoder-only transformer on a CPU: GPT-2, Llama and Qwen3, many rows at once, in fp32 or with products of
 * whole numbers of 8 bits.
 *
 * Each row has the bits that it has alone, whatever stands beside it and however many
 * threads there are: every product is a sum over k in one order, LANES apart. Weights lie
 * (out, in), as they are stored, so that a file is used where it is mapped.
 *
 * Few items (a prompt, a single text): the threads share the columns of each product and
 * meet five times a block. Many rows: each thread takes some to itself and waits for nobody.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "draw.h"

enum { GPT2, LLAMA, QWEN3 };

typedef struct { /* mirrors library.py's Shape */
    int arch, vocab, context, layers, heads, kv_heads, width, head_dim, inner;
    float eps, theta;
} Shape;

/* weights (out, in); what an arch does not have is NULL */
typedef struct {
    Matrix q, k, v, o, gate, up, down;
    const float *q_bias, *k_bias, *v_bias, *o_bias, *up_bias, *down_bias;
    const float *norm1, *norm1_bias, *norm2, *norm2_bias, *q_norm, *k_norm;
} Block;

typedef struct { /* item m is a token of the row at a place */
    int count;
    const int *tokens, *places, *positions, *wanted;
    Drawn *drawn;         /* of the items that are wanted */
} Batch;

typedef struct { /* the batch's rows write on by themselves */
    int steps;            /* at most; 0: they do not */
    const int *limits;    /* tokens that each may write */
    int *written;         /* (rows, steps) */
} Run;

typedef struct {
    const float *embed, *positions, *norm, *norm_bias;
    Matrix head;
    const Block *blocks;
    Shape shape;
    int slots, rows, threads;
    int widest;                       /* inputs of a product that are rounded; 0 if none are */
    float *cos, *sin;                 /* (slots, head_dim / 2) */
    float *keys, *values;             /* (layers, rows, kv_heads, slots, head_dim) */
    Row *state;                       /* (rows) */
    float *x, *y, *h, *logits;        /* (MOST, ...), of all threads */
    float **own;                      /* each thread's */
    Batch batch;
    Run run;
    pthread_t *team;
    pthread_mutex_t lock;
    pthread_cond_t begun;
    atomic_int turn, asleep, waiting, phase;
    int stop;
} Model;

#define MOST 64          /* items of a call */
#define SPINS 4000       /* about as long as a thread takes to wake up */
#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() (void)0
#endif

/* All threads of the team have come here before one goes on. */
static void meet(Model *s, int threads) {
    if (threads == 1) return;
    int phase = atomic_load_explicit(&s->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&s->waiting, 1, memory_order_acq_rel) == threads - 1) {
        atomic_store_explicit(&s->waiting, 0, memory_order_relaxed);
        atomic_store_explicit(&s->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&s->phase, memory_order_acquire) == phase; spins++) {
        if (spins > SPINS) sched_yield(); /* the other has lost its core */
        else PAUSE();
    }
}

static void normalise(const Shape *g, const float *x, const float *gain, const float *bias, float *y) {
    const int C = g->width;
    if (g->arch != GPT2) {
        rms_norm(x, gain, y, C, g->eps);
        return;
    }
    vec total = splat(0), squares = splat(0);
    int i = 0;
    float rest = 0;
    for (; i + LANES <= C; i += LANES) total += load(x + i);
    for (; i < C; i++) rest += x[i];
    float mean = (sum(total) + rest) / C;
    rest = 0;
    for (i = 0; i + LANES <= C; i += LANES) squares += (load(x + i) - mean) * (load(x + i) - mean);
    for (; i < C; i++) rest += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf((sum(squares) + rest) / C + g->eps);
    for (i = 0; i < C; i++) y[i] = (x[i] - mean) * scale * gain[i] + bias[i];
}

static void add_bias(int M, int begin, int end, const float *bias, float *y, int ldy) {
    if (!bias) return;
    for (int m = 0; m < M; m++)
        for (int n = begin; n < end; n++) y[m * ldy + n] += bias[n];
}

INLINE vec activation(int arch, vec z) { /* GELU in its tanh form, or SiLU: both z times a logistic function */
    vec t = z;
    if (arch == GPT2) t = 1.5957691216f * (z + 0.044715f * z * z * z);
    return z / (1.0f + vexp(-t));
}

/* One query's attention to `count` keys (count, D): y = softmax(q k^T / sqrt D) v */
static void attend(int D, int count, const float *q, const float *k, const float *v, float *y, float *scores) {
    const float scale = 1.0f / sqrtf((float)D);
    const int whole = D / LANES * LANES;
    float most = -INFINITY;
    for (int p = 0; p < count; p += 4, k += 4 * D) {
        const int some = count - p < 4 ? count - p : 4;
        vec total[4] = {splat(0), splat(0), splat(0), splat(0)};
        soon(k + 16 * D, 4 * D * sizeof(float)), soon(v + (size_t)p * D, 4 * D * sizeof(float));
        if (some == 4)
            for (int i = 0; i < whole; i += LANES)
                UNROLL for (int j = 0; j < 4; j++) total[j] += load(q + i) * load(k + j * D + i);
        else
            for (int j = 0; j < some; j++)
                for (int i = 0; i < whole; i += LANES) total[j] += load(q + i) * load(k + j * D + i);
        vec4 found = sums(total[0], total[1], total[2], total[3]);
        for (int j = 0; j < some; j++) {
            float score = found[j];
            for (int i = whole; i < D; i++) score += q[i] * k[j * D + i];
            scores[p + j] = score * scale;
            if (scores[p + j] > most) most = scores[p + j];
        }
    }
    vec masses = splat(0);
    for (int p = count; p % LANES; p++) scores[p] = -INFINITY;
    for (int p = 0; p < count; p += LANES) {
        vec x = load(scores + p), y = (vec)((ivec)vexp(x - most) & (x > -INFINITY));
        store(scores + p, y);
        masses += y;
    }
    double mass = sum(masses);
    float share = (float)(1 / mass);
    int i = 0;
    for (; i + 4 * LANES <= D; i += 4 * LANES) {
        vec a = splat(0), b = a, c = a, d = a;
        const float *at = v + i;
        for (int p = 0; p < count; p++, at += D) {
            a += scores[p] * load(at), b += scores[p] * load(at + LANES);
            c += scores[p] * load(at + 2 * LANES), d += scores[p] * load(at + 3 * LANES);
        }
        store(y + i, a * share), store(y + i + LANES, b * share);
        store(y + i + 2 * LANES, c * share), store(y + i + 3 * LANES, d * share);
    }
    for (; i < D; i++) {
        float total = 0;
        for (int p = 0; p < count; p++) total += scores[p] * v[(size_t)p * D + i];
        y[i] = total * share;
    }
}

/* This thread's part of `whole` columns, in units of `grain`. */
static void part(int whole, int grain, int me, int threads, int *begin, int *end) {
    int units = (whole + grain - 1) / grain, last = units * (me + 1) / threads * grain;
    *begin = units * me / threads * grain;
    *end = last < whole ? last : whole;
    if (*begin > *end) *begin = *end;
}

/* The left side of products with `w`: x (M, K), rounded if w is. */
static Rows left(int M, int K, const float *x, const Matrix *w, Rows room) {
    room.floats = x, room.stride = K;
    if (w->levels) round_rows(M, K, x, K, room.levels, room.scales);
    return room;
}

/* From tokens to drawn tokens. The threads share the columns of each product; x, y, h and logits are common. */
static void forward(Model *s, int me, int threads, Batch batch, float *x, float *y, float *h, float *logits,
                    float *own) {
    const Shape *g = &s->shape;
    const int M = batch.count, C = g->width, D = g->head_dim, H = g->heads, KV = g->kv_heads, G = H / KV, half = D / 2;
    float *normed = own, *q = normed + MOST * C, *kv = q + MOST * H * D, *up = kv + MOST * D;
    float *scores = up + MOST * g->inner, *work = scores + s->slots + 2 * LANES;
    Rows room = {NULL, 0, NULL, NULL};
    if (s->widest) room.scales = work + 6 * (size_t)g->vocab, room.levels = (int8_t *)(room.scales + MOST * s->widest / GROUP);
    int k0, k1, c0, c1, i0, i1, v0, v1;
    part(KV, 1, me, threads, &k0, &k1);
    part(C, 16, me, threads, &c0, &c1);
    part(g->inner, 16, me, threads, &i0, &i1);
    part(g->vocab, 16, me, threads, &v0, &v1);
    for (int m = 0; m < M; m++)
        for (int c = c0; c < c1; c++) {
            x[m * C + c] = s->embed[(size_t)batch.tokens[m] * C + c];
            if (s->positions) x[m * C + c] += s->positions[(size_t)batch.positions[m] * C + c];
        }
    meet(s, threads);
    for (int l = 0; l < g->layers; l++) {
        const Block *b = s->blocks + l;
        for (int m = 0; m < M; m++) normalise(g, x + m * C, b->norm1, b->norm1_bias, normed + m * C);
        Rows in = left(M, C, normed, &b->q, room);
        product(M, k0 * G * D, k1 * G * D, C, in, b->q, q, H * D, 0);
        add_bias(M, k0 * G * D, k1 * G * D, b->q_bias, q, H * D);
        for (int j = k0; j < k1; j++) {
            float *keys = s->keys + (((size_t)l * s->rows) * KV + j) * s->slots * D;
            float *values = s->values + (keys - s->keys);
            const size_t row = (size_t)KV * s->slots * D;
            for (int m = 0; m < M; m++) {
                const size_t at = batch.places[m] * row + (size_t)batch.positions[m] * D;
                soon(keys + at, D * sizeof(float)), soon(values + at, D * sizeof(float));
            }
            product(M, j * D, j * D + D, C, in, b->k, kv - j * D, D, 0);
            add_bias(M, j * D, j * D + D, b->k_bias, kv - j * D, D);
            for (int m = 0; m < M; m++) {
                const size_t angle = (size_t)batch.positions[m] * half;
                if (b->k_norm) rms_norm(kv + m * D, b->k_norm, kv + m * D, D, g->eps);
                if (s->cos) rotate(kv + m * D, s->cos + angle, s->sin + angle, half);
                memcpy(keys + batch.places[m] * row + (size_t)batch.positions[m] * D, kv + m * D, sizeof(float) * D);
            }
            product(M, j * D, j * D + D, C, in, b->v, kv - j * D, D, 0);
            add_bias(M, j * D, j * D + D, b->v_bias, kv - j * D, D);
            for (int m = 0; m < M; m++)
                memcpy(values + batch.places[m] * row + (size_t)batch.positions[m] * D, kv + m * D, sizeof(float) * D);
            for (int m = 0; m < M; m++)
                for (int a = j * G; a < (j + 1) * G; a++) {
                    const size_t angle = (size_t)batch.positions[m] * half;
                    float *one = q + (m * H + a) * D;
                    if (b->q_norm) rms_norm(one, b->q_norm, one, D, g->eps);
                    if (s->cos) rotate(one, s->cos + angle, s->sin + angle, half);
                    attend(D, batch.positions[m] + 1, one, keys + batch.places[m] * row, values + batch.places[m] * row,
                           y + (m * H + a) * D, scores);
                }
        }
        meet(s, threads);
        product(M, c0, c1, H * D, left(M, H * D, y, &b->o, room), b->o, x, C, 1);
        add_bias(M, c0, c1, b->o_bias, x, C);
        meet(s, threads);
        for (int m = 0; m < M; m++) normalise(g, x + m * C, b->norm2, b->norm2_bias, normed + m * C);
        in = left(M, C, normed, &b->up, room);
        product(M, i0, i1, C, in, b->up, up, g->inner, 0);
        add_bias(M, i0, i1, b->up_bias, up, g->inner);
        if (b->gate.floats) product(M, i0, i1, C, in, b->gate, h, g->inner, 0);
        for (int m = 0; m < M; m++) {
            float *u = up + m * g->inner, *z = h + m * g->inner;
            for (int i = i0; i < i1; i += LANES) { /* reads past the end: into what follows, or the margin */
                vec out = activation(g->arch, load((b->gate.floats ? z : u) + i));
                if (b->gate.floats) out *= load(u + i);
                if (i + LANES <= i1) store(z + i, out);
                else for (int j = 0; i + j < i1; j++) z[i + j] = out[j];
            }
        }
        meet(s, threads);
        product(M, c0, c1, g->inner, left(M, g->inner, h, &b->down, room), b->down, x, C, 1);
        add_bias(M, c0, c1, b->down_bias, x, C);
        meet(s, threads);
    }
    int count = 0, items[MOST];
    for (int m = 0; m < M; m++)
        if (batch.wanted[m]) {
            normalise(g, x + m * C, s->norm, s->norm_bias, normed + count * C);
            items[count++] = m;
        }
    product(count, v0, v1, C, left(count, C, normed, &s->head, room), s->head, logits, g->vocab, 0);
    meet(s, threads);
    for (int i = me; i < count; i += threads) {
        float *found = logits + (size_t)i * g->vocab;
        Row *row = s->state + batch.places[items[i]];
        Drawn *out = batch.drawn + items[i];
        float *raw = work + 5 * (size_t)g->vocab;
        if (row->set.logprobs >= 0) memcpy(raw, found, sizeof(float) * g->vocab);
        out->token = draw(row, g->vocab, found, work);
        if (out->token < 0) continue;
        if (row->set.logprobs >= 0) tell(g->vocab, raw, row->set.logprobs, out, work);
        note(row, out->token, 1);
    }
    meet(s, threads);
}

static int is_last(const Settings *set, int token) {
    int last = token < 0;
    for (int i = 0; i < set->ends; i++) last |= token == set->end_ids[i];
    return last;
}

/* One step, or a run, of the rows [from, to) of the batch, by the thread `self`: `me` of `threads` that share them. */
static void advance(Model *s, int self, int me, int threads, int from, int to) {
    const Shape *g = &s->shape;
    const Run run = s->run;
    float *x = s->x + from * g->width, *y = s->y + from * g->heads * g->head_dim, *h = s->h + from * g->inner;
    float *logits = s->logits + (size_t)from * g->vocab;
    Batch now = s->batch;
    now.count = to - from, now.tokens += from, now.places += from, now.positions += from;
    now.wanted += from, now.drawn += from;
    if (!run.steps) {
        forward(s, me, threads, now, x, y, h, logits, s->own[self]);
        return;
    }
    int tokens[MOST], places[MOST], positions[MOST], rows[MOST]; /* of the rows that go on */
    for (int i = 0; i < now.count; i++)
        tokens[i] = now.tokens[i], places[i] = now.places[i], positions[i] = now.positions[i], rows[i] = from + i;
    now.tokens = tokens, now.places = places, now.positions = positions;
    for (int step = 0; step < run.steps && now.count; step++) {
        forward(s, me, threads, now, x, y, h, logits, s->own[self]);
        int count = 0;
        for (int i = 0; i < now.count; i++) {
            int row = rows[i], token = now.drawn[i].token;
            if (!me) run.written[row * run.steps + step] = token;
            if (step + 1 >= run.limits[row] || is_last(&s->state[places[i]].set, token)) continue;
            tokens[count] = token, places[count] = places[i], positions[count] = positions[i] + 1, rows[count] = row;
            count++;
        }
        now.count = count;
    }
    meet(s, threads); /* the caller's arrays are no longer read */
}

static void work(Model *s, int me) {
    const int M = s->batch.count, T = s->threads;
    int all = 1;
    for (int m = 0; m < M; m++) all &= s->batch.wanted[m] != 0;
    if (T == 1 || M < 16 * T || !all) {
        advance(s, me, me, T, 0, M);
        return;
    }
    /* very many rows: each thread takes some for itself, and waits for nobody */
    advance(s, me, 0, 1, M * me / T, M * (me + 1) / T);
    meet(s, T);
}

typedef struct { Model *model; int me; } Member;

static void *serve(void *argument) {
    Member member = *(Member *)argument;
    Model *s = member.model;
    free(argument);
    for (int turn = 0;; turn++) {
        for (int n = 0; n < 10 * SPINS && atomic_load_explicit(&s->turn, memory_order_acquire) == turn; n++) PAUSE();
        if (atomic_load(&s->turn) == turn) { /* nothing to do for long */
            pthread_mutex_lock(&s->lock);
            atomic_fetch_add(&s->asleep, 1);
            while (atomic_load(&s->turn) == turn) pthread_cond_wait(&s->begun, &s->lock);
            atomic_fetch_sub(&s->asleep, 1);
            pthread_mutex_unlock(&s->lock);
        }
        if (s->stop) return NULL;
        work(s, member.me);
    }
}

static void begin_turn(Model *s) {
    atomic_fetch_add(&s->turn, 1);
    if (atomic_load(&s->asleep)) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->begun);
        pthread_mutex_unlock(&s->lock);
    }
}

EXPORT void gk_close(Model *s) {
    s->stop = 1;
    begin_turn(s);
    for (int t = 1; t < s->threads; t++)
        if (s->team[t]) pthread_join(s->team[t], NULL);
    for (int t = 0; s->own && t < s->threads; t++) free(s->own[t]);
    for (int r = 0; s->state && r < s->rows; r++)
        free(s->state[r].tokens), free(s->state[r].seen), free(s->state[r].drawn);
    free(s->own), free(s->team), free(s->state), free(s->x), free(s->y), free(s->h), free(s->logits);
    free(s->keys), free(s->values), free(s->cos), free(s->sin), free((void *)s->blocks), free(s);
}

/* tensors: embedding, positions, norm, its bias, head, then each block's in the order of Block; `rounded` if any
 * has levels. NULL if memory is short. */
EXPORT Model *gk_open(const Shape *shape, const void *const *tensors, int rounded, int rows, int slots,
                      int threads) {
    const Shape *g = shape;
    Model *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->shape = *shape, s->rows = rows, s->slots = slots, s->threads = threads;
    s->embed = tensors[0], s->positions = tensors[1], s->norm = tensors[2], s->norm_bias = tensors[3];
    memcpy(&s->head, tensors + 4, sizeof(Matrix));
    Block *blocks = malloc(g->layers * sizeof(Block));
    s->blocks = blocks;
    if (blocks) memcpy(blocks, tensors + 7, g->layers * sizeof(Block));
    int widest = g->width > g->inner ? g->width : g->inner;
    widest = widest > g->heads * g->head_dim ? widest : g->heads * g->head_dim;
    if (rounded) s->widest = (widest + GROUP - 1) / GROUP * GROUP;
    const size_t cache = (size_t)g->layers * rows * g->kv_heads * slots * g->head_dim, f = sizeof(float);
    s->keys = malloc(f * cache), s->values = malloc(f * cache), s->state = calloc(rows, sizeof(Row));
    s->x = malloc(f * MOST * g->width), s->y = malloc(f * MOST * g->heads * g->head_dim);
    s->h = malloc(f * (MOST * (size_t)g->inner + LANES)), s->logits = malloc(f * MOST * g->vocab);
    s->own = calloc(threads, sizeof(float *)), s->team = calloc(threads, sizeof(pthread_t));
    int whole = blocks && s->keys && s->values && s->state && s->x && s->y && s->h && s->logits && s->own && s->team;
    for (int r = 0; whole && r < rows; r++) {
        Row *row = s->state + r;
        row->tokens = malloc(sizeof(int) * g->vocab);
        row->seen = calloc(g->vocab, sizeof(uint32_t)), row->drawn = calloc(g->vocab, sizeof(uint32_t));
        whole = row->tokens && row->seen && row->drawn;
    }
    for (int t = 0; whole && t < threads; t++) {
        size_t count = MOST * (size_t)(g->width + g->heads * g->head_dim + g->head_dim + g->inner);
        count += slots + 3 * LANES + 6 * (size_t)g->vocab;
        count += MOST * s->widest / GROUP + MOST * s->widest / sizeof(float);
        whole = (s->own[t] = malloc(f * count)) != NULL;
    }
    if (whole && g->arch != GPT2) {
        int half = g->head_dim / 2;
        s->cos = malloc(f * slots * half), s->sin = malloc(f * slots * half);
        whole = s->cos && s->sin;
        for (int i = 0; whole && i < half; i++) {
            float turn = 1.0f / powf(g->theta, 2.0f * i / g->head_dim);
            for (int p = 0; p < slots; p++)
                s->cos[p * half + i] = cosf(p * turn), s->sin[p * half + i] = sinf(p * turn);
        }
    }
    pthread_mutex_init(&s->lock, NULL), pthread_cond_init(&s->begun, NULL);
    for (int t = 1; whole && t < threads; t++) {
        Member *member = malloc(sizeof *member);
        if (!member) whole = 0;
        else {
            member->model = s, member->me = t;
            if (pthread_create(&s->team[t], NULL, serve, member)) free(member), s->team[t] = 0, whole = 0;
        }
    }
    if (whole) return s;
    gk_close(s);
    return NULL;
}

/* A new text at a place: what stands before it, of which the last `drawn` count as its own. */
EXPORT void gk_begin(Model *s, int place, const Settings *set, const int *tokens, int count, int drawn) {
    Row *row = s->state + place;
    for (int t = 0; t < row->touched; t++) row->seen[row->tokens[t]] = row->drawn[row->tokens[t]] = 0;
    row->set = *set, row->draws = 0, row->touched = row->text = 0;
    for (int i = 0; i < count; i++) note(row, tokens[i], i >= count - drawn);
}

/* Up to MOST items: append each token to its row; draw the next token of those wanted. */
EXPORT void gk_step(Model *s, int count, const int *tokens, const int *places, const int *positions,
                    const int *wanted, Drawn *drawn) {
    s->batch = (Batch){count, tokens, places, positions, wanted, drawn};
    s->run = (Run){0};
    begin_turn(s);
    work(s, 0);
}

/* Up to MOST rows: append a token to each, draw the next, append that, and so on: at most `steps` tokens each, its
 * limit, and not past one of its ends. written (rows, steps): what was drawn; the rest stays as it is. */
EXPORT void gk_run(Model *s, int count, const int *tokens, const int *places, const int *positions, int steps,
                   const int *limits, int *written) {
    static const int wanted[MOST] = {[0 ... MOST - 1] = 1};
    Drawn drawn[MOST];
    s->batch = (Batch){count, tokens, places, positions, wanted, drawn};
    s->run = (Run){steps, limits, written};
    begin_turn(s);
    work(s, 0);
}

/* Whether this processor has the instructions that this file was compiled to. */
EXPORT int gk_runs_here(void) {
#if defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

/* A matrix (rows, columns) as levels and scales. */
EXPORT void gk_round(const float *from, int8_t *levels, float *scales, int rows, int columns) {
    round_rows(rows, columns, from, columns, levels, scales);
}

/* (rows, columns) to (columns, rows): GPT-2 stores its products the other way round. */
EXPORT void gk_transpose(const float *from, float *to, int rows, int columns) {
    enum { SIDE = 16 }; /* a square of both is in the cache */
    for (int top = 0; top < rows; top += SIDE)
        for (int left = 0; left < columns; left += SIDE)
            for (int c = left; c < left + SIDE && c < columns; c++)
                for (int r = top; r < top + SIDE && r < rows; r++)
                    to[(size_t)c * rows + r] = from[(size_t)r * columns + c];
}
