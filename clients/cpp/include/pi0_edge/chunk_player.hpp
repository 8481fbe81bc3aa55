// The closed loop: observe, ask the policy while the previous chunk is played, hand the chunk to the bridge.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "pi0_edge/bridge_client.hpp"
#include "pi0_edge/policy_client.hpp"
#include "pi0_edge/replanning.hpp"

namespace pi0_edge {

/// How a chunk player plays.
struct PlayerOptions {
    std::string splice = "rtc";                       ///< `hold-swap`, `rtc` or `trained-rtc`
    std::uint32_t replan_ticks = 25;                  ///< ticks between two observations, if the policy is fast enough
    std::uint32_t most_failures = 5;                  ///< so many chunks in a row that came to nothing end the play
    std::chrono::milliseconds silence_limit{1000};    ///< without a tick for so long the bridge is lost
    std::chrono::milliseconds report_limit{2000};     ///< a chunk without a report for so long is lost
};

/// What a chunk player has done so far.
struct PlayerFigures {
    std::uint64_t ticks = 0;     ///< that came as telemetry since the start
    std::uint64_t accepted = 0;  ///< chunks that were entered
    std::uint64_t failed = 0;    ///< chunks that were not made, or that bridge or firmware did not take
    std::uint32_t delay = 0;     ///< ticks that 99 of 100 chunks need from observation to entry
    std::string last_failure;    ///< why the latest failed chunk failed
};

/// A chunk, and what became of it.
struct PlayedChunk {
    Chunk chunk;
    ChunkReport report;
    bool continued = false;     ///< whether it was asked to continue the plan
    double to_policy_ms = 0.0;  ///< from before the observation to the chunk's arrival
    double to_ring_ms = 0.0;    ///< from before the observation to the firmware's confirmation
};

/// Plays a policy on an arm with real-time chunking, in two threads: one follows telemetry, the other asks the policy.
///
/// Nothing here decides at a tick: the firmware plays the chunks at 50 Hz whatever becomes of this program, and holds
/// the arm where no chunk comes.
class ChunkPlayer {
public:
    /// Makes the observation of a tick. Called in the player's own thread; the images that it names have to stay until
    /// its next call. `state` may be left empty and is then what was measured at that tick; tick, time of capture and
    /// continuation are filled in. An exception ends the play.
    using Observe = std::function<Observation(const Tick&)>;

    /// @param policy,bridge Borrowed; they have to outlive the player.
    /// @throws ConfigError `options` are not possible.
    ChunkPlayer(PolicyClient& policy, BridgeClient& bridge, Observe observe, const PlayerOptions& options = {});
    ~ChunkPlayer();  ///< As `stop`, without its errors.
    ChunkPlayer(const ChunkPlayer&) = delete;
    ChunkPlayer& operator=(const ChunkPlayer&) = delete;

    /// Called for every tick, in the thread that follows telemetry; before `start`. It must not throw.
    void on_tick(std::function<void(const Tick&)> callback);

    /// Called for every chunk that has a report, in the thread that asks the policy; before `start`. Must not throw.
    void on_chunk(std::function<void(const PlayedChunk&)> callback);

    /// Checks policy and bridge against each other, arms and begins. Once for each player.
    ///
    /// @throws ConfigError The policy does not name its joints, or was not trained for the splice.
    /// @throws StateError The arm cannot be armed, or its joints have other names than the policy's.
    /// @throws ServingError, LinkError One of them does not answer.
    void start();

    /// Waits until the play has ended by itself, or for `limit`.
    ///
    /// @returns Whether it still runs.
    /// @throws Error What ended it: an emergency stop, a fault or a disarm by somebody else (StateError), a lost bridge
    ///     (LinkError), a refused observation (ObservationError), `most_failures` in a row (ServingError, ChunkError).
    bool wait(std::chrono::milliseconds limit);

    /// Ends the play and disarms, unless the firmware has stopped the arm already. Later calls do nothing.
    ///
    /// @throws BridgeError The arm could not be disarmed; the firmware holds it when its chunk ends.
    void stop(const std::string& reason = "the player was stopped");

    PlayerFigures figures() const;  ///< From any thread.

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pi0_edge
