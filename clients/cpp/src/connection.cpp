#include "connection.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>

#include <sys/stat.h>

#include "pi0_edge/errors.hpp"

namespace pi0_edge {
namespace {

constexpr int kAnswerLimit = 4 << 20;  // bytes
constexpr int kConnectLimitMs = 5000;

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw EndpointError(path + " cannot be read; `pi0-edge certificates` makes such folders");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string read_key(const std::string& path) {
    struct stat found {};
    if (stat(path.c_str(), &found) == 0 && (found.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        throw EndpointError("the key " + path + " can be read by other users; run `chmod 600 " + path + "`");
    }
    return read_file(path);
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    return text;
}

/// What a person may do about a connection that ended with these details; empty where it was not for want of TLS.
std::string connection_advice(const std::string& details) {
    const std::string found = lower(details);
    if (found.find("wrong_version_number") != std::string::npos) {
        return "it does not speak TLS; leave the TLS folder out, or start it with --tls";
    }
    constexpr std::array refused{"handshake", "verification", "socket closed", "connection reset", "broken pipe"};
    if (std::none_of(refused.begin(), refused.end(),
                     [&](const char* word) { return found.find(word) != std::string::npos; })) {
        return "";
    }
    return "it may ask for certificates; then this client needs an unexpired one of the same authority (the TLS "
           "folder), and the server's must name the host of this address. `pi0-edge certificates show` says what a "
           "certificate is";
}

std::string mebibytes(const std::string& digits) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.3g", std::stod(digits) / (1 << 20));
    return text.data();
}

/// How large a message was and may be; empty where the call ended otherwise. gRPC tells it like a busy server.
std::string too_large(const grpc::Status& status) {
    static const std::regex pattern(R"(larger than max \((\d+) vs\. (\d+)\))");
    const std::string& details = status.error_message();
    std::smatch found;
    if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED || !std::regex_search(details, found, pattern)) {
        return "";
    }
    return mebibytes(found[1]) + " MiB, expected at most " + mebibytes(found[2]) + " MiB";
}

}  // namespace

std::shared_ptr<grpc::Channel> open_channel(const std::string& address, const std::string& tls) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kAnswerLimit);
    // A server that still loads its weights is tried again soon, not after gRPC's twenty seconds.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    // Despite its name, how long an attempt to connect may take, the handshake of TLS included.
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectLimitMs);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // A connection per client, also in one process: the servers tell clients apart by it.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (tls.empty()) {
        return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    }
    grpc::SslCredentialsOptions files;
    files.pem_root_certs = read_file(tls + "/authority.pem");
    files.pem_cert_chain = read_file(tls + "/certificate.pem");
    files.pem_private_key = read_key(tls + "/key.pem");
    return grpc::CreateCustomChannel(address, grpc::SslCredentials(files), arguments);
}

void check_policy_call(const grpc::Status& status, const std::string& address) {
    if (status.ok()) {
        return;
    }
    const std::string& details = status.error_message();
    const std::string server = "the policy server at " + address;
    if (const std::string size = too_large(status); !size.empty()) {
        if (details.find("CLIENT: Received") != std::string::npos) {
            throw ServingError("the answer of " + server + " has " + size + "; is it a policy server of this version?");
        }
        throw ObservationError("the observation has " + size + ", which is the limit of " + server +
                               "; scale its images down, as the policy does anyway, or send them as JPEG");
    }
    switch (status.error_code()) {
        case grpc::StatusCode::INVALID_ARGUMENT:
            throw ObservationError(details);
        case grpc::StatusCode::RESOURCE_EXHAUSTED:
            throw BusyError(details);
        case grpc::StatusCode::FAILED_PRECONDITION:
            throw ConfigError(details);
        case grpc::StatusCode::DEADLINE_EXCEEDED:
            throw DeadlineError(server + " did not answer in time (" + details + "); is it running?");
        case grpc::StatusCode::CANCELLED:
            throw ServingError("the call to " + server + " was cancelled");
        case grpc::StatusCode::UNIMPLEMENTED:
            throw ServingError("the server at " + address + " does not know this call (" + details +
                               "); it may be an older policy server, or no policy server: see `pi0-edge serve`");
        case grpc::StatusCode::UNAVAILABLE:
            if (const std::string advice = connection_advice(details); !advice.empty()) {
                throw ServingError(server + " accepts no connection: " + advice);
            }
            throw ServingError("no policy server answers at " + address + " (" + details +
                               "); start one with `pi0-edge serve`");
        default:
            throw ServingError(details);
    }
}

void check_bridge_call(const grpc::Status& status, const std::string& address) {
    if (status.ok()) {
        return;
    }
    const std::string& details = status.error_message();
    if (const std::string size = too_large(status); !size.empty()) {
        throw ChunkError("the message has " + size + ", which is the limit at " + address + "; send a shorter chunk");
    }
    switch (status.error_code()) {
        case grpc::StatusCode::INVALID_ARGUMENT:
            throw ChunkError(details);
        case grpc::StatusCode::FAILED_PRECONDITION:
            throw StateError(details);
        case grpc::StatusCode::PERMISSION_DENIED:
            throw AccessError(details);
        case grpc::StatusCode::DEADLINE_EXCEEDED:
            throw LinkError("the bridge at " + address + " did not answer in time; is it running?");
        case grpc::StatusCode::UNIMPLEMENTED:
            throw BridgeError("the server at " + address + " does not know this call (" + details +
                              "); it may be an older bridge, or no bridge: see `pi0-edge bridge`");
        case grpc::StatusCode::UNAVAILABLE:
            if (const std::string advice = connection_advice(details); !advice.empty()) {
                throw LinkError("the bridge at " + address + " accepts no connection: " + advice);
            }
            if (lower(details).find("failed to connect") != std::string::npos) {
                throw LinkError("no bridge answers at " + address + "; start one with `pi0-edge bridge`");
            }
            throw LinkError(details);
        default:
            throw BridgeError(details);
    }
}

void CallsUnderWay::cancel() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (grpc::ClientContext* context : contexts_) {
        context->TryCancel();
    }
}

Call::Call(CallsUnderWay& calls, std::chrono::milliseconds limit, bool wait_for_ready) : calls_(calls) {
    context_.set_deadline(std::chrono::system_clock::now() + limit);
    context_.set_wait_for_ready(wait_for_ready);
    const std::lock_guard<std::mutex> lock(calls_.mutex_);
    calls_.contexts_.insert(&context_);
}

Call::~Call() {
    const std::lock_guard<std::mutex> lock(calls_.mutex_);
    calls_.contexts_.erase(&context_);
}

}  // namespace pi0_edge
