/* From logits to a token, by the rules and in the order of genkit/text/sampling.py. */
#include <stdlib.h>

#include "kernels.h"

typedef struct { /* mirrors library.py's Settings; the arrays belong to the caller */
    uint64_t seed;
    const int *bias_ids, *end_ids;
    const float *bias_values;
    float temperature, top_p, min_p, typical_p, repetition, frequency, presence;
    int top_k, min_new, logprobs, biases, ends;
} Settings;

#define TOP 100
typedef struct { /* mirrors library.py's Drawn */
    int token;            /* NONE_LEFT or NOT_FINITE in place of one */
    float logprob;        /* of the model itself, if asked for */
    int top_ids[TOP];     /* the likeliest, best first */
    float top[TOP];
} Drawn;
enum { NONE_LEFT = -2, NOT_FINITE = -3 };

typedef struct {
    Settings set;
    uint64_t draws;      /* numbers taken from the stream */
    int touched, text;   /* distinct tokens seen; tokens of the text so far */
    int *tokens;         /* those distinct tokens, up to vocab */
    uint32_t *seen, *drawn; /* (vocab): how often in all, how often in the text */
} Row;

/* The i-th number in [0, 1) of numpy's Philox stream with this key (Salmon et al. 2011, 10 rounds). */
static double uniform(uint64_t key, uint64_t i) {
    uint64_t c[4] = {i / 4 + 1, 0, 0, 0}, k0 = key, k1 = 0;
    for (int round = 0; round < 10; round++) {
        if (round) k0 += 0x9E3779B97F4A7C15u, k1 += 0xBB67AE8584CAA73Bu;
        __uint128_t a = (__uint128_t)0xD2E7470EE14C6C93u * c[0], b = (__uint128_t)0xCA5A826395121157u * c[2];
        uint64_t n0 = (uint64_t)(b >> 64) ^ c[1] ^ k0, n2 = (uint64_t)(a >> 64) ^ c[3] ^ k1;
        c[0] = n0, c[1] = (uint64_t)b, c[2] = n2, c[3] = (uint64_t)a;
    }
    return (double)(c[i % 4] >> 11) * (1.0 / 9007199254740992.0);
}

