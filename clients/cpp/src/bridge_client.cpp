#include "pi0_edge/bridge_client.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "bridge_streams.hpp"
#include "connection.hpp"
#include "messages.hpp"

namespace pi0_edge {
namespace {

constexpr std::chrono::milliseconds kPoll{20};
constexpr std::chrono::seconds kFirstTick{2};
constexpr std::chrono::seconds kReport{2};

}  // namespace

class BridgeClient::Implementation {
public:
    using Command = grpc::Status (v1::RobotBridge::Stub::*)(grpc::ClientContext*, const v1::CommandRequest&,
                                                            v1::CommandReply*);

    Implementation(const std::string& address, const BridgeOptions& options)
        : address_(address),
          name_(options.name),
          timeout_(options.timeout),
          bridge_(v1::RobotBridge::NewStub(open_channel(address, options.tls))) {}

    State arm(const std::vector<std::string>& joint_names) {
        v1::ArmRequest request;
        request.set_client(name_);
        *request.mutable_joint_names() = {joint_names.begin(), joint_names.end()};
        Call call(calls_, timeout_);
        v1::ArmReply reply;
        check_bridge_call(bridge_->Arm(call.context(), request, &reply), address_);
        const std::lock_guard<std::mutex> lock(mutex_);
        lease_ = reply.lease();
        return static_cast<State>(reply.state());
    }

    State command(Command method, const std::string& reason) {
        v1::CommandRequest request;
        request.set_lease(lease());
        request.set_reason(reason);
        Call call(calls_, timeout_);
        v1::CommandReply reply;
        check_bridge_call(((*bridge_).*method)(call.context(), request, &reply), address_);
        return static_cast<State>(reply.state());
    }

    Status status(std::chrono::milliseconds limit, bool wait_for_ready) {
        Call call(calls_, limit, wait_for_ready);
        v1::Status reply;
        check_bridge_call(bridge_->GetStatus(call.context(), v1::StatusRequest(), &reply), address_);
        return read_status(reply);
    }

    std::string lease() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return lease_;
    }

    const std::string address_;
    const std::string name_;
    const std::chrono::milliseconds timeout_;
    const std::shared_ptr<v1::RobotBridge::Stub> bridge_;

private:
    CallsUnderWay calls_;
    std::mutex mutex_;
    std::string lease_;
};

BridgeClient::BridgeClient(const std::string& address, const BridgeOptions& options)
    : implementation_(std::make_unique<Implementation>(address, options)) {}

BridgeClient::~BridgeClient() = default;

void BridgeClient::wait_ready(std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    Status found = implementation_->status(timeout, true);
    while (!found.link_up) {
        if (std::chrono::steady_clock::now() > deadline) {
            throw LinkError("the bridge at " + address() + " runs, but its link to the firmware is down: " +
                            found.problem);
        }
        std::this_thread::sleep_for(kPoll);
        found = status();
    }
}

State BridgeClient::arm(const std::vector<std::string>& joint_names) { return implementation_->arm(joint_names); }

State BridgeClient::disarm(const std::string& reason) {
    return implementation_->command(&v1::RobotBridge::Stub::Disarm, reason);
}

State BridgeClient::estop(const std::string& reason) {
    return implementation_->command(&v1::RobotBridge::Stub::EStop, reason);
}

State BridgeClient::clear(const std::string& reason) {
    return implementation_->command(&v1::RobotBridge::Stub::Clear, reason);
}

State BridgeClient::release(const std::string& reason) {
    return implementation_->command(&v1::RobotBridge::Stub::Release, reason);
}

Status BridgeClient::status() { return implementation_->status(implementation_->timeout_, false); }

Tick BridgeClient::next_tick(std::chrono::milliseconds timeout) {
    std::mutex mutex;
    std::condition_variable came;
    std::optional<Tick> tick;
    std::string ended;
    {
        const TelemetryWatch watch = telemetry(
            [&](const Tick& found) {
                const std::lock_guard<std::mutex> lock(mutex);
                if (!tick) {
                    tick = found;
                }
                came.notify_one();
            },
            [&](const BridgeError& error) {
                const std::lock_guard<std::mutex> lock(mutex);
                ended = error.what();
                came.notify_one();
            });
        std::unique_lock<std::mutex> lock(mutex);
        came.wait_for(lock, timeout, [&] { return tick || !ended.empty(); });
    }
    if (!tick) {
        throw LinkError(ended.empty() ? "no telemetry came in time from the bridge at " + address() : ended);
    }
    return *tick;
}

ChunkReport BridgeClient::hold(std::uint32_t ticks) {
    const Tick tick = next_tick(kFirstTick);
    Chunk chunk;
    chunk.horizon = ticks;
    chunk.action_dim = static_cast<std::uint32_t>(tick.executed.size());
    for (std::uint32_t step = 0; step < ticks; ++step) {
        chunk.actions.insert(chunk.actions.end(), tick.executed.begin(), tick.executed.end());
    }
    chunk.tick = tick.tick;
    ChunkStream stream = play();
    stream.send(chunk);
    if (const std::optional<ChunkReport> report = stream.next_report(kReport)) {
        return *report;
    }
    throw LinkError("the bridge at " + address() + " gave no report about a chunk");
}

ChunkStream BridgeClient::play() {
    return ChunkStream(std::make_unique<ChunkStream::Implementation>(implementation_->bridge_, implementation_->lease(),
                                                                     implementation_->address_));
}

TelemetryWatch BridgeClient::telemetry(OnTick on_tick, OnEnd on_end) {
    return TelemetryWatch(std::make_unique<TelemetryWatch::Implementation>(
        implementation_->bridge_, implementation_->address_, std::move(on_tick), std::move(on_end)));
}

const std::string& BridgeClient::address() const { return implementation_->address_; }

}  // namespace pi0_edge
