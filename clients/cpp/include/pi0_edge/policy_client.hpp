// Asks a policy server: an observation goes in, a chunk of actions comes out (protos/policy.proto).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pi0_edge/errors.hpp"

namespace pi0_edge {

/// One picture of one camera. Its pixels are borrowed: they stay where they are, and have to, until `infer` returns.
struct Image {
    std::string camera;                  ///< a name of `PolicyMetadata::cameras`
    std::uint32_t height = 0;            ///< pixels
    std::uint32_t width = 0;             ///< pixels
    const std::uint8_t* data = nullptr;  ///< height * width * 3 bytes, row major, red first; or a JPEG of that size
    std::size_t size = 0;                ///< bytes at `data`
    bool is_jpeg = false;                ///< whether `data` is a baseline JPEG with three components
};

/// What the arm executes while a chunk is made, so that the chunk continues it: real-time chunking.
/// `ChunkScheduler::observe` makes one.
struct Continuation {
    /// How the chunk continues the plan.
    enum class Method {
        guided = 0,        ///< for every checkpoint
        frozen_prefix = 1  ///< for checkpoints that were trained so: `PolicyMetadata::trained_delay`
    };
    /// How guidance fades behind the delay.
    enum class Schedule { linear = 0, exp = 1, ones = 2, zeros = 3 };

    std::vector<float> actions;  ///< [rows, action_dim], row major, physical units; row k is due k + 1 ticks after `tick`
    std::uint32_t delay = 0;     ///< rows that will have been executed when the chunk is entered
    Method method = Method::guided;
    Schedule schedule = Schedule::linear;  ///< of `guided` alone, as the following
    std::uint32_t overlap = 0;             ///< rows that guide, those of the delay included
    float max_weight = 0.0F;               ///< limit of the guidance weight
};

/// What the policy is asked about.
struct Observation {
    std::vector<Image> images;    ///< cameras that are left out are never computed
    std::vector<float> state;     ///< [state_dim], physical units, in the order of the robot's joints
    std::string prompt;           ///< what to do; empty for the server's default
    std::uint32_t tick = 0;       ///< firmware tick whose telemetry the observation shows (`Tick::tick`)
    std::uint64_t capture_time_ns = 0;         ///< when it was taken, nanoseconds of CLOCK_MONOTONIC
    std::optional<std::uint64_t> noise_seed;   ///< fixes the initial noise; drawn afresh where absent
    std::optional<Continuation> continuation;  ///< the chunk continues this; free where absent
};

/// A chunk of actions, one for each tick.
struct Chunk {
    std::uint32_t horizon = 0;          ///< actions
    std::uint32_t action_dim = 0;       ///< values of one action
    std::vector<float> actions;         ///< [horizon, action_dim], row major, physical units; action k is due at tick + 1 + k
    std::uint32_t tick = 0;             ///< copied from the observation, as the next
    std::uint64_t capture_time_ns = 0;  ///< nanoseconds
    double preprocess_ms = 0.0;         ///< time that the server took, milliseconds
    double infer_ms = 0.0;              ///< of the network
    double postprocess_ms = 0.0;        ///< from the network to physical units
    double prefix_age_ms = 0.0;         ///< how much older its pictures are than the observation; 0 in normal service
    std::vector<std::string> overrides; ///< rules that the server's user overrode; empty in normal service
};

/// What the accuracy gate said about the policy that is served.
enum class Gate {
    none = 0,    ///< a checkpoint is served; only bundles have a gate
    passed = 1,
    failed = 2,
    missing = 3  ///< the bundle never went through the gate
};

/// What the policy is and expects.
struct PolicyMetadata {
    std::string model;   ///< pi0 or pi05
    std::string engine;  ///< what computes it
    std::string scheme;  ///< number format: fp32, int8-w8a8, …
    std::uint32_t horizon = 0;
    std::uint32_t action_dim = 0;
    std::uint32_t state_dim = 0;
    std::optional<double> control_hz;  ///< actions per second; absent where nobody recorded it
    std::vector<std::string> cameras;
    std::vector<std::string> action_names;  ///< one per action dimension, in order; empty where the robot names none
    std::string default_prompt;
    std::string checkpoint_sha256;
    std::string bundle_sha256;        ///< empty where a checkpoint is served
    std::uint32_t trained_delay = 0;  ///< longest frozen prefix that the checkpoint was trained with
    Gate gate = Gate::none;
    std::vector<std::string> gate_reasons;
    std::vector<std::string> overrides;  ///< as in every chunk
};

/// How a policy client connects.
struct PolicyOptions {
    std::chrono::milliseconds timeout{30000};  ///< deadline of every call
    std::string tls;  ///< folder with authority.pem, certificate.pem and key.pem; empty for a server without TLS
};

/// A connection to one policy server. Calls may come from any thread.
class PolicyClient {
public:
    /// Connects at the first call.
    ///
    /// @param address `host:port`; with TLS, one of the hosts that the server's certificate names.
    /// @throws EndpointError Something is wrong with the TLS folder.
    explicit PolicyClient(const std::string& address, const PolicyOptions& options = {});
    ~PolicyClient();
    PolicyClient(const PolicyClient&) = delete;
    PolicyClient& operator=(const PolicyClient&) = delete;

    /// Waits until the server answers; its port opens when the policy is ready.
    ///
    /// @throws DeadlineError Not within `timeout`.
    /// @throws ServingError The server asks for a certificate, or speaks no TLS.
    void wait_ready(std::chrono::milliseconds timeout);

    /// What the policy is and expects.
    ///
    /// @throws ServingError The server does not answer.
    PolicyMetadata metadata();

    /// Asks for a chunk. The pixels are copied once, into the message.
    ///
    /// @throws ObservationError The server refuses the observation, or it is larger than the server takes.
    /// @throws BusyError Too many others wait already.
    /// @throws DeadlineError There was no chunk within the deadline.
    /// @throws ConfigError The policy cannot do what is asked, such as a frozen prefix that it was not trained with.
    /// @throws ServingError The server cannot be reached, failed, or `cancel` was called.
    Chunk infer(const Observation& observation);

    /// Ends the calls that are under way in other threads; they throw ServingError. Later calls are not affected.
    void cancel();

    const std::string& address() const;

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pi0_edge
