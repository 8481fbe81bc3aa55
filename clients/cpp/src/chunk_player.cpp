#include "pi0_edge/chunk_player.hpp"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace pi0_edge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{20};
constexpr std::chrono::milliseconds kExplain{500};  // telemetry may be about to say why a stream has ended

double milliseconds_since(Clock::time_point began) {
    return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

bool is_active(State state) {
    return state == State::armed || state == State::running || state == State::starved;
}

template <typename Kind>
std::exception_ptr error_of(const std::string& message) {
    return std::make_exception_ptr(Kind(message));
}

}  // namespace

class ChunkPlayer::Implementation {
public:
    Implementation(PolicyClient& policy, BridgeClient& bridge, Observe observe, const PlayerOptions& options)
        : policy_(policy), bridge_(bridge), observe_(std::move(observe)), options_(options) {
        if (!observe_ || options.replan_ticks == 0 || options.most_failures == 0) {
            throw ConfigError("a chunk player needs a function that observes, and replan_ticks and most_failures above 0");
        }
    }

    void start() {
        if (splice_) {
            throw ConfigError("this chunk player has been started already; make a new one for the next play");
        }
        const PolicyMetadata metadata = policy_.metadata();
        if (metadata.action_names.empty()) {
            throw ConfigError("the policy server at " + policy_.address() +
                              " does not name the joints of its actions; serve it with a robot file that does");
        }
        splice_ = client_splice(options_.splice, metadata.trained_delay);
        scheduler_.emplace(*splice_, options_.replan_ticks);
        bridge_.arm(metadata.action_names);
        armed_ = true;
        last_tick_ = started_ = Clock::now();
        stream_.emplace(bridge_.play());
        watch_.emplace(bridge_.telemetry([this](const Tick& tick) { take(tick); },
                                         [this](const BridgeError&) { end(std::current_exception()); }));
        asking_ = std::thread([this] { ask(); });
    }

    bool wait(std::chrono::milliseconds limit) {
        const Clock::time_point deadline = Clock::now() + limit;
        std::unique_lock<std::mutex> lock(mutex_);
        while (!ended_ && Clock::now() < deadline) {
            end_if_silent();
            changed_.wait_for(lock, std::min<Clock::duration>(kPoll, deadline - Clock::now()));
        }
        if (error_) {
            wait_for_asking(lock);  // it disarms
            std::rethrow_exception(error_);
        }
        return !ended_;
    }

    void stop(const std::string& reason) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            ended_ = true;
            changed_.notify_all();
        }
        std::exception_ptr failure;
        try {
            disarm(reason);  // before anything is waited for
        } catch (const BridgeError&) {
            failure = std::current_exception();
        }
        if (asking_.joinable()) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wait_for_asking(lock);
            }
            asking_.join();
        }
        stream_.reset();
        watch_.reset();
        if (failure) {
            std::rethrow_exception(failure);
        }
    }

    PlayerFigures figures() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        PlayerFigures figures = figures_;
        figures.delay = scheduler_ ? scheduler_->delay() : 0;
        return figures;
    }

    std::function<void(const Tick&)> on_tick_;
    std::function<void(const PlayedChunk&)> on_chunk_;

