#include "model_messages.h"

#include "frame_encoder.h"
#include "host_board.h"

enum { SMOOTH_STEPS = 5, JUMP_STEPS = 24, JUMP_HOLD = 6, LEAD_TICKS = 2 };

void model_poll(void)
{
    static uint8_t output[1 << 16];
    host_poll();
    (void)host_take_sent(output, sizeof output);
}

static void send(struct model *model, uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t wire[FRAME_WIRE_SIZE];
    host_receive(wire, frame_encode(type, model->seq, payload, size, wire));
    model->seq++;
    model_poll();
}

void model_send_hello(struct model *model, uint32_t schema_hash)
{
    const struct link_hello hello = {.schema_hash = schema_hash};
    uint8_t payload[8];
    send(model, LINK_HELLO_ID, payload, link_pack_hello(&hello, payload));
}

void model_send_ping(struct model *model)
{
    const struct link_ping ping = {.ping_id = 1};
    uint8_t payload[16];
    send(model, LINK_PING_ID, payload, link_pack_ping(&ping, payload));
}

void model_send_command(struct model *model, uint8_t command)
{
    const struct link_command_request request = {.nonce = ++model->nonce, .command = command};
    uint8_t payload[8];
    send(model, LINK_COMMAND_REQUEST_ID, payload, link_pack_command_request(&request, payload));
}

static int16_t smooth_counts(const struct control *control, uint8_t joint, uint8_t step)
{
    const struct joint *j = &control->table->joints[joint];
    const float here = control->motion[joint].position;
    const float way = 0.8f * j->velocity / (float)control->table->control_hz * (float)(step + 1);
    return (int16_t)((here > j->home ? here - way : here + way) / j->resolution);
}

static int16_t jump_counts(const struct control *control, uint8_t joint, uint8_t step)
{
    const struct joint *j = &control->table->joints[joint];
    const float end = step / JUMP_HOLD % 2u == 0 ? j->maximum : j->minimum;
    const bool begins_here = step == 0 && control->safety.state == LINK_STATE_ARMED;
    return (int16_t)((begins_here ? control->motion[joint].position : end) / j->resolution);
}

static int16_t far_counts(const struct control *control, uint8_t joint, uint8_t step)
{
    const struct joint *j = &control->table->joints[joint];
    const float middle = 0.5f * (j->minimum + j->maximum);
    (void)step;
    return (int16_t)((control->motion[joint].position < middle ? j->maximum : j->minimum) / j->resolution);
}

/* `lead`: ticks from now to its first setpoint. */
static bool send_chunk(struct model *model, uint32_t lead, uint8_t steps,
                       int16_t (*counts)(const struct control *, uint8_t, uint8_t))
{
    const struct control *control = host_control();
    const uint8_t joints = control->table->count;
    struct link_fragment fragment = {.chunk_id = ++model->chunk_id,
                                     .first_tick = model->tick + lead,
                                     .step_count = steps,
                                     .fragment_count = 1,
                                     .steps = steps,
                                     .joints = joints};
    for (uint8_t step = 0; step < steps; step++) {
        for (uint8_t joint = 0; joint < joints; joint++) {
            fragment.values[step * joints + joint] = counts(control, joint, step);
        }
    }
    const uint32_t before = host_control()->counters.chunks_accepted;
    uint8_t payload[LINK_MAX_PAYLOAD];
    send(model, LINK_FRAGMENT_ID, payload, link_pack_fragment(&fragment, payload));
    const bool accepted = host_control()->counters.chunks_accepted != before;
    model->accepted = model->accepted || accepted;
    return accepted;
}

void model_send_smooth_chunk(struct model *model)
{
    (void)send_chunk(model, LEAD_TICKS, SMOOTH_STEPS, smooth_counts);
}

void model_send_rest(struct model *model)
{
    (void)send_chunk(model, LEAD_TICKS - 1 + SMOOTH_STEPS, SMOOTH_STEPS, smooth_counts);
}

void model_send_jump_chunk(struct model *model)
{
    (void)send_chunk(model, LEAD_TICKS, JUMP_STEPS, jump_counts);
}

bool model_send_far_chunk(struct model *model)
{
    return send_chunk(model, LEAD_TICKS, 1, far_counts);
}
