#include "messages.hpp"

#include <array>

#include "pi0_edge/errors.hpp"

namespace pi0_edge {
namespace {

template <typename Field>
auto to_vector(const Field& field) {
    return std::vector<typename Field::value_type>(field.begin(), field.end());
}

void write_clock(v1::ObservationClock& clock, std::uint32_t tick, std::uint64_t capture_time_ns) {
    clock.set_tick(tick);
    clock.set_capture_time_ns(capture_time_ns);
}

void write_image(v1::Image& message, const Image& image) {
    if (image.data == nullptr || image.size == 0) {
        throw ObservationError("images[\"" + image.camera + "\"] names no pixels; set data and size");
    }
    message.set_camera(image.camera);
    message.set_height(image.height);
    message.set_width(image.width);
    if (image.is_jpeg) {
        message.set_jpeg(image.data, image.size);
    } else {
        message.set_rgb(image.data, image.size);
    }
}

void write_continuation(v1::Continuation& message, const Continuation& continuation) {
    *message.mutable_actions() = {continuation.actions.begin(), continuation.actions.end()};
    message.set_delay(continuation.delay);
    message.set_method(static_cast<v1::Continuation::Method>(continuation.method));
    message.set_schedule(static_cast<v1::Continuation::Schedule>(continuation.schedule));
    message.set_overlap(continuation.overlap);
    message.set_max_weight(continuation.max_weight);
}

}  // namespace

v1::Observation write_observation(const Observation& observation) {
    v1::Observation message;
    for (const Image& image : observation.images) {
        write_image(*message.add_images(), image);
    }
    *message.mutable_state() = {observation.state.begin(), observation.state.end()};
    message.set_prompt(observation.prompt);
    write_clock(*message.mutable_clock(), observation.tick, observation.capture_time_ns);
    if (observation.noise_seed) {
        message.set_noise_seed(*observation.noise_seed);
    }
    if (observation.continuation) {
        write_continuation(*message.mutable_continuation(), *observation.continuation);
    }
    return message;
}

v1::Chunk write_chunk(const Chunk& chunk) {
    v1::Chunk message;
    message.set_horizon(chunk.horizon);
    message.set_action_dim(chunk.action_dim);
    *message.mutable_actions() = {chunk.actions.begin(), chunk.actions.end()};
    write_clock(*message.mutable_clock(), chunk.tick, chunk.capture_time_ns);
    return message;
}

Chunk read_chunk(const v1::Chunk& message) {
    Chunk chunk;
    chunk.horizon = message.horizon();
    chunk.action_dim = message.action_dim();
    chunk.actions = to_vector(message.actions());
    chunk.tick = message.clock().tick();
    chunk.capture_time_ns = message.clock().capture_time_ns();
    chunk.preprocess_ms = message.timing().preprocess_ms();
    chunk.infer_ms = message.timing().infer_ms();
    chunk.postprocess_ms = message.timing().postprocess_ms();
    chunk.prefix_age_ms = message.prefix_age_ms();
    chunk.overrides = to_vector(message.overrides());
    const std::size_t expected = std::size_t{chunk.horizon} * chunk.action_dim;
    if (expected == 0 || chunk.actions.size() != expected) {
        throw ServingError("the server answered with " + std::to_string(chunk.actions.size()) + " values for " +
                           std::to_string(chunk.horizon) + " actions of " + std::to_string(chunk.action_dim) +
                           "; is it a policy server of this version?");
    }
    return chunk;
}

PolicyMetadata read_metadata(const v1::PolicyMetadata& message) {
    PolicyMetadata metadata;
    metadata.model = message.model();
    metadata.engine = message.engine();
    metadata.scheme = message.scheme();
    metadata.horizon = message.horizon();
    metadata.action_dim = message.action_dim();
    metadata.state_dim = message.state_dim();
    if (message.has_control_hz()) {
        metadata.control_hz = message.control_hz();
    }
    metadata.cameras = to_vector(message.cameras());
    metadata.action_names = to_vector(message.action_names());
    metadata.default_prompt = message.default_prompt();
    metadata.checkpoint_sha256 = message.checkpoint_sha256();
    metadata.bundle_sha256 = message.bundle_sha256();
    metadata.trained_delay = message.trained_delay();
    metadata.gate = static_cast<Gate>(message.gate());
    metadata.gate_reasons = to_vector(message.gate_reasons());
    metadata.overrides = to_vector(message.overrides());
    return metadata;
}

Tick read_tick(const v1::Telemetry& message) {
    Tick tick;
    tick.tick = message.tick();
    tick.counter = message.counter();
    tick.counter_hz = message.counter_hz();
    tick.state = static_cast<State>(message.state());
    tick.faults = message.faults();
    tick.ring_level = message.ring_level();
    tick.chunk_id = message.chunk_id();
    tick.flags = message.flags();
    tick.executed = to_vector(message.executed());
    tick.observed_tick = message.observed_tick();
    tick.host_time_s = message.host_time_s();
    tick.clock_uncertainty_s = message.clock().uncertainty_ms() * 1e-3;
    tick.measured = to_vector(message.measured());
    tick.measurement_age_s = to_vector(message.measurement_age_s());
    tick.current = to_vector(message.current());
    tick.joint_flags.assign(message.joint_flags().begin(), message.joint_flags().end());
    tick.fault_joint = message.fault_joint();
    return tick;
}

Status read_status(const v1::Status& message) {
    Status status;
    status.state = static_cast<State>(message.state());
    status.link_up = message.link_up();
    status.problem = message.problem();
    status.owner = message.owner();
    status.tick = message.tick();
    status.tick_period_s = message.tick_period_s();
    status.joint_names = to_vector(message.joint_names());
    status.round_trip_ms = message.round_trip_ms();
    status.faults = message.faults();
    status.fault_joint = message.fault_joint();
    status.splice = message.splice();
    return status;
}

ChunkReport read_report(const v1::ChunkReport& message) {
    ChunkReport report;
    report.outcome = static_cast<ChunkReport::Outcome>(message.outcome());
    report.reason = message.reason();
    report.chunk_id = message.chunk_id();
    report.first_tick = message.first_tick();
    report.skipped = message.skipped();
    report.retransmissions = message.retransmissions();
    report.splice_ms = message.splice_ms();
    report.serial_ms = message.serial_ms();
    return report;
}

const char* name_of(State state) {
    switch (state) {
        case State::disarmed:
            return "DISARMED";
        case State::armed:
            return "ARMED";
        case State::running:
            return "RUNNING";
        case State::starved:
            return "STARVED";
        case State::safe:
            return "SAFE";
        case State::estop:
            return "ESTOP";
    }
    return "UNKNOWN";
}

std::string fault_names(std::uint32_t faults) {
    // The bits of `Fault` in protos/serial_link.yaml, the lowest first.
    constexpr std::array names{"STARVATION",   "HEARTBEAT",    "LIMIT_SATURATION", "ESTOP_COMMAND", "ESTOP_PIN",
                               "WATCHDOG_RESET", "TICK_OVERRUN", "FOLLOWING_ERROR",  "CONTACT",       "TEMPERATURE",
                               "VOLTAGE",      "BUS_SILENT",   "SERVO_ERROR"};
    std::string text;
    for (std::size_t bit = 0; bit < 32; ++bit) {
        if ((faults >> bit & 1U) != 0) {
            text += text.empty() ? "" : ", ";
            text += bit < names.size() ? names[bit] : "bit " + std::to_string(bit);
        }
    }
    return text;
}

const char* name_of(ChunkReport::Outcome outcome) {
    switch (outcome) {
        case ChunkReport::Outcome::accepted:
            return "ACCEPTED";
        case ChunkReport::Outcome::late:
            return "LATE";
        case ChunkReport::Outcome::rejected:
            return "REJECTED";
        case ChunkReport::Outcome::lost:
            return "LOST";
    }
    return "UNKNOWN";
}

}  // namespace pi0_edge