/* a whole number that orders as the float does */
INLINE uint32_t ordered(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

typedef struct { uint32_t key; int id; } Entry;
static int by_key(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* Drop (logit -INFINITY) what comes after the best keys whose weights sum to `limit`; what ties with the
 * last of them stays if `ties`. Keys below `floor` are known not to be among them. Only the bin of keys
 * in which the limit lies is sorted. */
static void keep_best(int V, float *logits, const uint32_t *keys, const float *weights, double limit, uint32_t floor,
                      int ties, Entry *some) {
    double bins[2048] = {0};
    int count = 0, held = 0;
    for (int i = 0; i < V; i++)
        if (keys[i] >= floor && logits[i] > -INFINITY) {
            some[held++] = (Entry){keys[i], i};
            bins[keys[i] >> 21] += weights ? weights[i] : 1.0;
        }
    double before = 0;
    int bin = 2047;
    for (; bin > 0 && before + bins[bin] < limit; bin--) before += bins[bin];
    for (int i = 0; i < held; i++)
        if ((int)(some[i].key >> 21) == bin) some[count++] = some[i];
    qsort(some, count, sizeof *some, by_key);
    int last = -1;
    for (int j = 0; j < count && (before < limit || j == 0); j++)
        before += weights ? weights[some[j].id] : 1.0, last = j;
    if (last < 0) return;
    uint32_t least = some[last].key;
    int final = some[last].id;
    if (ties) final = V;
    for (int i = 0; i < V; i++) logits[i] = keys[i] < least || (keys[i] == least && i > final) ? -INFINITY : logits[i];
}

/* the largest of V numbers */
static float largest(int V, const float *x) {
    vec most = splat(-INFINITY);
    int i = 0;
    for (; i + LANES <= V; i += LANES) {
        ivec more = load(x + i) > most;
        most = (vec)(((ivec)load(x + i) & more) | ((ivec)most & ~more));
    }
    float top = -INFINITY;
    UNROLL for (int j = 0; j < LANES; j++) top = most[j] > top ? most[j] : top;
    for (; i < V; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* the sum of V numbers, in four parts side by side */
static double total_of(int V, const float *x) {
    double part[4] = {0};
    int i = 0;
    for (; i + 4 <= V; i += 4)
        UNROLL for (int j = 0; j < 4; j++) part[j] += x[i + j];
    for (; i < V; i++) part[0] += x[i];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* e to the power of what each logit is below the `most`; their sum */
static double softmax(int V, const float *logits, float most, float *out) {
    int i = 0;
    for (; i + LANES <= V; i += LANES) {
        vec x = load(logits + i);
        store(out + i, (vec)((ivec)vexp(x - most) & (x > -INFINITY)));
    }
    for (; i < V; i++) out[i] = logits[i] > -INFINITY ? expf(logits[i] - most) : 0;
    return total_of(V, out);
}

/* log-probabilities of `token` and of the likeliest, from logits that no rule has touched */
static void tell(int V, const float *logits, int k, Drawn *out, float *work) {
    float most = largest(V, logits), shift = most + (float)log(softmax(V, logits, most, work));
    out->logprob = logits[out->token] - shift;
    k = k < V ? k : V;
    for (int held = 0, i = 0; i < V; i++) { /* insertion into a short sorted list */
        float value = logits[i] - shift;
        if (held == k && (!k || value <= out->top[k - 1])) continue;
        int j = held < k ? held++ : k - 1;
        for (; j && out->top[j - 1] < value; j--) out->top[j] = out->top[j - 1], out->top_ids[j] = out->top_ids[j - 1];
        out->top[j] = value, out->top_ids[j] = i;
    }
}

/* The next token, or why there is none. `work` holds 6 V floats. */
static int draw(Row *row, int V, float *logits, float *work) {
    const Settings *set = &row->set;
    float *mass = work;
    uint32_t *keys = (uint32_t *)(work + V);
    Entry *some = (Entry *)(work + 2 * V);
    int broken = 0;
    for (int i = 0; i < V; i++) broken |= !(fabsf(logits[i]) < INFINITY);
    if (broken) return NOT_FINITE;
    for (int t = 0; t < row->touched; t++) {
        int id = row->tokens[t];
        float x = logits[id];
        if (set->repetition != 1 && row->seen[id]) x = x > 0 ? x / set->repetition : x * set->repetition;
        logits[id] = x - set->frequency * row->drawn[id] - set->presence * (row->drawn[id] > 0);
    }
    for (int i = 0; i < set->biases; i++) logits[set->bias_ids[i]] += set->bias_values[i];
    if (row->text < set->min_new)
        for (int i = 0; i < set->ends; i++) logits[set->end_ids[i]] = -INFINITY;
    float most = largest(V, logits);
    if (most == -INFINITY) return NONE_LEFT;
    int best = 0;
    while (logits[best] != most) best++;
    if (set->temperature == 0) return best;
    if (set->temperature != 1) {
        for (int i = 0; i < V; i++) logits[i] = (logits[i] - most) / set->temperature;
        most = 0;
    }
    if (set->top_k && set->top_k < V) {
        for (int i = 0; i < V; i++) keys[i] = ordered(logits[i]);
        keep_best(V, logits, keys, NULL, set->top_k, 0, 1, some);
    }
    if (set->top_p < 1) {
        double total = softmax(V, logits, most, mass);
        for (int i = 0; i < V; i++) keys[i] = ordered(mass[i]);
        /* all that are smaller than this come after the limit, even together */
        float tail = (float)((1 - set->top_p) * total / V * 0.99);
        keep_best(V, logits, keys, mass, set->top_p * total, ordered(tail), 0, some);
    }
    if (set->min_p > 0) {
        float least = most + logf(set->min_p);
        for (int i = 0; i < V; i++) logits[i] = logits[i] < least ? -INFINITY : logits[i];
    }
    if (set->typical_p < 1) {
        double total = softmax(V, logits, most, mass), mean = 0, shift = most + log(total);
        for (int i = 0; i < V; i++)
            if (mass[i] > 0) mean += mass[i] / total * (shift - logits[i]);
        for (int i = 0; i < V; i++) keys[i] = ordered((float)-fabs(shift - logits[i] - mean));
        keep_best(V, logits, keys, mass, set->typical_p * total, 0, 1, some);
    }
    double total = softmax(V, logits, most, mass), wanted = uniform(set->seed, row->draws++) * total, below = 0;
    enum { STRIDE = 64 };
    int at = 0, last = best;
    for (; at + STRIDE <= V; at += STRIDE) { /* whole stretches first */
        double part = total_of(STRIDE, mass + at);
        if (below + part > wanted) break;
        below += part;
    }
    for (int i = at; i < V; i++) {
        if (mass[i] == 0) continue;
        below += mass[i], last = i;
        if (below > wanted) break;
    }
    return last;
}

static void note(Row *row, int token, int text) {
    if (!row->seen[token]) row->tokens[row->touched++] = token;
    row->seen[token]++;
    if (text) row->drawn[token]++, row->text++;
}
