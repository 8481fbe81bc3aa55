// Percentiles of latencies, by the early-stopping rule of MLPerf Inference: told only where the samples suffice.
// pi0_edge/latency/percentiles.py explains the rule; the figures are the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

namespace percentiles {

constexpr double kRisk = 0.01;

// That exactly `hits` of `count` are among a share of all; in logarithms, which no count overflows.
inline double probability(std::size_t hits, std::size_t count, double share) {
    const double k = static_cast<double>(hits);
    const double n = static_cast<double>(count);
    const double ways = std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1);
    return std::exp(ways + k * std::log(share) + (n - k) * std::log1p(-share));
}

// An estimate that the true percentile exceeds with a probability of 1 % at most; nothing where samples are too few.
inline std::optional<double> estimate(const std::vector<double>& ordered, double percentile) {
    std::size_t slower = 0;
    double below = 0.0;
    while (slower < ordered.size()) {
        below += probability(slower, ordered.size(), 1 - percentile);
        if (below > kRisk) {
            break;
        }
        ++slower;
    }
    return slower > 0 ? std::optional(ordered[ordered.size() - slower]) : std::nullopt;
}

inline std::string text(const std::vector<double>& ordered, double percentile) {
    char said[64];
    if (const std::optional<double> value = estimate(ordered, percentile)) {
        std::snprintf(said, sizeof said, "%.4g ms", *value);
    } else {
        const double fewest = std::ceil(std::log(kRisk) / std::log(percentile));
        std::snprintf(said, sizeof said, "not enough: %zu of %.0f samples", ordered.size(), fewest);
    }
    return said;
}

// One line: count, median, percentiles and the largest of samples in milliseconds.
inline void print(const char* name, std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    if (samples.empty()) {
        std::printf("%s: no samples\n", name);
        return;
    }
    const double median = (samples[(samples.size() - 1) / 2] + samples[samples.size() / 2]) / 2;
    std::printf("%s: n %zu, p50 %.4g ms, p90 %s, p99 %s, max %.4g ms\n", name, samples.size(), median,
                text(samples, 0.9).c_str(), text(samples, 0.99).c_str(), samples.back());
}

}  // namespace percentiles
