// Channels to a server, and what a failed call means.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include <grpcpp/grpcpp.h>

namespace pi0_edge {

/// A channel; it connects at the first call. @throws EndpointError Something is wrong with the TLS folder.
std::shared_ptr<grpc::Channel> open_channel(const std::string& address, const std::string& tls);

/// Throws what a failed call to a policy server stands for; does nothing where the call was answered.
void check_policy_call(const grpc::Status& status, const std::string& address);

/// Throws what a failed call to a bridge stands for; does nothing where the call was answered.
void check_bridge_call(const grpc::Status& status, const std::string& address);

/// The calls of one client that are under way, so that another thread can end them.
class CallsUnderWay {
public:
    void cancel();

private:
    friend class Call;
    std::mutex mutex_;
    std::set<grpc::ClientContext*> contexts_;
};

/// The context of one call, with its deadline: a server that does not answer must not stop a robot's program.
class Call {
public:
    Call(CallsUnderWay& calls, std::chrono::milliseconds limit, bool wait_for_ready = false);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    grpc::ClientContext* context() { return &context_; }

private:
    CallsUnderWay& calls_;
    grpc::ClientContext context_;
};

}  // namespace pi0_edge
