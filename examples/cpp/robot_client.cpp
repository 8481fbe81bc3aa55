// A client of the bridge: watches the arm, or holds it where it is for a second.
//
//   robot_client localhost:50061                       a bridge on this machine
//   robot_client robot.local:50061 --tls laptop --hold  with a certificate, role command

#include <cstdio>
#include <cstdlib>
#include <future>
#include <stdexcept>
#include <string>
#include <vector>

#include <pi0_edge/bridge_client.hpp>

namespace {

constexpr int kTicks = 25;  // half a second
constexpr std::chrono::seconds kLimit{5};

struct Options {
    std::string address;
    pi0_edge::BridgeOptions bridge;
    bool hold = false;
};

// Prints the state of the arm and what it executed in the last of some ticks.
void watch(pi0_edge::BridgeClient& bridge) {
    const pi0_edge::Status status = bridge.status();
    std::printf("STATE_%s, %zu joints, %.0f ms per tick\n", name_of(status.state), status.joint_names.size(),
                status.tick_period_s * 1e3);
    std::promise<pi0_edge::Tick> last;
    int seen = 0;
    const auto on_tick = [&](const pi0_edge::Tick& tick) {
        if (++seen == kTicks) {
            last.set_value(tick);
        }
    };
    const auto on_end = [&](const pi0_edge::BridgeError& error) {
        if (seen < kTicks) {
            last.set_exception(std::make_exception_ptr(error));
        }
    };
    auto came = last.get_future();
    const pi0_edge::TelemetryWatch ticks = bridge.telemetry(on_tick, on_end);
    if (came.wait_for(kLimit) != std::future_status::ready) {
        throw std::runtime_error("no telemetry came within five seconds");
    }
    const pi0_edge::Tick tick = came.get();
    std::printf("tick %u:", tick.tick);
    for (const float position : tick.executed) {
        std::printf(" %.3f", static_cast<double>(position));
    }
    std::printf("\n");
}

// Arms, plays one chunk that stays where the arm is, and disarms; whether the firmware took the chunk.
bool hold(pi0_edge::BridgeClient& bridge) {
    // The chunk repeats what the bridge reports, so its joints are the bridge's; a policy names its own.
    bridge.arm(bridge.status().joint_names);
    const pi0_edge::ChunkReport report = bridge.hold();
    std::printf("chunk %u: %s %s\n", report.chunk_id, name_of(report.outcome), report.reason.c_str());
    bridge.disarm("the example is over");
    return report.outcome == pi0_edge::ChunkReport::Outcome::accepted;
}

Options read_options(const std::vector<std::string>& arguments) {
    Options options;
    options.bridge.name = "example in C++";
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == "--hold") {
            options.hold = true;
        } else if (arguments[i] == "--tls" && i + 1 < arguments.size()) {
            options.bridge.tls = arguments[++i];
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
        pi0_edge::BridgeClient bridge(options.address, options.bridge);
        watch(bridge);
        return !options.hold || hold(bridge) ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
