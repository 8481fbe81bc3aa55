// The bridge: chunks go in, telemetry comes out, one client at a time owns the arm (protos/bridge.proto).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pi0_edge/policy_client.hpp"

namespace pi0_edge {

/// State of the arm.
enum class State { disarmed = 0, armed = 1, running = 2, starved = 3, safe = 4, estop = 5 };

/// Such as "RUNNING".
const char* name_of(State state);

/// Names of the bits of `Tick::faults`, such as "STARVATION, HEARTBEAT"; empty where there is none.
std::string fault_names(std::uint32_t faults);

/// What the firmware did in one tick.
struct Tick {
    std::uint32_t tick = 0;
    std::uint64_t counter = 0;       ///< hardware counter when the timer interrupt ran
    std::uint32_t counter_hz = 0;
    State state = State::disarmed;
    std::uint32_t faults = 0;        ///< bits of `Fault` in protos/serial_link.yaml; `fault_names` reads them
    std::uint32_t ring_level = 0;    ///< setpoints due after this tick
    std::uint32_t chunk_id = 0;      ///< chunk that this tick's setpoint came from; 0 where none
    std::uint32_t flags = 0;         ///< bits of `TickFlag` in protos/serial_link.yaml
    std::vector<float> executed;     ///< [joints], physical units
    std::uint32_t observed_tick = 0; ///< tick of the observation behind this tick's setpoint; 0 where `chunk_id` is
    double host_time_s = 0.0;        ///< begin of the tick on the bridge's monotonic clock, seconds; 0 where unknown
    double clock_uncertainty_s = std::numeric_limits<double>::infinity();  ///< bounds the error of `host_time_s`
    std::vector<float> measured;     ///< [joints], physical units; the commanded position where nothing was measured
    std::vector<float> measurement_age_s;  ///< [joints], at the begin of the tick; infinite without a measurement
    std::vector<float> current;            ///< [joints], ampere
    std::vector<std::uint8_t> joint_flags; ///< [joints], bits of `JointFlag` in protos/serial_link.yaml
    std::string fault_joint;               ///< that the latched fault is about; empty where it is about none
};

/// State of arm and link.
struct Status {
    State state = State::disarmed;
    bool link_up = false;
    std::string problem;  ///< why the link is down; empty while it is up
    std::string owner;    ///< client that holds the arm; empty where none does
    std::uint32_t tick = 0;
    double tick_period_s = 0.0;
    std::vector<std::string> joint_names;  ///< in the order of the actions
    double round_trip_ms = 0.0;            ///< bridge to firmware and back
    std::uint32_t faults = 0;              ///< bits of `Fault` in protos/serial_link.yaml
    std::string fault_joint;
    std::string splice;  ///< how the bridge enters a chunk into its plan
};

/// What became of a chunk.
struct ChunkReport {
    enum class Outcome {
        accepted = 0,  ///< committed to the ring of setpoints
        late = 1,      ///< every action was already past due
        rejected = 2,  ///< the firmware or the bridge refused it; see `reason`
        lost = 3       ///< no acknowledgement before the chunk was past due
    };
    Outcome outcome = Outcome::accepted;
    std::string reason;
    std::uint32_t chunk_id = 0;
    std::uint32_t first_tick = 0;  ///< due tick of the first action that was entered
    std::uint32_t skipped = 0;     ///< actions that were past due when the chunk was entered
    std::uint32_t retransmissions = 0;
    double splice_ms = 0.0;  ///< from the chunk's arrival until its first byte went to the line
    double serial_ms = 0.0;  ///< from that byte until the firmware had its first setpoints, or refused it
};

/// Such as "ACCEPTED".
const char* name_of(ChunkReport::Outcome outcome);

/// A stream of chunks to the bridge; a thread collects the reports. One thread at a time may send.
class ChunkStream {
public:
    ~ChunkStream();  ///< As `close`.
    ChunkStream(ChunkStream&&) noexcept;
    ChunkStream& operator=(ChunkStream&&) noexcept;

