/* What tests ask the C interface: one result per line, `STATUS last error` where it was not OK. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pi0_edge/client.h>

#define JOINTS 32
#define ROWS 50

static int said(pi0_edge_result result) {
    if (result != PI0_EDGE_OK) {
        printf("%d %s\n", (int)result, pi0_edge_last_error());
    }
    return result == PI0_EDGE_OK;
}

/* policy ADDRESS CAMERA HEIGHT WIDTH FILE SEED: state all zero. */
static void policy(char **words) {
    pi0_edge_policy *client = NULL;
    pi0_edge_image image = {words[1], (uint32_t)atoi(words[2]), (uint32_t)atoi(words[3]), NULL, 0, 0};
    pi0_edge_observation observation;
    uint32_t horizon = 0, action_dim = 0, state_dim = 0;
    static float actions[ROWS * JOINTS], state[JOINTS];
    static uint8_t pixels[1 << 20];
    FILE *file = fopen(words[4], "rb");
    image.data = pixels;
    image.size = file == NULL ? 0 : fread(pixels, 1, sizeof pixels, file);
    if (file != NULL) {
        fclose(file);
    }
    if (!said(pi0_edge_policy_open(words[0], NULL, 5000, &client)) ||
        !said(pi0_edge_policy_shape(client, &horizon, &action_dim, &state_dim))) {
        pi0_edge_policy_close(client);
        return;
    }
    printf("%u %u %u\n", (unsigned)horizon, (unsigned)action_dim, (unsigned)state_dim);
    memset(&observation, 0, sizeof observation);
    observation.images = &image;
    observation.image_count = 1;
    observation.state = state;
    observation.state_count = state_dim;
    observation.has_noise_seed = 1;
    observation.noise_seed = (uint64_t)atoi(words[5]);
    if (said(pi0_edge_policy_infer(client, &observation, actions, ROWS * JOINTS, &horizon, &action_dim))) {
        for (uint32_t i = 0; i < horizon * action_dim; ++i) {
            printf(" %a", (double)actions[i]);
        }
        printf("\n");
    }
    said(pi0_edge_policy_infer(client, &observation, actions, 3, NULL, NULL));
    said(pi0_edge_policy_infer(client, NULL, actions, 3, NULL, NULL));
    pi0_edge_policy_close(client);
}

/* bridge ADDRESS JOINT_NAMES…: arms, holds, e-stop, clear. */
static void bridge(int count, char **words) {
    pi0_edge_bridge *client = NULL;
    int state = -1;
    uint32_t tick = 0, first = 0;
    size_t joints = 0;
    static float measured[JOINTS], actions[ROWS * JOINTS];
    said(pi0_edge_bridge_open(words[0], NULL, "check in C", 2000, &client));
    if (said(pi0_edge_bridge_arm(client, (const char *const *)words + 1, (size_t)(count - 1), &state))) {
        printf("armed %d\n", state);
    }
    if (said(pi0_edge_bridge_tick(client, 2000, &tick, measured, JOINTS, &joints))) {
        for (size_t row = 0; row < ROWS; ++row) {
            memcpy(actions + row * joints, measured, joints * sizeof *measured);
        }
        if (said(pi0_edge_bridge_play(client, actions, ROWS, (uint32_t)joints, tick, 2000, &first))) {
            printf("played %d\n", first > tick);
        }
        said(pi0_edge_bridge_play(client, actions, ROWS, (uint32_t)joints - 1, tick, 2000, &first));
    }
    said(pi0_edge_bridge_estop(client, "check", &state));
    printf("stopped %d\n", state);
    said(pi0_edge_bridge_play(client, actions, ROWS, (uint32_t)joints, tick, 2000, &first));
    said(pi0_edge_bridge_clear(client, NULL, &state));
    printf("cleared %d\n", state);
    said(pi0_edge_bridge_state(NULL, &state));
    pi0_edge_bridge_close(client);
}

int main(int count, char **words) {
    if (pi0_edge_abi_version() != PI0_EDGE_ABI_VERSION) {
        return 1;
    }
    if (count == 8 && strcmp(words[1], "policy") == 0) {
        policy(words + 2);
    } else if (count > 2 && strcmp(words[1], "bridge") == 0) {
        bridge(count - 2, words + 2);
    } else {
        return 2;
    }
    return 0;
}
