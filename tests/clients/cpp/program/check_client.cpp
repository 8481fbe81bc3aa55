// What tests ask libpi0_edge_client: one command per process, its input as lines of standard input, floats in
// hexadecimal so that every bit is compared. An error is printed as `KIND: message`.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <list>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <pi0_edge/chunk_player.hpp>

namespace {

using Words = std::vector<std::string>;

std::string kind_of(const std::exception& error) {
    if (dynamic_cast<const pi0_edge::ConfigError*>(&error)) return "ConfigError";
    if (dynamic_cast<const pi0_edge::EndpointError*>(&error)) return "EndpointError";
    if (dynamic_cast<const pi0_edge::ObservationError*>(&error)) return "ObservationError";
    if (dynamic_cast<const pi0_edge::BusyError*>(&error)) return "BusyError";
    if (dynamic_cast<const pi0_edge::DeadlineError*>(&error)) return "DeadlineError";
    if (dynamic_cast<const pi0_edge::ServingError*>(&error)) return "ServingError";
    if (dynamic_cast<const pi0_edge::LinkError*>(&error)) return "LinkError";
    if (dynamic_cast<const pi0_edge::StateError*>(&error)) return "StateError";
    if (dynamic_cast<const pi0_edge::ChunkError*>(&error)) return "ChunkError";
    if (dynamic_cast<const pi0_edge::AccessError*>(&error)) return "AccessError";
    if (dynamic_cast<const pi0_edge::BridgeError*>(&error)) return "BridgeError";
    return "other";
}

Words words_of(const std::string& line) {
    std::istringstream stream(line);
    return {std::istream_iterator<std::string>(stream), {}};
}

std::vector<float> floats(const Words& words, std::size_t from) {
    std::vector<float> values;
    for (std::size_t i = from; i < words.size(); ++i) {
        values.push_back(std::strtof(words[i].c_str(), nullptr));
    }
    return values;
}

std::uint32_t number(const std::string& word) { return static_cast<std::uint32_t>(std::stoul(word)); }

void print_floats(const std::vector<float>& values) {
    for (const float value : values) {
        std::printf(" %a", static_cast<double>(value));
    }
    std::printf("\n");
}

// An observation from lines; `files` keeps the pixels that its images borrow.
pi0_edge::Observation read_observation(std::list<std::string>& files) {
    pi0_edge::Observation observation;
    std::string line;
    while (std::getline(std::cin, line)) {
        const Words words = words_of(line);
        if (words[0] == "image") {  // image CAMERA HEIGHT WIDTH rgb|jpeg PATH
            std::ifstream file(words[5], std::ios::binary);
            files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
            const std::string& held = files.back();
            observation.images.push_back({words[1], number(words[2]), number(words[3]),
                                          reinterpret_cast<const std::uint8_t*>(held.data()), held.size(),
                                          words[4] == "jpeg"});
        } else if (words[0] == "state") {
            observation.state = floats(words, 1);
        } else if (words[0] == "prompt") {
            observation.prompt = line.substr(7);
        } else if (words[0] == "clock") {
            observation.tick = number(words[1]);
            observation.capture_time_ns = std::stoull(words[2]);
        } else if (words[0] == "seed") {
            observation.noise_seed = std::stoull(words[1]);
        } else if (words[0] == "continuation") {  // DELAY METHOD SCHEDULE OVERLAP MAX_WEIGHT ACTIONS…
            pi0_edge::Continuation plan;
            plan.delay = number(words[1]);
            plan.method = static_cast<pi0_edge::Continuation::Method>(number(words[2]));
            plan.schedule = static_cast<pi0_edge::Continuation::Schedule>(number(words[3]));
            plan.overlap = number(words[4]);
            plan.max_weight = std::strtof(words[5].c_str(), nullptr);
            plan.actions = floats(words, 6);
            observation.continuation = plan;
        }
    }
    return observation;
}

pi0_edge::PolicyOptions policy_options(const Words& arguments) {
    pi0_edge::PolicyOptions options;
    options.tls = arguments.size() > 1 && arguments[1] != "-" ? arguments[1] : "";
    if (arguments.size() > 2) {
        options.timeout = std::chrono::milliseconds(number(arguments[2]));
    }
    return options;
}

void infer(const Words& arguments) {
    std::list<std::string> files;
    const pi0_edge::Observation observation = read_observation(files);
    pi0_edge::PolicyClient client(arguments[0], policy_options(arguments));
    const pi0_edge::Chunk chunk = client.infer(observation);
    std::printf("%u %u %u %llu\n", chunk.horizon, chunk.action_dim, chunk.tick,
                static_cast<unsigned long long>(chunk.capture_time_ns));
    print_floats(chunk.actions);
}

void metadata(const Words& arguments) {
    pi0_edge::PolicyClient client(arguments[0], policy_options(arguments));
    client.wait_ready(std::chrono::seconds(10));
    const pi0_edge::PolicyMetadata found = client.metadata();
    std::printf("%s %s %s %u %u %u %s %u %d\n", found.model.c_str(), found.engine.c_str(), found.scheme.c_str(),
                found.horizon, found.action_dim, found.state_dim,
                found.control_hz ? std::to_string(*found.control_hz).c_str() : "none", found.trained_delay,
                static_cast<int>(found.gate));
    for (const std::string& name : found.cameras) std::printf("camera %s\n", name.c_str());
    for (const std::string& name : found.action_names) std::printf("action %s\n", name.c_str());
    std::printf("prompt %s\nsha256 %s\n", found.default_prompt.c_str(), found.checkpoint_sha256.c_str());
}

void cancel(const Words& arguments) {
    pi0_edge::PolicyClient client(arguments[0], policy_options(arguments));
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        client.cancel();
    });
    try {
        client.metadata();
    } catch (...) {
        other.join();
        throw;
    }
    other.join();
}