    /// Plays a chunk as the policy client returned it; its report comes from `next_report`.
    ///
    /// A stream that has ended already is told by `next_report`, with its cause.
    void send(const Chunk& chunk);

    /// The result of the oldest chunk without a report; nothing after `timeout`.
    ///
    /// @throws BridgeError The stream has ended: a malformed chunk, a lost lease, no bridge. Later calls throw the same.
    std::optional<ChunkReport> next_report(std::chrono::milliseconds timeout);

    /// Ends the stream; chunks that were entered already are played to their end.
    void close();

private:
    friend class BridgeClient;
    class Implementation;
    explicit ChunkStream(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

/// Telemetry that runs until this object is destroyed.
class TelemetryWatch {
public:
    ~TelemetryWatch();  ///< Waits until a callback that runs has returned; not to be called from a callback.
    TelemetryWatch(TelemetryWatch&&) noexcept;
    TelemetryWatch& operator=(TelemetryWatch&&) noexcept;

private:
    friend class BridgeClient;
    class Implementation;
    explicit TelemetryWatch(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

/// How a bridge client connects.
struct BridgeOptions {
    std::string name = "client";              ///< shown to other clients that try to arm, 1 to 64 characters
    std::string tls;                          ///< folder as in PolicyOptions
    std::chrono::milliseconds timeout{5000};  ///< deadline of every command
};

/// One client of the bridge. Commands may come from any thread.
///
/// Every command throws StateError where the state of the arm or another client forbids it, AccessError where the
/// certificate lacks the role, and LinkError where the bridge or the firmware does not answer.
class BridgeClient {
public:
    using OnTick = std::function<void(const Tick&)>;
    using OnEnd = std::function<void(const BridgeError&)>;

    /// Connects at the first call. @throws EndpointError Something is wrong with the TLS folder.
    explicit BridgeClient(const std::string& address, const BridgeOptions& options = {});
    ~BridgeClient();
    BridgeClient(const BridgeClient&) = delete;
    BridgeClient& operator=(const BridgeClient&) = delete;

    /// Waits until the bridge answers and its link to the firmware is up. @throws LinkError Not within `timeout`.
    void wait_ready(std::chrono::milliseconds timeout = std::chrono::seconds(10));

    /// Arms; this client then owns the arm and keeps the lease for the commands that follow.
    ///
    /// @param joint_names What each action of the chunks commands, in order: `PolicyMetadata::action_names`, or
    ///     `Status::joint_names`. The bridge compares them with the joints of its robot.
    State arm(const std::vector<std::string>& joint_names);
    State disarm(const std::string& reason = "");   ///< Disarms and ends the lease.
    State estop(const std::string& reason = "");    ///< Latches the emergency stop, whoever owns the arm.
    State clear(const std::string& reason = "");    ///< Leaves SAFE or ESTOP for DISARMED.
    State release(const std::string& reason = "");  ///< Takes the torque off the servos of a DISARMED arm.

    Status status();  ///< State of arm and link.

    /// Plays one chunk that keeps the arm where its telemetry says that it is; arm first.
    ///
    /// @param ticks How long, 1 to 64.
    ChunkReport hold(std::uint32_t ticks = 50);

    /// A stream that plays chunks with the lease of `arm`; arm first. It may outlive this client.
    ChunkStream play();

    /// Every tick from now on, in a thread of its own.
    ///
    /// @param on_tick Called for every tick; while it runs, later ticks wait, first in the connection and then in the
    ///     bridge, which drops the oldest. It must not throw.
    /// @param on_end Called once, as the last, when the stream ends by itself; not when the watch is destroyed. The error
    ///     is also `std::current_exception()` there.
    TelemetryWatch telemetry(OnTick on_tick, OnEnd on_end = {});

    /// The first tick that comes from now on. @throws LinkError None came within `timeout`.
    Tick next_tick(std::chrono::milliseconds timeout);

    const std::string& address() const;

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pi0_edge
