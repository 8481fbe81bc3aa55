/* Applies every sequence of events up to a length to the compiled core, from every state of the arm.
 *
 *   check_sequences LENGTH           checks all sequences and prints counts; exits with 1 at the first violated
 *                                    invariant, or if an entry of the table of transitions never occurred
 *   check_sequences replay SEQUENCE  applies one sequence after power on and prints each tick
 *
 * The search is breadth first. It continues only one of the sequences that lead to the same state of the model, so that
 * the number of states grows far more slowly than the number of sequences. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { LONGEST_SEQUENCE = 160, MOST_NODES = 1 << 23, HASH_SLOTS = 1 << 24, SEEDS = 20 };

/* Every sequence starts with one of these: they lead to each state of the arm, and to one tick before each fault that
 * takes time. */
static const char *const seeds[SEEDS] = {
    "",                  /* DISARMED after power on */
    "hu",                /* DISARMED, host of another version */
    "h.a",               /* ARMED */
    "h.aqqqqqqqqq",      /* ARMED, one tick without a heartbeat before HEARTBEAT */
    "h.ac...",           /* RUNNING at four fifths of the velocity limit */
    "h.aw..........",    /* RUNNING, held back by the limits */
    "h.ac.......",       /* STARVED, braking */
    "h.ac.........",     /* STARVED, one tick before STARVATION */
    "h.ac............",  /* SAFE */
    "h.ac....e",         /* ESTOP, braking */
    "h.aw....................w....................w.........", /* RUNNING, one tick before LIMIT_SATURATION */
    "h.afffffffff",      /* ARMED, one tick before FOLLOWING_ERROR */
    "h.aciiii",          /* RUNNING, one tick before CONTACT */
    "h.ac....iiii",      /* STARVED, one tick before CONTACT */
    "h.ac....iiiii....", /* SAFE after a contact */
    "h.avvvvvvvvv",      /* ARMED, one tick before VOLTAGE */
    "h.axxxx",           /* ARMED, one tick before SERVO_ERROR */
    "h.axxxxx...k",      /* DISARMED after an error of a servo */
    "h.abbbbbbbbbb",     /* ARMED, one tick before BUS_SILENT */
    "h.attttttttttttttttttttttttttttttttttttttttttttttttt", /* ARMED, one tick before TEMPERATURE */
};

struct node {
    uint32_t parent; /* its own index if the node is a seed */
    char code;
    uint8_t seed;
};

static struct node *nodes;
static uint32_t node_count;
static uint64_t *hashes; /* open addressing; 0 marks an empty slot */
static uint64_t ticks_executed;
static uint32_t longest_to_rest;

/* Inserts a hash; returns whether it is new. */
static bool insert_hash(uint64_t hash)
{
    hash += hash == 0;
    size_t slot = (size_t)hash % HASH_SLOTS;
    while (hashes[slot] != 0 && hashes[slot] != hash) {
        slot = (slot + 1) % HASH_SLOTS;
    }
    const bool is_missing = hashes[slot] == 0;
    hashes[slot] = hash;
    return is_missing;
}

/* Writes the events of the seed and those that lead from it to the node; returns their number. */
static size_t sequence_to(uint32_t node, char *sequence)
{
    char backwards[LONGEST_SEQUENCE];
    size_t length = 0;
    for (; nodes[node].parent != node; node = nodes[node].parent) {
        backwards[length++] = nodes[node].code;
    }
    size_t written = strlen(seeds[nodes[node].seed]);
    memcpy(sequence, seeds[nodes[node].seed], written);
    while (length > 0) {
        sequence[written++] = backwards[--length];
    }
    sequence[written] = '\0';
    return written;
}

static _Noreturn void fail(uint32_t node, char code, const char *violated)
{
    char sequence[2 * LONGEST_SEQUENCE];
    const size_t length = sequence_to(node, sequence);
    sequence[length] = code;
    sequence[length + 1] = '\0';
    printf("VIOLATED: %s\nsequence: %s\n", violated, sequence);
    exit(1);
}

static const char *apply_sequence(struct model *model, const char *sequence)
{
    const char *violated = NULL;
    model_init(model);
    for (; *sequence != '\0' && violated == NULL; sequence++) {
        violated = model_apply(model, *sequence);
    }
    return violated;
}