private:
    // What the firmware did: in the thread of the telemetry.

    void take(const Tick& tick) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            newest_ = tick;
            last_tick_ = Clock::now();
            ++figures_.ticks;
            watch_arm(tick);
            changed_.notify_all();
        }
        if (on_tick_) {
            on_tick_(tick);
        }
    }

    /// Ends the play where the arm may move no more. Ticks from before ARM may still come; they end nothing.
    void watch_arm(const Tick& tick) {
        const bool active = is_active(tick.state);
        seen_active_ = seen_active_ || active;
        if (active || ended_) {
            return;
        }
        if (tick.state != State::estop && !seen_active_) {
            if (Clock::now() - started_ > options_.silence_limit) {
                end_locked(error_of<LinkError>("the arm was armed, but its telemetry says " +
                                               std::string(name_of(tick.state)) + "; arm it again"));
            }
            return;
        }
        armed_ = false;
        if (tick.state == State::disarmed) {
            end_locked(error_of<StateError>("somebody else disarmed the arm"));
            return;
        }
        std::string joint = tick.fault_joint.empty() ? "" : ", joint " + tick.fault_joint;
        end_locked(error_of<StateError>("at tick " + std::to_string(tick.tick) + " the arm became " +
                                        name_of(tick.state) + " (" + fault_names(tick.faults) + joint + ")"));
    }

    void end_if_silent() {
        if (!ended_ && Clock::now() - last_tick_ > options_.silence_limit) {
            end_locked(error_of<LinkError>("no telemetry from the bridge at " + bridge_.address() + " for more than " +
                                           std::to_string(options_.silence_limit.count()) +
                                           " ms: the bridge or its link is gone"));
        }
    }

    void end(std::exception_ptr error) {
        const std::lock_guard<std::mutex> lock(mutex_);
        end_locked(std::move(error));
    }

    void end_locked(std::exception_ptr error) {
        if (!ended_) {
            ended_ = true;
            error_ = std::move(error);
            policy_.cancel();
        }
        changed_.notify_all();
    }

    /// Waits until the thread that asks the policy is at its end. A call that began while another was cancelled is, too.
    void wait_for_asking(std::unique_lock<std::mutex>& lock) {
        while (!asking_ended_) {
            policy_.cancel();
            changed_.wait_for(lock, kPoll);
        }
    }

    // What the policy is asked: in a thread of its own, so that telemetry is followed meanwhile.

    void ask() {
        try {
            while (const std::optional<Tick> tick = next_due()) {
                play(*tick);
            }
        } catch (...) {
            end(std::current_exception());
        }
        try {
            disarm("the player has ended");
        } catch (const BridgeError&) {  // the bridge is gone; the firmware holds the arm when its chunk ends
        }
        const std::lock_guard<std::mutex> lock(mutex_);
        asking_ended_ = true;
        changed_.notify_all();
    }

    /// The newest tick when its observation is to be answered; nothing when the play has ended.
    std::optional<Tick> next_due() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!ended_) {
            if (newest_ && seen_active_ && newest_->tick != asked_ && scheduler_->due(newest_->tick)) {
                asked_ = newest_->tick;
                return newest_;
            }
            end_if_silent();
            changed_.wait_for(lock, kPoll);
        }
        return std::nullopt;
    }

    void play(const Tick& tick) {
        PlayedChunk played;
        const Clock::time_point began = Clock::now();
        Observation observation = observe_(tick);
        complete(observation, tick);
        played.continued = observation.continuation.has_value();
        try {
            played.chunk = policy_.infer(observation);
        } catch (const ServingError& error) {
            failed<ServingError>(error.what());
            return;
        }
        played.to_policy_ms = milliseconds_since(began);
        const std::optional<ChunkReport> report = send(played.chunk);
        if (!report) {
            failed<LinkError>("the bridge at " + bridge_.address() + " gave no report about a chunk");
            return;
        }
        played.report = *report;
        played.to_ring_ms = milliseconds_since(began);
        if (report->outcome == ChunkReport::Outcome::accepted) {
            const std::lock_guard<std::mutex> lock(mutex_);
            scheduler_->entered(played.chunk, report->first_tick);
            ++figures_.accepted;
            failures_ = 0;
        }
        if (on_chunk_) {
            on_chunk_(played);
        }
        if (report->outcome != ChunkReport::Outcome::accepted) {
            failed<ChunkError>(std::string(name_of(report->outcome)) + ": " + report->reason);
        }
    }

    void complete(Observation& observation, const Tick& tick) {
        observation.tick = tick.tick;
        if (observation.state.empty()) {
            observation.state = tick.measured;
        }
        if (observation.capture_time_ns == 0) {
            observation.capture_time_ns = static_cast<std::uint64_t>(
                std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count());
        }
        const std::lock_guard<std::mutex> lock(mutex_);
        observation.continuation = scheduler_->observe(tick.tick);
    }

    std::optional<ChunkReport> send(const Chunk& chunk) {
        const Clock::time_point deadline = Clock::now() + options_.report_limit;
        try {
            stream_->send(chunk);
            while (Clock::now() < deadline && !has_ended()) {
                if (std::optional<ChunkReport> report = stream_->next_report(kPoll)) {
                    return report;
                }
            }
            return std::nullopt;
        } catch (const BridgeError&) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait_for(lock, kExplain, [this] { return ended_; });
            throw;
        }
    }

    template <typename Kind>
    void failed(const std::string& reason) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (ended_) {
            return;
        }
        scheduler_->lost();
        ++figures_.failed;
        figures_.last_failure = reason;
        if (++failures_ >= options_.most_failures) {
            throw Kind(std::to_string(failures_) + " chunks in a row came to nothing: " + reason);
        }
    }

    bool has_ended() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return ended_;
    }

    /// Disarms once, unless the firmware has stopped the arm already.
    void disarm(const std::string& reason) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!std::exchange(armed_, false)) {
                return;
            }
        }
        bridge_.disarm(reason);
    }

    PolicyClient& policy_;
    BridgeClient& bridge_;
    const Observe observe_;
    const PlayerOptions options_;
    std::unique_ptr<Splice> splice_;
    std::optional<ChunkStream> stream_;
    std::optional<TelemetryWatch> watch_;
    std::thread asking_;

    mutable std::mutex mutex_;  // of what follows
    std::condition_variable changed_;
    std::optional<ChunkScheduler> scheduler_;
    std::optional<Tick> newest_;
    std::optional<std::uint32_t> asked_;
    PlayerFigures figures_;
    std::uint32_t failures_ = 0;
    Clock::time_point started_;
    Clock::time_point last_tick_;
    bool seen_active_ = false;
    bool armed_ = false;
    bool ended_ = false;
    bool asking_ended_ = false;
    std::exception_ptr error_;
};

ChunkPlayer::ChunkPlayer(PolicyClient& policy, BridgeClient& bridge, Observe observe, const PlayerOptions& options)
    : implementation_(std::make_unique<Implementation>(policy, bridge, std::move(observe), options)) {}

ChunkPlayer::~ChunkPlayer() {
    try {
        implementation_->stop("the player was destroyed");
    } catch (const Error&) {  // as the header says
    }
}

void ChunkPlayer::on_tick(std::function<void(const Tick&)> callback) { implementation_->on_tick_ = std::move(callback); }

void ChunkPlayer::on_chunk(std::function<void(const PlayedChunk&)> callback) {
    implementation_->on_chunk_ = std::move(callback);
}

void ChunkPlayer::start() { implementation_->start(); }

bool ChunkPlayer::wait(std::chrono::milliseconds limit) { return implementation_->wait(limit); }

void ChunkPlayer::stop(const std::string& reason) { implementation_->stop(reason); }

PlayerFigures ChunkPlayer::figures() const { return implementation_->figures(); }

}  // namespace pi0_edge
