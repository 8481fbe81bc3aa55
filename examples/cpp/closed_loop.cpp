// A robot's loop at 50 Hz: the policy is asked while the arm plays the chunk before (real-time chunking). Prints how
// regularly the ticks came.
//
//   closed_loop --policy 127.0.0.1:50051 --bridge 127.0.0.1:50061 --seconds 20 --image top.ppm
//
// Replace `Camera` by yours: of a black image a policy knows nothing, and a first chunk that does not begin where the
// arm is gets refused. Ctrl-C disarms.

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <pi0_edge/chunk_player.hpp>

#include "percentiles.hpp"

namespace {

std::atomic<bool> interrupted{false};

struct Options {
    std::string policy = "127.0.0.1:50051";
    std::string bridge = "127.0.0.1:50061";
    std::string tls;
    std::string image;
    std::string intervals;
    pi0_edge::PlayerOptions player;
    double seconds = 20.0;
};

// One picture for every camera: of a file (binary PPM), or black.
class Camera {
public:
    explicit Camera(const std::string& path) {
        if (path.empty()) {
            pixels_.resize(std::size_t{height_} * width_ * 3);
            return;
        }
        std::ifstream file(path, std::ios::binary);
        std::string kind;
        unsigned largest = 0;
        file >> kind >> width_ >> height_ >> largest;
        file.get();
        if (!file || kind != "P6" || largest != 255 || height_ > 4096 || width_ > 4096) {
            throw std::runtime_error(path + " is no binary PPM with 8 bits per channel and at most 4096 x 4096 pixels");
        }
        pixels_.resize(std::size_t{height_} * width_ * 3);
        file.read(reinterpret_cast<char*>(pixels_.data()), static_cast<std::streamsize>(pixels_.size()));
        if (!file) {
            throw std::runtime_error(path + " ends before its last pixel");
        }
    }

    pi0_edge::Image newest(const std::string& name) const {
        pi0_edge::Image image;
        image.camera = name;
        image.height = height_;
        image.width = width_;
        image.data = pixels_.data();
        image.size = pixels_.size();
        return image;
    }

private:
    unsigned height_ = 240;
    unsigned width_ = 320;
    std::vector<std::uint8_t> pixels_;
};

// How the ticks came: in this program, and in the firmware by its own counter.
class Jitter {
public:
    explicit Jitter(double period_s) : period_ms_(period_s * 1e3) {}

    void add(const pi0_edge::Tick& tick) {
        const auto now = std::chrono::steady_clock::now();
        if (seen_ && tick.tick == tick_ + 1) {
            intervals_.push_back(std::chrono::duration<double, std::milli>(now - at_).count());
            const double counted = static_cast<double>(tick.counter - counter_) * 1e3 / tick.counter_hz;
            firmware_.push_back(std::abs(counted - period_ms_));
        }
        lost_ += seen_ && tick.tick != tick_ + 1;
        seen_ = true;
        tick_ = tick.tick;
        counter_ = tick.counter;
        at_ = now;
    }

    void print() const {
        std::vector<double> deviations;
        for (const double interval : intervals_) {
            deviations.push_back(std::abs(interval - period_ms_));
        }
        percentiles::print("firmware: interval of ticks, deviation", firmware_);
        percentiles::print("this program: interval of ticks, deviation", deviations);
        std::printf("gaps in the ticks: %d\n", lost_);
    }

    // Intervals between two ticks as they came here, one line each, milliseconds.
    void write(const std::string& path) const {
        std::ofstream file(path);
        file.precision(9);
        for (const double interval : intervals_) {
            file << interval << '\n';
        }
    }

private:
    double period_ms_;
    bool seen_ = false;
    int lost_ = 0;
    std::uint32_t tick_ = 0;
    std::uint64_t counter_ = 0;
    std::chrono::steady_clock::time_point at_;
    std::vector<double> intervals_;
    std::vector<double> firmware_;
};

Options read_options(const std::vector<std::string>& arguments) {
    Options options;
    for (std::size_t i = 0; i + 1 < arguments.size(); i += 2) {
        const std::string& name = arguments[i];
        const std::string& value = arguments[i + 1];
        if (name == "--policy") {
            options.policy = value;
        } else if (name == "--bridge") {
            options.bridge = value;
        } else if (name == "--tls") {
            options.tls = value;
        } else if (name == "--image") {
            options.image = value;
        } else if (name == "--splice") {
            options.player.splice = value;
        } else if (name == "--seconds") {
            options.seconds = std::stod(value);
        } else if (name == "--intervals") {
            options.intervals = value;
        } else {
            throw std::runtime_error("unexpected argument " + name);
        }
    }
    if (arguments.size() % 2 != 0) {
        throw std::runtime_error(
            "usage: closed_loop [--policy host:port] [--bridge host:port] [--tls FOLDER] [--image FILE.ppm] "
            "[--splice rtc] [--seconds 20] [--intervals FILE]");
    }
    return options;
}

void play(const Options& options) {
    pi0_edge::PolicyOptions policy_options;
    policy_options.tls = options.tls;
    pi0_edge::PolicyClient policy(options.policy, policy_options);
    pi0_edge::BridgeOptions bridge_options;
    bridge_options.name = "closed loop in C++";
    bridge_options.tls = options.tls;
    pi0_edge::BridgeClient bridge(options.bridge, bridge_options);
    policy.wait_ready(std::chrono::seconds(60));
    bridge.wait_ready();

    const pi0_edge::PolicyMetadata metadata = policy.metadata();
    const Camera camera(options.image);
    const auto observe = [&](const pi0_edge::Tick&) {
        pi0_edge::Observation observation;
        for (const std::string& name : metadata.cameras) {
            observation.images.push_back(camera.newest(name));
        }
        return observation;
    };

    Jitter jitter(bridge.status().tick_period_s);
    std::vector<double> to_policy_ms;
    unsigned continued = 0;
    pi0_edge::ChunkPlayer player(policy, bridge, observe, options.player);
    player.on_tick([&](const pi0_edge::Tick& tick) { jitter.add(tick); });
    player.on_chunk([&](const pi0_edge::PlayedChunk& played) {
        to_policy_ms.push_back(played.to_policy_ms);
        continued += played.continued;
    });
    player.start();
    const auto ends = std::chrono::steady_clock::now() + std::chrono::duration<double>(options.seconds);
    while (!interrupted && std::chrono::steady_clock::now() < ends) {
        player.wait(std::chrono::milliseconds(100));
    }
    player.stop("the example is over");

    const pi0_edge::PlayerFigures figures = player.figures();
    std::printf("chunks: %llu accepted, %u continued the plan, %llu failed %s\n",
                static_cast<unsigned long long>(figures.accepted), continued,
                static_cast<unsigned long long>(figures.failed), figures.last_failure.c_str());
    percentiles::print("observation to chunk", to_policy_ms);
    jitter.print();
    if (!options.intervals.empty()) {
        jitter.write(options.intervals);
    }
}

}  // namespace

int main(int count, char** arguments) {
    std::signal(SIGINT, [](int) { interrupted = true; });
    std::signal(SIGTERM, [](int) { interrupted = true; });
    try {
        play(read_options({arguments + 1, arguments + count}));
        return EXIT_SUCCESS;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
