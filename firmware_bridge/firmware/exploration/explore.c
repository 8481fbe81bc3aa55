/* Plays every sequence of letters up to a length, from every state of the arm, on the compiled core.
 *
 *   explore LENGTH         all sequences; prints counts, and exits with 1 at the first violated promise or
 *                        where a transition of the table was never seen
 *   explore replay SCRIPT  one sequence, from power on
 *
 * Breadth first. Sequences that lead to the same state of core and world are continued once, so that the number of
 * states grows far more slowly than that of the sequences that it stands for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { LONGEST_SCRIPT = 160, MOST_NODES = 1 << 23, SET_SIZE = 1 << 24, SEEDS = 11 };

/* Where the sequences start: each state of the arm, and one tick before each fault that takes time. */
static const char *const seeds[SEEDS] = {
    "",                  /* DISARMED after power on */
    "hu",                /* DISARMED, host of another version */
    "h.a",               /* ARMED */
    "h.aqqqqqqqqq",      /* ARMED, one quiet tick before HEARTBEAT */
    "h.ac...",           /* RUNNING at four fifths of the velocity limit */
    "h.aw..........",    /* RUNNING, following jumps as well as the limits allow */
    "h.ac.......",       /* STARVED, braking */
    "h.ac.........",     /* STARVED, one tick before STARVATION */
    "h.ac............",  /* SAFE */
    "h.ac....e",         /* ESTOP in full motion */
    "h.aw....................w....................w........", /* RUNNING, one tick before LIMIT_SATURATION */
};

struct node {
    uint32_t parent; /* or its own number: a seed */
    char letter;
    uint8_t seed;
};

static struct node *nodes;
static uint32_t node_count;
static uint64_t *set; /* of hashes; 0: empty */
static uint64_t ticks_tried;
static uint32_t longest_settling;

static bool is_new(uint64_t hash)
{
    hash += hash == 0;
    size_t slot = (size_t)hash % SET_SIZE;
    while (set[slot] != 0 && set[slot] != hash) {
        slot = (slot + 1) % SET_SIZE;
    }
    const bool fresh = set[slot] == 0;
    set[slot] = hash;
    return fresh;
}

/* The letters that lead to a node, after those of its seed. */
static size_t path_to(uint32_t node, char *script)
{
    char backwards[LONGEST_SCRIPT];
    size_t length = 0;
    for (; nodes[node].parent != node; node = nodes[node].parent) {
        backwards[length++] = nodes[node].letter;
    }
    size_t written = strlen(seeds[nodes[node].seed]);
    memcpy(script, seeds[nodes[node].seed], written);
    while (length > 0) {
        script[written++] = backwards[--length];
    }
    script[written] = '\0';
    return written;
}

static _Noreturn void fail(uint32_t node, char letter, const char *violated)
{
    char script[2 * LONGEST_SCRIPT];
    const size_t length = path_to(node, script);
    script[length] = letter;
    script[length + 1] = '\0';
    printf("VIOLATED: %s\nsequence: %s\n", violated, script);
    exit(1);
}

static const char *play_all(struct world *world, const char *script)
{
    const char *violated = NULL;
    world_begin(world);
    for (; *script != '\0' && violated == NULL; script++) {
        violated = world_play(world, *script);
    }
    return violated;
}

static void add(uint32_t parent, char letter, uint8_t seed)
{
    if (node_count == MOST_NODES) {
        printf("too many states: choose a smaller length\n");
        exit(2);
    }
    nodes[node_count] = (struct node){.parent = parent, .letter = letter, .seed = seed};
    node_count++;
}

/* From every state, silence must end in rest. */
static void check_settling(uint32_t node, char letter, const struct world *from)
{
    static struct world world;
    uint32_t ticks;
    world = *from;
    const char *violated = world_settle(&world, &ticks);
    if (violated != NULL) {
        fail(node, letter, violated);
    }
    longest_settling = ticks > longest_settling ? ticks : longest_settling;
}

static void expand(uint32_t node)
{
    static struct world here;
    static struct world there;
    char script[2 * LONGEST_SCRIPT];
    (void)path_to(node, script);
    (void)play_all(&here, script);
    for (size_t i = 0; i < WORLD_LETTERS; i++) {
        there = here;
        const char *violated = world_play(&there, world_letters[i].letter);
        ticks_tried++;
        if (violated != NULL) {
            fail(node, world_letters[i].letter, violated);
        }
        if (is_new(world_hash(&there))) {
            check_settling(node, world_letters[i].letter, &there);
            add(node, world_letters[i].letter, nodes[node].seed);
        }
    }
}

static void plant_seeds(void)
{
    static struct world world;
    for (uint8_t seed = 0; seed < SEEDS; seed++) {
        add(node_count, '\0', seed);
        const char *violated = play_all(&world, seeds[seed]);
        if (violated != NULL) {
            fail(node_count - 1u, ' ', violated);
        }
        (void)is_new(world_hash(&world));
        check_settling(node_count - 1u, ' ', &world);
    }
}

/* Every entry of the table must have been seen: one that cannot happen has no place there. */
static int check_table(void)
{
    unsigned entries = 0;
    unsigned seen = 0;
    for (unsigned event = 0; event < SAFETY_EVENTS; event++) {
        for (unsigned state = 0; state < SAFETY_STATES; state++) {
            entries += safety_transitions[event][state] != SAFETY_NO_TRANSITION;
            seen += world_seen[event][state];
        }
    }
    printf("entries of the table of transitions seen: %u of %u\n", seen, entries);
    return seen == entries ? 0 : 1;
}

static int explore(unsigned length)
{
    double sequences = SEEDS;
    nodes = calloc(MOST_NODES, sizeof *nodes);
    set = calloc(SET_SIZE, sizeof *set);
    if (nodes == NULL || set == NULL) {
        printf("not enough memory\n");
        return 2;
    }
    plant_seeds();
    uint32_t first = 0;
    for (unsigned depth = 1; depth <= length; depth++) {
        const uint32_t end = node_count;
        for (; first < end; first++) {
            expand(first);
        }
        sequences *= WORLD_LETTERS;
        printf("length %u: %.3g sequences, %" PRIu64 " ticks tried, %u states\n", depth, sequences, ticks_tried,
               node_count);
        fflush(stdout);
    }
    printf("longest way to rest after silence: %u ticks\n", longest_settling);
    printf("violated: none\n");
    return check_table();
}

static int replay(const char *script)
{
    static struct world world;
    world_begin(&world);
    for (; *script != '\0'; script++) {
        const char *violated = world_play(&world, *script);
        const struct control *control = &world.control;
        printf("%c tick %u: state %u, faults 0x%02x, joint 0 at %.6f, %+.6f per servo step\n", *script, world.tick,
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
        return explore((unsigned)atoi(arguments[1]));
    }
    printf("usage: explore LENGTH | explore replay SCRIPT\n");
    return 2;
}
