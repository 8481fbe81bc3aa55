// A client of the bridge from nothing but the protos: watches the arm, or holds it where it is for a second.
//
//   robot_client localhost:50061                       a bridge on this machine
//   robot_client robot.local:50061 --tls laptop --hold  with a certificate, role command

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "pi0_edge/protos/bridge.grpc.pb.h"

namespace {

namespace v1 = pi0_edge::v1;
using Bridge = v1::RobotBridge::Stub;

constexpr int kTicks = 25;  // half a second
constexpr unsigned kHorizon = 50;
constexpr std::chrono::seconds kCallLimit{5};

struct Options {
    std::string address;
    std::string tls;
    bool hold = false;
};

// Every call has a deadline: a bridge that does not answer must not stop this program.
class Call : public grpc::ClientContext {
public:
    Call() { set_deadline(std::chrono::system_clock::now() + kCallLimit); }
};

void check(const grpc::Status& status) {
    if (!status.ok()) {
        throw std::runtime_error(status.error_message());
    }
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(path + " cannot be read");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<grpc::Channel> open_channel(const Options& options) {
    if (options.tls.empty()) {
        return grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials());
    }
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = read_file(options.tls + "/authority.pem");
    tls.pem_cert_chain = read_file(options.tls + "/certificate.pem");
    tls.pem_private_key = read_file(options.tls + "/key.pem");
    return grpc::CreateChannel(options.address, grpc::SslCredentials(tls));
}

v1::Status get_status(Bridge& bridge) {
    Call call;
    v1::Status status;
    check(bridge.GetStatus(&call, v1::StatusRequest(), &status));
    return status;
}

// Prints the state of the arm and some ticks; returns the last of them.
v1::Telemetry watch(Bridge& bridge) {
    const v1::Status status = get_status(bridge);
    std::printf("%s, %u joints, %.0f ms per tick\n", v1::State_Name(status.state()).c_str(), status.joint_count(),
                status.tick_period_s() * 1e3);
    Call call;
    v1::Telemetry tick;
    const auto ticks = bridge.WatchTelemetry(&call, v1::TelemetryRequest());
    for (int seen = 0; seen < kTicks; ++seen) {
        if (!ticks->Read(&tick)) {
            check(ticks->Finish());
            throw std::runtime_error("telemetry ended");
        }
    }
    call.TryCancel();
    std::printf("tick %u:", tick.tick());
    for (const float position : tick.executed()) {
        std::printf(" %.3f", static_cast<double>(position));
    }
    std::printf("\n");
    return tick;
}

v1::ChunkReport play(Bridge& bridge, const std::string& lease, const v1::Telemetry& tick) {
    v1::PlayRequest request;
    request.set_lease(lease);
    v1::Chunk& chunk = *request.mutable_chunk();
    chunk.set_horizon(kHorizon);
    chunk.set_action_dim(static_cast<unsigned>(tick.executed_size()));
    for (unsigned step = 0; step < kHorizon; ++step) {
        chunk.mutable_actions()->MergeFrom(tick.executed());
    }
    chunk.mutable_clock()->set_tick(get_status(bridge).tick());

    Call call;
    v1::ChunkReport report;
    const auto stream = bridge.PlayChunks(&call);
    stream->Write(request);
    stream->WritesDone();
    if (!stream->Read(&report)) {
        check(stream->Finish());
        throw std::runtime_error("the stream ended without a report");
    }
    check(stream->Finish());
    return report;
}

// Arms, plays one chunk that stays where the arm is, and disarms; whether the firmware took the chunk.
bool hold(Bridge& bridge, const v1::Telemetry& tick) {
    v1::ArmRequest request;
    v1::ArmReply armed;
    request.set_client("example in C++");
    // The chunk repeats what the bridge reported, so its joints are the bridge's; a policy names its own.
    *request.mutable_joint_names() = get_status(bridge).joint_names();
    Call arm;
    check(bridge.Arm(&arm, request, &armed));
    const v1::ChunkReport report = play(bridge, armed.lease(), tick);
    std::printf("chunk %u: %s %s\n", report.chunk_id(), v1::ChunkReport_Outcome_Name(report.outcome()).c_str(),
                report.reason().c_str());
    v1::CommandRequest command;
    v1::CommandReply disarmed;
    command.set_lease(armed.lease());
    Call disarm;
    check(bridge.Disarm(&disarm, command, &disarmed));
    return report.outcome() == v1::ChunkReport::ACCEPTED;
}

Options read_options(const std::vector<std::string>& arguments) {
    Options options;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == "--hold") {
            options.hold = true;
        } else if (arguments[i] == "--tls" && i + 1 < arguments.size()) {
            options.tls = arguments[++i];
        } else if (options.address.empty() && arguments[i].rfind("--", 0) != 0) {
            options.address = arguments[i];
        } else {
            throw std::runtime_error("unexpected argument " + arguments[i]);
        }
    }
    if (options.address.empty()) {
        throw std::runtime_error("usage: robot_client host:port [--tls FOLDER] [--hold]");
    }
    return options;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        const Options options = read_options({arguments + 1, arguments + count});
        const auto bridge = v1::RobotBridge::NewStub(open_channel(options));
        const v1::Telemetry tick = watch(*bridge);
        return !options.hold || hold(*bridge, tick) ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
