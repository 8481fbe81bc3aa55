#include "bridge_streams.hpp"

#include <utility>

#include "connection.hpp"
#include "messages.hpp"

namespace pi0_edge {
namespace {

constexpr std::chrono::seconds kCloseLimit{1};

}  // namespace

ChunkStream::Implementation::Implementation(std::shared_ptr<v1::RobotBridge::Stub> bridge, std::string lease,
                                            std::string address)
    : bridge_(std::move(bridge)),
      lease_(std::move(lease)),
      address_(std::move(address)),
      stream_(bridge_->PlayChunks(&context_)),
      collector_([this] { collect(); }) {}

ChunkStream::Implementation::~Implementation() { close(); }

void ChunkStream::Implementation::send(const Chunk& chunk) {
    v1::PlayRequest request;
    request.set_lease(lease_);
    *request.mutable_chunk() = write_chunk(chunk);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (ended_) {
            return;
        }
    }
    stream_->Write(request);  // where it fails the stream has ended, and the collector knows why
}

std::optional<ChunkReport> ChunkStream::Implementation::next_report(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, timeout, [this] { return ended_ || !reports_.empty(); });
    if (!reports_.empty()) {
        const ChunkReport report = std::move(reports_.front());
        reports_.pop_front();
        return report;
    }
    if (error_) {
        std::rethrow_exception(error_);
    }
    return std::nullopt;
}

void ChunkStream::Implementation::close() {
    if (!collector_.joinable()) {
        return;
    }
    stream_->WritesDone();
    {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait_for(lock, kCloseLimit, [this] { return ended_; });
    }
    context_.TryCancel();
    collector_.join();
}

void ChunkStream::Implementation::collect() {
    v1::ChunkReport message;
    while (stream_->Read(&message)) {
        const std::lock_guard<std::mutex> lock(mutex_);
        reports_.push_back(read_report(message));
        changed_.notify_all();
    }
    std::exception_ptr error;
    try {
        check_bridge_call(stream_->Finish(), address_);
        throw StateError("the stream of chunks was closed");
    } catch (const BridgeError&) {
        error = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    error_ = std::move(error);
    ended_ = true;
    changed_.notify_all();
}

TelemetryWatch::Implementation::Implementation(std::shared_ptr<v1::RobotBridge::Stub> bridge, std::string address,
                                               BridgeClient::OnTick on_tick, BridgeClient::OnEnd on_end)
    : bridge_(std::move(bridge)),
      address_(std::move(address)),
      on_tick_(std::move(on_tick)),
      on_end_(std::move(on_end)),
      stream_(bridge_->WatchTelemetry(&context_, v1::TelemetryRequest())),
      reader_([this] { read(); }) {}

TelemetryWatch::Implementation::~Implementation() {
    context_.TryCancel();
    reader_.join();
}

void TelemetryWatch::Implementation::read() {
    v1::Telemetry message;
    while (stream_->Read(&message)) {
        on_tick_(read_tick(message));
    }
    const grpc::Status status = stream_->Finish();
    if (status.error_code() == grpc::StatusCode::CANCELLED || !on_end_) {
        return;
    }
    try {
        check_bridge_call(status, address_);
        throw LinkError("the bridge at " + address_ + " has ended the telemetry");
    } catch (const BridgeError& error) {
        on_end_(error);
    }
}

ChunkStream::ChunkStream(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
ChunkStream::~ChunkStream() = default;
ChunkStream::ChunkStream(ChunkStream&&) noexcept = default;
ChunkStream& ChunkStream::operator=(ChunkStream&&) noexcept = default;
void ChunkStream::send(const Chunk& chunk) { implementation_->send(chunk); }
std::optional<ChunkReport> ChunkStream::next_report(std::chrono::milliseconds timeout) {
    return implementation_->next_report(timeout);
}
void ChunkStream::close() { implementation_->close(); }

TelemetryWatch::TelemetryWatch(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}
TelemetryWatch::~TelemetryWatch() = default;
TelemetryWatch::TelemetryWatch(TelemetryWatch&&) noexcept = default;
TelemetryWatch& TelemetryWatch::operator=(TelemetryWatch&&) noexcept = default;

}  // namespace pi0_edge
