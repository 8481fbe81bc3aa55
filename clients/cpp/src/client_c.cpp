#include "pi0_edge/client.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "pi0_edge/bridge_client.hpp"
#include "pi0_edge/policy_client.hpp"

struct pi0_edge_policy {
    pi0_edge::PolicyClient client;
};

struct pi0_edge_bridge {
    pi0_edge::BridgeClient client;
    std::mutex mutex;
    std::optional<pi0_edge::ChunkStream> stream;  // of the lease that `arm` took
};

namespace {

thread_local std::string last_error;

pi0_edge_result fail(pi0_edge_result result, const char* message) {
    last_error = message;
    return result;
}

/// Runs a call, and turns what it throws into a status.
template <typename Body>
pi0_edge_result guarded(Body body) noexcept {
    try {
        body();
        return PI0_EDGE_OK;
    } catch (const pi0_edge::ConfigError& error) {
        return fail(PI0_EDGE_BAD_ARGUMENT, error.what());
    } catch (const pi0_edge::EndpointError& error) {
        return fail(PI0_EDGE_BAD_ARGUMENT, error.what());
    } catch (const pi0_edge::BusyError& error) {
        return fail(PI0_EDGE_BUSY, error.what());
    } catch (const pi0_edge::DeadlineError& error) {
        return fail(PI0_EDGE_DEADLINE, error.what());
    } catch (const pi0_edge::ServingError& error) {
        return fail(PI0_EDGE_UNREACHABLE, error.what());
    } catch (const pi0_edge::LinkError& error) {
        return fail(PI0_EDGE_UNREACHABLE, error.what());
    } catch (const pi0_edge::Error& error) {
        return fail(PI0_EDGE_REFUSED, error.what());
    } catch (const std::exception& error) {
        return fail(PI0_EDGE_INTERNAL, error.what());
    } catch (...) {
        return fail(PI0_EDGE_INTERNAL, "an error without a message");
    }
}

void expect(bool holds, const char* message) {
    if (!holds) {
        throw pi0_edge::ConfigError(message);
    }
}

std::string text(const char* value) { return value == nullptr ? "" : value; }

template <typename Value>
void tell(Value* where, Value value) {
    if (where != nullptr) {
        *where = value;
    }
}

template <typename Command>
pi0_edge_result command(pi0_edge_bridge* bridge, int* state, Command run) {
    return guarded([&] {
        expect(bridge != nullptr, "bridge is null; open it first");
        tell(state, static_cast<int>(run(bridge->client)));
    });
}

pi0_edge::Observation read_observation(const pi0_edge_observation& given) {
    expect(given.images != nullptr || given.image_count == 0, "images is null, but image_count is not 0");
    expect(given.state != nullptr || given.state_count == 0, "state is null, but state_count is not 0");
    pi0_edge::Observation observation;
    for (std::size_t i = 0; i < given.image_count; ++i) {
        const pi0_edge_image& image = given.images[i];
        observation.images.push_back(
            {text(image.camera), image.height, image.width, image.data, image.size, image.is_jpeg != 0});
    }
    observation.state.assign(given.state, given.state + given.state_count);
    observation.prompt = text(given.prompt);
    observation.tick = given.tick;
    observation.capture_time_ns = given.capture_time_ns;
    if (given.has_noise_seed != 0) {
        observation.noise_seed = given.noise_seed;
    }
    return observation;
}

}  // namespace

