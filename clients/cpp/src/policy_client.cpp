#include "pi0_edge/policy_client.hpp"

#include "connection.hpp"
#include "messages.hpp"
#include "pi0_edge/protos/policy.grpc.pb.h"

namespace pi0_edge {

class PolicyClient::Implementation {
public:
    Implementation(const std::string& address, const PolicyOptions& options)
        : address_(address),
          timeout_(options.timeout),
          policy_(v1::PolicyService::NewStub(open_channel(address, options.tls))) {}

    v1::PolicyMetadata metadata(std::chrono::milliseconds limit, bool wait_for_ready) {
        Call call(calls_, limit, wait_for_ready);
        v1::PolicyMetadata reply;
        check_policy_call(policy_->GetMetadata(call.context(), v1::MetadataRequest(), &reply), address_);
        return reply;
    }

    Chunk infer(const v1::Observation& request) {
        Call call(calls_, timeout_);
        v1::Chunk reply;
        check_policy_call(policy_->Infer(call.context(), request, &reply), address_);
        return read_chunk(reply);
    }

    const std::string address_;
    const std::chrono::milliseconds timeout_;
    CallsUnderWay calls_;

private:
    const std::unique_ptr<v1::PolicyService::Stub> policy_;
};

PolicyClient::PolicyClient(const std::string& address, const PolicyOptions& options)
    : implementation_(std::make_unique<Implementation>(address, options)) {}

PolicyClient::~PolicyClient() = default;

void PolicyClient::wait_ready(std::chrono::milliseconds timeout) { implementation_->metadata(timeout, true); }

PolicyMetadata PolicyClient::metadata() {
    return read_metadata(implementation_->metadata(implementation_->timeout_, false));
}

Chunk PolicyClient::infer(const Observation& observation) {
    return implementation_->infer(write_observation(observation));
}

void PolicyClient::cancel() { implementation_->calls_.cancel(); }

const std::string& PolicyClient::address() const { return implementation_->address_; }

}  // namespace pi0_edge
