// Replanning on the robot: when to observe next, which plan the policy continues, and what the arm executes.
//
// Inference runs while the previous chunk is executed. All times are firmware ticks: a chunk answers the observation of
// tick T, its action k is due at T + 1 + k, and if it enters at tick E, its delay is E - T - 1. These are the rules and
// the names of `firmware_bridge/replanning.py` and `firmware_bridge/splice.py`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pi0_edge/policy_client.hpp"

namespace pi0_edge {

/// Setpoints of consecutive ticks.
struct Plan {
    std::int64_t first_tick = 0;    ///< tick at which row 0 is due
    std::size_t joints = 0;         ///< values of a row
    std::vector<float> setpoints;   ///< [ticks, joints], row major, physical units; empty where nothing is planned

    std::size_t rows() const;                     ///< ticks that are planned
    std::int64_t last_tick() const;               ///< tick at which the last row is due
    Plan since(std::int64_t tick) const;          ///< what is due at `tick` or later
    Plan followed_by(const Plan& later) const;    ///< this up to where `later` begins, and that; `later` after a gap
};

/// How a robot that passes chunks on to the bridge treats the border between an old and a new chunk.
class Splice {
public:
    virtual ~Splice() = default;
    virtual const char* name() const = 0;

    /// The plan that the policy continues; nothing for a chunk without constraint.
    ///
    /// @param plan What the arm executes during the inference.
    /// @param observed_tick Tick T of the observation; the new chunk's action k is due at T + 1 + k.
    /// @param delay Ticks from the observation until its chunk is expected to enter.
    virtual std::optional<Continuation> continuation(const Plan& plan, std::int64_t observed_tick,
                                                     std::uint32_t delay) const = 0;
};

/// Executes the old chunk until the new one enters; the step at the border remains.
class HoldSwap : public Splice {
public:
    const char* name() const override;
    std::optional<Continuation> continuation(const Plan& plan, std::int64_t observed_tick,
                                             std::uint32_t delay) const override;
};

/// Guides the policy towards the plan during the inference of the chunk: RTC, arXiv 2506.07339.
class RealTimeChunking : public Splice {
public:
    Continuation::Schedule schedule = Continuation::Schedule::exp;  ///< how the guidance fades behind the delay
    std::uint32_t overlap = 50;  ///< actions that guide, those of the delay included
    float max_weight = 10.0F;    ///< limit of the guidance weight

    const char* name() const override;
    std::optional<Continuation> continuation(const Plan& plan, std::int64_t observed_tick,
                                             std::uint32_t delay) const override;
};

/// Gives the policy the setpoints within the delay as the frozen prefix of its chunk: arXiv 2512.05964.
class TrainedRealTimeChunking : public Splice {
public:
    /// @param trained_delay Longest prefix that the policy was trained with (`PolicyMetadata::trained_delay`); of a
    ///     longer delay only so many actions are given, and the others are not constrained.
    explicit TrainedRealTimeChunking(std::uint32_t trained_delay);
    const char* name() const override;
    std::optional<Continuation> continuation(const Plan& plan, std::int64_t observed_tick,
                                             std::uint32_t delay) const override;

private:
    std::uint32_t trained_delay_;
};

/// The splice policy of that name: `hold-swap`, `rtc` or, where the policy was trained for it, `trained-rtc`.
///
/// @throws ConfigError The name is another, or the checkpoint was not trained for it.
std::unique_ptr<Splice> client_splice(const std::string& name, std::uint32_t trained_delay);

/// The latest delays from observation to entry, in ticks.
class DelayWindow {
public:
    /// @param size Delays that are remembered: a policy that has become faster is trusted after so many chunks.
    explicit DelayWindow(std::size_t size = 200);
    void add(std::uint32_t delay);                ///< Adds one, and removes the oldest of more than `size`.
    std::uint32_t quantile(double share) const;   ///< Smallest that at least `share` did not exceed; 0 without any.

private:
    std::size_t size_;
    std::deque<std::uint32_t> delays_;
};

/// The plan of one arm and the times of its inferences. Not for several threads at once.
class ChunkScheduler {
public:
    /// @param splice How chunks enter; borrowed.
    /// @param replan_ticks Ticks between two observations, if the policy is fast enough.
    ChunkScheduler(const Splice& splice, std::uint32_t replan_ticks);

    const Plan& plan() const;                            ///< What the arm executes.
    std::uint32_t delay() const;                         ///< Ticks that 99 of 100 chunks need from observation to entry.
    std::vector<float> setpoint(std::int64_t tick) const;  ///< What is executed at `tick`; empty where nothing is planned.

    /// Whether the observation of `tick` is to be answered. One inference runs at a time. The next one starts
    /// `replan_ticks` after the one before, and earlier where 99 of 100 chunks would otherwise arrive after the end of
    /// the plan.
    bool due(std::int64_t tick) const;

    /// Records that an inference for the observation of `tick` starts; the plan that its chunk continues.
    std::optional<Continuation> observe(std::int64_t tick);

    /// Enters the last requested chunk into the plan.
    ///
    /// @param chunk The whole chunk.
    /// @param first_tick First tick at which it is executed; earlier setpoints of the plan stay.
    void entered(const Chunk& chunk, std::int64_t first_tick);

    /// Records that the last requested chunk was lost; the next observation is due at once.
    void lost();

private:
    const Splice& splice_;
    std::uint32_t replan_ticks_;
    Plan plan_;
    DelayWindow delays_;
    std::int64_t observed_ = 0;
    std::int64_t next_ = 0;
    bool waiting_ = false;
};

}  // namespace pi0_edge
