/* The client for C, and for languages that call C: opaque handles, status codes, no exception crosses this border.
 *
 * Every function returns a status; what happened in words is `pi0_edge_last_error`, of the calling thread. What is
 * passed in is borrowed for the call alone. Handles may be used from several threads, closed by one. */
#ifndef PI0_EDGE_CLIENT_H
#define PI0_EDGE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a function or struct of this file changes its meaning or layout. */
#define PI0_EDGE_ABI_VERSION 1

typedef enum pi0_edge_result {
    PI0_EDGE_OK = 0,
    PI0_EDGE_BAD_ARGUMENT = -1, /* a null pointer, too little room, a TLS folder, a policy that does not fit */
    PI0_EDGE_REFUSED = -2,      /* the server refused what was sent, or the state of the arm forbids it */
    PI0_EDGE_BUSY = -3,         /* too many observations wait already */
    PI0_EDGE_DEADLINE = -4,     /* no answer in time */
    PI0_EDGE_UNREACHABLE = -5,  /* no server, or it failed */
    PI0_EDGE_INTERNAL = -6      /* a mistake of this library */
} pi0_edge_result;

/* The ABI version that the library was built with; compare it with PI0_EDGE_ABI_VERSION. */
uint32_t pi0_edge_abi_version(void);

/* What the last call of this thread that failed said; valid until this thread's next call. */
const char *pi0_edge_last_error(void);

typedef struct pi0_edge_policy pi0_edge_policy; /* a connection to a policy server */
typedef struct pi0_edge_bridge pi0_edge_bridge; /* a connection to a bridge */

/* One picture of one camera: height * width * 3 bytes, row major, red first; or a JPEG of that size. */
typedef struct pi0_edge_image {
    const char *camera;
    uint32_t height;
    uint32_t width;
    const uint8_t *data;
    size_t size;
    int is_jpeg;
} pi0_edge_image;

typedef struct pi0_edge_observation {
    const pi0_edge_image *images;
    size_t image_count;
    const float *state; /* physical units, in the order of the robot's joints */
    size_t state_count;
    const char *prompt;       /* null or empty for the server's default */
    uint32_t tick;            /* firmware tick whose telemetry the observation shows */
    uint64_t capture_time_ns; /* of CLOCK_MONOTONIC */
    int has_noise_seed;       /* whether `noise_seed` fixes the initial noise */
    uint64_t noise_seed;
} pi0_edge_observation;

/* Opens a connection; it connects at the first call. `tls` is a folder as in policy_client.hpp, or null. */
pi0_edge_result pi0_edge_policy_open(const char *address, const char *tls, uint32_t timeout_ms,
                                     pi0_edge_policy **policy);
void pi0_edge_policy_close(pi0_edge_policy *policy);

/* How large chunks and states of the policy are. Null pointers are skipped. */
pi0_edge_result pi0_edge_policy_shape(pi0_edge_policy *policy, uint32_t *horizon, uint32_t *action_dim,
                                      uint32_t *state_dim);

/* Asks for a chunk: `actions` becomes [horizon, action_dim], row major, physical units; `capacity` counts floats. */
pi0_edge_result pi0_edge_policy_infer(pi0_edge_policy *policy, const pi0_edge_observation *observation, float *actions,
                                      size_t capacity, uint32_t *horizon, uint32_t *action_dim);

/* Opens a connection; `name` is shown to other clients that try to arm. */
pi0_edge_result pi0_edge_bridge_open(const char *address, const char *tls, const char *name, uint32_t timeout_ms,
                                     pi0_edge_bridge **bridge);
void pi0_edge_bridge_close(pi0_edge_bridge *bridge);

/* Each says the state that the arm is in afterwards: 0 DISARMED, 1 ARMED, 2 RUNNING, 3 STARVED, 4 SAFE, 5 ESTOP.
 * `state` may be null. */
pi0_edge_result pi0_edge_bridge_state(pi0_edge_bridge *bridge, int *state);
pi0_edge_result pi0_edge_bridge_arm(pi0_edge_bridge *bridge, const char *const *joint_names, size_t count, int *state);
pi0_edge_result pi0_edge_bridge_disarm(pi0_edge_bridge *bridge, const char *reason, int *state);
pi0_edge_result pi0_edge_bridge_estop(pi0_edge_bridge *bridge, const char *reason, int *state);
pi0_edge_result pi0_edge_bridge_clear(pi0_edge_bridge *bridge, const char *reason, int *state);

/* The first tick that comes from now on: its number, and where the joints were measured. `joints` says how many. */
pi0_edge_result pi0_edge_bridge_tick(pi0_edge_bridge *bridge, uint32_t timeout_ms, uint32_t *tick, float *measured,
                                     size_t capacity, size_t *joints);

/* Plays a chunk that answers the observation of `observed_tick`, and waits for its report. PI0_EDGE_REFUSED where the
 * firmware did not take it; `first_tick` is when its first action that was entered is due, and may be null. */
pi0_edge_result pi0_edge_bridge_play(pi0_edge_bridge *bridge, const float *actions, uint32_t horizon,
                                     uint32_t action_dim, uint32_t observed_tick, uint32_t timeout_ms,
                                     uint32_t *first_tick);

#ifdef __cplusplus
}
#endif

#endif