static void add_node(uint32_t parent, char code, uint8_t seed)
{
    if (node_count == MOST_NODES) {
        printf("more than %d states: choose a smaller length\n", (int)MOST_NODES);
        exit(2);
    }
    nodes[node_count] = (struct node){.parent = parent, .code = code, .seed = seed};
    node_count++;
}

/* Without further heartbeats the arm must come to rest from every state. */
static void check_rest(uint32_t node, char code, const struct model *from)
{
    static struct model model;
    uint32_t ticks;
    model = *from;
    const char *violated = model_run_to_rest(&model, &ticks);
    if (violated != NULL) {
        fail(node, code, violated);
    }
    longest_to_rest = ticks > longest_to_rest ? ticks : longest_to_rest;
}

static void expand(uint32_t node)
{
    static struct model parent;
    static struct model child;
    char sequence[2 * LONGEST_SEQUENCE];
    (void)sequence_to(node, sequence);
    (void)apply_sequence(&parent, sequence);
    for (size_t i = 0; i < MODEL_EVENTS; i++) {
        child = parent;
        const char *violated = model_apply(&child, model_events[i].code);
        ticks_executed++;
        if (violated != NULL) {
            fail(node, model_events[i].code, violated);
        }
        if (insert_hash(model_hash(&child))) {
            check_rest(node, model_events[i].code, &child);
            add_node(node, model_events[i].code, nodes[node].seed);
        }
    }
}

static void add_seeds(void)
{
    static struct model model;
    for (uint8_t seed = 0; seed < SEEDS; seed++) {
        add_node(node_count, '\0', seed);
        const char *violated = apply_sequence(&model, seeds[seed]);
        if (violated != NULL) {
            fail(node_count - 1u, ' ', violated);
        }
        (void)insert_hash(model_hash(&model));
        check_rest(node_count - 1u, ' ', &model);
    }
}

/* Every entry of the table must have occurred: an entry that cannot occur does not belong there. */
static int check_table(void)
{
    unsigned entries = 0;
    unsigned seen = 0;
    for (unsigned event = 0; event < SAFETY_EVENTS; event++) {
        for (unsigned state = 0; state < SAFETY_STATES; state++) {
            entries += safety_transitions[event][state] != SAFETY_NO_TRANSITION;
            seen += model_transitions_seen[event][state];
        }
    }
    printf("entries of the table of transitions seen: %u of %u\n", seen, entries);
    return seen == entries ? 0 : 1;
}

static int check_sequences(unsigned length)
{
    double sequences = SEEDS;
    nodes = calloc(MOST_NODES, sizeof *nodes);
    hashes = calloc(HASH_SLOTS, sizeof *hashes);
    if (nodes == NULL || hashes == NULL) {
        printf("not enough memory\n");
        return 2;
    }
    add_seeds();
    uint32_t first = 0;
    for (unsigned depth = 1; depth <= length; depth++) {
        const uint32_t end = node_count;
        for (; first < end; first++) {
            expand(first);
        }
        sequences *= MODEL_EVENTS;
        printf("length %u: %.3g sequences, %" PRIu64 " ticks executed, %u states\n", depth, sequences, ticks_executed,
               node_count);
        fflush(stdout);
    }
    printf("longest time to rest after the last heartbeat: %u ticks\n", longest_to_rest);
    printf("violated: none\n");
    return check_table();
}

static int replay(const char *sequence)
{
    static struct model model;
    model_init(&model);
    for (; *sequence != '\0'; sequence++) {
        const char *violated = model_apply(&model, *sequence);
        const struct control *control = &model.control;
        printf("%c tick %u: state %u, faults 0x%02x, joint 0 at %.6f, %+.6f per servo step\n", *sequence, model.tick,
               (unsigned)control->safety.state, control->safety.faults, (double)control->motion[0].position,
               (double)control->motion[0].velocity);
        if (violated != NULL) {
            printf("VIOLATED: %s\n", violated);
            return 1;
        }
    }
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "replay") == 0) {
        return replay(arguments[2]);
    }
    if (count == 2 && atoi(arguments[1]) > 0) {
        return check_sequences((unsigned)atoi(arguments[1]));
    }
    printf("usage: check_sequences LENGTH | check_sequences replay SEQUENCE\n");
    return 2;
}