void print_continuation(const std::optional<pi0_edge::Continuation>& plan) {
    if (!plan) {
        std::printf("none\n");
        return;
    }
    std::printf("%u %d %d %u %a", plan->delay, static_cast<int>(plan->method), static_cast<int>(plan->schedule),
                plan->overlap, static_cast<double>(plan->max_weight));
    print_floats(plan->actions);
}

// One line in, one line out, about one scheduler after the other.
void scheduler(const Words&) {
    std::unique_ptr<pi0_edge::Splice> splice;
    std::unique_ptr<pi0_edge::ChunkScheduler> one;
    std::string line;
    while (std::getline(std::cin, line)) {
        const Words words = words_of(line);
        if (words[0] == "new") {  // SPLICE TRAINED_DELAY REPLAN_TICKS
            one.reset();
            splice = pi0_edge::client_splice(words[1], number(words[2]));
            one = std::make_unique<pi0_edge::ChunkScheduler>(*splice, number(words[3]));
            std::printf("%s\n", splice->name());
        } else if (words[0] == "due") {
            std::printf("%d %u\n", one->due(std::stoll(words[1])), one->delay());
        } else if (words[0] == "observe") {
            print_continuation(one->observe(std::stoll(words[1])));
        } else if (words[0] == "entered") {  // FIRST_TICK ACTION_DIM ACTIONS…
            pi0_edge::Chunk chunk;
            chunk.action_dim = number(words[2]);
            chunk.actions = floats(words, 3);
            chunk.horizon = static_cast<std::uint32_t>(chunk.actions.size() / chunk.action_dim);
            one->entered(chunk, std::stoll(words[1]));
            std::printf("%lld %zu\n", static_cast<long long>(one->plan().first_tick), one->plan().rows());
        } else if (words[0] == "setpoint") {
            print_floats(one->setpoint(std::stoll(words[1])));
        } else if (words[0] == "lost") {
            one->lost();
            std::printf("lost\n");
        }
    }
}

void splice(const Words& arguments) {
    std::printf("%s\n", pi0_edge::client_splice(arguments[0], number(arguments[1]))->name());
}

void malformed_chunk(pi0_edge::BridgeClient& client) {
    pi0_edge::ChunkStream stream = client.play();
    pi0_edge::Chunk chunk;
    chunk.horizon = 2;
    chunk.action_dim = 3;
    chunk.actions = {1.0F};
    stream.send(chunk);
    stream.next_report(std::chrono::seconds(5));
}

void ticks(pi0_edge::BridgeClient& client) {
    std::vector<pi0_edge::Tick> found;
    {
        const pi0_edge::TelemetryWatch watch =
            client.telemetry([&](const pi0_edge::Tick& tick) { found.push_back(tick); });
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
    int gaps = 0;
    for (std::size_t i = 1; i < found.size(); ++i) {
        gaps += found[i].tick != found[i - 1].tick + 1;
    }
    std::printf("ticks %zu gaps %d joints %zu\n", found.size(), gaps, found.empty() ? 0 : found[0].executed.size());
}

// ADDRESS TLS COMMANDS…: one result or error per line.
void bridge(const Words& arguments) {
    pi0_edge::BridgeOptions options;
    options.name = "check";
    options.tls = arguments[1] == "-" ? "" : arguments[1];
    options.timeout = std::chrono::milliseconds(2000);
    pi0_edge::BridgeClient client(arguments[0], options);
    const auto print_state = [](pi0_edge::State state) { std::printf("%s\n", name_of(state)); };
    const std::map<std::string, std::function<void()>> commands{
        {"ready", [&] { client.wait_ready(std::chrono::seconds(2)); std::printf("ready\n"); }},
        {"status", [&] { print_state(client.status().state); }},
        {"arm", [&] { print_state(client.arm(client.status().joint_names)); }},
        {"arm-others", [&] { print_state(client.arm({"elbow", "wrist"})); }},
        {"disarm", [&] { print_state(client.disarm("check")); }},
        {"estop", [&] { print_state(client.estop("check")); }},
        {"clear", [&] { print_state(client.clear("check")); }},
        {"release", [&] { print_state(client.release("check")); }},
        {"hold", [&] { std::printf("%s\n", name_of(client.hold().outcome)); }},
        {"malformed", [&] { malformed_chunk(client); }},
        {"ticks", [&] { ticks(client); }},
    };
    for (std::size_t i = 2; i < arguments.size(); ++i) {
        try {
            commands.at(arguments[i])();
        } catch (const pi0_edge::Error& error) {
            std::printf("%s: %s\n", kind_of(error).c_str(), error.what());
        }
        std::fflush(stdout);
    }
}

void faults(const Words& arguments) { std::printf("%s\n", pi0_edge::fault_names(number(arguments[0])).c_str()); }

}  // namespace

int main(int count, char** values) {
    const Words all(values + 1, values + count);
    const std::map<std::string, void (*)(const Words&)> commands{
        {"infer", infer},         {"metadata", metadata}, {"cancel", cancel},
        {"scheduler", scheduler}, {"bridge", bridge},     {"faults", faults},
        {"splice", splice},
    };
    try {
        commands.at(all.at(0))({all.begin() + 1, all.end()});
        return EXIT_SUCCESS;
    } catch (const std::exception& error) {
        std::printf("%s: %s\n", kind_of(error).c_str(), error.what());
        return 3;
    }
}
