// The errors of this library. Every message says what was found, what was expected and what to do. What a server says
// about a request crosses unchanged: it names the field that was wrong.
#pragma once

#include <stdexcept>
#include <string>

namespace pi0_edge {

/// Base of every error that this library throws on purpose; the names below it are those of the Python client.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// An argument, or a combination of arguments, is not possible; or the policy does not fit what was asked.
class ConfigError : public Error {
public:
    using Error::Error;
};

/// A server cannot be reached as asked: a file of the TLS folder is missing, or others may read the key.
class EndpointError : public Error {
public:
    using Error::Error;
};

/// The policy server refused the observation; the message names the field. The same observation is refused again.
class ObservationError : public Error {
public:
    using Error::Error;
};

/// The policy server cannot be reached, failed or was cancelled.
class ServingError : public Error {
public:
    using Error::Error;
};

/// Too many observations wait for the policy already; a later one may pass.
class BusyError : public ServingError {
public:
    using ServingError::ServingError;
};

/// There was no chunk within the deadline of the call.
class DeadlineError : public ServingError {
public:
    using ServingError::ServingError;
};

/// The bridge failed or refused a call.
class BridgeError : public Error {
public:
    using Error::Error;
};

/// The bridge or its microcontroller does not answer, or the connection was lost.
class LinkError : public BridgeError {
public:
    using BridgeError::BridgeError;
};

/// The state of the arm forbids the command, another client owns the arm, or the joints have other names.
class StateError : public BridgeError {
public:
    using BridgeError::BridgeError;
};

/// A chunk has a shape that cannot be played.
class ChunkError : public BridgeError {
public:
    using BridgeError::BridgeError;
};

/// The certificate of this client does not have the role that the call needs.
class AccessError : public BridgeError {
public:
    using BridgeError::BridgeError;
};

}  // namespace pi0_edge
