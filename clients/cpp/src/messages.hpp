// Between the messages of protobuf and the types of this library.
#pragma once

#include "pi0_edge/bridge_client.hpp"
#include "pi0_edge/policy_client.hpp"
#include "pi0_edge/protos/bridge.pb.h"
#include "pi0_edge/protos/policy.pb.h"

namespace pi0_edge {

/// The request for an observation. @throws ObservationError An image names no pixels.
v1::Observation write_observation(const Observation& observation);
v1::Chunk write_chunk(const Chunk& chunk);

Chunk read_chunk(const v1::Chunk& message);
PolicyMetadata read_metadata(const v1::PolicyMetadata& message);
Tick read_tick(const v1::Telemetry& message);
Status read_status(const v1::Status& message);
ChunkReport read_report(const v1::ChunkReport& message);

}  // namespace pi0_edge