extern "C" {

uint32_t pi0_edge_abi_version(void) { return PI0_EDGE_ABI_VERSION; }

const char* pi0_edge_last_error(void) { return last_error.c_str(); }

pi0_edge_result pi0_edge_policy_open(const char* address, const char* tls, uint32_t timeout_ms,
                                     pi0_edge_policy** policy) {
    return guarded([&] {
        expect(address != nullptr && policy != nullptr, "address and policy may not be null");
        pi0_edge::PolicyOptions options;
        options.tls = text(tls);
        options.timeout = std::chrono::milliseconds(timeout_ms);
        *policy = new pi0_edge_policy{pi0_edge::PolicyClient(address, options)};
    });
}

void pi0_edge_policy_close(pi0_edge_policy* policy) { delete policy; }

pi0_edge_result pi0_edge_policy_shape(pi0_edge_policy* policy, uint32_t* horizon, uint32_t* action_dim,
                                      uint32_t* state_dim) {
    return guarded([&] {
        expect(policy != nullptr, "policy is null; open it first");
        const pi0_edge::PolicyMetadata metadata = policy->client.metadata();
        tell(horizon, metadata.horizon);
        tell(action_dim, metadata.action_dim);
        tell(state_dim, metadata.state_dim);
    });
}

pi0_edge_result pi0_edge_policy_infer(pi0_edge_policy* policy, const pi0_edge_observation* observation, float* actions,
                                      size_t capacity, uint32_t* horizon, uint32_t* action_dim) {
    return guarded([&] {
        expect(policy != nullptr && observation != nullptr && actions != nullptr,
               "policy, observation and actions may not be null");
        const pi0_edge::Chunk chunk = policy->client.infer(read_observation(*observation));
        if (chunk.actions.size() > capacity) {
            throw pi0_edge::ConfigError("actions has room for " + std::to_string(capacity) + " values; the chunk has " +
                                        std::to_string(chunk.actions.size()));
        }
        std::copy(chunk.actions.begin(), chunk.actions.end(), actions);
        tell(horizon, chunk.horizon);
        tell(action_dim, chunk.action_dim);
    });
}

pi0_edge_result pi0_edge_bridge_open(const char* address, const char* tls, const char* name, uint32_t timeout_ms,
                                     pi0_edge_bridge** bridge) {
    return guarded([&] {
        expect(address != nullptr && bridge != nullptr, "address and bridge may not be null");
        pi0_edge::BridgeOptions options;
        options.tls = text(tls);
        options.name = name == nullptr ? options.name : name;
        options.timeout = std::chrono::milliseconds(timeout_ms);
        *bridge = new pi0_edge_bridge{pi0_edge::BridgeClient(address, options), {}, {}};
    });
}

void pi0_edge_bridge_close(pi0_edge_bridge* bridge) { delete bridge; }

pi0_edge_result pi0_edge_bridge_state(pi0_edge_bridge* bridge, int* state) {
    return command(bridge, state, [](pi0_edge::BridgeClient& client) { return client.status().state; });
}

pi0_edge_result pi0_edge_bridge_arm(pi0_edge_bridge* bridge, const char* const* joint_names, size_t count, int* state) {
    return command(bridge, state, [&](pi0_edge::BridgeClient& client) {
        expect(joint_names != nullptr, "joint_names may not be null");
        std::vector<std::string> names;
        std::transform(joint_names, joint_names + count, std::back_inserter(names), text);
        const pi0_edge::State armed = client.arm(names);
        const std::lock_guard<std::mutex> lock(bridge->mutex);
        bridge->stream.reset();
        return armed;
    });
}

pi0_edge_result pi0_edge_bridge_disarm(pi0_edge_bridge* bridge, const char* reason, int* state) {
    return command(bridge, state, [&](pi0_edge::BridgeClient& client) { return client.disarm(text(reason)); });
}

pi0_edge_result pi0_edge_bridge_estop(pi0_edge_bridge* bridge, const char* reason, int* state) {
    return command(bridge, state, [&](pi0_edge::BridgeClient& client) { return client.estop(text(reason)); });
}

pi0_edge_result pi0_edge_bridge_clear(pi0_edge_bridge* bridge, const char* reason, int* state) {
    return command(bridge, state, [&](pi0_edge::BridgeClient& client) { return client.clear(text(reason)); });
}

pi0_edge_result pi0_edge_bridge_tick(pi0_edge_bridge* bridge, uint32_t timeout_ms, uint32_t* tick, float* measured,
                                     size_t capacity, size_t* joints) {
    return guarded([&] {
        expect(bridge != nullptr && measured != nullptr, "bridge and measured may not be null");
        const pi0_edge::Tick found = bridge->client.next_tick(std::chrono::milliseconds(timeout_ms));
        if (found.measured.size() > capacity) {
            throw pi0_edge::ConfigError("measured has room for " + std::to_string(capacity) + " joints; the arm has " +
                                        std::to_string(found.measured.size()));
        }
        std::copy(found.measured.begin(), found.measured.end(), measured);
        tell(tick, found.tick);
        tell(joints, found.measured.size());
    });
}

pi0_edge_result pi0_edge_bridge_play(pi0_edge_bridge* bridge, const float* actions, uint32_t horizon,
                                     uint32_t action_dim, uint32_t observed_tick, uint32_t timeout_ms,
                                     uint32_t* first_tick) {
    return guarded([&] {
        expect(bridge != nullptr && actions != nullptr, "bridge and actions may not be null");
        pi0_edge::Chunk chunk;
        chunk.horizon = horizon;
        chunk.action_dim = action_dim;
        chunk.actions.assign(actions, actions + std::size_t{horizon} * action_dim);
        chunk.tick = observed_tick;
        const std::lock_guard<std::mutex> lock(bridge->mutex);
        if (!bridge->stream) {
            bridge->stream.emplace(bridge->client.play());
        }
        std::optional<pi0_edge::ChunkReport> report;
        try {
            bridge->stream->send(chunk);
            report = bridge->stream->next_report(std::chrono::milliseconds(timeout_ms));
        } catch (const pi0_edge::BridgeError&) {
            bridge->stream.reset();  // it has ended; the next chunk gets one of its own
            throw;
        }
        if (!report) {
            bridge->stream.reset();  // its report must not be taken for that of the next chunk
            throw pi0_edge::LinkError("the bridge gave no report about the chunk in time");
        }
        if (report->outcome != pi0_edge::ChunkReport::Outcome::accepted) {
            throw pi0_edge::ChunkError(std::string(name_of(report->outcome)) + ": " + report->reason);
        }
        tell(first_tick, report->first_tick);
    });
}

}  // extern "C"
