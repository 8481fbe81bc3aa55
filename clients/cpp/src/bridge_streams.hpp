// The two streams of the bridge, each with the thread that reads it.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "pi0_edge/bridge_client.hpp"
#include "pi0_edge/protos/bridge.grpc.pb.h"

namespace pi0_edge {

class ChunkStream::Implementation {
public:
    Implementation(std::shared_ptr<v1::RobotBridge::Stub> bridge, std::string lease, std::string address);
    ~Implementation();
    void send(const Chunk& chunk);
    std::optional<ChunkReport> next_report(std::chrono::milliseconds timeout);
    void close();

private:
    void collect();

    const std::shared_ptr<v1::RobotBridge::Stub> bridge_;
    const std::string lease_;
    const std::string address_;
    grpc::ClientContext context_;
    std::unique_ptr<grpc::ClientReaderWriter<v1::PlayRequest, v1::ChunkReport>> stream_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<ChunkReport> reports_;
    std::exception_ptr error_;
    bool ended_ = false;
    std::thread collector_;
};

class TelemetryWatch::Implementation {
public:
    Implementation(std::shared_ptr<v1::RobotBridge::Stub> bridge, std::string address, BridgeClient::OnTick on_tick,
                   BridgeClient::OnEnd on_end);
    ~Implementation();

private:
    void read();

    const std::shared_ptr<v1::RobotBridge::Stub> bridge_;
    const std::string address_;
    const BridgeClient::OnTick on_tick_;
    const BridgeClient::OnEnd on_end_;
    grpc::ClientContext context_;
    std::unique_ptr<grpc::ClientReader<v1::Telemetry>> stream_;
    std::thread reader_;
};

}  // namespace pi0_edge
