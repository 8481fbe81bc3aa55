#include "pi0_edge/replanning.hpp"

#include <algorithm>
#include <cmath>

#include "pi0_edge/errors.hpp"

namespace pi0_edge {
namespace {

/// The plan from the tick after the observation on, row major; nothing where it has ended or begins later.
std::optional<std::vector<float>> rest_of(const Plan& plan, std::int64_t observed_tick) {
    Plan rest = plan.since(observed_tick + 1);
    if (rest.rows() == 0 || rest.first_tick != observed_tick + 1) {
        return std::nullopt;
    }
    return std::move(rest.setpoints);
}

}  // namespace

std::size_t Plan::rows() const { return joints == 0 ? 0 : setpoints.size() / joints; }

std::int64_t Plan::last_tick() const { return first_tick + static_cast<std::int64_t>(rows()) - 1; }

Plan Plan::since(std::int64_t tick) const {
    const std::int64_t past =
        std::min(std::max<std::int64_t>(0, tick - first_tick), static_cast<std::int64_t>(rows()));
    const auto begin = setpoints.begin() + past * static_cast<std::int64_t>(joints);
    return {first_tick + past, joints, {begin, setpoints.end()}};
}

Plan Plan::followed_by(const Plan& later) const {
    const std::int64_t kept = later.first_tick - first_tick;
    if (kept <= 0 || kept > static_cast<std::int64_t>(rows())) {
        return later;
    }
    Plan joined{first_tick, joints, {setpoints.begin(), setpoints.begin() + kept * static_cast<std::int64_t>(joints)}};
    joined.setpoints.insert(joined.setpoints.end(), later.setpoints.begin(), later.setpoints.end());
    return joined;
}

const char* HoldSwap::name() const { return "hold-swap"; }

std::optional<Continuation> HoldSwap::continuation(const Plan&, std::int64_t, std::uint32_t) const {
    return std::nullopt;
}

const char* RealTimeChunking::name() const { return "rtc"; }

std::optional<Continuation> RealTimeChunking::continuation(const Plan& plan, std::int64_t observed_tick,
                                                           std::uint32_t delay) const {
    std::optional<std::vector<float>> rest = rest_of(plan, observed_tick);
    if (!rest) {
        return std::nullopt;
    }
    return Continuation{std::move(*rest), delay, Continuation::Method::guided, schedule, overlap, max_weight};
}

TrainedRealTimeChunking::TrainedRealTimeChunking(std::uint32_t trained_delay) : trained_delay_(trained_delay) {}

const char* TrainedRealTimeChunking::name() const { return "trained-rtc"; }

std::optional<Continuation> TrainedRealTimeChunking::continuation(const Plan& plan, std::int64_t observed_tick,
                                                                  std::uint32_t delay) const {
    std::optional<std::vector<float>> rest = rest_of(plan, observed_tick);
    if (!rest) {
        return std::nullopt;
    }
    Continuation prefix;
    prefix.actions = std::move(*rest);
    prefix.delay = std::min(delay, trained_delay_);
    prefix.method = Continuation::Method::frozen_prefix;
    return prefix;
}

std::unique_ptr<Splice> client_splice(const std::string& name, std::uint32_t trained_delay) {
    if (name == "hold-swap") {
        return std::make_unique<HoldSwap>();
    }
    if (name == "rtc") {
        return std::make_unique<RealTimeChunking>();
    }
    if (name == "trained-rtc" && trained_delay > 0) {
        return std::make_unique<TrainedRealTimeChunking>(trained_delay);
    }
    throw ConfigError("splice is '" + name + "'; expected one that this policy allows: hold-swap, rtc" +
                      (trained_delay > 0 ? ", trained-rtc" : ""));
}

DelayWindow::DelayWindow(std::size_t size) : size_(size) {}

void DelayWindow::add(std::uint32_t delay) {
    delays_.push_back(delay);
    if (delays_.size() > size_) {
        delays_.pop_front();
    }
}

std::uint32_t DelayWindow::quantile(double share) const {
    if (delays_.empty()) {
        return 0;
    }
    std::vector<std::uint32_t> ordered(delays_.begin(), delays_.end());
    std::sort(ordered.begin(), ordered.end());
    return ordered[static_cast<std::size_t>(std::ceil(share * static_cast<double>(ordered.size()))) - 1];
}

ChunkScheduler::ChunkScheduler(const Splice& splice, std::uint32_t replan_ticks)
    : splice_(splice), replan_ticks_(replan_ticks) {}

const Plan& ChunkScheduler::plan() const { return plan_; }

std::uint32_t ChunkScheduler::delay() const { return delays_.quantile(0.99); }

std::vector<float> ChunkScheduler::setpoint(std::int64_t tick) const {
    const Plan rest = plan_.since(tick);
    if (rest.rows() == 0 || rest.first_tick != tick) {
        return {};
    }
    return {rest.setpoints.begin(), rest.setpoints.begin() + static_cast<std::int64_t>(rest.joints)};
}

bool ChunkScheduler::due(std::int64_t tick) const {
    return !waiting_ && tick >= std::min(next_, plan_.last_tick() - delay());
}

std::optional<Continuation> ChunkScheduler::observe(std::int64_t tick) {
    observed_ = tick;
    next_ = tick + replan_ticks_;
    waiting_ = true;
    return splice_.continuation(plan_, tick, delay());
}

void ChunkScheduler::entered(const Chunk& chunk, std::int64_t first_tick) {
    waiting_ = false;
    delays_.add(static_cast<std::uint32_t>(std::max<std::int64_t>(0, first_tick - observed_ - 1)));
    const Plan whole{observed_ + 1, chunk.action_dim, chunk.actions};
    plan_ = plan_.since(observed_ + 1).followed_by(whole.since(first_tick));
}

void ChunkScheduler::lost() {
    waiting_ = false;
    next_ = 0;
}

}  // namespace pi0_edge
